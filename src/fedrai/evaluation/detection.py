"""How well a guard detects unsafe rows, from its probabilities and the rows' labels.

A row is flagged when its probability is at least the threshold. A row without a probability is in
no rate; such rows are counted separately, and `Confusion.fail_closed` gives the rates as the filter
acts, which lets no such row pass. A figure without data is None, never 0.

Sources: AUPRC is the average precision, sum of (R_k - R_{k-1}) P_k over the distinct scores from
the highest down (the step-wise sum, without interpolation). AUROC is the Mann-Whitney statistic,
ties counting half (Hanley and McNeil 1982, Radiology 143, 29). The calibration error is that of
Naeini et al. (2015, AAAI) with bins of equal width; the Brier score is Brier's (1950, Monthly
Weather Review 78, 1). They are implemented here because scikit-learn would add 200 MB and 1.5
seconds of imports for four of them, and handles neither unscored rows nor intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrai.errors import EvaluationError
from fedrai.evaluation.statistics import percentile_interval
from fedrai.rates import Rate, rate_json

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BINS = 10  # of the calibration error
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Confusion:
    """Rows by label and verdict.

    Attributes:
        tp: unsafe and flagged.
        fp: safe and flagged (false alarms).
        tn: safe and passed.
        fn: unsafe and passed (missed).
        unscored_unsafe: unsafe, without a probability; in none of the counts above.
        unscored_safe: safe, without a probability.
    """

    tp: int
    fp: int
    tn: int
    fn: int
    unscored_unsafe: int = 0
    unscored_safe: int = 0

    @property
    def unscored(self) -> int:
        """Rows without a probability."""
        return self.unscored_unsafe + self.unscored_safe

    @property
    def precision(self) -> Rate:
        """The share of flagged rows that are unsafe."""
        return Rate(self.tp, self.tp + self.fp, self.unscored)

    @property
    def recall(self) -> Rate:
        """The share of unsafe rows that are flagged."""
        return Rate(self.tp, self.tp + self.fn, self.unscored_unsafe)

    @property
    def false_positive_rate(self) -> Rate:
        """The share of safe rows that are flagged."""
        return Rate(self.fp, self.fp + self.tn, self.unscored_safe)

    @property
    def f1(self) -> float | None:
        """2 tp / (2 tp + fp + fn); None where no row is unsafe or flagged."""
        whole = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / whole if whole else None

    def f1_interval(
        self, confidence: float = 0.95, *, resamples: int = RESAMPLES, seed: int = 0
    ) -> tuple[float, float] | None:
        """Percentile interval of F1 over resampled rows; None where F1 is None.

        F1 depends on the four counts only, so resampling n rows with replacement is one multinomial
        draw of counts. Resamples without F1 are left out.
        """
        if self.f1 is None:
            return None
        counts = np.array([self.tp, self.fp, self.tn, self.fn])
        total = int(counts.sum())
        draws = np.random.default_rng(seed).multinomial(total, counts / total, size=resamples)
        whole = 2 * draws[:, 0] + draws[:, 1] + draws[:, 3]
        return percentile_interval(2 * draws[whole > 0, 0] / whole[whole > 0], confidence)

    def fail_closed(self) -> Confusion:
        """The counts as the filter acts: rows without a probability count as flagged."""
        return Confusion(
            self.tp + self.unscored_unsafe, self.fp + self.unscored_safe, self.tn, self.fn
        )

    def to_json(self) -> dict[str, Any]:
        """Counts and rates as plain values."""
        low, high = self.f1_interval() or (None, None)
        return {
            **asdict(self),
            "precision": rate_json(self.precision),
            "recall": rate_json(self.recall),
            "false_positive_rate": rate_json(self.false_positive_rate),
            "f1": self.f1,
            "f1_low": low,
            "f1_high": high,
        }


@dataclass(frozen=True, slots=True)
class Detection:
    """How well a guard detects unsafe rows, at one threshold and over all thresholds.

    Attributes:
        threshold: probability from which rows are flagged.
        counts: rows by label and verdict.
        auprc: average precision, 0 to 1; None unless scored rows have both labels.
        auroc: chance that an unsafe row scores above a safe one; None as above.
        calibration_error: mean distance of probability and label over 10 bins of equal width,
            weighted by rows; None where nothing was scored.
        brier: mean squared distance of probability and label; None where nothing was scored.
    """

    threshold: float
    counts: Confusion
    auprc: float | None
    auroc: float | None
    calibration_error: float | None
    brier: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values; `fail_closed` has the rates with unscored rows flagged."""
        return {
            "threshold": self.threshold,
            **self.counts.to_json(),
            "auprc": self.auprc,
            "auroc": self.auroc,
            "calibration_error": self.calibration_error,
            "brier": self.brier,
            "fail_closed": self.counts.fail_closed().to_json(),
        }


