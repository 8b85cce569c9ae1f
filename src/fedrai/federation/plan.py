"""The plan of a run's rounds, and the adapters that they left in the run folder."""

from __future__ import annotations

from dataclasses import dataclass

from fedrai.errors import RunError
from fedrai.model import AdapterState, LanguageModel, read_adapter, read_start_adapter
from fedrai.recipe.sections import seed_for
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of

GLOBAL = ""  # the adapter that is no client's; no client can be called that
Adapters = dict[str, AdapterState]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the round loop needs of a recipe.

    Attributes:
        seed: the recipe's seed.
        rounds: how many rounds.
        sampled: clients a round.
        min_clients: fewest usable updates a round needs.
        timeout: seconds a round waits for replies; 0: for ever.
        steps_per_round: optimiser steps a client takes in a round.
        local: no aggregation; every client goes on from its own adapter.
        evaluate_every: evaluate after every n-th round; 0: only before the first and at the end.
        start: adapter that round 1 starts from, a PEFT folder or `fedrai:aligned`; empty: fresh.
        quorum: usable updates with which a round closes, beside any that came in the same look;
            0: all that were asked for.
        weight_cap: see `aggregation.weights`; 0: updates count by the rows that clients state.
    """

    seed: int
    rounds: int
    sampled: int
    min_clients: int
    timeout: float
    steps_per_round: int
    local: bool
    evaluate_every: int
    start: str = ""
    quorum: int = 0
    weight_cap: float = 0.0


def load_adapters(run: RunFolder, model: LanguageModel, plan: Plan, number: int) -> Adapters:
    """The adapters after a round: one, as `GLOBAL`, or one a client in local mode."""
    if number == 0:
        return {GLOBAL: _first(run, model, plan)}
    folder = run.round_folder(number)
    if not plan.local:
        return {GLOBAL: read_adapter(folder / "adapter")}
    return {f.name: read_adapter(f) for f in sorted((folder / "adapters").iterdir())}


def _first(run: RunFolder, model: LanguageModel, plan: Plan) -> AdapterState:
    """The adapter that round 1 starts from.

    Raises:
        RunError: it is not the one that the run began with.
    """
    if not plan.start:
        return model.fresh_adapter(seed_for(plan.seed, "adapter"))
    adapter = read_start_adapter(plan.start, model)
    if digest_of(adapter) != run.info.get("start_sha256"):
        raise RunError(
            f"{run.path}: {plan.start} is not the adapter that the run started from any more",
            hint="put it back, or start a new run with --out",
        )
    return adapter
