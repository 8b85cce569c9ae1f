"""How a model was made, for its card: rows, filter, federation, constitution, costs, licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedrai import assets
from fedrai.runs.costs import Cost
from fedrai.runs.record import Summary
from fedrai.runs.record.summary import FilterSummary

_HUB = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")

Values = Mapping[str, Any]


def public(name: str) -> str:
    """A name that may stand in public: a hub id or one that comes with FedRAI; empty for a path."""
    plain = name.removeprefix("hf:").split("@")[0]
    if plain.startswith("fedrai:"):
        return plain
    return plain if _HUB.fullmatch(plain) and not plain.endswith((".gguf", ".safetensors")) else ""


def cell(text: object) -> str:
    """A text that cannot break a table or begin markup."""
    return " ".join(re.sub(r"[|`<>\[\]]", "/", str(text)).split())


def trained_base(settings: Values) -> str:
    """The base model's files as they were trained on, where they come by a name; else nothing."""
    entry = assets.CATALOGUE.get(settings["model"]["base"])
    quantised = settings["model"]["quantization"]
    parts = [f"the files of `{entry.name}` ({entry.what})"] if entry else []
    parts += [f"{quantised} quantisation"] if quantised != "none" else []
    return f" It was trained on {', in '.join(parts)}." if parts else ""


def trained_on(settings: Values, summary: Summary) -> str:
    """Counts of rows, and what the safety filter did."""
    lines = [
        f"| clients with data | {summary.clients:,} |",
        f"| rows | {summary.rows:,} |",
        f"| of these known to be harmful | {summary.harmful_rows:,} |",
        f"| rows that could not be used | {summary.bad_rows:,} |",
    ]
    table = "\n".join(["| what | number |", "|---|---|", *lines])
    named = [_source(source) for source in settings["data"]["sources"]]
    sources = ", ".join(dict.fromkeys(named)) or "one file a client"
    text = f'{table}\n\nSources: {sources}. "Known" goes by the sources\' own labels.'
    return f"{text}\n\n{_filter(summary.filter)}"


def _source(source: Values) -> str:
    path = str(source["path"])
    known = path in assets.CATALOGUE or path.startswith(("hf:datasets/", "fedrai:"))
    name = f"`{cell(path.split('#')[0])}`" if known else "a file (not named)"
    return f"{name} (harmful)" if source["harmful"] else name


def _filter(found: FilterSummary | None) -> str:
    if found is None:
        return "No safety filter."
    if found.skipped:
        return "The safety filter did not run: nothing was removed."
    total = found.total
    if total is None:
        return f"Safety filter on the clients ({found.mode}); they do not tell what it did."
    unscored = sum(total["unscored"].values())
    guard = str(total.get("guard") or "/")  # clients on other machines do not tell theirs
    judged = "" if "/" in guard or guard.startswith((".", "~")) else f" by `{cell(guard)}`"
    text = (
        f"Safety filter on the clients ({found.mode}{judged}): of {total['rows']:,} rows"
        f" {total['unsafe']:,} judged unsafe, {total['dropped']:,} dropped,"
        f" {total['replaced']:,} given a refusal as their answer, {unscored:,} not scored."
    )
    truth = total.get("confusion")
    if truth:
        text += (
            f" Of {truth['harmful_in']:,} rows known to be harmful {truth['harmful_kept']:,} were"
            f" left, of {truth['benign_in']:,} harmless ones {truth['benign_removed']:,} were lost."
        )
    kinds = {name: count for name, count in total["categories"].items() if count}
    if not kinds:
        return text
    lines = [f"| {cell(name)} | {count:,} |" for name, count in sorted(kinds.items())]
    return "\n".join([text, "", "| judged unsafe as | rows |", "|---|---|", *lines])


def federation(settings: Values, summary: Summary, number: int) -> str:
    """Who trained what, and how updates became one model."""
    plan, training = settings["federation"], settings["training"]
    adapter, rule = settings["adapter"], settings["aggregation"]
    sampled = plan["clients_per_round"] or summary.clients
    details = ", ".join(f"{k} {v}" for k, v in rule.items() if k != "algorithm")
    rows = {
        "mode": plan["mode"],
        "clients": f"{summary.clients:,}, {min(sampled, summary.clients):,} a round",
        "round": f"{number} of {plan['rounds']}",
        "aggregation": rule["algorithm"] + (f" ({details})" if details else ""),
        "local work": f"{training['local_steps']} steps of {training['batch_size']} rows,"
        f" learning rate {training['learning_rate']:g} ({training['schedule']})",
        "adapter": f"LoRA, rank {adapter['rank']}, alpha {adapter['alpha']:g}"
        + (f", started from {public(adapter['start']) or 'an adapter of its makers'}"
           if adapter["start"] else ""),
        "harmful rows": f"{settings['data']['harm']['placement']},"
        f" share {settings['data']['harm']['share']:g}",
        "updates set aside": f"{len(summary.set_aside):,}",
    }  # fmt: skip
    return "\n".join(
        ["| what | |", "|---|---|", *(f"| {k} | {cell(v)} |" for k, v in rows.items())]
    )


def rules(info: Values, summary: Summary) -> str:
    """The constitution and what came of it."""
    found, done = info.get("constitution"), summary.constitution
    if not found or not done:
        return "None: the aggregated model was not aligned."
    version = f" {cell(found['version'])}" if found.get("version") else ""
    return (
        f"{cell(found['name'])}{version} (SHA-256 `{found['hash']}`), schedule"
        f" {found['schedule']}: {done.alignments:,} alignments in {summary.rounds:,} rounds,"
        f" {done.steps:,} steps, {done.tokens:,} tokens."
    )


def costs(summary: Summary) -> str:
    """What the whole run took, by phase."""
    lines = [_cost(name, cost) for name, cost in summary.costs.items()]
    head = ["| phase | time | tokens | Tflop | peak memory | to and from clients |",
            "|---|---|---|---|---|---|"]  # fmt: skip
    kept = ", ".join(summary.unreported_costs)
    less = f" Clients keep some of theirs to themselves: {kept}." if kept else ""
    said = f"Of the whole run; operations are counted from shapes.{less}"
    return "\n".join([*head, *lines, "", said])


def _cost(name: str, cost: Cost) -> str:
    wire = (cost.bytes_down + cost.bytes_up) / 1e6
    return (
        f"| {cell(name)} | {cost.seconds:,.0f} s | {cost.tokens:,} | {cost.operations / 1e12:,.2f}"
        f" | {cost.peak_bytes / 1e9:.2f} GB | {wire:,.2f} MB |"
    )


def licences(settings: Values, given: str = "") -> tuple[str, str]:
    """The base model's licence, empty where it is not known; and what a card says of licences.

    Args:
        settings: the resolved recipe as plain values.
        given: the licence that the exporter names.
    """
    base = assets.CATALOGUE.get(settings["model"]["base"])
    known = base.licence if base else ""
    if given:
        first = f"{cell(given)}, as its makers say."
    elif known:
        first = f"{known}, that of the base model."
    else:
        first = "Not known: that of the base model binds it. Set `license` before publishing."
    used = [s["path"] for s in settings["data"]["sources"] if s["path"] in assets.CATALOGUE]
    lines = [f"`{name}`: {assets.CATALOGUE[name].licence}" for name in dict.fromkeys(used)]
    data = f" Data: {', '.join(lines)}; others as their owners say." if lines else ""
    return known, first + (data or " The data have licences of their own.")
