"""A whole run in this process: recipe in, run folder out.

`prepare` reads and checks everything that can be wrong (model, data, suites) before a run folder
exists; `execute` builds the ClientApp, the Grid and the ServerApp's loop and goes to the end.
"""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr.app import Context

from fedrai import assets, client, model, server
from fedrai.constitution import load as load_constitution
from fedrai.constitution.fingerprint import fingerprint
from fedrai.errors import RunError
from fedrai.evaluation import suites
from fedrai.evaluation.measure import Measured, Questions, measure, pooled
from fedrai.model import AdapterState, LanguageModel
from fedrai.records import BadRow, Example, Step, Tokens
from fedrai.runs import RunFolder, digest_of
from fedrai.runtimes.grid import LocalGrid
from fedrai.runtimes.rows import (
    check_files,
    questions_fingerprint,
    questions_for,
    rows_fingerprint,
    shards_for,
    tokenized,
)
from fedrai.runtimes.screening import Screening, screened
from fedrai.schema import Recipe
from fedrai.train import learning_rates

ENGINE = "local"
PROBLEMS = 20  # kinds of bad rows that a run names
UNRECORDED = ("waiting", "waiting-for-nodes", "constitution-progress")  # for the eye alone
PACKAGES = ("fedrai", "torch", "transformers", "peft", "flwr", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Watch:
    """Who hears of progress while a run goes on; each may raise KeyboardInterrupt to stop it."""

    event: Callable[..., None] = lambda _kind, **_fields: None
    step: Callable[[str, Step], None] = lambda _client, _step: None
    answers: Callable[[str, int, int], None] = lambda _suite, _done, _of: None


@dataclass(frozen=True, slots=True)
class Prepared:
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
        kept_out: suites that are here, by name, with their checksums: an alignment trains on
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
    screening: Screening
    alignment: Mapping[str, str] | None = None
    start_sha256: str = ""
    engine: str = ENGINE
    kept_out: Mapping[str, str] = field(default_factory=dict)
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
            "kept_out": dict(self.kept_out),
            "bad_rows": [f"{row.origin}: {row.problem}" for row in self.bad_rows[:100]],
            "bad_row_count": len(self.bad_rows),
            "bad_row_problems": dict(
                Counter(row.problem for row in self.bad_rows).most_common(PROBLEMS)
            ),
            "unread_columns": dict(self.unread),
            "held_out_bad_rows": self.held_out_bad,
            "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "device": str(self.model.device),
            "dtype": str(self.model.output_weight.dtype).removeprefix("torch."),
        }


def prepare(
    recipe: Recipe,
    progress: assets.Progress | None = None,
    loaded: LanguageModel | None = None,
    tell: Callable[[str, int, int], None] = lambda _client, _done, _of: None,
) -> Prepared:
    """Load and check everything, without writing a run.

    Args:
        recipe: the recipe.
        progress: shows downloads.
        loaded: a model that was loaded for the same `[model]`, `[adapter]` and `[training]`.
        tell: hears of the filter's progress (client, answers judged, of how many); may raise.

    Raises:
        ConstitutionError: the constitution cannot be read.
        GuardError: the safety filter cannot work.
        AssetError, ModelError, DataError, EvaluationError: something cannot be used.
    """
    check_files(recipe)
    alignment = alignment_of(recipe)
    lm = loaded or load_model(recipe, progress)
    start = recipe.adapter.start and digest_of(model.read_start(recipe.adapter.start, lm))
    tokens: dict[Example, Tokens] = {}
    unread: Counter[str] = Counter()
    shards, bad = shards_for(
        recipe, lambda part: tokenized(lm, part, recipe.data, tokens), unread.update
    )
    kept, screening = screened(recipe, shards, progress, tell)
    for part in kept.values():  # rows that got a refusal in place of their answer are new
        bad += tokenized(lm, [e for e in part if e not in tokens], recipe.data, tokens)[1]
    rows = {name: [tokens[e] for e in part if e in tokens] for name, part in kept.items()}
    harmful = {name: _harmful(part, screening, name) for name, part in kept.items()}
    held_out: list[BadRow] = []
    questions = questions_for(recipe, lm, progress, held_out.extend)
    kept_out = kept_out_of(recipe)  # after what the run asks was fetched
    return Prepared(recipe, lm, rows, harmful, bad, questions, screening, alignment, start,
                    kept_out=kept_out, unread=unread, held_out_bad=len(held_out))  # fmt: skip


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


def kept_out_of(recipe: Recipe) -> dict[str, str]:
    """Suites that are here and that the recipe's alignment keeps away from; see `suites.present`.

    Raises:
        EvaluationError, DataError: a file in the place of a suite is not that suite.
    """
    paths = recipe.evaluation.paths
    if recipe.constitution.schedule == "off":
        return {}
    return suites.present(paths, suites.trained_on(_requests(recipe), paths))


