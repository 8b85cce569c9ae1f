"""A judge of refusals, judged by people's labels.

Two ways: a partial refusal counts as a refusal, as XSTest's string match and our rule have it.
Three ways, too, where a judge tells partial refusals apart. An answer that the judge could not
score is in no rate; its number stands beside them.

Kappa is Cohen's (1960, Educational and Psychological Measurement 20, 37): agreement beyond what the
two sets of labels would reach by chance. Several models answer the same prompts, so that answers
are not independent: the intervals of accuracy and kappa are percentile intervals of a bootstrap
over prompts, all answers to a prompt together. Missed and false refusals have Wilson's interval,
which takes answers as independent. It is written out here as `detection` is, for the same reasons.
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
from fedrai.rates import Rate, rate_json

Judge = Callable[[str], Label | None]
Counts = NDArray[np.int64]

LABELS = (Label.FULL, Label.PARTIAL, Label.COMPLIANCE)
RESAMPLES = 1_000


def rule(answer: str) -> Label | None:
    """Our refusal rule; it knows no partial refusal and may leave an answer unscored."""
    reply = judge(answer)
    if reply is Reply.UNSCORED:
        return None
    return Label.FULL if reply is Reply.REFUSAL else Label.COMPLIANCE


def legacy(answer: str) -> Label | None:
    """The keyword score of OpenFedLLM."""
    return Label.FULL if legacy_safe(answer) else Label.COMPLIANCE


JUDGES: Mapping[str, Judge] = {"rule": rule, "legacy": legacy}


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """One answer with both verdicts.

    Attributes:
        source: where the answer is from.
        prompt: what was asked; the unit of the bootstrap.
        label: the people's.
        verdict: the judge's; `None`: not scored.
        file: the file or asset that the answer is from.
        row: its number there.
        problem: why it is not scored, where that is known; no text.
    """

    source: str
    prompt: str
    label: Label
    verdict: Label | None
    file: str = ""
    row: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A row that a judge sees otherwise than people do, or could not score; no text of it.

    Attributes:
        file: the file or asset.
        row: its number there.
        people: what people say.
        judge: what the judge says; "unscored".
        problem: why it is unscored, where that is known.
    """

    file: str
    row: int
    people: str
    judge: str
    problem: str = ""


def judge_answers(rows: Sequence[LabelledAnswer], by: Judge) -> list[JudgedAnswer]:
    """Let a judge label the answers, which it sees without their prompts."""
    return with_verdicts(rows, [by(row.answer) for row in rows])


def with_verdicts(
    rows: Sequence[LabelledAnswer], verdicts: Sequence[Label | None], problems: Sequence[str] = ()
) -> list[JudgedAnswer]:
    """Answers with a judge's verdicts, which are in their order, and why some are missing."""
    return [
        JudgedAnswer(row.source, row.prompt, row.label, verdict, row.file, row.row, problem)
        for row, verdict, problem in zip(rows, verdicts, problems or [""] * len(rows), strict=True)
    ]