def detect(
    probabilities: Sequence[float | None], unsafe: Sequence[bool], threshold: float
) -> Detection:
    """Measure a guard on labelled rows.

    Args:
        probabilities: probability that each row is unsafe, 0 to 1; None where the guard has none.
        unsafe: the labels, one for each row.
        threshold: probability from which rows are flagged.

    Raises:
        EvaluationError: lengths differ, or a probability is not between 0 and 1.
    """
    scores, labels = scored(probabilities, unsafe)
    flagged = scores >= threshold
    unscored = [bool(label) for p, label in zip(probabilities, unsafe, strict=True) if p is None]
    counts = Confusion(
        tp=int((flagged & labels).sum()),
        fp=int((flagged & ~labels).sum()),
        tn=int((~flagged & ~labels).sum()),
        fn=int((~flagged & labels).sum()),
        unscored_unsafe=sum(unscored),
        unscored_safe=len(unscored) - sum(unscored),
    )
    return Detection(
        threshold,
        counts,
        average_precision(scores, labels),
        area_under_roc(scores, labels),
        calibration_error(scores, labels),
        float(((scores - labels) ** 2).mean()) if len(scores) else None,
    )


def by_group(
    probabilities: Sequence[float | None],
    unsafe: Sequence[bool],
    groups: Sequence[str],
    threshold: float,
) -> Mapping[str, Detection]:
    """Measure each group (category, source, ...) by itself, in the order of their first rows."""
    by_name: dict[str, list[tuple[float | None, bool]]] = {}
    for p, label, group in zip(probabilities, unsafe, groups, strict=True):
        by_name.setdefault(group, []).append((p, label))
    return {
        group: detect([p for p, _ in rows], [label for _, label in rows], threshold)
        for group, rows in by_name.items()
    }


def scored(probabilities: Sequence[float | None], unsafe: Sequence[bool]) -> tuple[Floats, Bools]:
    """Probabilities and labels of the rows that have a probability, (N,) each.

    Raises:
        EvaluationError: lengths differ, or a probability is not between 0 and 1.
    """
    if len(probabilities) != len(unsafe):
        raise EvaluationError(
            f"{len(probabilities)} probabilities do not match {len(unsafe)} labels"
        )
    pairs = [(p, bool(y)) for p, y in zip(probabilities, unsafe, strict=True) if p is not None]
    if not all(0 <= p <= 1 for p, _ in pairs):
        raise EvaluationError("probabilities must be between 0 and 1")
    return np.array([p for p, _ in pairs], float), np.array([y for _, y in pairs], bool)


def average_precision(scores: Floats, labels: Bools) -> float | None:
    """Area under the precision-recall curve as a step-wise sum; equal scores form one step.

    Args:
        scores: (N,).
        labels: (N,), true where unsafe.
    """
    if not _both(labels):
        return None
    hits, flagged = _steps(scores, labels)
    recall = hits / labels.sum()
    return float((np.diff(recall, prepend=0.0) * hits / flagged).sum())


def area_under_roc(scores: Floats, labels: Bools) -> float | None:
    """Share of (unsafe, safe) pairs in which the unsafe row scores higher; a tie counts half.

    Args:
        scores: (N,).
        labels: (N,), true where unsafe.
    """
    if not _both(labels):
        return None
    hits, flagged = _steps(scores, labels)
    unsafe = np.diff(hits, prepend=0)
    below = (~labels).sum() - (flagged - hits)  # safe rows under each score
    ties = np.diff(flagged - hits, prepend=0)
    return float((unsafe * (below + ties / 2)).sum() / (labels.sum() * (~labels).sum()))


def calibration_error(scores: Floats, labels: Bools) -> float | None:
    """Expected calibration error: bins [0, 0.1), [0.1, 0.2) ... [0.9, 1], weighted by their rows.

    Args:
        scores: (N,), 0 to 1.
        labels: (N,), true where unsafe.
    """
    if not len(scores):
        return None
    edges = np.arange(1, BINS) / BINS
    gaps = np.bincount(np.digitize(scores, edges), weights=scores - labels, minlength=BINS)
    return float(np.abs(gaps).sum() / len(scores))


def _both(labels: Bools) -> bool:
    return bool(labels.any() and not labels.all())


def _steps(scores: Floats, labels: Bools) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Unsafe rows and all rows at or above each distinct score, from the highest down, (K,)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-1.0))
    return np.cumsum(labels[order], dtype=np.int_)[ends], ends + 1
