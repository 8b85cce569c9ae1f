"""Statistics that several figures share: McNemar's test, Cohen's kappa, the bootstrap's intervals.

Sources: McNemar's test (1947, Psychometrika 12, 153), exact and binomial for few discordant pairs,
else with the continuity correction of Edwards (1948, Psychometrika 13, 185). Kappa is Cohen's
(1960, Educational and Psychological Measurement 20, 37). Percentile intervals: Efron and Tibshirani
1993, chapter 13. Rates and Wilson's interval are in `fedrai.rates`; arms with several seeds in
`bootstrap.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb, erfc, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedrai.errors import EvaluationError

EXACT_BELOW = 25
"""Discordant pairs below which McNemar's test is exact."""


def mcnemar_exact(b: int, c: int) -> float:
    """Return the exact two-sided p value for two models on the same prompts.

    Args:
        b: prompts on which only the first model succeeded.
        c: prompts on which only the second did. Prompts on which they agree do not matter.

    Returns:
        The probability of a split at least as uneven if both are equally likely: twice the smaller
        tail of Binomial(b + c, 1/2); 1 when there is no such prompt.

    Raises:
        EvaluationError: a count is negative.
    """
    if min(b, c) < 0:
        raise EvaluationError(f"counts must not be negative, got b={b}, c={c}")
    n = b + c
    tail = sum(comb(n, k) for k in range(min(b, c) + 1))
    return min(1.0, tail / (1 << n) * 2)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two models on the same prompts, one answer each.

    Attributes:
        both: prompts on which both succeeded.
        first: prompts on which only the first did.
        second: prompts on which only the second did.
        neither: prompts on which neither did.
        unscored: prompts without an outcome of one of them; in none of the counts above.
        p: two-sided p value.
        method: how `p` was computed; "exact" below `EXACT_BELOW` discordant pairs.
    """

    both: int
    first: int
    second: int
    neither: int
    unscored: int
    p: float
    method: Literal["exact", "corrected"]

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def mcnemar(ours: Sequence[bool | None], theirs: Sequence[bool | None]) -> McNemar:
    """Compare two models prompt by prompt.

    Args:
        ours: outcomes of the first model, one for each prompt; `None`: unscored.
        theirs: outcomes of the second, on the same prompts in the same order.

    Raises:
        EvaluationError: they differ in length.
    """
    if len(ours) != len(theirs):
        raise EvaluationError(
            f"a paired test needs the same prompts, got {len(ours)} and {len(theirs)} outcomes"
        )
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    both, first, second = (pairs.count(p) for p in ((True, True), (True, False), (False, True)))
    neither, unscored = pairs.count((False, False)), len(ours) - len(pairs)
    exact = first + second < EXACT_BELOW
    p = mcnemar_exact(first, second) if exact else mcnemar_corrected(first, second)
    return McNemar(
        both, first, second, neither, unscored, p, method="exact" if exact else "corrected"
    )


def mcnemar_corrected(b: int, c: int) -> float:
    """Return McNemar's two-sided p value from chi-squared with the continuity correction.

    Args:
        b: prompts on which only the first model succeeded.
        c: prompts on which only the second did.

    Returns:
        The probability that chi-squared of one degree of freedom exceeds (|b - c| - 1)^2 / (b + c);
        1 where b and c differ by at most one.

    Raises:
        EvaluationError: a count is negative.
    """
    if min(b, c) < 0:
        raise EvaluationError(f"counts must not be negative, got b={b}, c={c}")
    excess = max(0, abs(b - c) - 1)
    return erfc(sqrt(excess * excess / (2 * (b + c)))) if excess else 1.0


def cohen_kappa(tables: NDArray[np.int64]) -> NDArray[np.float64]:
    """Agreement of two judges beyond chance.

    Args:
        tables: rows by the labels of both judges, (R, K, K).

    Returns:
        Kappa of each table, -1 to 1, (R,); nan where chance alone always agrees.
    """
    total = tables.sum((1, 2))
    agreed = np.trace(tables, axis1=1, axis2=2)
    chance = (tables.sum(2) * tables.sum(1)).sum(1)
    kappa: NDArray[np.float64] = np.full(len(tables), np.nan)
    beyond = total * total - chance
    np.divide(agreed * total - chance, beyond, out=kappa, where=beyond > 0)
    return kappa


def draw_counts(size: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each of `size` units is drawn in each resample, with replacement, (R, size)."""
    shares = np.full(size, 1 / size)
    return np.random.default_rng(seed).multinomial(size, shares, size=resamples)


def percentile_interval(
    values: NDArray[np.float64], confidence: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of resampled values; nan are left out."""
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
