"""The numbers that a client sends with an update: their names and ranges.

A number outside its range is an error or an attack: sums over clients would overflow, totals of
costs would fall, or `round.json` would not be JSON. The ranges fit any real machine and data set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedrai.filter.ledger import COUNT_NAMES, SWAPPED

FILTER = "filter-"  # prefix of the safety filter's counts
WEIGHT = "num-examples"  # Flower's own name for the weight in the mean
ROWS = "rows"  # the server's own name for the stated rows, where the weight is another number
DATA_TOKENS = "data-label-tokens"  # label tokens of all of a client's rows
FIRST_LOSS = "loss-first"  # of the first batch, before the first step
BAD_ROWS = "bad-rows"  # rows of a client that it could not use
PAIRS = "pairs"  # preference pairs among the rows


@dataclass(frozen=True, slots=True)
class Range:
    """The range of a number.

    Attributes:
        low: minimum.
        high: maximum.
        whole: whether it must be an integer.
    """

    low: float
    high: float
    whole: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value is in the range; NaN and infinities are in none."""
        return self.low <= value <= self.high and (not self.whole or float(value).is_integer())


COUNT = Range(0, 1e9, whole=True)
TOKENS = Range(0, 1e15, whole=True)
LOSS = Range(-1e-3, 1e6)  # nats per token: rounding may go below 0, and chance is 12 at most
PREFERENCE = Range(-1e6, 1e6)  # the robust loss has no lower bound
RANGES: Mapping[str, Range] = {
    WEIGHT: Range(1, 1e9, whole=True),
    DATA_TOKENS: Range(1, 1e15, whole=True),
    BAD_ROWS: COUNT,
    "steps": COUNT,
    "tokens": TOKENS,
    "label-tokens": TOKENS,
    FIRST_LOSS: LOSS,
    "loss-last": LOSS,
    "loss-mean": LOSS,
    PAIRS: COUNT,
    "preference-loss-first": PREFERENCE,
    "preference-loss-last": PREFERENCE,
    "preference-loss-mean": PREFERENCE,
    "reward-margin": PREFERENCE,
    "reward-accuracy": Range(0, 1),
    "seconds": Range(0, 1e8),  # three years
    "operations": Range(0, 1e24),  # of a large cluster in two weeks
    "peak-bytes": Range(0, 1e15, whole=True),
    **{FILTER + name: COUNT for name in sorted({*COUNT_NAMES, SWAPPED})},
}
"""Every number that may be sent, and the range in which the server accepts it."""


NEEDED = {"label-tokens": DATA_TOKENS, "losses": FIRST_LOSS}
"""The numbers that a mean may need besides the rows, by what a node's `policy.send` calls them."""


def filter_metrics(counts: Mapping[str, int]) -> dict[str, int]:
    """The safety filter's counts under the names that they are sent with."""
    return {FILTER + name: count for name, count in counts.items()}


def is_number(value: object) -> bool:
    """Whether a value is a number; lists and booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value: float) -> bool:
    """Whether a value is a finite float; an integer may be too large for one."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
