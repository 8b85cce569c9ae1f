"""A whole run in this process: recipe in, run folder out.

`prepare` loads and checks model, data and suites before a run folder exists; `execute` builds the
ClientApp and the Grid and runs the server's loop to the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp

from fedrai import assets, model
from fedrai.errors import RunError
from fedrai.federation import client
from fedrai.federation.clients import Clients
from fedrai.federation.codecs import codecs_of
from fedrai.federation.metrics import filter_metrics
from fedrai.federation.run import (
    defending,
    kept_trainings,
    pair_tuning,
    preparation,
    private,
    rounds,
)
from fedrai.federation.run.attacking import malicious_of
from fedrai.federation.run.grid import LocalGrid
from fedrai.federation.run.preparation import (
    LOCAL,
    Callbacks,
    PreparedRun,
    alignment_of,
    excluded_suites,
    sft_settings,
)
from fedrai.federation.run.rows import (
    check_files,
    count_by_source,
    questions_for,
    shards_for,
    token_metrics,
)
from fedrai.federation.run.tokenizing import tokenized
from fedrai.federation.uplink import FolderOf, Uplink
from fedrai.filter.screening import FilterOutcome, screen_clients
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.records import BadRow, Example, TrainingRow, TrainingStep
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of
from fedrai.training import local

ENGINE = LOCAL


def prepare(
    recipe: Recipe,
    progress: assets.Progress | None = None,
    loaded: LanguageModel | None = None,
    tell: Callable[[str, int, int], None] = lambda _client, _done, _of: None,
) -> PreparedRun:
    """Load and check everything, without writing a run.

    Args:
        recipe: the recipe.
        progress: shows downloads.
        loaded: a model with the same `[model]`, `[adapter]` and `[training]`.
        tell: told of the filter's progress (client, answers judged, total); may raise.

    Raises:
        ConstitutionError: the constitution cannot be read.
        GuardError: the safety filter cannot work.
        AssetError, ModelError, DataError, EvaluationError: something cannot be used.
        DependencyError, RecipeError: the noise of `[privacy]` cannot be counted.
    """
    check_files(recipe)
    alignment = alignment_of(recipe)
    lm = loaded or preparation.load_model(recipe, progress)
    start = recipe.adapter.start and digest_of(model.read_start_adapter(recipe.adapter.start, lm))
    tokens: dict[Example, TrainingRow] = {}
    unread: Counter[str] = Counter()
    shards, bad = shards_for(
        recipe, lambda part: tokenized(lm, part, recipe.data, tokens), unread.update
    )
    kept, screening = screen_clients(recipe, shards, progress, tell)
    for part in kept.values():  # rows whose answer was replaced by a refusal are new
        bad += tokenized(lm, [e for e in part if e not in tokens], recipe.data, tokens)[1]
    trained = {name: [e for e in part if e in tokens] for name, part in kept.items()}
    rows = {name: [tokens[e] for e in part] for name, part in trained.items()}
    private.check(recipe, rows)
    malicious = malicious_of(recipe, lm, shards, rows, tokens)
    harmful = {name: _harmful(part, screening, name) for name, part in kept.items()}
    harmful |= malicious.harmful if malicious else {}
    held_out: list[BadRow] = []
    questions = questions_for(recipe, lm, progress, held_out.extend)
    excluded = excluded_suites(recipe)  # after the fetch of the run's own suites
    return PreparedRun(recipe, lm, rows, harmful, bad, questions, screening, alignment, start,
                    excluded=excluded, unread=unread, held_out_bad=len(held_out),
                    held=count_by_source(shards, recipe.data.sources),
                    trained=count_by_source(trained, recipe.data.sources),
                    malicious=malicious)  # fmt: skip


def _harmful(rows: Sequence[Example], screening: FilterOutcome, client: str) -> int:
    """Rows of a client's training with a harmful answer, as far as their source tells."""
    ledger = screening.ledgers.get(client)
    if ledger is not None and ledger.confusion is not None:
        return ledger.confusion.harmful_kept
    return sum(row.harmful for row in rows)


