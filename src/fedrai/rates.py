"""Rates with their counts and intervals.

A rate is never shown without its counts: `Rate` keeps successes, scored and unscored rows apart,
and a rate of no rows is `None`, printed "no data", never 0.

Source: the interval is Wilson's score interval without continuity correction (Wilson 1927, JASA
22, 209; recommended for small n by Brown, Cai and DasGupta 2001, Statistical Science 16, 101).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import NormalDist
from typing import Any

from fedrai.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened, out of the scored rows.

    Raises:
        EvaluationError: a count is negative, or there are more successes or prompts than scored
            rows.
    """

    successes: int
    """Rows on which it happened."""

    scored: int
    """Rows with an outcome: the denominator."""

    unscored: int = 0
    """Rows without an outcome; in neither count above."""

    prompts: int = 0
    """Distinct prompts among the scored rows, where some have several; 0: each has its own."""

    def __post_init__(self) -> None:
        if min(self.successes, self.scored, self.unscored) < 0 or self.successes > self.scored:
            raise EvaluationError(
                "a rate needs 0 <= successes <= scored and unscored >= 0, got "
                f"successes={self.successes}, scored={self.scored}, unscored={self.unscored}"
            )
        if not 0 <= self.prompts <= self.scored:
            raise EvaluationError(f"{self.prompts} prompts do not fit {self.scored} outcomes")

    @property
    def value(self) -> float | None:
        """The rate, from 0 to 1; `None` when nothing was scored."""
        return self.successes / self.scored if self.scored else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Wilson's two-sided interval, ends from 0 to 1; `None` when nothing was scored.

        Where prompts have several rows, a prompt is one trial and its share of successes the
        outcome: shares vary no more than yes-or-no outcomes, so the interval errs on the wide side.

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
        """The rate and its interval in per cent; see `percent`."""
        return percent(self.value, self.interval(confidence))

    def counts(self) -> str:
        """Its counts: "31 of 100", or "31 of 100, 2 unscored"."""
        unscored = f", {self.unscored} unscored" if self.unscored else ""
        return f"{self.successes} of {self.scored}{unscored}"

    def describe(self) -> str:
        """The rate, its 95 % interval and its counts."""
        return f"{self.format()} ({self.counts()})"

    def __str__(self) -> str:
        return self.format()


def wilson(successes: float, trials: int, confidence: float) -> tuple[float, float] | None:
    """Wilson's two-sided interval, ends from 0 to 1; `None` without trials.

    Args:
        successes: not a whole number where trials are themselves shares.
        trials: their number.
        confidence: confidence level of the interval.

    Raises:
        EvaluationError: `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence must be between 0 and 1, got {confidence}")
    if not trials:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return _wilson_lower(successes, trials, z), 1 - _wilson_lower(trials - successes, trials, z)


def _wilson_lower(successes: float, scored: int, z: float) -> float:
    """The lower end; the upper end is one minus the lower end for the failures."""
    if successes == 0:
        return 0.0
    p = successes / scored
    centre = p + z * z / (2 * scored)
    half = z * sqrt(p * (1 - p) / scored + z * z / (4 * scored * scored))
    return min(max((centre - half) / (1 + z * z / scored), 0.0), p)


def percent(value: float | None, ends: tuple[float, float] | None) -> str:
    """A share with its interval in per cent, "31.0 % [22.8, 40.6]", or "no data"."""
    if value is None or ends is None:
        return "no data"
    return f"{100 * value:.1f} % [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def rate(outcomes: Iterable[bool | None], prompts: Iterable[Hashable] | None = None) -> Rate:
    """Count outcomes.

    Args:
        outcomes: one for each row; `None`: unscored.
        prompts: each row's prompt; None: each has its own.

    Raises:
        EvaluationError: outcomes and prompts differ in number.
    """
    rows = list(outcomes)
    scored = [outcome for outcome in rows if outcome is not None]
    distinct = 0 if prompts is None else _distinct_prompts(rows, list(prompts))
    return Rate(sum(map(bool, scored)), len(scored), len(rows) - len(scored), distinct)


def _distinct_prompts(outcomes: Sequence[bool | None], prompts: Sequence[Hashable]) -> int:
    """The number of prompts with an outcome; 0 where none has more than one."""
    if len(outcomes) != len(prompts):
        raise EvaluationError(f"{len(outcomes)} outcomes do not match {len(prompts)} prompts")
    scored = [p for p, outcome in zip(prompts, outcomes, strict=True) if outcome is not None]
    distinct = len(set(scored))
    return distinct if distinct < len(scored) else 0


def split_name(name: str) -> tuple[str, str]:
    """The name of a rate without its judge, and the judge: "rule", "legacy", "guard" or installed.

    `safe` is by the refusal rule, `safe-legacy` and `safe-guard` are by these two, and `safe:NAME`
    is by a judge of an installed package.
    """
    plain, _, installed = name.partition(":")
    if installed:
        return plain, installed
    judge = next((j for j in ("legacy", "guard") if name.endswith(f"-{j}")), "rule")
    return name.removesuffix(f"-{judge}"), judge


def rate_json(value: Rate) -> dict[str, Any]:
    """A rate as plain values, with its 95 % Wilson interval; `prompts` where they are fewer."""
    low, high = value.interval() or (None, None)
    return {
        "successes": value.successes,
        "scored": value.scored,
        "unscored": value.unscored,
        "value": value.value,
        "low": low,
        "high": high,
        **({"prompts": value.prompts} if value.prompts else {}),
    }


def rate_from_json(value: Mapping[str, Any]) -> Rate:
    """The rate that `rate_json` wrote."""
    return Rate(value["successes"], value["scored"], value["unscored"], value.get("prompts", 0))
