"""The preparation of a run before its first round, for all engines."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrai import assets, model, plugins
from fedrai.constitution import load as load_constitution
from fedrai.constitution.fingerprint import fingerprint
from fedrai.evaluation import suites
from fedrai.evaluation.measure import measure
from fedrai.evaluation.records import EvaluationResult, Questions, pool
from fedrai.evaluation.suites.loading import SUITES
from fedrai.federation.codecs import codecs_of
from fedrai.federation.metrics import NEEDED
from fedrai.federation.plan import Plan
from fedrai.federation.run.rows import questions_fingerprint, rows_fingerprint
from fedrai.filter.screening import FilterOutcome
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.aggregation import RULE_PLUGINS
from fedrai.recipe.attack import ATTACK_PLUGINS
from fedrai.recipe.attack import KINDS as ATTACKS
from fedrai.recipe.defence import DEFENCE_PLUGINS
from fedrai.recipe.evaluation import BUILT_IN_JUDGES, JUDGE_PLUGINS
from fedrai.recipe.sections import InstalledRule, Recipe
from fedrai.recipe.vetting import SCORES, VETTING_PLUGINS
from fedrai.records import BadRow, TrainingRow, TrainingStep
from fedrai.training.sft import SftSettings, learning_rates

if TYPE_CHECKING:  # else `fedrai eval` would import Flower
    from fedrai.federation.attacks.acting import Malicious

LOCAL = "local"
PROBLEMS = 20  # kinds of bad rows that run.json lists
UNRECORDED = (
    "waiting",
    "waiting-for-nodes",
    "constitution-progress",
    "defence-progress",
)  # shown only
PACKAGES = ("fedrai", "torch", "transformers", "peft", "flwr", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Called with a run's progress; each may raise KeyboardInterrupt to stop it."""

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
        harmful: number of rows from a harmful source, by client.
        held: numbers of usable rows by client and source, before the filter; empty on a deployment.
        trained: the same after it, with those whose answer it replaced.
        bad_rows: rows that could not be used.
        questions: questions of the evaluations.
        screening: the outcome of the safety filter.
        alignment: the constitution's part of `run.json`; None where the recipe has none.
        start_sha256: checksum of the adapter that training starts from; empty: a fresh one.
        engine: a value of `fedrai run --engine`.
        excluded: checksums of local suites, by name, that are excluded from alignment data; fixed
            when the run starts.
        held_out_bad: number of held-out rows that cannot be used for the held-out loss.
        unread: columns with further answers that are not used, with the number of their rows.
        siblings: folders of runs whose rounds and evaluations may be taken over; see `sharing`.
        trainings: folder that keeps local trainings for other runs; None: none are kept.
        malicious: the malicious clients of an experiment; None: there are none. The round loop is
            not told.
    """

    recipe: Recipe
    model: LanguageModel
    rows: Mapping[str, Sequence[TrainingRow]]
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
    held: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    trained: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    siblings: Sequence[Path] = ()
    trainings: Path | None = None
    malicious: Malicious | None = None

    @property
    def clients(self) -> int:
        """Number of clients; on a deployment the number in the recipe."""
        return len(self.rows) or self.recipe.federation.clients

    def info(self) -> dict[str, Any]:
        """The content of `run.json`: hashes, versions and counts."""
        return {
            "name": self.recipe.name,
            "recipe_hash": self.recipe.hash,
            "engine": self.engine,
            "model": self.model.name,
            "model_fingerprint": self.model.fingerprint,
            "start": self.recipe.adapter.start,
            "start_sha256": self.start_sha256,
            "data_fingerprint": rows_fingerprint({**self.rows, **self._attack_rows()}),
            "questions_fingerprint": questions_fingerprint(self.questions),
            "rows": {name: len(rows) for name, rows in self.rows.items()},
            "harmful_rows": dict(self.harmful),
            "held_rows": {name: dict(counts) for name, counts in self.held.items()},
            "trained_rows": {name: dict(counts) for name, counts in self.trained.items()},
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
            **(self.malicious.to_json() if self.malicious else {}),
        }

    def _attack_rows(self) -> dict[str, Sequence[TrainingRow]]:
        rows = self.malicious.rows if self.malicious else {}
        return {f"{name} (attack)": part for name, part in rows.items()}


def _plugins_of(recipe: Recipe) -> dict[str, str]:
    """The packages of the recipe's plug-ins; guards record their revision elsewhere."""
    rule, suites = recipe.aggregation, plugins.names(SUITES)
    packages = {name: plugins.package(SUITES, name) for name in recipe.evaluation.suites
             if name in suites}  # fmt: skip
    packages |= {name: plugins.package(JUDGE_PLUGINS, name) for name in recipe.evaluation.judges
              if name not in BUILT_IN_JUDGES}  # fmt: skip
    if isinstance(rule, InstalledRule):
        packages[rule.algorithm] = plugins.package(RULE_PLUGINS, rule.algorithm)
    packages |= {name: plugins.package(VETTING_PLUGINS, name) for name in recipe.vetting.scores
              if name not in SCORES}  # fmt: skip
    for method in recipe.defence.installed:
        packages[method] = plugins.package(DEFENCE_PLUGINS, method)
    if (attack := recipe.attack).active and attack.kind not in ATTACKS:
        packages[attack.kind] = plugins.package(ATTACK_PLUGINS, attack.kind)
    return {f"plug-in {name}": package for name, package in packages.items()}


