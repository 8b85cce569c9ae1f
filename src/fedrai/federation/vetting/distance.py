"""How far an update lies from the others of its round, in length and in direction.

    length     |ln(norm / median norm)|        too long, or (a free rider) too short
    direction  1 - cosine / median cosine      away from where the others go

Norms are measured from the two adapters that the server holds. A client's cosine is that with the
robust centre of the *others*: the geometric median of their directions (Weiszfeld's algorithm;
Chen, Su and Xu, arXiv 1705.05491, aggregate by it against Byzantine clients), which long updates do
not draw towards themselves. The score is the larger of the two, each in units of what honest
clients have: `LENGTH` and `DIRECTION`. Weak where more than half of the round sends the same
direction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedrai.federation.vetting.scores import Score, Values
from fedrai.federation.vetting.updates import RoundUpdates

LENGTH = 1.0
"""A norm e times the median is 1. Adam's updates grow with the root of the steps, so honest norms
follow the numbers of rows."""
DIRECTION = 1.0
"""No cosine with the centre at all is 1, where the others' is positive."""
SHORTEST = 1e-6
"""Part of the median norm below which a norm counts as this."""
STEPS = 50


def distance() -> Score:
    """The score; see the module."""
    return Score("distance", _measure, _reason)


def _measure(updates: RoundUpdates) -> Values:
    lengths, directions = length_parts(updates.norms), direction_parts(updates.cosines)
    worst = torch.maximum(lengths / LENGTH, directions / DIRECTION)
    return dict(zip(updates.names, worst.tolist(), strict=True))


def length_parts(norms: Tensor) -> Tensor:
    """|ln(norm / median norm)| of each client."""
    middle = norms.quantile(0.5).clamp(min=1e-300)
    return (norms / middle).clamp(min=SHORTEST).log().abs()


def direction_parts(cosines: Tensor) -> Tensor:
    """1 - cosine / median cosine of each client, by its cosine with the centre of the others."""
    own = torch.tensor(
        [_cosine_with_others(cosines, i) for i in range(len(cosines))], dtype=torch.float64
    )
    return (1 - own / own.quantile(0.5).clamp(min=1e-6)).clamp(-1e3, 1e3)


def _cosine_with_others(cosines: Tensor, client: int) -> float:
    """The cosine of a client's direction with the geometric median of the other directions."""
    rest = [i for i in range(len(cosines)) if i != client]
    weights = median_weights(cosines[rest][:, rest])
    length = math.sqrt(max(0.0, float(weights @ cosines[rest][:, rest] @ weights)))
    return float(cosines[client, rest] @ weights) / length if length else 0.0


def median_weights(products: Tensor) -> Tensor:
    """Weights of the points in their geometric median, which sum to 1.

    Args:
        products: inner products of the points, (n, n). The squared distance of point i to the sum
            of w_j x_j is P_ii - 2 (P w)_i + w P w, so the points themselves are not needed.
    """
    count = len(products)
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    for _ in range(STEPS):
        onto = products @ weights
        squares = products.diagonal() - 2 * onto + weights @ onto
        inverse = 1 / squares.clamp(min=1e-18).sqrt()
        weights = inverse / inverse.sum()
    return weights


def _reason(updates: RoundUpdates, _values: Values, client: str) -> str:
    at = updates.names.index(client)
    length, direction = length_parts(updates.norms)[at], direction_parts(updates.cosines)[at]
    if length / LENGTH >= direction / DIRECTION:
        middle = float(updates.norms.quantile(0.5))
        norm = float(updates.norms[at])
        return f"the norm of its update is {norm:.3g}, the round's median {middle:.3g}"
    return (
        f"its update points away from the others: {100 * (1 - float(direction)):.0f} % of the"
        " round's median cosine with their centre"
    )
