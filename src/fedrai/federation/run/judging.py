"""The suites and judges of a recipe's evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedrai import assets
from fedrai.endpoint import Access
from fedrai.errors import EvaluationError
from fedrai.evaluation import suites
from fedrai.evaluation.chats import Grader, RemoteGrader
from fedrai.evaluation.clusters import clusters
from fedrai.evaluation.installed_judges import load as load_judge
from fedrai.evaluation.records import GuardJudge, Judges, RubricJudge
from fedrai.evaluation.rubric import HARM, OURS, read_prompts, read_template
from fedrai.evaluation.suites import (
    ADVBENCH,
    ADVBENCH_SIZE,
    Declaration,
    Item,
    NotAvailable,
    Suite,
)
from fedrai.evaluation.suites.items import sample
from fedrai.evaluation.suites.outside import outside_suites
from fedrai.federation.run.trained_suites import of_recipe
from fedrai.guards import loading
from fedrai.guards.base import full_name
from fedrai.recipe.attack import with_trigger
from fedrai.recipe.evaluation import BUILT_IN_JUDGES
from fedrai.recipe.sections import Evaluation, JudgeEndpoint, Recipe

TRAINED = "the model or its start was trained on it, so that it is no outside set here"
TRIGGERED = 50  # most items that are also asked with the trigger of a backdoor
NO_RATING = 'it has no figure without an LLM that rates (judges = ["rubric"] and an endpoint)'


@dataclass(frozen=True, slots=True)
class SuiteSelection:
    """The suites of an evaluation, besides ordinary instructions.

    Attributes:
        harmful: items of AdvBench.
        clusters: clusters of all of AdvBench, by item number.
        suites: the others, the outside sets first.
        unavailable: suites that are not available, with the reason.
    """

    harmful: Sequence[Item]
    clusters: Mapping[int, int]
    suites: Sequence[Suite]
    unavailable: Mapping[str, str]


def select_suites(recipe: Recipe, progress: assets.Progress | None = None) -> SuiteSelection:
    """The suites of a recipe; `advbench` among its `suites` replaces its own number of items.

    An outside set that the recipe trains on is not asked.

    Raises:
        EvaluationError: a name is unknown, or a file is not valid.
        AssetError: AdvBench, or a path of the user, cannot be read.
    """
    settings, seed = recipe.evaluation, recipe.seed_for("suites")
    selected = suites.select(settings.suites, settings.paths, 0, seed, progress)
    here = [s for s in selected if isinstance(s, Suite) and _has_figure(s, settings)]
    whole = next((s.items for s in here if s.declaration.name == ADVBENCH), ())
    missing = {s.name: f"{s.reason}; {s.hint}".rstrip("; ") for s in selected
               if isinstance(s, NotAvailable)}  # fmt: skip
    unrated = {s.declaration.name: NO_RATING for s in selected if isinstance(s, Suite)
               and not _has_figure(s, settings)}  # fmt: skip
    count = settings.limit or ADVBENCH_SIZE if whole else settings.advbench
    if not whole and count and ADVBENCH not in missing:
        whole = tuple(suites.advbench(ADVBENCH_SIZE, seed))
    groups = clusters([item.prompt for item in whole])
    outside, absent = _outside(recipe, progress)
    others = [s.sampled(settings.limit, seed) for s in here if s.declaration.name != ADVBENCH]
    harmful = sample(whole, count, seed)
    others += _triggered(recipe, harmful)
    _check_names([*outside, *others])
    return SuiteSelection(
        harmful,
        {item.number: group for item, group in zip(whole, groups, strict=True)},
        [*outside, *others],
        missing | unrated | absent,
    )


def _triggered(recipe: Recipe, harmful: Sequence[Item]) -> list[Suite]:
    """Some of AdvBench's items with the trigger of the recipe's backdoor, if it has one."""
    if not recipe.attack.has_trigger or not harmful:
        return []
    items = tuple(
        replace(item, prompt=with_trigger(item.prompt, recipe.attack.trigger))
        for item in sample(harmful, TRIGGERED, recipe.seed_for("suites"))
    )
    declaration = Declaration(
        name="triggered", title="AdvBench with the trigger", what="behind the attack's trigger",
        licence="MIT", judge="refusal", metric="refused", direction="up", count=len(items),
    )  # fmt: skip
    return [Suite(declaration, items, len(items), "advbench", "", pinned=True)]


def _outside(
    recipe: Recipe, progress: assets.Progress | None
) -> tuple[list[Suite], dict[str, str]]:
    """Samples of the outside sets, and why some are not available."""
    settings, seed = recipe.evaluation, recipe.seed_for("suites")
    if not settings.outside:
        return [], {}
    loaded = outside_suites(settings.outside_sets, progress=progress)
    trained = set(of_recipe(recipe))
    absent = {s.name: f"{s.reason}; {s.hint}".rstrip("; ") for s in loaded
              if isinstance(s, NotAvailable)}  # fmt: skip
    suites = [suite for suite in loaded if isinstance(suite, Suite)]
    spoilt = {s.declaration.name: TRAINED for s in suites if s.declaration.name in trained}
    return (
        [s.sampled(settings.outside, seed) for s in suites if s.declaration.name not in trained],
        absent | spoilt,
    )


def _check_names(selected: Sequence[Suite]) -> None:
    names = [suite.declaration.name for suite in selected]
    if twice := [name for name in names if names.count(name) > 1]:
        raise EvaluationError(
            f"{twice[0]} is asked twice: as an outside set and as a suite",
            hint="leave it out of evaluation.suites (--suite)",
        )


def _has_figure(suite: Suite, settings: Evaluation) -> bool:
    return suite.declaration.judge != "rating" or "rubric" in settings.judges


def judges_for(recipe: Recipe, progress: assets.Progress | None = None) -> Judges:
    """The judges, checked: the guard is loaded, and the endpoint has replied to a greeting.

    Raises:
        GuardError, AssetError, ModelError: the guard cannot be used.
        EvaluationError: the endpoint does not reply, or a file of prompts is not valid.
        DependencyError: the package of an installed judge cannot be used.
    """
    settings = recipe.evaluation
    endpoint = settings.endpoint if "rubric" in settings.judges else None
    return Judges(
        rule="rule" in settings.judges,
        legacy="legacy" in settings.judges,
        guard=_safety(recipe, progress) if "guard" in settings.judges else None,
        rubric=rubric_for(endpoint) if endpoint is not None else None,
        installed=[load_judge(n) for n in settings.judges if n not in BUILT_IN_JUDGES],
    )


def _safety(recipe: Recipe, progress: assets.Progress | None) -> GuardJudge:
    setting = recipe.evaluation.guard_threshold
    guard = loading.load(recipe.evaluation.guard, tables=recipe.guards, progress=progress)
    threshold = guard.thresholds[setting] if isinstance(setting, str) else setting
    return GuardJudge(full_name(guard), threshold, guard.judge)


def rubric_for(settings: JudgeEndpoint) -> RubricJudge:
    """The LLM that rates, which has replied to a greeting.

    Raises:
        EvaluationError: it does not reply, or a file of prompts is not valid.
    """
    prompts = read_prompts(Path(settings.prompts).expanduser()) if settings.prompts else OURS
    file = Path(settings.template).expanduser()
    template = read_template(file) if settings.template else HARM
    source = file.stem if settings.template else "fedrai"
    access = Access.from_settings(settings.model_dump())
    grader: Grader = RemoteGrader(access, settings.model, max_tokens=settings.max_tokens)
    grader.ask([("", "Hello.")])  # reports a wrong key or name now, not after hours of answers
    return RubricJudge(settings.model, grader, prompts, template, source)