def _harmful(rows: Sequence[Example], screening: Screening, client: str) -> int:
    """Rows that go to training with a harmful answer, as far as their source tells."""
    ledger = screening.ledgers.get(client)
    if ledger is not None and ledger.confusion is not None:
        return ledger.confusion.harmful_kept
    return sum(row.harmful for row in rows)


def write_screening(prepared: Prepared, run: RunFolder) -> dict[str, Any] | None:
    """Write what the safety filter did: totals into the run, each client's ledger to its own files.

    Returns:
        The totals, if there was to be a filter and the folder did not know of it yet.
    """
    elsewhere = not prepared.rows  # the nodes have their own filters and ledgers
    if prepared.recipe.filter.mode == "off" or (run.path / "filter.json").is_file() or elsewhere:
        return None
    for name, ledger in prepared.screening.ledgers.items():
        run.write_json(f"clients/{name}.filter.json", ledger.to_json(), listed=True)
    found = prepared.screening.to_json()
    run.event("filter-finished", **found)
    run.write_json(
        "filter.json", found, listed=True
    )  # last: until then a killed run does all of it again
    return found


def load_model(
    recipe: Recipe, progress: assets.Progress | None = None, lora: model.Lora | None = None
) -> LanguageModel:
    """The recipe's base model with a fresh adapter.

    Args:
        recipe: the recipe.
        progress: shows downloads.
        lora: settings of an adapter that exists, in place of `[adapter]`'s.
    """
    return model.load(
        recipe.model.base,
        rank=recipe.adapter.rank,
        alpha=recipe.adapter.alpha,
        dropout=recipe.adapter.dropout,
        target_modules=recipe.adapter.target_modules,
        lora=lora,
        dtype=recipe.model.dtype,
        device=recipe.model.device,
        quantization=recipe.model.quantization,
        attention=recipe.model.attention,
        max_length=recipe.data.max_length,
        gradient_checkpointing=recipe.training.gradient_checkpointing,
        compile_layers=recipe.training.compile,
        progress=progress,
    )


def execute(prepared: Prepared, run: RunFolder, watch: Watch) -> None:
    """Run the rounds that the run folder does not hold yet.

    Raises:
        FederationError: a round has too few usable updates.
        RunError: the run folder cannot be written.
        KeyboardInterrupt: raised by a watcher; the folder can be resumed.
    """
    from fedrai.runtimes import rounds  # it needs what stands here

    nodes = {name: number for number, name in enumerate(sorted(prepared.rows), 1001)}
    app = client.build_app(site(prepared, run, watch), work_for(prepared.recipe))
    rounds.go_through(prepared, run, watch, rounds.Clients(LocalGrid(app, nodes), nodes))


def site(prepared: Prepared, run: RunFolder, watch: Watch) -> client.Site:
    """All clients of a prepared run, in one process."""
    return _LocalSite(prepared, run, watch)


def work_for(recipe: Recipe) -> client.Work:
    """The local work of a client, as the recipe sets it."""
    steps = _steps(recipe)
    training = recipe.training
    return client.Work(
        rounds=recipe.federation.rounds,
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


def plan_for(recipe: Recipe, clients: int) -> server.Plan:
    """The rounds, as the recipe sets them.

    Args:
        recipe: the recipe.
        clients: how many clients there are.
    """
    federation = recipe.federation
    federated = federation.mode == "federated"
    sampled = min(federation.clients_per_round or clients, clients) if federated else clients
    return server.Plan(
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
    adapters: Sequence[AdapterState],
    on_progress: Callable[[str, int, int], None],
) -> Measured:
    """Measure each adapter; with several (local mode) pool their answers and average the loss."""
    found = []
    for adapter in adapters:
        lm.load_adapter(adapter)
        found.append(measure(lm, questions, on_progress))
    return pooled(found)


class _LocalSite:
    """All clients of this process; they share the model and keep their rows apart."""

    def __init__(self, prepared: Prepared, run: RunFolder, watch: Watch) -> None:
        self.model = prepared.model
        self._prepared, self._run, self._watch = prepared, run, watch

    def name(self, context: Context) -> str:
        return str(context.node_config["client"])

    def rows(self, client: str) -> Sequence[Tokens]:
        return self._prepared.rows[client]

    def filter_counts(self, client: str) -> Mapping[str, int]:
        return self._prepared.screening.counts.get(client, {})

    def seed(self, round_: int, client: str) -> int:
        return self._prepared.recipe.seed_for("training", round_, client)

    def on_step(self, client: str, step: Step) -> None:
        self._watch.step(client, step)

    def log(self, client: str, line: str) -> None:
        try:
            self._run.client_log(client, line)
        except RunError as error:  # the client's reason matters more than its details
            self._watch.event("client-log-lost", client=client, why=error.message)


def command_line() -> str:
    """The command that started this process, without folders."""
    name = Path(sys.argv[0]).name
    return " ".join(["fedrai" if name == "__main__.py" else name, *sys.argv[1:]])
