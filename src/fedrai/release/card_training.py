"""How a model was trained, for its card: rows, filter, federation, constitution, costs, licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedrai import assets
from fedrai.release.markdown import cell, table
from fedrai.runs.costs import Cost
from fedrai.runs.record import Summary
from fedrai.runs.record.summary import FilterSummary

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")

Values = Mapping[str, Any]


def public_name(name: str) -> str:
    """A name that may be published: a hub id or one of FedRAI's own; empty for a path."""
    plain = name.removeprefix("hf:").split("@")[0]
    if plain.startswith("fedrai:"):
        return plain
    is_hub_id = _HUB_ID.fullmatch(plain) and not plain.endswith((".gguf", ".safetensors"))
    return plain if is_hub_id else ""


def base_files(settings: Values) -> str:
    """A sentence on the base model's files that it was trained on; empty if they have no name."""
    entry = assets.CATALOGUE.get(settings["model"]["base"])
    quantisation = settings["model"]["quantization"]
    parts = [f"the files of `{entry.name}` ({entry.what})"] if entry else []
    parts += [f"{quantisation} quantisation"] if quantisation != "none" else []
    return f" It was trained on {', in '.join(parts)}." if parts else ""


def rows(settings: Values, summary: Summary) -> str:
    """Counts of rows, and what the safety filter did."""
    counts = {
        "clients with data": summary.clients,
        "rows": summary.rows,
        "of these known to be harmful": summary.harmful_rows,
        "rows that could not be used": summary.bad_rows,
    }
    names = dict.fromkeys(_source(source) for source in settings["data"]["sources"])
    sources = ", ".join(names) or "one file a client"
    return "\n\n".join(
        [
            table(["what", "number"], [(name, f"{count:,}") for name, count in counts.items()]),
            f'Sources: {sources}. "Known" refers to the labels of the sources.',
            *_filter(summary.filter),
        ]
    )


def _source(source: Values) -> str:
    path = str(source["path"])
    is_public = path in assets.CATALOGUE or path.startswith(("hf:datasets/", "fedrai:"))
    name = f"`{cell(path.split('#')[0])}`" if is_public else "a file (not named)"
    return f"{name} (harmful)" if source["harmful"] else name


def _filter(screening: FilterSummary | None) -> list[str]:
    """What the safety filter did, with a table of its categories."""
    if screening is None:
        return ["No safety filter."]
    if screening.skipped:
        return ["The safety filter did not run: nothing was removed."]
    total = screening.total
    if total is None:
        return [f"Safety filter on the clients ({screening.mode}), which do not report its counts."]
    unscored = sum(total["unscored"].values())
    guard = str(total.get("guard") or "/")  # clients on other machines do not report theirs
    by_guard = "" if "/" in guard or guard.startswith((".", "~")) else f" by `{cell(guard)}`"
    text = (
        f"Safety filter on the clients ({screening.mode}{by_guard}): of {total['rows']:,} rows"
        f" {total['unsafe']:,} judged unsafe, {total['dropped']:,} dropped,"
        f" {total['replaced']:,} given a refusal as their answer, {unscored:,} not scored."
    )
    labels = total.get("confusion")
    if labels:
        text += (
            f" Of {labels['harmful_in']:,} rows known to be harmful {labels['harmful_kept']:,} were"
            f" left, of {labels['benign_in']:,} harmless ones {labels['benign_removed']:,} were"
            " lost."
        )
    categories = [(cell(name), f"{n:,}") for name, n in sorted(total["categories"].items()) if n]
    return [text, *([table(["judged unsafe as", "rows"], categories)] if categories else [])]


def federation(settings: Values, summary: Summary, number: int) -> str:
    """Who trained what, and how updates became one model."""
    plan, training, harm = settings["federation"], settings["training"], settings["data"]["harm"]
    rule = settings["aggregation"]
    sampled = plan["clients_per_round"] or summary.clients
    details = ", ".join(f"{key} {value}" for key, value in rule.items() if key != "algorithm")
    values = {
        "mode": plan["mode"],
        "clients": f"{summary.clients:,}, {min(sampled, summary.clients):,} a round",
        "round": f"{number} of {plan['rounds']}",
        "aggregation": rule["algorithm"] + (f" ({details})" if details else ""),
        "local training": f"{training['local_steps']} steps of {training['batch_size']} rows,"
        f" learning rate {training['learning_rate']:g} ({training['schedule']})",
        "adapter": _adapter(settings["adapter"]),
        "harmful rows": f"{harm['placement']}, share {harm['share']:g}",
        "updates set aside": f"{len(summary.set_aside):,}",
    }
    return table(["what", ""], [(name, cell(value)) for name, value in values.items()])


def _adapter(adapter: Values) -> str:
    text = f"LoRA, rank {adapter['rank']}, alpha {adapter['alpha']:g}"
    if not adapter["start"]:
        return text
    return f"{text}, started from {public_name(adapter['start']) or 'a private adapter'}"


def constitution(info: Values, summary: Summary) -> str:
    """The constitution and its alignments."""
    document, alignments = info.get("constitution"), summary.constitution
    if not document or not alignments:
        return "None: the aggregated model was not aligned."
    version = f" {cell(document['version'])}" if document.get("version") else ""
    return (
        f"{cell(document['name'])}{version} (SHA-256 `{document['hash']}`), schedule"
        f" {document['schedule']}: {alignments.alignments:,} alignments in {summary.rounds:,}"
        f" rounds, {alignments.steps:,} steps, {alignments.tokens:,} tokens."
    )


def costs(summary: Summary) -> str:
    """Costs of the whole run, by phase."""
    columns = ["phase", "time", "tokens", "Tflop", "peak memory", "to and from clients"]
    text = "Of the whole run; operations are computed from tensor shapes."
    if summary.unreported_costs:
        text += f" Costs that clients do not report: {', '.join(summary.unreported_costs)}."
    phases = [(cell(name), *_cost(cost)) for name, cost in summary.costs.items()]
    return f"{table(columns, phases)}\n\n{text}"


def _cost(cost: Cost) -> tuple[str, ...]:
    return (
        f"{cost.seconds:,.0f} s",
        f"{cost.tokens:,}",
        f"{cost.operations / 1e12:,.2f}",
        f"{cost.peak_bytes / 1e9:.2f} GB",
        f"{(cost.bytes_down + cost.bytes_up) / 1e6:,.2f} MB",
    )


def base_licence(settings: Values) -> str:
    """The licence of the base model; empty if it is unknown."""
    base = assets.CATALOGUE.get(settings["model"]["base"])
    return base.licence if base else ""


def licence(settings: Values, stated: str = "") -> str:
    """What a card says of licences.

    Args:
        settings: the resolved recipe as plain values.
        stated: the licence that the exporter states.
    """
    if stated:
        text = f"{cell(stated)}, as stated by its makers."
    elif known := base_licence(settings):
        text = f"{known}, that of the base model."
    else:
        text = "Unknown: that of the base model applies. Set `license` before publishing."
    names = dict.fromkeys(source["path"] for source in settings["data"]["sources"])
    data = [f"`{n}`: {assets.CATALOGUE[n].licence}" for n in names if n in assets.CATALOGUE]
    if not data:
        return f"{text} The data have licences of their own."
    return f"{text} Data: {', '.join(data)}; other data as their owners state."
