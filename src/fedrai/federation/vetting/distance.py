"""How far an update lies from the others of its round, in length and in direction.

    length     |ln(norm / median norm)|        too long, or too short
    direction  1 - cosine / median cosine      away from where the others go

Norms are measured from the two adapters that the server holds. The median norm is that of the
shorter half of the round: an attacker gains by a long update, not by a short one. A client's cosine
is the median of those with the other clients. A geometric median as the centre (Chen, Su and Xu,
arXiv 1705.05491) was tried and failed: honest updates of high dimension are nearly at right angles,
so four colluders that send the same update of ten become the centre, and honest clients lie far
from it; their median cosine with the others does not change. The score is the larger of the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedrai.federation.vetting.scores import Score, Values, reference
from fedrai.federation.vetting.updates import RoundUpdates

SHORTEST = 1e-6
"""Part of the median norm below which a norm counts as this."""
LEAST_COSINE = 0.01
"""A median cosine below this counts as this: directions then say little."""


def distance() -> Score:
    """The score; see the module."""
    return Score("distance", _measure, _reason)


def _measure(updates: RoundUpdates) -> Values:
    worst = torch.maximum(length_parts(updates.norms), direction_parts(updates.cosines))
    return dict(zip(updates.names, worst.tolist(), strict=True))


def length_parts(norms: Tensor) -> Tensor:
    """|ln(norm / median norm of the shorter half)| of each client."""
    middle = max(reference(norms.tolist())[0], 1e-300)
    return (norms / middle).clamp(min=SHORTEST).log().abs()


def direction_parts(cosines: Tensor) -> Tensor:
    """1 - cosine / median cosine of each client, by its median cosine with the others."""
    own = median_cosines(cosines)
    middle = own.quantile(0.5)
    parts: Tensor = (middle - own) / middle.clamp(min=LEAST_COSINE)
    return parts


def median_cosines(cosines: Tensor) -> Tensor:
    """The median cosine of each client with the others, (n,)."""
    count = len(cosines)
    others = cosines[~torch.eye(count, dtype=torch.bool)].view(count, count - 1)
    return others.quantile(0.5, dim=1) if count > 1 else torch.zeros(count, dtype=torch.float64)


def _reason(updates: RoundUpdates, _values: Values, client: str) -> str:
    at = updates.names.index(client)
    own, norms = median_cosines(updates.cosines), updates.norms
    if length_parts(norms)[at] >= direction_parts(updates.cosines)[at]:
        middle = float(norms.quantile(0.5))
        return f"the norm of its update is {float(norms[at]):.3g}, the round's median {middle:.3g}"
    return (
        "its update points away from the others: its median cosine with them is"
        f" {float(own[at]):.3f}, the round's {float(own.quantile(0.5)):.3f}"
    )
