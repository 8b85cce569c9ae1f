"""Answers judged by a rule, a guard or an LLM, and the judge's agreement with people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrai.api.places import Place, Row, judging, observed
from fedrai.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Judged:
    """A judge's verdicts on answers, without their texts.

    Attributes:
        judge: its name; for a guard with its revision.
        rows: one row an answer: source, row (its number), verdict ("full refusal", "partial
            refusal", "compliance"; for a guard "unsafe", "safe"; None: not scored), problem, and
            label (people's; None: there is none).
        agreement: agreement with people's labels, as `fedrai judge eval --json` prints it; None
            unless every answer has a label.
    """

    judge: str
    rows: list[Row] = field(repr=False)
    agreement: Mapping[str, Any] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class _UnlabelledAnswer:
    """An answer in memory, without a label."""

    prompt: str
    answer: str
    row: int


def judge(
    answers: Place | Sequence[Place] | Iterable[Mapping[str, Any]],
    judge: str = "rule",
    *,
    guard: str = "embedded",
    threshold: str | float = "strict",
    endpoint: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Judged:
    """Judge answers, and compare the judge with people's labels where there are any.

    Args:
        answers: files as `fedrai judge eval` takes them, or dicts with prompt and answer, and with
            label (all of them, or none).
        judge: `rule` (the refusal rule), `legacy` (OpenFedLLM's keywords), `guard` (harm), `rubric`
            (an LLM), or the name of a judge that an installed package offers.
        guard: the guard of the judge `guard`; see `fedrai guard list`.
        threshold: the guard's.
        endpoint: for the judge `rubric`: keys of a recipe's `[evaluation.endpoint]`, url and model
            at least. Requests and answers are sent there.
        progress: show the progress on stderr.

    Raises:
        EvaluationError: there is no such judge, or the answers cannot be read.
        GuardError: the guard cannot be used.
    """
    rows, labelled = _answers(answers)
    if judge == "guard":
        return _by_guard(rows, labelled, guard, str(threshold), progress)
    from fedrai.evaluation.agreement import agreement, with_verdicts
    from fedrai.federation.run.answer_judging import label_answers

    with observed(progress) as observer:
        labels, problems = label_answers(judge, rows, endpoint or {}, observer)
    judged = [_verdict_row(*parts) for parts in zip(rows, labels, problems, strict=True)]
    figures = agreement(with_verdicts(rows, labels, problems)).to_json() if labelled else None
    return Judged(judge, judged, figures)


def _by_guard(
    rows: Sequence[Any], labelled: bool, spec: str, threshold: str, progress: bool
) -> Judged:
    from fedrai.evaluation.answer_judges import by_guard, harm_agreement
    from fedrai.federation.run.answer_judging import guard_judge

    judge = guard_judge(spec, threshold, progress=progress)
    with judging(judge.name, progress) as on_progress:
        verdicts = by_guard(rows, judge, on_progress)
    words = {True: "unsafe", False: "safe", None: None}
    judged = [
        _verdict_row(row, words[verdict]) for row, verdict in zip(rows, verdicts, strict=True)
    ]
    figures = harm_agreement(rows, verdicts).to_json() if labelled else None
    return Judged(judge.name, judged, figures)


def _verdict_row(row: Any, verdict: str | None, problem: str = "") -> Row:
    label = getattr(row, "label", None)
    return {
        "source": getattr(row, "source", ""),
        "row": getattr(row, "row", 0),
        "verdict": None if verdict is None else str(verdict),
        "problem": problem,
        "label": None if label is None else str(label),
    }


def _answers(answers: Any) -> tuple[Sequence[Any], bool]:
    """The answers, and whether people labelled them all."""
    from fedrai.evaluation.labelled_answers import from_rows, load

    listed: list[Any] = [answers] if isinstance(answers, str | Path) else list(answers)
    if listed and all(isinstance(one, str | Path) for one in listed):
        return load([str(one) for one in listed]), True
    for number, row in enumerate(listed, 1):
        if not isinstance(row, Mapping) or not {"prompt", "answer"} <= set(row):
            raise EvaluationError(
                f"row {number}: expected a dict with the keys prompt and answer",
                hint='for a DataFrame with these columns, pass frame.to_dict("records")',
            )
    if listed and all(row.get("label") for row in listed):
        return from_rows(listed), True
    pairs = [(str(row["prompt"]), str(row["answer"])) for row in listed]
    return [_UnlabelledAnswer(*pair, number) for number, pair in enumerate(pairs, 1)], False
