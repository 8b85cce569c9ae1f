"""How far a judge of refusals agrees with people's labels.

Two-way agreement counts a partial refusal as a refusal, as XSTest's string match and the refusal
rule do. Three-way agreement is added for a judge that tells partial refusals apart. An answer that
the judge could not score is in no rate; such answers are counted separately.

Several models answer the same prompts, so answers are not independent: the intervals of accuracy
and kappa are percentile intervals of a bootstrap over prompts, all answers to a prompt together.
Missed and false refusals have Wilson's interval, which treats answers as independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrai.evaluation.labelled_answers import Label, LabelledAnswer
from fedrai.evaluation.legacy import legacy_safe
from fedrai.evaluation.refusal import Reply, judge
from fedrai.evaluation.statistics import cohen_kappa, draw_counts, percentile_interval
from fedrai.rates import Rate, rate_json

Judge = Callable[[str], Label | None]
Counts = NDArray[np.int64]

LABELS = (Label.FULL, Label.PARTIAL, Label.COMPLIANCE)
RESAMPLES = 1_000


def rule(answer: str) -> Label | None:
    """The refusal rule; it has no partial refusals and may leave an answer unscored."""
    reply = judge(answer)
    if reply is Reply.UNSCORED:
        return None
    return Label.FULL if reply is Reply.REFUSAL else Label.COMPLIANCE


def legacy(answer: str) -> Label | None:
    """OpenFedLLM's keyword score."""
    return Label.FULL if legacy_safe(answer) else Label.COMPLIANCE


JUDGES: Mapping[str, Judge] = {"rule": rule, "legacy": legacy}


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """A labelled answer with a judge's verdict.

    Attributes:
        labelled: the answer with the people's label; its prompt is the unit of the bootstrap.
        verdict: the judge's label; `None`: not scored.
        problem: why it is not scored, where that is known; no text.
    """

    labelled: LabelledAnswer
    verdict: Label | None
    problem: str = ""

    @property
    def label(self) -> Label:
        """The people's label."""
        return self.labelled.label


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A row on which a judge and people disagree, or that is unscored; without its text.

    Attributes:
        file: the file or asset.
        row: its number there.
        people: the people's label.
        judge: the judge's label, or "unscored".
        problem: why it is unscored, where that is known.
    """

    file: str
    row: int
    people: str
    judge: str
    problem: str = ""


def with_verdicts(
    rows: Sequence[LabelledAnswer], verdicts: Sequence[Label | None], problems: Sequence[str] = ()
) -> list[JudgedAnswer]:
    """Answers with a judge's verdicts, in the same order, and why some are missing."""
    columns = zip(rows, verdicts, problems or [""] * len(rows), strict=True)
    return [JudgedAnswer(*column) for column in columns]


