"""The card of a run's model for the hub: metadata, measured figures, warnings, how it was trained.

Written from the records of the run folder; missing figures are named as missing. It holds names,
counts and figures only: no text of a row, no name of a client, no path of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fedrai import __version__
from fedrai.constitution.card import trained_line
from fedrai.release import card_figures, card_training
from fedrai.release.card_training import public_name
from fedrai.release.markdown import cell, section
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
        client: owner of the adapter; empty for the global one.
        merged: whether it is the whole model, with the adapter merged in.
        licence: SPDX name or the hub's; empty: that of the base model, if it is known.
        trained_suites: suites whose requests were trained on.
        with_base: whether the base model is beside the adapter.
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

    @property
    def name(self) -> str:
        """The run's name and the round."""
        return f"{self.settings['name']}-round-{self.number}"

    @property
    def base(self) -> str:
        """The base model on the hub; empty if it is not known to be there."""
        return public_name(str(self.info["model"]))

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


def card(exported: ExportedModel) -> str:
    """The card: YAML metadata and Markdown."""
    head = yaml.safe_dump(_metadata(exported), sort_keys=False, allow_unicode=True)
    parts = [f"# {exported.name}\n", _about(exported), _warnings(exported), _figures(exported),
             _loading(exported), *_training(exported)]  # fmt: skip
    return f"---\n{head}---\n" + "\n".join(part for part in parts if part)


def relabel_merged(text: str) -> str:
    """The card of an adapter, changed to describe the model with that adapter merged in."""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return text
    head = yaml.safe_load(parts[1])
    if not isinstance(head, dict):
        return text
    head |= {"library_name": "transformers", "base_model_relation": "finetune"}
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n{parts[2]}"


def _metadata(exported: ExportedModel) -> dict[str, Any]:
    tags = ["federated-learning", "fedrai", "safety"]
    tags += [] if exported.merged else ["lora"]
    tags += ["constitutional-ai"] if exported.info.get("constitution") else []
    head: dict[str, Any] = {}
    if exported.base:
        head["base_model"] = exported.base
        head["base_model_relation"] = "finetune" if exported.merged else "adapter"
    head["library_name"] = "transformers" if exported.merged else "peft"
    head["pipeline_tag"] = "text-generation"
    known = card_training.base_licence(exported.settings).lower()
    head["license"] = exported.licence or known or UNKNOWN
    head["tags"] = tags
    datasets = _datasets(exported.settings)
    if datasets:
        head["datasets"] = datasets
    results = card_figures.results(exported.after) if exported.after else []
    if results:
        head["model-index"] = [{"name": exported.name, "results": results}]
    return head


def _datasets(settings: Mapping[str, Any]) -> list[str]:
    """Hub datasets that the recipe names."""
    paths = [str(source["path"]) for source in settings["data"]["sources"]]
    names = [path.split("@")[0].removeprefix("hf:datasets/") for path in paths
             if path.startswith("hf:datasets/")]  # fmt: skip
    return list(dict.fromkeys("/".join(name.split("/")[:2]) for name in names))


def _about(exported: ExportedModel) -> str:
    what = "A language model made from" if exported.merged else "A LoRA adapter for"
    base = f"`{exported.base}`" if exported.base else "a private model (not on the hub)"
    who = "by one client alone (a baseline)" if exported.client else {
        "federated": "by federated learning",
        "centralised": "on all rows in one place (a baseline)",
    }.get(exported.settings["federation"]["mode"], "by clients alone (a baseline)")  # fmt: skip
    files = card_training.base_files(exported.settings)
    return f"{what} {base}, fine-tuned {who} with FedRAI {__version__}.{files}\n"


def _warnings(exported: ExportedModel) -> str:
    lines = card_figures.warnings(exported.before, exported.after)
    if exported.summary.status != "finished":
        lines.append("**The run was not finished** when this was exported.")
    screening = exported.summary.filter
    if screening and screening.skipped:
        lines.append("**There was no safety filter**, though the recipe asked for one.")
    if exported.summary.harmful_rows:
        lines.append(
            f"**{exported.summary.harmful_rows:,} of the {exported.summary.rows:,} rows it was"
            " trained on are known to be harmful** (an experiment)."
        )
    if exported.trained_suites:
        lines.append(trained_line(exported.trained_suites).strip())
    if exported.client:
        lines.append("The figures are those of all clients' adapters together, not of this one.")
    lines.append(
        "Safety is measured on plain requests in English, by a rule that reads how an answer"
        " begins: it says nothing about jailbreaks, other languages or long conversations."
    )
    return section("Read this first", "\n".join(f"- {line}" for line in lines))


def _figures(exported: ExportedModel) -> str:
    if exported.after is None:
        return ""
    start = exported.info.get("start") or ""
    label = public_name(start) or "start adapter" if start else "base model"
    text = card_figures.table(label, exported.before, exported.after)
    note = card_figures.note(exported.settings["evaluation"], exported.after)
    extra = " The base model without any adapter was not measured in this run." if start else ""
    return section("Safety and usefulness", f"{text}\n\n{note}{extra}")


def _loading(exported: ExportedModel) -> str:
    base = exported.base or "PATH/OF/THE/BASE/MODEL"
    base = "PATH/OF/THIS/FOLDER/base" if exported.with_base else base
    if exported.merged:
        code = ("from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                'model = AutoModelForCausalLM.from_pretrained("PATH/OF/THIS/FOLDER")\n'
                'tokenizer = AutoTokenizer.from_pretrained("PATH/OF/THIS/FOLDER")')  # fmt: skip
    else:
        code = ("from peft import PeftModel\n"
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
                f'tokenizer = AutoTokenizer.from_pretrained("{base}")\n'
                'model = PeftModel.from_pretrained(base, "PATH/OF/THIS/FOLDER")')  # fmt: skip
    return section("Load it", f"```python\n{code}\n```")


def _training(exported: ExportedModel) -> Sequence[str]:
    """How it was trained: rows, federation, constitution, costs, provenance."""
    settings, summary = exported.settings, exported.summary
    return (
        section("Trained on", card_training.rows(settings, summary)),
        section("Federation", card_training.federation(settings, summary, exported.number)),
        section("Constitution", card_training.constitution(exported.info, summary)),
        section("Cost", card_training.costs(summary)),
        section("Licence", card_training.licence(settings, exported.licence)),
        section("Provenance", _provenance(exported)),
    )


def _provenance(exported: ExportedModel) -> str:
    info = exported.info
    versions = ", ".join(f"{cell(k)} {cell(v)}" for k, v in info["versions"].items())
    here = info.get("engine") != "flower"  # the server of a deployment has no row to hash
    data = f", clients' data `{info['data_fingerprint'][:16]}`" if here else ""
    return (
        f"Recipe SHA-256 `{info['recipe_hash']}`, seed {exported.settings['seed']}; base model's"
        f" files `{info['model_fingerprint'][:16]}`{data}; {info['dtype']} on {info['device']}."
        f" {versions}."
    )
