"""Bounds of a mean over sets that hold at every number of items at once: one may stop at any time.

The claim "the mean over the sets is at most m" is held against what the items say, step by step,
one item of each set a step: the likelihood ratio of the rate q that the items before suggest to m
(Wald 1945, Annals of Mathematical Statistics 16, 117; with an estimate in place of a fixed q:
Robbins and Siegmund 1974, Annals of Statistics 2, 415). While the claim is true, the ratio is a
nonnegative supermartingale that begins at 1, so it ever exceeds 1 / error with at most that
probability (Ville 1939). The lower bound is the smallest m whose ratio never did.

It holds whatever the single sets' rates are, since for outcomes x from 0 to 1 with mean p the
expectation of exp(c x) is at most 1 - p + p exp(c), whose logarithm is concave in p (Hoeffding
1963, Journal of the American Statistical Association 58, 13): unequal rates only make it smaller.
Outcomes have to be drawn at random from each set. The bounds are of the mean over these very sets,
for requests like theirs; they say nothing about other sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS = 1000
"""Bounds are multiples of 1 / STEPS, rounded outwards."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A mean with its bounds.

    Attributes:
        value: the mean of the items so far.
        low: lower bound, 0 to 1.
        high: upper bound, 0 to 1.
        items: items of each set.
        sets: number of sets.
    """

    value: float
    low: float
    high: float
    items: int
    sets: int


def bounds(sets: Floats, error: float, error_high: float | None = None) -> Bounds | None:
    """Bounds of the mean over sets.

    Args:
        sets: outcomes from 0 to 1, in the random order in which they were drawn, (S, T).
        error: probability that the lower bound is ever above the mean.
        error_high: the same of the upper bound; None: as `error`.

    Returns:
        The bounds; None without outcomes.
    """
    if not sets.size:
        return None
    number, items = sets.shape
    steps = sets.mean(0)
    low = lower_bound(steps, number, error)
    high = 1 - lower_bound(1 - steps, number, error if error_high is None else error_high)
    return Bounds(float(steps.mean()), low, max(low, high), items, number)


def lower_bound(steps: Floats, sets: int, error: float) -> float:
    """The lower bound alone; 0 where nothing is known.

    Args:
        steps: the mean over one item of each set, (T,).
        sets: number of sets.
        error: as in `bounds`.
    """
    claims = np.arange(1, STEPS) / STEPS  # (M,)
    ratio = log_ratio(steps[:, None], claims[None, :], sets).max(0)  # (M,)
    standing = np.flatnonzero(ratio < log(1 / error))
    return round(float(claims[standing[0]] - 1 / STEPS), 6) if standing.size else 1 - 1 / STEPS


def log_ratio(steps: Floats, claim: Floats | float, sets: int) -> Floats:
    """The logarithm of the ratio after each step, against "the mean is at most claim".

    Args:
        steps: the mean over one item of each set, (T, ...).
        claim: above 0 and below 1; broadcast against a step's shape.
        sets: number of sets.

    Returns:
        (T, ...), broadcast.
    """
    number = np.arange(len(steps)).reshape(-1, *[1] * (steps.ndim - 1)) * sets
    before = np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps, axis=0)[:-1]]) * sets
    rate = np.maximum((before + 0.5) / (number + 1), claim)  # with one item of 1/2 made up
    gain = steps * np.log(rate / claim) + (1 - steps) * np.log((1 - rate) / (1 - np.asarray(claim)))
    ratio: Floats = np.cumsum(sets * gain, axis=0)
    return ratio
