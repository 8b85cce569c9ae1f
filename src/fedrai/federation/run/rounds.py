"""The round loop of a prepared run over some Grid: what all runtimes have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedrai import assets, model
from fedrai.federation import aggregation, defences, server
from fedrai.federation.clients import Clients
from fedrai.federation.run import aligning, preparation
from fedrai.federation.run.preparation import UNRECORDED, Callbacks, PreparedRun
from fedrai.federation.run.rows import questions_for
from fedrai.filter.screening import FilterOutcome
from fedrai.model import LanguageModel
from fedrai.recipe.sections import FedAvg, Recipe, Robust
from fedrai.records import Tokens
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of


def prepare_server(
    recipe: Recipe, progress: assets.Progress | None = None, loaded: LanguageModel | None = None
) -> PreparedRun:
    """What the server of a deployment needs, checked; rows and filter are the nodes' own.

    Args:
        recipe: the recipe.
        progress: shows downloads.
        loaded: a model that was loaded for the same settings.

    Raises:
        ConstitutionError, AssetError, ModelError, EvaluationError: something cannot be used.
    """
    alignment = preparation.alignment_of(recipe)
    lm = loaded or preparation.load_model(recipe, progress)
    start = recipe.adapter.start and digest_of(model.read_start_adapter(recipe.adapter.start, lm))
    questions = questions_for(recipe, lm, progress)
    rows: dict[str, list[Tokens]] = {}
    return PreparedRun(
        recipe, lm, rows, {}, [], questions, FilterOutcome(), alignment, start, engine="flower",
        excluded=preparation.excluded_suites(recipe),
    )  # fmt: skip


def recorder(run: RunFolder, callbacks: Callbacks) -> Callable[..., None]:
    """What hears of every event: the run's record, and the callbacks."""

    def emit(kind: str, **fields: Any) -> None:
        if kind not in UNRECORDED:
            run.event(kind, **fields)
        callbacks.event(kind, **fields)

    return emit


def execute(prepared: PreparedRun, run: RunFolder, callbacks: Callbacks, clients: Clients) -> None:
    """Run the rounds that the run folder does not hold yet.

    Raises:
        FederationError: a round has too few usable updates.
        RunError: the run folder cannot be written.
        KeyboardInterrupt: raised by a watcher; the folder can be resumed.
    """
    emit = recorder(run, callbacks)
    plan = preparation.plan_for(prepared.recipe, prepared.clients)
    # one after the other: a quorum would be the first by name
    if prepared.engine == preparation.LOCAL:
        plan = replace(plan, quorum=0)
    if prepared.rows:  # the server divided them itself: nobody can claim more
        plan = replace(plan, weight_cap=0)
    server.run_rounds(
        plan,
        server.Tools(
            clients=clients,
            model=prepared.model,
            aggregator=_aggregator(prepared.recipe),
            evaluate=lambda adapters: preparation.evaluate(
                prepared.model, prepared.questions, adapters, callbacks.answers
            ),
            run=run,
            emit=emit,
            defend=defences.build(prepared.recipe.defence),
            align=_aligner(prepared, run, replace(callbacks, event=emit)),
        ),
    )


def _aggregator(recipe: Recipe) -> aggregation.Aggregator:
    """The recipe's; a robust one has nothing to choose from where all rows are in one place."""
    pooled = recipe.federation.mode == "centralised" and isinstance(recipe.aggregation, Robust)
    settings = (FedAvg() if pooled else recipe.aggregation).model_dump()
    return aggregation.build(settings.pop("algorithm"), **settings)


def _aligner(prepared: PreparedRun, run: RunFolder, callbacks: Callbacks) -> server.Align | None:
    """What aligns the aggregated adapter of a round, if the recipe asks for it."""
    began = replace(prepared, excluded=run.info.get("kept_out", {}))
    phase = aligning.phase_for(began, callbacks)
    if phase is None:
        return None
    rounds = prepared.recipe.federation.rounds
    return lambda number, adapter, work: phase(
        number, adapter, work, run.alignments, number == rounds
    )
