"""Membership inference: can one tell from losses which rows a model was trained on?

Two attacks, both by a threshold on one number a row (higher: rather a member):
    loss    minus the row's loss under the model (Yeom et al., arXiv 1709.01604)
    ratio   its loss under the start less that under the model, which takes out how hard the row is
            anyway (calibration by a reference model; Watson et al., arXiv 2111.08440)

AUROC is the chance that a member scores above another row: 0.5 says nothing. The share of members
found while at most 1 % of the others are called members says what an attacker can be sure of
(Carlini et al., arXiv 2112.03570). Intervals are 95 % percentile intervals over resampled rows,
members and others drawn by themselves, threshold included.

The attacks are weak ones, and of rows: where they fail, stronger ones may not. They are evidence
beside epsilon, which bounds every attack on all rows of one client together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedrai.errors import EvaluationError
from fedrai.evaluation.statistics import draw_counts, percentile_interval

FALSE_POSITIVES = 0.01
RESAMPLES = 1000
FEWEST = 20  # rows of a side
SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Attack:
    """How well one attack tells members from others.

    Attributes:
        auroc: area under the curve.
        found: share of members found with 1 % false positives at most.
    """

    auroc: Figure
    found: Figure


@dataclass(frozen=True, slots=True)
class Membership:
    """The attacks on one model.

    Attributes:
        members: rows that it was trained on.
        others: rows that it was not.
        attacks: by name: "loss", "ratio".
    """

    members: int
    others: int
    attacks: Mapping[str, Attack]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def membership(
    members: Mapping[str, Sequence[float]], others: Mapping[str, Sequence[float]], seed: int = 0
) -> Membership:
    """Attack a model by the losses of rows.

    Args:
        members: losses in nats of rows that it was trained on, under "model" and under "start".
        others: the same of rows that it was not trained on.
        seed: for the resamples.

    Raises:
        EvaluationError: a side has too few rows.
    """
    sizes = len(members["model"]), len(others["model"])
    if min(sizes) < FEWEST:
        raise EvaluationError(
            f"a membership check needs {FEWEST} rows of each side at least, got {sizes[0]} that"
            f" were trained on and {sizes[1]} others"
        )
    ours, theirs = (
        {name: np.asarray(one[name], float) for name in one} for one in (members, others)
    )
    scores = {
        "loss": (-ours["model"], -theirs["model"]),
        "ratio": (ours["start"] - ours["model"], theirs["start"] - theirs["model"]),
    }
    attacks = {name: _attack(*pair, seed) for name, pair in scores.items()}
    return Membership(*sizes, attacks)


def _attack(members: Floats, others: Floats, seed: int) -> Attack:
    """Both figures, on the rows as they are and on resamples of each side."""
    ours, theirs = np.sort(members), np.sort(others)
    drawn = draw_counts(len(ours), RESAMPLES, seed), draw_counts(len(theirs), RESAMPLES, seed + 1)
    whole = np.ones((1, len(ours)), int), np.ones((1, len(theirs)), int)
    figures = []
    for figure in (_auroc, _found):
        value, resampled = (figure(ours, theirs, *counts) for counts in (whole, drawn))
        figures.append(Figure(float(value[0]), *percentile_interval(resampled)))
    return Attack(*figures)


def _auroc(members: Floats, others: Floats, drawn: Counts, against: Counts) -> Floats:
    """Share of pairs in which the member scores higher, a tie counting half (Mann-Whitney).

    Args:
        members: scores in ascending order, (n,).
        others: the same, (m,).
        drawn: how often each member counts in each resample, (R, n).
        against: how often each other does, (R, m).
    """
    below = np.cumsum(np.pad(against, ((0, 0), (1, 0))), axis=1)  # (R, m + 1)
    beaten = [below[:, np.searchsorted(others, members, side)] for side in SIDES]
    total: Floats = (drawn * (beaten[0] + beaten[1]) / 2).sum(axis=1)
    total /= drawn.sum(axis=1) * against.sum(axis=1)
    return total


def _found(members: Floats, others: Floats, drawn: Counts, against: Counts) -> Floats:
    """Share of members above the score that at most 1 % of the others exceed; see `_auroc`."""
    allowed = int(FALSE_POSITIVES * len(others))
    from_top = np.cumsum(against[:, ::-1], axis=1)  # (R, m)
    thresholds = others[::-1][(from_top > allowed).argmax(axis=1)]
    above = members[None, :] > thresholds[:, None]
    total: Floats = (drawn * above).sum(axis=1) / drawn.sum(axis=1)
    return total
