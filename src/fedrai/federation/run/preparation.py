"""What a run needs before its first round, whichever engine goes through the rounds."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedrai import assets, model, plugins
from fedrai.constitution import load as load_constitution
from fedrai.constitution.fingerprint import fingerprint
from fedrai.evaluation import suites
from fedrai.evaluation.measure import measure
from fedrai.evaluation.records import EvaluationResult, Questions, pool
from fedrai.evaluation.suites.loading import SUITES
from fedrai.federation.plan import Plan
from fedrai.federation.run.rows import questions_fingerprint, rows_fingerprint
from fedrai.filter.screening import FilterOutcome
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.aggregation import DEFENCE_PLUGINS, RULE_PLUGINS
from fedrai.recipe.evaluation import BUILT_IN_JUDGES, JUDGE_PLUGINS
from fedrai.recipe.sections import InstalledRule, Recipe
from fedrai.records import BadRow, Tokens, TrainingStep
from fedrai.training.sft import SftSettings, learning_rates

LOCAL = "local"
PROBLEMS = 20  # kinds of bad rows that a run names
UNRECORDED = ("waiting", "waiting-for-nodes", "constitution-progress")  # for the eye alone
PACKAGES = ("fedrai", "torch", "transformers", "peft", "flwr", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Who hears of progress while a run goes on; each may raise KeyboardInterrupt to stop it."""

    event: Callable[..., None] = lambda _kind, **_fields: None
    step: Callable[[str, TrainingStep], None] = lambda _client, _step: None
    answers: Callable[[str, int, int], None] = lambda _suite, _done, _of: None


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """Everything a run needs, checked.

    Attributes:
        recipe: the resolved recipe.
        model: the base model with a fresh adapter.
        rows: tokenized rows by client.
        harmful: how many of a client's rows come from a harmful source.
        bad_rows: rows that could not be used.
        questions: what evaluations ask.
        screening: what the safety filter did.
        alignment: what `run.json` says of the constitution; None where the recipe has none.
        start_sha256: of the adapter that training starts from; empty: a fresh one.
        engine: how clients are reached, as `fedrai run --engine` names it.
        excluded: suites that are here, by name, with their checksums: an alignment trains on
            nothing near them, and one that is resumed keeps to those that there were.
        held_out_bad: held-out rows that cannot be used, so the held-out loss is without them.
        unread: columns that hold further answers and are not trained on, in how many rows.
    """

    recipe: Recipe
    model: LanguageModel
    rows: Mapping[str, Sequence[Tokens]]
    harmful: Mapping[str, int]
    bad_rows: Sequence[BadRow]
    questions: Questions
    screening: FilterOutcome
    alignment: Mapping[str, str] | None = None
    start_sha256: str = ""
    engine: str = LOCAL
    excluded: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    held_out_bad: int = 0

    @property
    def clients(self) -> int:
        """How many clients there are; those on other machines are as many as the recipe says."""
        return len(self.rows) or self.recipe.federation.clients

    def info(self) -> dict[str, Any]:
        """What `run.json` holds: hashes, versions and counts."""
        return {
            "name": self.recipe.name,
            "recipe_hash": self.recipe.hash,
            "engine": self.engine,
            "model": self.model.name,
            "model_fingerprint": self.model.fingerprint,
            "start": self.recipe.adapter.start,
            "start_sha256": self.start_sha256,
            "data_fingerprint": rows_fingerprint(self.rows),
            "questions_fingerprint": questions_fingerprint(self.questions),
            "rows": {name: len(rows) for name, rows in self.rows.items()},
            "harmful_rows": dict(self.harmful),
            "filter": self.recipe.filter.mode,
            "filter_skipped": self.screening.skipped,
            "constitution": self.alignment and dict(self.alignment),
            "kept_out": dict(self.excluded),
            "bad_rows": [f"{row.origin}: {row.problem}" for row in self.bad_rows[:100]],
            "bad_row_count": len(self.bad_rows),
            "bad_row_problems": dict(
                Counter(row.problem for row in self.bad_rows).most_common(PROBLEMS)
            ),
            "unread_columns": dict(self.unread),
            "held_out_bad_rows": self.held_out_bad,
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in PACKAGES},
                **_plugins_of(self.recipe),
            },
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "device": str(self.model.device),
            "dtype": str(self.model.output_weight.dtype).removeprefix("torch."),
        }


def _plugins_of(recipe: Recipe) -> dict[str, str]:
    """The packages of plug-ins whose names the recipe holds; guards write down their revision."""
    rule, suites = recipe.aggregation, plugins.names(SUITES)
    found = {name: plugins.package(SUITES, name) for name in recipe.evaluation.suites
             if name in suites}  # fmt: skip
    found |= {name: plugins.package(JUDGE_PLUGINS, name) for name in recipe.evaluation.judges
              if name not in BUILT_IN_JUDGES}  # fmt: skip
    if isinstance(rule, InstalledRule):
        found[rule.algorithm] = plugins.package(RULE_PLUGINS, rule.algorithm)
    if method := recipe.defence.method:
        found[method] = plugins.package(DEFENCE_PLUGINS, method)
    return {f"plug-in {name}": package for name, package in found.items()}


