"""The alignment of a recipe: its guard, critic, requests and settings, made ready for rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedrai import assets, model
from fedrai.constitution import load as load_constitution
from fedrai.constitution.critics import CriticModel, LocalCritic, RemoteCritic
from fedrai.constitution.gathering import RequestSets, Suites, gather
from fedrai.constitution.overlap import CleanedRequests, without_overlap
from fedrai.constitution.phase import Phase
from fedrai.constitution.records import Outcome, Request, RevisionRecord
from fedrai.constitution.requests import load_requests
from fedrai.constitution.tools import OnEvent, PhaseTools
from fedrai.constitution.verifying import Checks
from fedrai.data.embedded.refusals import embedded_refusals
from fedrai.endpoint import Access
from fedrai.errors import GuardError
from fedrai.evaluation.refusal import Reply
from fedrai.evaluation.suites import ADVBENCH_SIZE, Item, Suite, advbench, prompts_of
from fedrai.evaluation.suites.local import OUTSIDE
from fedrai.federation.run.preparation import Callbacks, PreparedRun
from fedrai.guards.base import Guard
from fedrai.guards.loading import load as load_guard
from fedrai.model import AdapterState, LanguageModel
from fedrai.model.starting import read_start_adapter
from fedrai.recipe.sections import Alignment, Recipe


def phase_for(
    prepared: PreparedRun, callbacks: Callbacks, progress: assets.Progress | None = None
) -> Phase | None:
    """The alignment of a round's adapter; None where the recipe has no constitution.

    Everything that it needs is loaded now, so that problems are known before training.

    Raises:
        ConstitutionError, GuardError, DataError, AssetError, ModelError: something cannot be used.
    """
    recipe = prepared.recipe
    if recipe.constitution.schedule == "off":
        return None
    start = recipe.adapter.start
    anchor = read_start_adapter(start, prepared.model) if start else None
    return Phase(recipe, tools_for(prepared, callbacks.event, anchor, progress))


def tools_for(
    prepared: PreparedRun,
    on_event: OnEvent,
    start: AdapterState | None,
    progress: assets.Progress | None = None,
) -> PhaseTools:
    """Load what an alignment works with.

    Args:
        prepared: the recipe and its model.
        on_event: called with progress.
        start: the adapter whose answers anchor the probe; None: a fresh one.
        progress: shows downloads.

    Raises:
        ConstitutionError, GuardError, DataError, AssetError, ModelError: something cannot be used.
    """
    recipe = prepared.recipe
    section = recipe.constitution
    guard = load_guard(section.revising.guard, tables=recipe.guards, progress=progress)
    asked = recipe.evaluation
    further = prompts_of(asked.paths, prepared.excluded, asked.outside_sets)
    suites = suites_for(prepared.questions.ordinary, prepared.questions.suites, further)
    requests = gather_requests(recipe, suites, progress)
    probed = {request.prompt for side in requests.held_out for request in side}
    examples = examples_for(recipe, suites, progress)
    return PhaseTools(
        model=prepared.model,
        constitution=load_constitution(section.file),
        critic=_critic(section, prepared.model, start, progress),
        checks=Checks(guard, _threshold(guard, section.revising.threshold)),
        harmless_threshold=_threshold(guard, section.revising.harmless_threshold),
        requests=requests,
        pool=pool_for(section, requests),
        examples=[one for one in examples if one.request.prompt not in probed],
        start=start,
        on_event=on_event,
    )


def pool_for(section: Alignment, requests: RequestSets) -> Sequence[Request]:
    """Requests whose answers are revised; for the control, plain harmless ones."""
    if section.style == "constitution":
        return requests.harmful
    return [request for request in requests.harmless if not request.kind]


def gather_requests(
    recipe: Recipe, suites: Suites, progress: assets.Progress | None = None
) -> RequestSets:
    """The requests of an alignment, without those of evaluations.

    Requests removed from `examples` alone are counted with the others.
    """
    section = recipe.constitution
    named = {*section.requests, *section.harmless}
    alone = [spec for spec in section.examples if spec not in named]
    requests = gather(section, suites, recipe.seed_for("constitution"), progress)
    examples = _clean_requests(alone, suites, progress).removed
    removed = {name: count + examples[name] for name, count in requests.removed.items()}
    return replace(requests, removed=removed)


def _clean_requests(
    specs: Sequence[str], suites: Suites, progress: assets.Progress | None
) -> CleanedRequests:
    requests = load_requests(specs, harmful=True, progress=progress) if specs else []
    return without_overlap(requests, suites)


def examples_for(
    recipe: Recipe, suites: Suites, progress: assets.Progress | None = None
) -> list[RevisionRecord]:
    """Requests with a good answer, as training records, without those of evaluations.

    A request without an answer gets the embedded refusal of its topic.
    """
    kept = _clean_requests(recipe.constitution.examples, suites, progress).requests
    seed = recipe.seed_for("constitution-examples")
    return [_example(request, seed) for request in kept]


def _example(request: Request, seed: int) -> RevisionRecord:
    answer = request.answer or embedded_refusals().refusal_for(
        request.prompt, (request.category,), seed
    )
    unknown = Reply.UNSCORED.value
    return RevisionRecord(request, "", unknown, None, (), answer, None, 0, Outcome.ALREADY_SAFE)


def suites_for(
    ordinary: Sequence[Item],
    suites: Sequence[Suite] = (),
    here: Mapping[str, Sequence[str]] | None = None,
) -> Suites:
    """The prompts that evaluations may use, by suite; all of AdvBench, even if part of it is used.

    Args:
        ordinary: the ordinary instructions of the evaluation.
        suites: its other suites.
        here: all prompts of suites whose files are on this machine, used or not.
    """
    known = {name: list(prompts) for name, prompts in (here or {}).items()}
    others = {
        suite.declaration.name: known.pop(_name_here(suite), [item.prompt for item in suite.items])
        for suite in suites
    }
    return {
        **others,
        "advbench": [item.prompt for item in advbench(ADVBENCH_SIZE, 0)],
        "ordinary": [item.prompt for item in ordinary],
        **known,
    }


def _name_here(suite: Suite) -> str:
    """Its name among the suites on this machine."""
    outside = suite.declaration.is_outside
    return f"{OUTSIDE if outside else ''}{suite.declaration.name}"


def _critic(
    section: Alignment,
    lm: LanguageModel,
    start: AdapterState | None,
    progress: assets.Progress | None,
) -> CriticModel:
    chosen, size = section.critic, section.revising.batch_size
    if chosen.kind == "endpoint":
        return RemoteCritic(Access.from_settings(chosen.model_dump()), chosen.model)
    if chosen.kind == "local":
        options = model.LoadOptions(device=str(lm.device), max_length=4096)
        other = model.load(chosen.model, model.Lora(1, 1), options, progress=progress)
        return LocalCritic(other, size, lambda: other.using(None))
    if chosen.kind == "start":
        return LocalCritic(lm, size, lambda: lm.using(start))  # None: the base model
    return LocalCritic(lm, size)


def _threshold(guard: Guard, threshold: str | float) -> float:
    if isinstance(threshold, int | float):
        return float(threshold)
    if threshold not in guard.thresholds:
        raise GuardError(
            f"{guard.name} has no threshold {threshold!r}",
            hint=f"it has: {', '.join(sorted(guard.thresholds))}; or give a number",
        )
    return guard.thresholds[threshold]
