"""What `fedrai judge` does behind `cli/judge.py`: labelled rows, judges, their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from fedrai.cli.show.display import Display
from fedrai.cli.show.guards import Watch
from fedrai.cli.stopping import stoppable
from fedrai.errors import EvaluationError
from fedrai.evaluation import labelling
from fedrai.evaluation.answer_judges import PromptAndAnswer, by_guard, by_rubric
from fedrai.evaluation.labelled_answers import Label
from fedrai.evaluation.records import GuardJudge
from fedrai.federation.run.judging import rubric_for
from fedrai.filter.labelled import open_cache, open_guard, threshold_of
from fedrai.guards import cache
from fedrai.guards.base import full_name
from fedrai.recipe.sections import JudgeEndpoint
from fedrai.runs import RunFolder


def endpoint(url: str, name: str, key_env: str) -> JudgeEndpoint:
    """The endpoint that a command line names.

    Raises:
        EvaluationError: its address or the model's name is missing.
    """
    if not (url and name):
        raise EvaluationError(
            "the judge rubric is an LLM behind an endpoint",
            hint="name it: --judge-url http://localhost:8000/v1 --judge-model NAME",
        )
    try:
        return JudgeEndpoint(url=url, model=name, api_key_env=key_env)
    except ValidationError as error:
        raise EvaluationError(f"the endpoint cannot be used: {error.errors()[0]['msg']}") from None


def rubric_verdicts(
    rows: Sequence[PromptAndAnswer], settings: JudgeEndpoint, *, progress: bool = True
) -> tuple[list[Label | None], list[str]]:
    """An LLM's labels of answers, and why some are missing; its endpoint is sent both texts.

    Raises:
        EvaluationError: the endpoint does not reply.
    """
    grader = rubric_for(settings).grader
    with Display(0, quiet=not progress) as display, stoppable() as stop:

        def told(done: int, of: int) -> None:
            display.answers("labelled answers", done, of)
            stop.check()

        return by_rubric(rows, grader, told)


def guard_for(spec: str, threshold: str, *, progress: bool = True) -> GuardJudge:
    """The guard of a name with a threshold; its verdicts are kept as those of `fedrai scan` are.

    Raises:
        GuardError: there is no such guard or threshold.
    """
    guard = open_guard(spec, progress=progress)
    number, known = threshold_of(guard, threshold), open_cache(True)
    return GuardJudge(
        full_name(guard),
        number,
        lambda talks, told: cache.judge(guard, talks, known, told),
    )


def guard_verdicts(
    rows: Sequence[PromptAndAnswer], guard: GuardJudge, *, progress: bool = True
) -> list[bool | None]:
    """Whether the guard finds each answer unsafe; see `by_guard`."""
    if not progress:
        return by_guard(rows, guard)
    with Watch(guard.name) as watch:
        return by_guard(rows, guard, watch)


def export(place: Path, out: Path, suites: Sequence[str], count: int, seed: int) -> dict[str, int]:
    """Write answers for people to label; gives how many of each suite.

    Args:
        place: a run (its last evaluation), an evaluation's folder, or a suite's file in one.
        out: the file.
        suites: only these; none: all.
        count: of each suite; 0: all.
        seed: of the sample.

    Raises:
        EvaluationError: there are no answers, or the file cannot be written.
        RunError: the run cannot be read.
    """
    if (place / "run.json").is_file():
        run = RunFolder.open(place)
        done = run.evaluations()
        if not done:
            raise EvaluationError(f"{place} has no evaluation yet")
        place = run.evaluation_folder(done[-1])
    elif not place.exists():
        raise EvaluationError(f"there is no {place}")
    rows = labelling.rows_to_label(place, suites, count, seed)
    labelling.write(out, rows)
    names = [str(row["suite"]) for row in rows]
    return {name: names.count(name) for name in dict.fromkeys(names)}