def disagreements(rows: Sequence[JudgedAnswer]) -> list[Disagreement]:
    """The rows on which a judge and people disagree, and unscored rows, in order.

    For a judge that calls nothing a partial refusal, full and partial refusals are the same.
    """
    partial = any(row.verdict is Label.PARTIAL for row in rows)

    def agrees(row: JudgedAnswer) -> bool:
        if partial or row.verdict is None:
            return row.label is row.verdict
        return (row.label is Label.COMPLIANCE) == (row.verdict is Label.COMPLIANCE)

    return [
        Disagreement(
            row.labelled.file, row.labelled.row, row.label.value, row.verdict or "unscored",
            row.problem,
        )
        for row in rows
        if not agrees(row)
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class AgreementFigures:
    """How far labels and verdicts agree, two-way or three-way.

    Attributes:
        accuracy: rows on which they agree.
        accuracy_ends: its interval over prompts; `None` where nothing is scored.
        kappa: Cohen's, from -1 to 1; `None` where both use one and the same label only.
        kappa_ends: its interval over prompts; `None` where kappa is.
    """

    accuracy: Rate
    accuracy_ends: tuple[float, float] | None
    kappa: float | None
    kappa_ends: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values; the interval of the accuracy is over prompts."""
        low, high = self.accuracy_ends or (None, None)
        kappa_low, kappa_high = self.kappa_ends or (None, None)
        return {
            "accuracy": rate_json(self.accuracy) | {"low": low, "high": high},
            "kappa": self.kappa,
            "kappa_low": kappa_low,
            "kappa_high": kappa_high,
        }


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge against people, on one set of answers.

    Attributes:
        table: answers by (label, verdict); the verdict `None` is unscored.
        two: agreement on refusal, full or partial, against compliance.
        three: agreement on all three labels; `None` for a judge that called nothing a partial
            refusal.
        missed: share that the judge misses of the answers that people call refusals.
        false: share that the judge calls refusals of the answers that people call compliance.
    """

    table: Mapping[tuple[Label, Label | None], int]
    two: AgreementFigures
    three: AgreementFigures | None
    missed: Rate
    false: Rate

    def to_json(self) -> dict[str, Any]:
        """Plain values; the table by label, then verdict."""
        return {
            "table": {
                label.value: {
                    verdict.value if verdict else "unscored": self.table[label, verdict]
                    for verdict in (*LABELS, None)
                }
                for label in LABELS
            },
            "two_way": self.two.to_json(),
            "three_way": self.three.to_json() if self.three else None,
            "missed_refusals": rate_json(self.missed),
            "false_refusals": rate_json(self.false),
        }


def agreement(rows: Sequence[JudgedAnswer]) -> Agreement:
    """Compare a judge's verdicts with people's labels."""
    counts = _by_prompt(rows)
    whole = counts.sum(0)
    refusals, compliance = whole[:2].sum(0), whole[2]
    partial = any(row.verdict is Label.PARTIAL for row in rows)
    return Agreement(
        table={
            (label, verdict): int(whole[i, j])
            for i, label in enumerate(LABELS)
            for j, verdict in enumerate((*LABELS, None))
        },
        two=_figures(_two_way(counts)),
        three=_figures(counts) if partial else None,
        missed=Rate(int(refusals[2]), int(refusals[:3].sum()), int(refusals[3])),
        false=Rate(int(compliance[:2].sum()), int(compliance[:3].sum()), int(compliance[3])),
    )


def by_source(rows: Sequence[JudgedAnswer]) -> dict[str, Agreement]:
    """`agreement` for each source, in the order of first appearance."""
    return {
        source: agreement([row for row in rows if row.labelled.source == source])
        for source in dict.fromkeys(row.labelled.source for row in rows)
    }


# --- figures ----------------------------------------------------------------------------------


def _by_prompt(rows: Sequence[JudgedAnswer]) -> Counts:
    """Answers by prompt, label and verdict, (P, 3, 4); the last verdict is "unscored"."""
    prompts = dict.fromkeys(row.labelled.prompt for row in rows)
    numbers = {prompt: i for i, prompt in enumerate(prompts)}
    verdicts = (*LABELS, None)
    counts = np.zeros((len(numbers), 3, 4), dtype=np.int64)
    for row in rows:
        place = LABELS.index(row.label), verdicts.index(row.verdict)
        counts[numbers[row.labelled.prompt], *place] += 1
    return counts


def _two_way(counts: Counts) -> Counts:
    """(P, 3, 4) to (P, 2, 3): partial refusals join the full ones, by label and by verdict."""
    merged = np.concatenate([counts[:, :2].sum(1, keepdims=True), counts[:, 2:]], 1)
    return np.concatenate([merged[..., :2].sum(-1, keepdims=True), merged[..., 2:]], -1)


def _figures(counts: Counts) -> AgreementFigures:
    """Of counts (P, K, K + 1), the last column unscored."""
    whole = counts.sum(0)
    accuracy = Rate(int(np.trace(whole)), int(whole[:, :-1].sum()), int(whole[:, -1].sum()))
    if not accuracy.scored:
        return AgreementFigures(accuracy, None, None, None)
    times = draw_counts(len(counts), RESAMPLES, seed=0)  # (R, P)
    tables = np.einsum("rp,pkv->rkv", times, counts[..., :-1], optimize=True)
    tables = tables[tables.sum((1, 2)) > 0]
    kappa = float(cohen_kappa(whole[None, :, :-1])[0])
    is_defined = not np.isnan(kappa)
    return AgreementFigures(
        accuracy,
        percentile_interval(np.trace(tables, axis1=1, axis2=2) / tables.sum((1, 2))),
        kappa if is_defined else None,
        percentile_interval(cohen_kappa(tables)) if is_defined else None,
    )
