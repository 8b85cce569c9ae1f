"""The card of a run's model for the hub; its text is in templates/card.md.

Written from the records of the run folder; missing figures are named as missing. It holds names,
counts and figures only: no text of a row, no name of a client, no path of the machine. Texts that
others wrote, such as names of suites, pass through `cell`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from fedrai import __version__, assets
from fedrai.constitution.card import trained_line
from fedrai.release import card_figures
from fedrai.release.card_figures import cell
from fedrai.runs.record import EvaluationRecord, Summary, skipped_rows_text

UNKNOWN = "unknown"  # the hub's own word
STANDINGS = {
    "unreleased": "**Not released**: it has not passed the gate of its consortium.",
    "released": "Released: it met the bars in `evidence.json` of its release, which are about"
    " requests like those of these outside sets. Intervals below are over further sets, too, and so"
    " wider.",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """What is exported, as the run folder records it.

    Attributes:
        settings: the resolved recipe as plain values.
        info: `run.json`.
        summary: its key figures.
        number: the round that is exported.
        client: owner of the adapter; empty for the global one.
        merged: whether it is the whole model, with the adapter merged in.
        licence: SPDX name or the hub's; empty: that of the base model, if it is known.
        trained_suites: suites whose requests were trained on.
        with_base: whether the base model is beside the adapter.
        standing: "released" or "unreleased"; empty: not known.
    """

    settings: Mapping[str, Any]
    info: Mapping[str, Any]
    summary: Summary
    number: int
    client: str = ""
    merged: bool = False
    licence: str = ""
    trained_suites: Sequence[str] = ()
    with_base: bool = False
    standing: str = ""

    @property
    def name(self) -> str:
        """The run's name and the round; of an unreleased model, that too."""
        mark = "-unreleased" if self.standing == "unreleased" else ""
        return f"{self.settings['name']}-round-{self.number}{mark}"

    @property
    def base(self) -> str:
        """The base model on the hub; empty if it is not known to be there."""
        return public_name(str(self.info["model"]))

    @property
    def base_path(self) -> str:
        """Where to load the base model from."""
        if self.with_base:
            return "PATH/OF/THIS/FOLDER/base"
        return self.base or "PATH/OF/THE/BASE/MODEL"

    @property
    def trained_by(self) -> str:
        """Who trained it."""
        mode = "local" if self.client else self.settings["federation"]["mode"]
        return {
            "federated": "by federated learning",
            "centralised": "on all rows in one place (a baseline)",
            "local": f"by {'one client' if self.client else 'clients'} alone (a baseline)",
        }[mode]  # fmt: skip

    @property
    def before(self) -> EvaluationRecord | None:
        """The evaluation of what training started from."""
        return self._evaluation(0)

    @property
    def after(self) -> EvaluationRecord | None:
        """The evaluation of what is exported."""
        return self._evaluation(self.number)

    def _evaluation(self, number: int) -> EvaluationRecord | None:
        body = self.summary.evaluations.get(number)
        return EvaluationRecord.from_json(number, body) if body else None


