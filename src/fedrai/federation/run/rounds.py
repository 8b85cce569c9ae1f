"""The round loop of a prepared run over a Grid, for all engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from fedrai import assets, model
from fedrai.federation import aggregation, server
from fedrai.federation.aggregation.scaffold import Variates
from fedrai.federation.clients import Clients
from fedrai.federation.round import Align, Tools
from fedrai.federation.run import aligning, defending, pair_tuning, preparation, private
from fedrai.federation.run.preparation import UNRECORDED, Callbacks, PreparedRun
from fedrai.federation.run.rows import questions_for
from fedrai.federation.run.sharing import Siblings
from fedrai.federation.run.vetting import vetter_for
from fedrai.filter.screening import FilterOutcome
from fedrai.model import LanguageModel
from fedrai.recipe.lora import ranks_of
from fedrai.recipe.sections import FedAvg, QFedAvg, Recipe, Robust, Scaffold
from fedrai.records import TrainingRow
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of

COMPARING = (Robust, QFedAvg, Scaffold)
"""Rules that need several clients of one model."""


def prepare_server(
    recipe: Recipe, progress: assets.Progress | None = None, loaded: LanguageModel | None = None
) -> PreparedRun:
    """Load and check what the server of a deployment needs; the nodes have rows and filter.

    Args:
        recipe: the recipe.
        progress: shows downloads.
        loaded: a model with the same settings.

    Raises:
        ConstitutionError, AssetError, ModelError, EvaluationError: something cannot be used.
        DependencyError, RecipeError: the noise of `[privacy]` cannot be counted.
    """
    private.check(recipe)
    alignment = preparation.alignment_of(recipe)
    lm = loaded or preparation.load_model(recipe, progress)
    start = recipe.adapter.start and digest_of(model.read_start_adapter(recipe.adapter.start, lm))
    questions = questions_for(recipe, lm, progress)
    rows: dict[str, list[TrainingRow]] = {}
    return PreparedRun(
        recipe, lm, rows, {}, [], questions, FilterOutcome(), alignment, start, engine="flower",
        excluded=preparation.excluded_suites(recipe),
    )  # fmt: skip


def recorder(run: RunFolder, callbacks: Callbacks) -> Callable[..., None]:
    """A function that records an event in the run and passes it to the callbacks."""

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
        KeyboardInterrupt: raised by a callback; the folder can be resumed.
    """
    emit = recorder(run, callbacks)
    plan = preparation.plan_for(prepared.recipe, prepared.clients)
    if prepared.engine == preparation.LOCAL:  # a quorum would be the first clients by name
        plan = replace(plan, quorum=0)
    if prepared.rows and not prepared.recipe.attack.active:  # nobody lies in one process
        plan = replace(plan, weight_cap=0, norm_cap=0)
    server.run_rounds(
        plan,
        Tools(
            clients=clients,
            model=prepared.model,
            aggregator=_aggregator(prepared, plan.weight_cap),
            evaluate=lambda adapters: preparation.measure_adapters(
                prepared.model, prepared.questions, adapters, callbacks.answers
            ),
            run=run,
            emit=emit,
            vet=vetter_for(prepared, run),
            defend=defending.defender(_with_exclusions(prepared, run), run, emit),
            align=_aligner(prepared, run, replace(callbacks, event=emit)),
            earlier=Siblings(prepared, run, plan) if prepared.siblings else None,
            privacy=private.guarantee(prepared, run),
        ),
    )


def _aggregator(prepared: PreparedRun, cap: float) -> aggregation.Aggregator:
    """The recipe's aggregator; the mean where rules that compare clients have nothing to compare.

    Args:
        prepared: the run.
        cap: limit on stated weights; 0: none.
    """
    recipe, rule = prepared.recipe, prepared.recipe.aggregation
    if recipe.federation.mode != "federated" and isinstance(rule, COMPARING):
        rule = FedAvg(lora=getattr(rule, "lora", "plain"))
    settings = rule.model_dump()
    if isinstance(rule, QFedAvg):
        settings["cap"] = cap
    variates = None
    if recipe.has_variates:
        variates = Variates(prepared.clients, partial(pair_tuning.rate_sum, recipe))
    ranks = ranks_of(recipe.adapter.ranks, recipe.adapter.rank, list(prepared.rows))
    return aggregation.build(**settings, ranks=ranks, seed=recipe.seed, variates=variates)


def _with_exclusions(prepared: PreparedRun, run: RunFolder) -> PreparedRun:
    """The run with the suites that were excluded when it started."""
    return replace(prepared, excluded=run.info.get("kept_out", {}))


def _aligner(prepared: PreparedRun, run: RunFolder, callbacks: Callbacks) -> Align | None:
    """A function that aligns the aggregated adapter of a round, if the recipe asks for it."""
    phase = aligning.phase_for(_with_exclusions(prepared, run), callbacks)
    if phase is None:
        return None
    rounds = prepared.recipe.federation.rounds
    return lambda number, adapter, work: phase(
        number, adapter, work, run.alignments, number == rounds
    )
