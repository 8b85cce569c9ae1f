"""The plan of a run's rounds, and the adapters of its rounds in the run folder."""

from __future__ import annotations

from dataclasses import dataclass

from fedrai.errors import RunError
from fedrai.federation.codecs import PLAIN, Codec
from fedrai.model import AdapterState, LanguageModel, read_adapter, read_start_adapter
from fedrai.recipe.sections import seed_for
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of

GLOBAL = ""  # names the common adapter; no client can have this name
Adapters = dict[str, AdapterState]


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of the round loop.

    Attributes:
        seed: the recipe's seed.
        rounds: number of rounds.
        sampled: clients per round.
        min_clients: fewest usable updates of a round.
        timeout: seconds that a round waits for replies; 0: no limit.
        local: no aggregation; every client continues from its own adapter.
        evaluate_every: evaluate after every n-th round; 0: only before the first and at the end.
        start: adapter that round 1 starts from, a PEFT folder or `fedrai:aligned`; empty: fresh.
        quorum: usable updates with which a round closes, besides those that arrive at the same
            time; 0: all sampled clients.
        weight_cap: see `aggregation.weights`; 0: weights are the rows that clients state.
        norm_cap: see `aggregation.norms`; 0: no limit.
        weights: what updates weigh in means: "rows", "tokens" or "uniform".
        needed: names of metrics without which an update cannot be used, besides its rows.
        up: how clients write their updates.
        down: how adapters are written for them.
    """

    seed: int
    rounds: int
    sampled: int
    min_clients: int
    timeout: float
    local: bool
    evaluate_every: int
    start: str = ""
    quorum: int = 0
    weight_cap: float = 0.0
    norm_cap: float = 0.0
    weights: str = "rows"
    needed: tuple[str, ...] = ()
    up: Codec = PLAIN
    down: Codec = PLAIN


def load_adapters(run: RunFolder, model: LanguageModel, plan: Plan, number: int) -> Adapters:
    """The adapters after a round: one, as `GLOBAL`, or one per client in local mode."""
    if number == 0:
        return {GLOBAL: _first(run, model, plan)}
    folder = run.round_folder(number)
    if not plan.local:
        return {GLOBAL: read_adapter(folder / "adapter")}
    return {f.name: read_adapter(f) for f in sorted((folder / "adapters").iterdir())}


def _first(run: RunFolder, model: LanguageModel, plan: Plan) -> AdapterState:
    """The adapter that round 1 starts from.

    Raises:
        RunError: it is not the adapter that the run started from.
    """
    if not plan.start:
        return model.fresh_adapter(seed_for(plan.seed, "adapter"))
    adapter = read_start_adapter(plan.start, model)
    if digest_of(adapter) != run.info.get("start_sha256"):
        raise RunError(
            f"{run.path}: {plan.start} is no longer the adapter that the run started from",
            hint="restore it, or start a new run with --out",
        )
    return adapter
