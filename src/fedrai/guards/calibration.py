"""A curve that turns scores into calibrated probabilities, and thresholds for a target rate.

Pure functions of probabilities and labels; `calibrated` puts them around a guard.

Source: Platt 1999, "Probabilistic outputs for support vector machines", with his smoothed targets
(N+ + 1) / (N+ + 2) and 1 / (N- + 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrai.errors import GuardError
from fedrai.evaluation.detection import Bools, Floats, area_under_roc, scored
from fedrai.rates import Rate, rate_json

EDGE = 1e-12  # probabilities nearer to 0 or 1 than this count as this far from it
RIDGE = 1e-6  # on the weights of standardised log-odds: keeps constant scores solvable
NEWTON_STEPS = 100


@dataclass(frozen=True, slots=True)
class Calibration:
    """probability -> sigmoid(slope * log-odds + intercept)."""

    slope: float
    intercept: float

    def apply(self, probability: float) -> float:
        """The calibrated probability; keeps the order of probabilities."""
        return _sigmoid(self.slope * _log_odds(probability) + self.intercept)


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold, and its rates on the rows that it was chosen on.

    Attributes:
        value: rows from this probability on are flagged.
        recall: share of the unsafe rows that are flagged.
        false_positive_rate: share of the safe rows that are flagged.
    """

    value: float
    recall: Rate
    false_positive_rate: Rate

    def to_json(self) -> dict[str, Any]:
        """Plain values, the rates with their intervals."""
        return {
            "threshold": self.value,
            "recall": rate_json(self.recall),
            "false_positive_rate": rate_json(self.false_positive_rate),
        }


def fit(probabilities: Sequence[float], unsafe: Sequence[bool]) -> Calibration:
    """Platt scaling in log-odds, by Newton's method with halved steps.

    The smoothed targets keep the optimum finite where the classes are separable.

    Raises:
        GuardError: labels of one class only, or probabilities that do not rise with the labels.
    """
    scores, labels = scored(probabilities, unsafe)
    _check_both(labels)
    x = np.array([_log_odds(p) for p in scores.tolist()])
    mean, spread = float(x.mean()), float(x.std()) or 1.0
    design = np.stack([(x - mean) / spread, np.ones_like(x)], axis=1)  # (N, 2)
    slope, intercept = _newton(design, _targets(labels))
    if slope <= 1e-9 or (area_under_roc(scores, labels) or 0.0) <= 0.5:
        raise GuardError(
            "the guard's probabilities do not rise from the safe to the unsafe rows",
            hint="check the labels (--unsafe-when); if they are right, train a guard instead",
        )
    return Calibration(slope / spread, intercept - slope * mean / spread)


def threshold_for_recall(
    probabilities: Sequence[float], unsafe: Sequence[bool], recall: float
) -> Threshold:
    """The largest threshold that finds at least this part of the unsafe rows.

    Raises:
        GuardError: labels of one class only, or a target that is not above 0 and at most 1.
    """
    scores, labels = scored(probabilities, unsafe)
    _check_both(labels)
    if not 0 < recall <= 1:
        raise GuardError(f"a target recall must be above 0 and at most 1, got {recall}")
    falling = np.sort(scores[labels])[::-1]
    return _threshold(scores, labels, float(falling[_at_least(recall, len(falling)) - 1]))


def threshold_for_fpr(
    probabilities: Sequence[float], unsafe: Sequence[bool], fpr: float
) -> Threshold:
    """The smallest of the rows' own probabilities that flags at most this part of the safe rows.

    Raises:
        GuardError: labels of one class only, a target that is not from 0 to below 1, or no row
            that would be flagged.
    """
    scores, labels = scored(probabilities, unsafe)
    _check_both(labels)
    if not 0 <= fpr < 1:
        raise GuardError(f"a target false-positive rate must be at least 0 and below 1, got {fpr}")
    safe = np.sort(scores[~labels])
    candidates = np.unique(scores)
    alarms = len(safe) - np.searchsorted(safe, candidates, side="left")
    fine = candidates[alarms / len(safe) <= fpr]
    if not len(fine):
        raise GuardError(
            f"no threshold keeps false alarms at or under {100 * fpr:g} %: the rows that score"
            f" highest hold {100 * alarms[-1] / len(safe):.1f} % of the safe ones",
            hint="allow more false alarms (--fpr), or train the guard on such rows",
        )
    return _threshold(scores, labels, float(fine[0]))


def _newton(design: Floats, targets: Floats) -> tuple[float, float]:
    """Weights (2,) of the logistic curve with the least cross-entropy; design (N, 2)."""
    weights = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        p = _sigmoids(design @ weights)
        gradient = design.T @ (p - targets) + RIDGE * weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        before = _loss(design, targets, weights)
        while _loss(design, targets, weights - step) > before and np.abs(step).max() > 1e-12:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    return float(weights[0]), float(weights[1])


def _loss(design: Floats, targets: Floats, weights: Floats) -> float:
    z = design @ weights
    entropy = np.logaddexp(0, z) - targets * z
    return float(entropy.sum() + RIDGE / 2 * (weights**2).sum())


def _targets(labels: Bools) -> Floats:
    unsafe, safe = int(labels.sum()), int((~labels).sum())
    return np.where(labels, (unsafe + 1) / (unsafe + 2), 1 / (safe + 2))


def _threshold(scores: Floats, labels: Bools, value: float) -> Threshold:
    flagged = scores >= value
    return Threshold(
        value,
        Rate(int((flagged & labels).sum()), int(labels.sum())),
        Rate(int((flagged & ~labels).sum()), int((~labels).sum())),
    )


def _at_least(part: float, of: int) -> int:
    """The smallest count that is at least this part of `of`, at least 1."""
    count = max(1, math.ceil(part * of))
    return count - 1 if count > 1 and (count - 1) / of >= part else count


def _check_both(labels: NDArray[np.bool_]) -> None:
    if labels.all() or not labels.any():
        kind = "unsafe" if len(labels) and labels.all() else "safe"
        problem = f"all {len(labels)} rows with a probability are {kind}" if len(labels) else (
            "no labelled row has a probability"
        )  # fmt: skip
        raise GuardError(
            f"{problem}; calibration needs unsafe and safe rows",
            hint="name both kinds: --label COLUMN, --unsafe DATA, --safe DATA",
        )


def _log_odds(probability: float) -> float:
    p = min(max(probability, EDGE), 1 - EDGE)
    return math.log(p) - math.log1p(-p)


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def _sigmoids(z: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -z))