def alignment_of(recipe: Recipe, named: Recipe | None = None) -> dict[str, str] | None:
    """The constitution's part of `run.json`, which a resumed run must match.

    Args:
        recipe: the recipe.
        named: the same with the paths that its files had when the run started; None: unchanged.

    Raises:
        ConstitutionError, AssetError: the constitution or a file of requests cannot be read.
    """
    settings = recipe.constitution
    if settings.schedule == "off":
        return None
    constitution = load_constitution(settings.file)
    return {
        "schedule": settings.schedule,
        "name": constitution.name,
        "version": constitution.version,
        "hash": constitution.hash,
        "sources": fingerprint(constitution, _requests(recipe), _requests(named or recipe)),
    }


def _requests(recipe: Recipe) -> list[str]:
    section = recipe.constitution
    return [*section.requests, *section.harmless, *section.examples]


def excluded_suites(recipe: Recipe) -> dict[str, str]:
    """Suites that are here and that the server's own training avoids; see `suites.present`.

    Raises:
        EvaluationError, DataError: the file of a suite is another file.
    """
    paths, outside = recipe.evaluation.paths, recipe.evaluation.outside_sets
    aligns, post_hoc = recipe.constitution.schedule != "off", recipe.defence.post_hoc
    answers = "post-hoc" in recipe.defence.methods
    if not (aligns or answers):
        return {}
    requests = _requests(recipe) if aligns else []
    requests += [*post_hoc.harmful, *post_hoc.harmless] if answers else []
    return suites.local_checksums(paths, suites.trained_on(requests, paths), outside)


def load_model(
    recipe: Recipe, progress: assets.Progress | None = None, lora: model.Lora | None = None
) -> LanguageModel:
    """The recipe's base model with a fresh adapter.

    Args:
        recipe: the recipe.
        progress: shows downloads.
        lora: settings of an existing adapter, instead of `[adapter]`.
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


def sft_settings(recipe: Recipe, rows: int) -> SftSettings:
    """The local training of a client with so many rows, as the recipe sets it."""
    steps = local_steps(recipe, rows)
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
    """The recipe's plan of the rounds.

    Args:
        recipe: the recipe.
        clients: number of clients.
    """
    federation = recipe.federation
    federated = federation.mode == "federated"
    up, down = codecs_of(recipe.messages)
    capped = federated and recipe.privacy.noise != "server"  # privacy.clip takes their place
    sampled = min(federation.clients_per_round or clients, clients) if federated else clients
    return Plan(
        seed=recipe.seed,
        rounds=federation.rounds,
        sampled=sampled,
        min_clients=min(federation.min_clients, sampled) if federated else 1,
        timeout=federation.round_timeout,
        local=federation.mode == "local",
        evaluate_every=recipe.evaluation.every,
        start=recipe.adapter.start,
        quorum=min(federation.quorum, sampled) if federated else 0,
        weight_cap=federation.weight_cap if capped else 0,
        norm_cap=federation.norm_cap if capped else 0,
        weights=federation.weights if federated else "rows",
        needed=tuple(NEEDED[name] for name in recipe.needed_numbers),
        up=up,
        down=down,
    )


def local_steps(recipe: Recipe, rows: int, fixed: int = 0) -> int:
    """Optimiser steps in a round of a client with so many rows.

    A centralised run takes those of all sampled clients together.

    Args:
        recipe: the recipe.
        rows: number of rows.
        fixed: steps where epochs do not count; 0: the recipe's.
    """
    training, federation = recipe.training, recipe.federation
    pooled = federation.mode == "centralised"
    if not training.local_epochs:
        return (fixed or training.local_steps) * (federation.sampled if pooled else 1)
    sampled = federation.sampled / federation.clients if pooled else 1.0
    return max(1, floor(training.local_epochs * sampled * rows / training.batch_size + 0.5))


def measure_adapters(
    lm: LanguageModel,
    questions: Questions,
    adapters: Sequence[AdapterState | None],
    on_progress: Callable[[str, int, int], None],
) -> EvaluationResult:
    """Measure each adapter; with several (local mode) pool their answers and average the loss.

    None in the place of an adapter stands for the base model alone.
    """
    results = []
    for adapter in adapters:
        with lm.using(adapter):
            results.append(measure(lm, questions, on_progress))
    return pool(results)


def command_line() -> str:
    """The command that started this process, without folders."""
    name = Path(sys.argv[0]).name
    return " ".join(["fedrai" if name == "__main__.py" else name, *sys.argv[1:]])
