"""The numbers that a client sends with an update: their names, and the range of each.

A number outside its range is no exaggeration but nonsense or an attack: a sum over clients would
overflow, a total of costs would fall, `round.json` would not be JSON. The ranges are wide enough
for any machine and data set there is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedrai.filter.ledger import COUNT_NAMES

FILTER = "filter-"  # before the names of the safety filter's counts
WEIGHT = "num-examples"  # Flower's own name for the weight in the mean
BAD_ROWS = "bad-rows"  # rows of a client that it could not use


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be.

    Attributes:
        low: the least.
        high: the most.
        whole: whether it counts something.
    """

    low: float
    high: float
    whole: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value lies in it; NaN and the infinities lie in none."""
        return self.low <= value <= self.high and (not self.whole or float(value).is_integer())


COUNT = Range(0, 1e9, whole=True)
TOKENS = Range(0, 1e15, whole=True)
LOSS = Range(-1e-3, 1e6)  # nats per token: rounding may go below 0, and chance is 12 at most
RANGES: Mapping[str, Range] = {
    WEIGHT: Range(1, 1e9, whole=True),
    BAD_ROWS: COUNT,
    "steps": COUNT,
    "tokens": TOKENS,
    "label-tokens": TOKENS,
    "loss-first": LOSS,
    "loss-last": LOSS,
    "loss-mean": LOSS,
    "seconds": Range(0, 1e8),  # three years
    "operations": Range(0, 1e24),  # what a large cluster does in a fortnight
    "peak-bytes": Range(0, 1e15, whole=True),
    **{FILTER + name: COUNT for name in sorted(COUNT_NAMES)},
}
"""Every number that may be sent, and the range in which the server accepts it."""


def filter_metrics(counts: Mapping[str, int]) -> dict[str, int]:
    """The safety filter's counts under the names that they are sent with."""
    return {FILTER + name: count for name, count in counts.items()}


def is_number(value: object) -> bool:
    """Whether a value is a number at all; lists and truth values are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value: float) -> bool:
    """Whether a float can hold it; an integer may be too large for one."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