def alignment_of(recipe: Recipe, named: Recipe | None = None) -> dict[str, str] | None:
    """What `run.json` says of the recipe's constitution, so that a resumed run has the same one.

    Args:
        recipe: the recipe.
        named: the same with the names that its files had when the run began; None: they have them.

    Raises:
        ConstitutionError, AssetError: it, or a file of requests, cannot be read.
    """
    settings = recipe.constitution
    if settings.schedule == "off":
        return None
    found = load_constitution(settings.file)
    return {
        "schedule": settings.schedule,
        "name": found.name,
        "version": found.version,
        "hash": found.hash,
        "sources": fingerprint(found, _requests(recipe), _requests(named or recipe)),
    }


def _requests(recipe: Recipe) -> list[str]:
    section = recipe.constitution
    return [*section.requests, *section.harmless, *section.examples]


def excluded_suites(recipe: Recipe) -> dict[str, str]:
    """Suites that are here and that the recipe's alignment keeps away from; see `suites.present`.

    Raises:
        EvaluationError, DataError: a file in the place of a suite is not that suite.
    """
    paths = recipe.evaluation.paths
    if recipe.constitution.schedule == "off":
        return {}
    return suites.local_checksums(paths, suites.trained_on(_requests(recipe), paths))


def load_model(
    recipe: Recipe, progress: assets.Progress | None = None, lora: model.Lora | None = None
) -> LanguageModel:
    """The recipe's base model with a fresh adapter.

    Args:
        recipe: the recipe.
        progress: shows downloads.
        lora: settings of an adapter that exists, in place of `[adapter]`'s.
    """
    adapter = recipe.adapter
    lora = lora or model.Lora(adapter.rank, adapter.alpha, adapter.target_modules)
    options = model.LoadOptions(
        dtype=recipe.model.dtype,
        device=recipe.model.device,
        quantization=recipe.model.quantization,
        attention=recipe.model.attention,
        max_length=recipe.data.max_length,
        gradient_checkpointing=recipe.training.gradient_checkpointing,
        compile_layers=recipe.training.compile,
    )
    lora = replace(lora, dropout=adapter.dropout)
    return model.load(recipe.model.base, lora, options, progress=progress)


def sft_settings(recipe: Recipe) -> SftSettings:
    """The local training of a client, as the recipe sets it."""
    steps = _steps(recipe)
    training = recipe.training
    return SftSettings(
        steps=steps,
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size,
        group_by_length=training.group_by_length,
        learning_rate=learning_rates(
            training.learning_rate,
            schedule=training.schedule,
            warmup_steps=training.warmup_steps,
            total_steps=recipe.federation.rounds * steps,
        ),
        weight_decay=training.weight_decay,
        clip_norm=training.clip_norm,
        proximal_mu=getattr(recipe.aggregation, "proximal_mu", 0.0),
    )


def plan_for(recipe: Recipe, clients: int) -> Plan:
    """The rounds, as the recipe sets them.

    Args:
        recipe: the recipe.
        clients: how many clients there are.
    """
    federation = recipe.federation
    federated = federation.mode == "federated"
    sampled = min(federation.clients_per_round or clients, clients) if federated else clients
    return Plan(
        seed=recipe.seed,
        rounds=federation.rounds,
        sampled=sampled,
        min_clients=min(federation.min_clients, sampled) if federated else 1,
        timeout=federation.round_timeout,
        steps_per_round=_steps(recipe),
        local=federation.mode == "local",
        evaluate_every=recipe.evaluation.every,
        start=recipe.adapter.start,
        quorum=min(federation.quorum, sampled) if federated else 0,
        weight_cap=federation.weight_cap if federated else 0,
    )


def _steps(recipe: Recipe) -> int:
    """Steps a round: a centralised run takes as many as all sampled clients together."""
    pooled = recipe.federation.mode == "centralised"
    return recipe.training.local_steps * (recipe.federation.sampled if pooled else 1)


def evaluate(
    lm: LanguageModel,
    questions: Questions,
    adapters: Sequence[AdapterState | None],
    on_progress: Callable[[str, int, int], None],
) -> EvaluationResult:
    """Measure each adapter; with several (local mode) pool their answers and average the loss.

    None in the place of an adapter stands for the base model alone.
    """
    found = []
    for adapter in adapters:
        with lm.using(adapter):
            found.append(measure(lm, questions, on_progress))
    return pool(found)


def command_line() -> str:
    """The command that started this process, without folders."""
    name = Path(sys.argv[0]).name
    return " ".join(["fedrai" if name == "__main__.py" else name, *sys.argv[1:]])
