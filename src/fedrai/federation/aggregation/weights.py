"""What an update counts in the round's mean, where its rows are only its client's word.

Two limits, both held against the *other* clients of the round, so that no claim raises its own:

1. at most `times` the median of the others' rows;
2. with three or more updates, at most as much as all others together.

So one client that lies has at most half of the mean of three or more, and if the others have about
as many rows as each other, `times / (times + n - 1)` of n, where that is less. Below half of the
clients, liars do not move the median that honest ones are held against by more than its place in
the order. What a client does within its weight is not bounded here: the robust rules do that.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median


def capped(rows: Mapping[str, float], times: float) -> dict[str, float]:
    """The weights of a round's updates; one that is within the limits stays as it is.

    Args:
        rows: as each client states them.
        times: the first limit; 0: no limits.
    """
    weights = dict(rows)
    if not times or len(rows) < 2:
        return weights
    for name, count in rows.items():
        weights[name] = min(count, times * median(_others(rows, name)))
    if len(rows) > 2:  # only the largest can be more than all others together
        largest = max(sorted(weights), key=weights.__getitem__)
        weights[largest] = min(weights[largest], sum(_others(weights, largest)))
    return weights


def _others(rows: Mapping[str, float], name: str) -> list[float]:
    return [count for other, count in sorted(rows.items()) if other != name]
