"""One figure of an arm, or of two arms' difference, with what its ends are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

Kind = Literal["wilson", "bootstrap", "recorded", "range", "none"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of an arm.

    Attributes:
        value: the mean over seeds, shares from 0 to 1; None if nothing was scored, or if the
            loss of a seed is not a number.
        low: lower end of the interval or range.
        high: upper end.
        kind: what low and high are: "wilson", "bootstrap" (over seeds and prompts), "recorded" (in
            the run), "range" (lowest and highest seed) or "none".
        seeds: number of runs that have it.
        count: prompts that it is counted on; 0 if it is not counted on prompts.
        unscored: missing outcomes of all seeds.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    kind: Kind = "none"
    seeds: int = 1
    count: int = 0
    unscored: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def ranged(values: Sequence[float], unscored: int = 0) -> Figure:
    """The mean of values, one per seed, with the lowest and the highest of several."""
    if len(values) == 1:
        return Figure(values[0], unscored=unscored)
    mean = fmean(values)
    return Figure(mean, min(values), max(values), "range", len(values), unscored=unscored)
