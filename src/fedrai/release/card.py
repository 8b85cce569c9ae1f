"""The card of a run's model for the hub: metadata, measured figures, warnings, how it was made.

Made from the run folder's own records; figures that are not there are said to be missing. Names,
counts and figures only: no text of a row, no name of a client, no path of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fedrai import __version__
from fedrai.constitution.card import trained_line
from fedrai.release import card_figures
from fedrai.release.card_training import (
    cell,
    costs,
    federation,
    licences,
    public,
    rules,
    trained_base,
    trained_on,
)
from fedrai.runs.record import EvaluationRecord, Summary

UNKNOWN = "unknown"  # the hub's own word


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """What is exported, as the run folder records it.

    Attributes:
        settings: the resolved recipe as plain values.
        info: `run.json`.
        summary: its key figures.
        number: the round that is exported.
        client: whose adapter; empty for the global one.
        merged: the whole model, with the adapter merged in.
        licence: SPDX name or the hub's; empty: that of the base model, where it is known.
        trained: suites whose requests were trained on.
        with_base: the base model lies beside the adapter.
    """

    settings: Mapping[str, Any]
    info: Mapping[str, Any]
    summary: Summary
    number: int
    client: str = ""
    merged: bool = False
    licence: str = ""
    trained: Sequence[str] = ()
    with_base: bool = False

    @property
    def name(self) -> str:
        """The run's name and the round."""
        return f"{self.settings['name']}-round-{self.number}"

    @property
    def base(self) -> str:
        """The base model on the hub; empty where it is not known to be there."""
        return public(str(self.info["model"]))

    @property
    def before(self) -> EvaluationRecord | None:
        """The evaluation of what training started from."""
        return self._after(0)

    @property
    def after(self) -> EvaluationRecord | None:
        """The evaluation of what is exported."""
        return self._after(self.number)

    def _after(self, number: int) -> EvaluationRecord | None:
        body = self.summary.evaluations.get(number)
        return EvaluationRecord.from_json(number, body) if body else None


def card(found: ExportedModel) -> str:
    """The card: YAML metadata and Markdown."""
    head = yaml.safe_dump(_metadata(found), sort_keys=False, allow_unicode=True)
    parts = [f"# {found.name}\n", _about(found), _warnings(found), _figures(found),
             _loading(found), *_making(found)]  # fmt: skip
    return f"---\n{head}---\n" + "\n".join(part for part in parts if part)


def relabel_merged(text: str) -> str:
    """A card that came with an adapter, for the model with that adapter merged in."""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return text
    head = yaml.safe_load(parts[1])
    if not isinstance(head, dict):
        return text
    head |= {"library_name": "transformers", "base_model_relation": "finetune"}
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n{parts[2]}"


def _metadata(found: ExportedModel) -> dict[str, Any]:
    tags = ["federated-learning", "fedrai", "safety"]
    tags += [] if found.merged else ["lora"]
    tags += ["constitutional-ai"] if found.info.get("constitution") else []
    head: dict[str, Any] = {}
    if found.base:
        head["base_model"] = found.base
        head["base_model_relation"] = "finetune" if found.merged else "adapter"
    head["library_name"] = "transformers" if found.merged else "peft"
    head["pipeline_tag"] = "text-generation"
    head["license"] = licences(found.settings)[0].lower() if not found.licence else found.licence
    head["license"] = head["license"] or UNKNOWN
    head["tags"] = tags
    datasets = _datasets(found.settings)
    if datasets:
        head["datasets"] = datasets
    results = card_figures.results(found.after) if found.after else []
    if results:
        head["model-index"] = [{"name": found.name, "results": results}]
    return head


def _datasets(settings: Mapping[str, Any]) -> list[str]:
    """Hub datasets that the recipe names."""
    paths = [str(source["path"]) for source in settings["data"]["sources"]]
    names = [path.split("@")[0].removeprefix("hf:datasets/") for path in paths
             if path.startswith("hf:datasets/")]  # fmt: skip
    return list(dict.fromkeys("/".join(name.split("/")[:2]) for name in names))


