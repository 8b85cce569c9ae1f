"""The weight of an update in the round's mean, where its number of rows cannot be verified.

Two limits, both relative to the *other* clients of the round, so that no claim raises its own:

1. at most `times` the median of the others' rows;
2. with three or more updates, at most as much as all others together.

So one lying client has at most half of the mean of three or more, or `times / (times + n - 1)` of n
clients if the others have similar numbers of rows and that is less. Liars below half of the clients
shift the median for honest ones only by its place in the order. What a client sends within its
weight is not limited here but by the robust rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median


def capped(rows: Mapping[str, float], times: float) -> dict[str, float]:
    """The weights of a round's updates; weights within the limits do not change.

    Args:
        rows: number of rows that each client states.
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