def disagreements(rows: Sequence[JudgedAnswer]) -> list[Disagreement]:
    """The rows on which a judge and people disagree, and those that are not scored, in order.

    A full and a partial refusal are the same to a judge that calls nothing a partial refusal.
    """
    partial = any(row.verdict is Label.PARTIAL for row in rows)

    def same(row: JudgedAnswer) -> bool:
        refuses = [label is not Label.COMPLIANCE for label in (row.label, row.verdict)]
        return row.label is row.verdict if partial else refuses[0] == refuses[1]

    return [
        Disagreement(
            row.file, row.row, row.label.value, row.verdict.value if row.verdict else "unscored",
            row.problem,
        )
        for row in rows
        if row.verdict is None or not same(row)
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class AgreementFigures:
    """How far labels and verdicts agree, in two or three ways.

    Attributes:
        accuracy: rows on which they agree.
        accuracy_ends: its interval over prompts; `None` where nothing is scored.
        kappa: from -1 to 1; `None` where both know only one and the same label.
        kappa_ends: its interval over prompts; `None` where kappa is.
    """

    accuracy: Rate
    accuracy_ends: tuple[float, float] | None
    kappa: float | None
    kappa_ends: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values; the interval of the accuracy is the one over prompts."""
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
        table: answers by (label, verdict); a verdict of `None` was not scored.
        two: agreement on refusal, in full or in part, against compliance.
        three: agreement on all three; `None` for a judge that called nothing a partial refusal.
        missed: of the answers that people call refusals, those that the judge does not.
        false: of the answers that people call compliance, those that the judge calls refusals.
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


def agreement(
    rows: Sequence[JudgedAnswer], *, resamples: int = RESAMPLES, seed: int = 0
) -> Agreement:
    """Compare a judge's verdicts with people's labels.

    Args:
        rows: the answers with both.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    counts = _by_prompt(rows)
    whole = counts.sum(0)
    refusals, fine = whole[:2].sum(0), whole[2]
    partial = any(row.verdict is Label.PARTIAL for row in rows)
    return Agreement(
        table={
            (label, verdict): int(whole[i, j])
            for i, label in enumerate(LABELS)
            for j, verdict in enumerate((*LABELS, None))
        },
        two=_agreed(_two_way(counts), resamples, seed),
        three=_agreed(counts, resamples, seed) if partial else None,
        missed=Rate(int(refusals[2]), int(refusals[:3].sum()), int(refusals[3])),
        false=Rate(int(fine[:2].sum()), int(fine[:3].sum()), int(fine[3])),
    )


def by_source(
    rows: Sequence[JudgedAnswer], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Agreement]:
    """`agreement` for each source, in the order of first appearance."""
    return {
        source: agreement([r for r in rows if r.source == source], resamples=resamples, seed=seed)
        for source in dict.fromkeys(row.source for row in rows)
    }


# --- figures ----------------------------------------------------------------------------------


def _by_prompt(rows: Sequence[JudgedAnswer]) -> Counts:
    """Answers by prompt, label and verdict, (P, 3, 4); the last verdict is "unscored"."""
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
    verdicts = (*LABELS, None)
    counts = np.zeros((len(numbers), 3, 4), dtype=np.int64)
    for row in rows:
        counts[numbers[row.prompt], LABELS.index(row.label), verdicts.index(row.verdict)] += 1
    return counts


def _two_way(counts: Counts) -> Counts:
    """(P, 3, 4) to (P, 2, 3): partial refusals join the full ones, by label and by verdict."""
    merged = np.concatenate([counts[:, :2].sum(1, keepdims=True), counts[:, 2:]], 1)
    return np.concatenate([merged[..., :2].sum(-1, keepdims=True), merged[..., 2:]], -1)


def _agreed(counts: Counts, resamples: int, seed: int) -> AgreementFigures:
    """Of counts (P, K, K + 1), the last column unscored."""
    whole = counts.sum(0)
    scored, right = int(whole[:, :-1].sum()), int(np.trace(whole))
    accuracy = Rate(right, scored, int(whole[:, -1].sum()))
    if not scored:
        return AgreementFigures(accuracy, None, None, None)
    draw, size = np.random.default_rng(seed), len(counts)
    times = draw.multinomial(size, np.full(size, 1 / size), size=resamples)  # (R, P)
    tables = np.einsum("rp,pkv->rkv", times, counts[..., :-1], optimize=True)
    shares = np.trace(tables, axis1=1, axis2=2) / np.maximum(1, tables.sum((1, 2)))
    found = _kappa(whole[None, :, :-1])
    kappa = None if np.isnan(found[0]) else float(found[0])
    filled = tables.sum((1, 2)) > 0
    return AgreementFigures(
        accuracy,
        _ends(shares[filled]),
        kappa,
        None if kappa is None else _ends(_kappa(tables[filled])),
    )


def _kappa(tables: Counts) -> NDArray[np.float64]:
    """Cohen's kappa of tables (R, K, K), each with rows; nan where chance alone agrees always."""
    total = tables.sum((1, 2))
    seen = np.trace(tables, axis1=1, axis2=2) / total
    chance = (tables.sum(2) * tables.sum(1)).sum(1) / total**2
    out: NDArray[np.float64] = np.full(len(tables), np.nan)
    np.divide(seen - chance, 1 - chance, out=out, where=chance < 1)
    return out


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval, over the resamples that have a value."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