def card(model: ExportedModel) -> str:
    """The card: YAML metadata and Markdown."""
    environment = Environment(
        loader=PackageLoader("fedrai.release"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"cell": cell, "count": _count}
    settings, paths = model.settings, [s["path"] for s in model.settings["data"]["sources"]]
    start = model.info.get("start") or ""
    return environment.get_template("card.md").render(
        model=model,
        settings=settings,
        summary=model.summary,
        skipped_rows=skipped_rows_text(model.summary.bad_rows, model.summary.bad_rows_unreported),
        evaluation=settings["evaluation"],
        quantization=settings["model"]["quantization"],
        metadata=_yaml(_metadata(model)),
        version=__version__,
        warnings=_warnings(model),
        figures=card_figures.rows(model.before, model.after) if model.after else [],
        start_label=public_name(start) or "start adapter" if start else "base model",
        base_asset=assets.CATALOGUE.get(settings["model"]["base"]),
        data_assets=[assets.CATALOGUE[p] for p in dict.fromkeys(paths) if p in assets.CATALOGUE],
        sources=dict.fromkeys(_source(source) for source in settings["data"]["sources"]),
        guard=_guard(model.summary),
        federation=_federation(model),
    )


def _count(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def _yaml(head: Mapping[str, Any]) -> str:
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True)


def relabel_merged(text: str) -> str:
    """The card of an adapter, changed to describe the model with that adapter merged in."""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return text
    head = yaml.safe_load(parts[1])
    if not isinstance(head, dict):
        return text
    head |= {"library_name": "transformers", "base_model_relation": "finetune"}
    return f"---\n{_yaml(head)}---\n{parts[2]}"


def public_name(name: str) -> str:
    """A name that may be published: a hub id or one of FedRAI's own; empty for a path."""
    plain = name.removeprefix("hf:").split("@")[0]
    if plain.startswith("fedrai:"):
        return plain
    is_hub_id = _HUB_ID.fullmatch(plain) and not plain.endswith((".gguf", ".safetensors"))
    return plain if is_hub_id else ""


# --- the parts ------------------------------------------------------------------------------------


def _metadata(model: ExportedModel) -> dict[str, Any]:
    tags = ["federated-learning", "fedrai", "safety"]
    tags += [] if model.merged else ["lora"]
    tags += ["constitutional-ai"] if model.info.get("constitution") else []
    head: dict[str, Any] = {}
    if model.base:
        head["base_model"] = model.base
        head["base_model_relation"] = "finetune" if model.merged else "adapter"
    head["library_name"] = "transformers" if model.merged else "peft"
    head["pipeline_tag"] = "text-generation"
    base = assets.CATALOGUE.get(model.settings["model"]["base"])
    head["license"] = model.licence or (base.licence.lower() if base else "") or UNKNOWN
    head["tags"] = tags
    datasets = _datasets(model.settings)
    if datasets:
        head["datasets"] = datasets
    results = card_figures.results(model.after) if model.after else []
    if results:
        head["model-index"] = [{"name": model.name, "results": results}]
    return head


def _datasets(settings: Mapping[str, Any]) -> list[str]:
    """Hub datasets that the recipe names."""
    paths = [str(source["path"]) for source in settings["data"]["sources"]]
    names = [path.split("@")[0].removeprefix("hf:datasets/") for path in paths
             if path.startswith("hf:datasets/")]  # fmt: skip
    return list(dict.fromkeys("/".join(name.split("/")[:2]) for name in names))


def _warnings(model: ExportedModel) -> list[str]:
    lines = [STANDINGS[model.standing]] if model.standing else []
    lines += card_figures.warnings(model.before, model.after)
    if model.summary.status != "finished":
        lines.append("**The run was not finished** when this was exported.")
    screening = model.summary.filter
    if screening and screening.skipped:
        lines.append("**There was no safety filter**, though the recipe asked for one.")
    if model.summary.harmful_rows:
        lines.append(
            f"**{model.summary.harmful_rows:,} of the {model.summary.rows:,} rows it was"
            " trained on are known to be harmful** (an experiment)."
        )
    if attack := model.info.get("attack"):
        liars = len(model.info["malicious_clients"])
        lines.append(
            f"**Of its {model.summary.clients} clients, {liars} attacked the training** (an"
            f" experiment: {attack['kind']})."
        )
    if model.trained_suites:
        lines.append(trained_line(model.trained_suites).strip())
    if model.client:
        lines.append("The figures are those of all clients' adapters together, not of this one.")
    return lines


def _source(source: Mapping[str, Any]) -> str:
    path = str(source["path"])
    is_public = path in assets.CATALOGUE or path.startswith(("hf:datasets/", "fedrai:"))
    name = f"`{cell(path.split('#')[0])}`" if is_public else "a file (not named)"
    return f"{name} (harmful)" if source["harmful"] else name


def _guard(summary: Summary) -> str:
    """The guard of the filter; empty for a path, and if clients do not report theirs."""
    total = summary.filter.total if summary.filter else None
    guard = str((total or {}).get("guard") or "")
    return "" if "/" in guard or guard.startswith((".", "~")) else guard


WEIGHED = {"tokens": ", weighted by tokens", "uniform": ", all clients alike"}


def _local_training(training: Mapping[str, Any]) -> str:
    """How much a client trains in a round; recipes of earlier versions have no epochs."""
    epochs, batch = training.get("local_epochs", 0), f"of {training['batch_size']} rows"
    if not epochs:
        return f"{training['local_steps']} steps {batch}"
    return f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'} in batches {batch}"


def _preference_tuning(training: Mapping[str, Any]) -> dict[str, str]:
    """How clients trained on preference pairs; empty if they did not."""
    method = training.get("method", "sft")
    if method == "sft":
        return {}
    dpo = training["dpo"]
    reference = {"round": "the round's global adapter", "start": "the model at the start"}
    steps = f", {dpo['local_steps']} steps" if dpo["local_steps"] else ""
    rate = f", learning rate {dpo['learning_rate']:g}" if dpo["learning_rate"] else ""
    text = f"{dpo['kind']}, beta {dpo['beta']:g}, reference {reference[dpo['reference']]}"
    order = "after the answers, " if method == "sft+dpo" else ""
    return {"preference tuning": f"DPO on pairs, {order}{text}{steps}{rate}"}


def _federation(model: ExportedModel) -> dict[str, str]:
    """Who trained what, and how updates became one model."""
    settings, clients = model.settings, model.summary.clients
    plan, training, harm = settings["federation"], settings["training"], settings["data"]["harm"]
    adapter, rule = settings["adapter"], settings["aggregation"]
    details = ", ".join(f"{key} {value}" for key, value in rule.items() if key != "algorithm")
    start = f", started from {public_name(adapter['start']) or 'a private adapter'}"
    return {
        "mode": plan["mode"],
        "clients": f"{clients:,}, {min(plan['clients_per_round'] or clients, clients):,} a round",
        "round": f"{model.number} of {plan['rounds']}",
        "aggregation": rule["algorithm"]
        + (f" ({details})" if details else "")
        + WEIGHED.get(plan.get("weights", "rows"), ""),
        "local training": f"{_local_training(training)}, learning rate"
        f" {training['learning_rate']:g} ({training['schedule']})",
        **_preference_tuning(training),
        "adapter": f"LoRA, rank {adapter['rank']}, alpha {adapter['alpha']:g}"
        + (start if adapter["start"] else ""),
        "harmful rows": f"{harm['placement']}, share {harm['share']:g}",
        **({"differential privacy": model.summary.privacy} if model.summary.privacy else {}),
        "updates set aside": f"{len(model.summary.set_aside):,}",
    }
