"""The defences of a recipe, made ready for rounds: on the server and in the clients' training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fedrai import model
from fedrai.constitution.overlap import without_overlap
from fedrai.constitution.records import Request
from fedrai.constitution.requests import load_requests, sample
from fedrai.errors import DataError
from fedrai.evaluation.suites import prompts_of
from fedrai.federation import defences
from fedrai.federation.defences.rows import read_rows
from fedrai.federation.run.aligning import gather_requests, suites_for
from fedrai.federation.run.preparation import PreparedRun
from fedrai.model import AdapterState
from fedrai.runs import RunFolder
from fedrai.training.asft import Asft, directions
from fedrai.training.constrained import ConstrainedSft, Limits
from fedrai.training.defending import Together
from fedrai.training.lisa import Lisa
from fedrai.training.sft import LocalDefence


def defender(
    prepared: PreparedRun, run: RunFolder, emit: Callable[..., None]
) -> defences.Defend | None:
    """The recipe's defences on the server; None: there are none.

    All that they need is loaded now, so that problems are known before training.

    Args:
        prepared: the recipe and its model.
        run: the run's folder.
        emit: told of progress (kind, fields).

    Raises:
        DependencyError, FederationError: a package's defence cannot be used.
        DataError, AssetError, ModelError: something that a defence needs cannot be read.
    """
    recipe = prepared.recipe
    if not recipe.defence.on_server:
        return None

    def on_progress(what: str, done: int, of: int) -> None:
        emit("defence-progress", phase=what, done=done, of=of)

    tools = defences.Tools(
        recipe.seed,
        recipe.adapter.alpha / recipe.adapter.rank,
        start_of(prepared),
        prepared.model,
        recipe.data.max_length,
        _requests(prepared) if "post-hoc" in recipe.defence.methods else (),
        run.path / "defence",
        on_progress,
    )
    return defences.build(recipe.defence, tools)


def in_training(prepared: PreparedRun) -> LocalDefence | None:
    """The recipe's defences in the clients' training; None: there are none.

    Raises:
        DataError, AssetError, ModelError: something that a defence needs cannot be read.
    """
    names = prepared.recipe.defence.on_clients
    parts = [_LOCAL[name](prepared) for name in names]
    return Together(parts) if len(parts) > 1 else next(iter(parts), None)


def _lisa(prepared: PreparedRun) -> LocalDefence:
    recipe, section = prepared.recipe, prepared.recipe.defence.lisa
    rows = read_rows(prepared.model, section.rows, 0, recipe.seed, recipe.data.max_length)
    return Lisa(rows, section.align_steps, section.own_steps, section.rho)


def _constrained_sft(prepared: PreparedRun) -> LocalDefence:
    section = prepared.recipe.defence.constrained_sft
    betas = section.beta_first, section.beta_opening, section.beta_rest
    return ConstrainedSft(_aligned(prepared), Limits(*betas, section.opening))


def _asft(prepared: PreparedRun) -> LocalDefence:
    recipe = prepared.recipe
    scale = recipe.adapter.alpha / recipe.adapter.rank
    return Asft(directions(_aligned(prepared)), recipe.defence.asft.strength, scale)


_LOCAL: Mapping[str, Callable[[PreparedRun], LocalDefence]] = {
    "lisa": _lisa,
    "constrained-sft": _constrained_sft,
    "asft": _asft,
}


def _aligned(prepared: PreparedRun) -> AdapterState:
    """The adapter of `adapter.start`; a recipe that needs it has one."""
    start = start_of(prepared)
    assert start is not None
    return start


def start_of(prepared: PreparedRun) -> AdapterState | None:
    """The adapter of `adapter.start`; None: there is none."""
    start = prepared.recipe.adapter.start
    return model.read_start_adapter(start, prepared.model) if start else None


def _requests(prepared: PreparedRun) -> Sequence[Request]:
    """The requests of `post-hoc`: a sample of each kind that no evaluation and no probe asks.

    Raises:
        DataError: none is left of a kind.
    """
    recipe, section = prepared.recipe, prepared.recipe.defence.post_hoc
    asked = recipe.evaluation
    further = prompts_of(asked.paths, prepared.excluded, asked.outside_sets)
    suites = suites_for(prepared.questions.ordinary, prepared.questions.suites, further)
    probed: set[str] = set()
    if recipe.constitution.schedule != "off":
        held_out = gather_requests(recipe, suites).held_out
        probed = {request.prompt for side in held_out for request in side}
    sides: list[Request] = []
    for specs, harmful in ((section.harmful, True), (section.harmless, False)):
        clean = without_overlap(load_requests(specs, harmful=harmful), suites).requests
        rest = [request for request in clean if request.prompt not in probed]
        if not rest:
            raise DataError(f"defence.post_hoc: no request of {', '.join(specs)} remains")
        sides += sample(rest, section.count, recipe.seed_for("post-hoc"))
    return sides
