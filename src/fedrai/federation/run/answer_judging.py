"""Judging of answers outside an evaluation: by a rule, an LLM, an installed judge or a guard.

What a judge needs is imported when it is chosen, so that the rules load neither torch nor a guard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fedrai.errors import EvaluationError
from fedrai.evaluation.agreement import JUDGES
from fedrai.evaluation.labelled_answers import Label, PromptAndAnswer
from fedrai.federation.run.observer import SILENT, Observer
from fedrai.federation.run.stopping import stoppable
from fedrai.recipe.sections import JudgeEndpoint

if TYPE_CHECKING:
    from fedrai.evaluation.records import GuardJudge


def label_answers(
    judge: str,
    rows: Sequence[PromptAndAnswer],
    endpoint: Mapping[str, Any],
    observer: Observer = SILENT,
) -> tuple[list[Label | None], list[str]]:
    """A judge's labels of answers, and why some are missing.

    Args:
        judge: `rule`, `legacy`, `rubric` (an LLM), or a judge of an installed package.
        rows: the answers with their prompts; an LLM is sent both.
        endpoint: the LLM's endpoint: keys of `[evaluation.endpoint]`, url and model at least.
        observer: is told of the progress.

    Raises:
        EvaluationError: there is no such judge, or the endpoint cannot be used.
        DependencyError: the package of the judge cannot be used.
    """
    if judge in JUDGES:
        return [JUDGES[judge](row.answer) for row in rows], [""] * len(rows)
    on_progress = partial(observer.answers, "labelled answers")
    if judge == "rubric":
        from fedrai.evaluation.answer_judges import by_rubric
        from fedrai.federation.run.judging import rubric_for

        grader = rubric_for(_endpoint(endpoint)).grader
        with stoppable() as stop:
            return by_rubric(rows, grader, stop.after(on_progress))
    from fedrai.evaluation.installed_judges import load

    installed = load(judge)
    with stoppable() as stop:
        return installed.labels(rows, stop.after(on_progress)), [""] * len(rows)


def _endpoint(settings: Mapping[str, Any]) -> JudgeEndpoint:
    try:
        return JudgeEndpoint.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise EvaluationError(
            f"endpoint: {key}: {first['msg']}",
            hint='for example {"url": "http://localhost:8000/v1", "model": "NAME"}',
        ) from None


def guard_judge(spec: str, threshold: str, *, progress: bool = False) -> GuardJudge:
    """The guard of a name with a threshold; its verdicts are cached as those of `fedrai scan` are.

    Args:
        spec: see `fedrai guard list`.
        threshold: `strict`, `loose` or a probability.
        progress: show downloads.

    Raises:
        GuardError: there is no such guard or threshold.
    """
    from fedrai.evaluation.records import GuardJudge
    from fedrai.filter.guard_evaluation import open_cache, open_guard, threshold_of
    from fedrai.guards import cache
    from fedrai.guards.base import full_name

    guard = open_guard(spec, progress=progress)
    number, verdicts = threshold_of(guard, threshold), open_cache(True)
    return GuardJudge(
        full_name(guard),
        number,
        lambda talks, on_progress: cache.judge(guard, talks, verdicts, on_progress),
    )
