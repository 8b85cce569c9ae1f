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
from fedrai.federation.run.preparation import Callbacks, PreparedRun
from fedrai.guards.base import Guard
from fedrai.guards.loading import load as load_guard
from fedrai.model import AdapterState, LanguageModel
from fedrai.model.starting import read_start_adapter
from fedrai.recipe.sections import Alignment, Recipe


def phase_for(
    prepared: PreparedRun, callbacks: Callbacks, progress: assets.Progress | None = None
) -> Phase | None:
    """What aligns a round's adapter; None where the recipe has no constitution.

    All that it needs is loaded at once, so that what cannot be used is known before training.

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
    further = prompts_of(recipe.evaluation.paths, prepared.excluded)
    asked = suites_for(prepared.questions.ordinary, prepared.questions.suites, further)
    requests = gather_requests(recipe, asked, progress)
    probed = {request.prompt for side in requests.held_out for request in side}
    examples = examples_for(recipe, asked, progress)
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
    """Requests whose answers are revised; for the control harmless ones that resemble no other."""
    if section.style == "constitution":
        return requests.harmful
    return [request for request in requests.harmless if not request.kind]


def gather_requests(
    recipe: Recipe, asked: Suites, progress: assets.Progress | None = None
) -> RequestSets:
    """The requests of an alignment, without those that evaluations ask.

    What is left out of `examples` alone is counted with what is left out of requests.
    """
    section = recipe.constitution
    named = {*section.requests, *section.harmless}
    alone = [spec for spec in section.examples if spec not in named]
    requests = gather(section, asked, recipe.seed_for("constitution"), progress)
    examples = _cleaned(alone, asked, progress).removed
    removed = {name: count + examples[name] for name, count in requests.removed.items()}
    return replace(requests, removed=removed)


def _cleaned(
    specs: Sequence[str], asked: Suites, progress: assets.Progress | None
) -> CleanedRequests:
    found = load_requests(specs, harmful=True, progress=progress) if specs else []
    return without_overlap(found, asked)


def examples_for(
    recipe: Recipe, asked: Suites, progress: assets.Progress | None = None
) -> list[RevisionRecord]:
    """Requests with a good answer, as records that are trained on; none that evaluations ask.

    One without an answer of its own gets the embedded refusal of its topic.
    """
    kept = _cleaned(recipe.constitution.examples, asked, progress).requests
    seed = recipe.seed_for("constitution-examples")
    return [_example(request, seed) for request in kept]


def _example(request: Request, seed: int) -> RevisionRecord:
    said = request.answer or embedded_refusals().refusal_for(
        request.prompt, (request.category,), seed
    )
    unknown = Reply.UNSCORED.value
    return RevisionRecord(request, "", unknown, None, (), said, None, 0, Outcome.ALREADY_SAFE)


def suites_for(
    ordinary: Sequence[Item],
    asked: Sequence[Suite] = (),
    here: Mapping[str, Sequence[str]] | None = None,
) -> Suites:
    """What evaluations may ask, by suite: of AdvBench all, whatever part of it is asked.

    Args:
        ordinary: the ordinary instructions that are asked.
        asked: other suites that are asked.
        here: prompts of suites whose files are here, asked or not; all of a suite that is asked
            in part.
    """
    others = {suite.declaration.name: [item.prompt for item in suite.items] for suite in asked}
    known = {name: list(prompts) for name, prompts in (here or {}).items()}
    return {
        **{name: known.pop(name, prompts) for name, prompts in others.items()},
        "advbench": [item.prompt for item in advbench(ADVBENCH_SIZE, 0)],
        "ordinary": [item.prompt for item in ordinary],
        **known,
    }


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


def _threshold(guard: Guard, wanted: str | float) -> float:
    if isinstance(wanted, int | float):
        return float(wanted)
    if wanted not in guard.thresholds:
        raise GuardError(
            f"{guard.name} has no threshold {wanted!r}",
            hint=f"it has: {', '.join(sorted(guard.thresholds))}; or give a number",
        )
    return guard.thresholds[wanted]
