"""Rates with their intervals, and the test for two models on the same prompts.

No rate is shown without its count: `Rate` keeps successes, scored and unscored rows apart, and the
rate of nothing is `None`, printed "no data", never 0. Answers of several models to the same prompts
are not as many independent trials: an interval counts prompts.

Sources: the interval is Wilson's score interval without continuity correction (Wilson 1927, JASA
22, 209; recommended for small n by Brown, Cai and DasGupta 2001, Statistical Science 16, 101). The
paired test is McNemar's (1947, Psychometrika 12, 153): exact and binomial for few discordant
pairs, else with the continuity correction of Edwards (1948, Psychometrika 13, 185). For arms with
several seeds see `bootstrap.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import comb, erfc, sqrt
from statistics import NormalDist
from typing import Any, Literal

from fedrai.errors import EvaluationError

EXACT_BELOW = 25
"""Discordant pairs from which on McNemar's test is no longer the exact one."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened, out of the rows that could be scored.

    Raises:
        EvaluationError: a count is negative, or there are more successes, or prompts, than scored
            rows.
    """

    successes: int
    """Rows on which it happened."""

    scored: int
    """Rows with an outcome: the denominator."""

    unscored: int = 0
    """Rows without an outcome; they are in neither count above."""

    prompts: int = 0
    """Different prompts among the scored rows, where some have several; 0: each has its own."""

    def __post_init__(self) -> None:
        if min(self.successes, self.scored, self.unscored) < 0 or self.successes > self.scored:
            raise EvaluationError(
                "a rate needs 0 <= successes <= scored and unscored >= 0, got "
                f"successes={self.successes}, scored={self.scored}, unscored={self.unscored}"
            )
        if not 0 <= self.prompts <= self.scored:
            raise EvaluationError(f"{self.prompts} prompts cannot have {self.scored} outcomes")

    @property
    def value(self) -> float | None:
        """The rate, from 0 to 1; `None` when nothing was scored."""
        return self.successes / self.scored if self.scored else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return Wilson's two-sided interval, ends from 0 to 1; `None` when nothing was scored.

        Where prompts have several rows, a prompt is one trial and its share of successes the
        outcome: shares vary no more than yes and no would, so the interval is at most too wide.

        Raises:
            EvaluationError: `confidence` is not between 0 and 1.
        """
        if not self.prompts:
            return wilson(self.successes, self.scored, confidence)
        return wilson(self.successes / self.scored * self.prompts, self.prompts, confidence)

    def opposite(self) -> Rate:
        """How often it did not happen, out of the same rows."""
        return replace(self, successes=self.scored - self.successes)

    def format(self, confidence: float = 0.95) -> str:
        """Return the rate and its interval in per cent, "31.0 % [22.8, 40.6]", or "no data"."""
        ends = self.interval(confidence)
        if self.value is None or ends is None:
            return "no data"
        return f"{100 * self.value:.1f} % [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"

    def __str__(self) -> str:
        return self.format()


def wilson(happened: float, trials: int, confidence: float) -> tuple[float, float] | None:
    """Wilson's two-sided interval, ends from 0 to 1; `None` without trials.

    Args:
        happened: how often; not a whole number where trials are themselves shares.
        trials: of how many.
        confidence: of the interval.

    Raises:
        EvaluationError: `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence must lie between 0 and 1, got {confidence}")
    if not trials:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return _wilson_lower(happened, trials, z), 1 - _wilson_lower(trials - happened, trials, z)


def _wilson_lower(successes: float, scored: int, z: float) -> float:
    """The lower end; the upper end is one minus the lower end for the failures."""
    if successes == 0:
        return 0.0
    p = successes / scored
    centre = p + z * z / (2 * scored)
    half = z * sqrt(p * (1 - p) / scored + z * z / (4 * scored * scored))
    return min(max((centre - half) / (1 + z * z / scored), 0.0), p)


def rate(outcomes: Iterable[bool | None], prompts: Iterable[Hashable] | None = None) -> Rate:
    """Count outcomes.

    Args:
        outcomes: one a row; `None` stands for a row that could not be scored.
        prompts: which prompt each row is of; None: each has its own.

    Raises:
        EvaluationError: their numbers differ.
    """
    seen = list(outcomes)
    scored = [outcome for outcome in seen if outcome is not None]
    return Rate(
        sum(map(bool, scored)),
        len(scored),
        len(seen) - len(scored),
        0 if prompts is None else _repeated(seen, list(prompts)),
    )


def _repeated(outcomes: Sequence[bool | None], prompts: Sequence[Hashable]) -> int:
    """How many prompts have an outcome; 0 where none has more than one."""
    if len(outcomes) != len(prompts):
        raise EvaluationError(f"{len(outcomes)} outcomes do not match {len(prompts)} prompts")
    scored = [p for p, outcome in zip(prompts, outcomes, strict=True) if outcome is not None]
    different = len(set(scored))
    return different if different < len(scored) else 0


def mcnemar_exact(b: int, c: int) -> float:
    """Return the exact two-sided p value for two models on the same prompts.

    Args:
        b: prompts on which only the first model succeeded.
        c: prompts on which only the second did. Prompts on which they agree do not matter.

    Returns:
        The chance, from 0 to 1, of a split at least as uneven if both were equally likely, that is
        twice the smaller tail of Binomial(b + c, 1/2); 1 when there is no such prompt.

    Raises:
        EvaluationError: a count is negative.
    """
    if min(b, c) < 0:
        raise EvaluationError(f"counts cannot be negative, got b={b}, c={c}")
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
        unscored: prompts without an outcome of either model; in none of the counts above.
        p: two-sided p value.
        method: how `p` was found; "exact" below `EXACT_BELOW` discordant pairs.
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
        ours: outcomes of the first model, one for each prompt; `None`: not scored.
        theirs: of the second, on the same prompts in the same order.

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
        The chance that chi-squared of one degree of freedom exceeds (|b - c| - 1)^2 / (b + c);
        1 where b and c differ by at most one.

    Raises:
        EvaluationError: a count is negative.
    """
    if min(b, c) < 0:
        raise EvaluationError(f"counts cannot be negative, got b={b}, c={c}")
    excess = max(0, abs(b - c) - 1)
    return erfc(sqrt(excess * excess / (2 * (b + c)))) if excess else 1.0


def rate_json(value: Rate) -> dict[str, Any]:
    """A rate as plain values, with its 95 % Wilson interval; `prompts` where they are fewer."""
    interval = value.interval()
    prompts = {"prompts": value.prompts} if value.prompts else {}
    return {
        "successes": value.successes,
        "scored": value.scored,
        "unscored": value.unscored,
        "value": value.value,
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
        **prompts,
    }


def rate_from_json(value: Mapping[str, Any]) -> Rate:
    """The rate that `rate_json` wrote."""
    prompts = value.get("prompts", 0)
    return Rate(value["successes"], value["scored"], value["unscored"], prompts)