def _about(found: ExportedModel) -> str:
    what = "A language model made from" if found.merged else "A LoRA adapter for"
    base = f"`{found.base}`" if found.base else "a model of its makers' own (not on the hub)"
    who = "by one client alone (a baseline)" if found.client else {
        "federated": "by federated learning",
        "centralised": "on all rows in one place (a baseline)",
    }.get(found.settings["federation"]["mode"], "by clients alone (a baseline)")  # fmt: skip
    files = trained_base(found.settings)
    return f"{what} {base}, fine-tuned {who} with FedRAI {__version__}.{files}\n"


def _warnings(found: ExportedModel) -> str:
    lines = card_figures.warnings(found.before, found.after)
    if found.summary.status != "finished":
        lines.append("**The run was not finished** when this was exported.")
    screening = found.summary.filter
    if screening and screening.skipped:
        lines.append("**There was no safety filter**, though the recipe asked for one.")
    if found.summary.harmful_rows:
        lines.append(
            f"**{found.summary.harmful_rows:,} of the {found.summary.rows:,} rows it was"
            " trained on are known to be harmful** (an experiment)."
        )
    if found.trained:
        lines.append(trained_line(found.trained).strip())
    if found.client:
        lines.append("The figures are of all clients' adapters together, not of this one alone.")
    lines.append(
        "Safety is measured on plain requests in English, by a rule that reads how an answer"
        " begins: it says nothing of jailbreaks, other languages or long conversations."
    )
    return _section("Read this first", "\n".join(f"- {line}" for line in lines))


def _figures(found: ExportedModel) -> str:
    if found.after is None:
        return ""
    start = found.info.get("start") or ""
    label = public(start) or "start adapter" if start else "base model"
    text = card_figures.table(label, found.before, found.after)
    note = card_figures.note(found.settings["evaluation"], found.after)
    extra = " The base model without any adapter was not measured in this run." if start else ""
    return _section("Safety and usefulness", f"{text}\n\n{note}{extra}")


def _loading(found: ExportedModel) -> str:
    base = found.base or "PATH/OF/THE/BASE/MODEL"
    base = "PATH/OF/THIS/FOLDER/base" if found.with_base else base
    if found.merged:
        code = ("from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                'model = AutoModelForCausalLM.from_pretrained("PATH/OF/THIS/FOLDER")\n'
                'tokenizer = AutoTokenizer.from_pretrained("PATH/OF/THIS/FOLDER")')  # fmt: skip
    else:
        code = ("from peft import PeftModel\n"
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
                f'tokenizer = AutoTokenizer.from_pretrained("{base}")\n'
                'model = PeftModel.from_pretrained(base, "PATH/OF/THIS/FOLDER")')  # fmt: skip
    return _section("Load it", f"```python\n{code}\n```")


def _making(found: ExportedModel) -> Sequence[str]:
    """How it was made: rows, federation, constitution, costs, provenance."""
    return (
        _section("Trained on", trained_on(found.settings, found.summary)),
        _section("Federation", federation(found.settings, found.summary, found.number)),
        _section("Constitution", rules(found.info, found.summary)),
        _section("Cost", costs(found.summary)),
        _section("Licence", licences(found.settings, found.licence)[1]),
        _section("Provenance", _provenance(found)),
    )


def _provenance(found: ExportedModel) -> str:
    info = found.info
    versions = ", ".join(f"{cell(k)} {cell(v)}" for k, v in info["versions"].items())
    here = info.get("engine") != "flower"  # the server of a deployment has no row to hash
    data = f", clients' data `{info['data_fingerprint'][:16]}`" if here else ""
    return (
        f"Recipe SHA-256 `{info['recipe_hash']}`, seed {found.settings['seed']}; base model's files"
        f" `{info['model_fingerprint'][:16]}`{data}; {info['dtype']} on {info['device']}."
        f" {versions}."
    )


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}\n"