def write_screening(prepared: PreparedRun, run: RunFolder) -> dict[str, Any] | None:
    """Write the filter's results: totals to the run, each client's ledger to the client's files.

    Returns:
        The totals; None if the recipe has no filter or the folder already has them.
    """
    elsewhere = not prepared.rows  # the nodes have their own filters and ledgers
    if prepared.recipe.filter.mode == "off" or (run.path / "filter.json").is_file() or elsewhere:
        return None
    for name, ledger in prepared.screening.ledgers.items():
        run.write_json(f"clients/{name}.filter.json", ledger.to_json(), listed=True)
    totals = prepared.screening.to_json()
    run.event("filter-finished", **totals)
    run.write_json("filter.json", totals, listed=True)  # last: until then a killed run repeats all
    return totals


def execute(prepared: PreparedRun, run: RunFolder, callbacks: Callbacks) -> None:
    """Run the rounds that the run folder does not hold yet.

    Raises:
        FederationError: a round has too few usable updates.
        RunError: the run folder cannot be written.
        KeyboardInterrupt: raised by a watcher; the folder can be resumed.
    """
    nodes = {name: number for number, name in enumerate(sorted(prepared.rows), 1001)}
    app = client_app(prepared, run, callbacks)
    rounds.execute(prepared, run, callbacks, Clients(LocalGrid(app, nodes), lambda _: nodes))


def client_app(prepared: PreparedRun, run: RunFolder, callbacks: Callbacks) -> ClientApp:
    """The ClientApp of all clients of a prepared run, honest and malicious, in one process."""
    defence = defending.in_training(prepared)
    return client.build_app(
        site(prepared, run, callbacks),
        lambda rows: replace(sft_settings(prepared.recipe, rows), defence=defence),
        prepared.recipe.federation.rounds,
        _training(prepared, run),
        prepared.malicious,
        run.variates if prepared.recipe.has_variates else None,
        partial(pair_tuning.pair_settings, prepared.recipe, _reference(prepared)),
        private.protection(prepared, run),
        uplink_of(prepared.recipe, run.residuals),
    )


def uplink_of(recipe: Recipe, residuals: FolderOf) -> Uplink:
    """How the clients of a recipe write adapters; `residuals` names a client's folder."""
    up, down = codecs_of(recipe.messages)
    return Uplink(up, down, residuals if recipe.messages.has_residuals else None)


def _reference(prepared: PreparedRun) -> AdapterState | None:
    """The adapter that preference tuning refers to, where it is the run's start."""
    from_start = prepared.recipe.training.dpo.reference == "start"
    return defending.start_of(prepared) if from_start else None


def _training(prepared: PreparedRun, run: RunFolder) -> client.Train | None:
    """The local training, which other runs of a comparison may have carried out already."""
    if prepared.trainings is None:
        return None
    context = kept_trainings.context(run.info, prepared.recipe.hashed_body())

    def record(steps: int) -> None:
        run.event("training-taken", steps=steps)

    return kept_trainings.KeptTrainings(local.train, prepared.trainings, context, record)


def site(prepared: PreparedRun, run: RunFolder, callbacks: Callbacks) -> client.Site:
    """All clients of a prepared run, in one process."""
    return _LocalSite(prepared, run, callbacks)


class _LocalSite:
    """All clients of this process, which share the model but not their rows."""

    def __init__(self, prepared: PreparedRun, run: RunFolder, callbacks: Callbacks) -> None:
        self.model = prepared.model
        self._prepared, self._run, self._callbacks = prepared, run, callbacks

    def name(self, context: Context) -> str:
        return str(context.node_config["client"])

    def rows(self, client: str) -> Sequence[TrainingRow]:
        return self._prepared.rows[client]

    def row_counts(self, client: str) -> Mapping[str, int]:
        counts = filter_metrics(self._prepared.screening.counts.get(client, {}))
        return {**counts, **token_metrics(self._prepared.recipe, self.rows(client))}

    def seed(self, round_: int, client: str) -> int:
        return self._prepared.recipe.seed_for("training", round_, client)

    def on_step(self, client: str, step: TrainingStep) -> None:
        self._callbacks.step(client, step)

    def log(self, client: str, line: str) -> None:
        try:
            self._run.client_log(client, line)
        except RunError as error:  # the client's reason matters more than the details
            self._callbacks.event("client-log-lost", client=client, why=error.message)
