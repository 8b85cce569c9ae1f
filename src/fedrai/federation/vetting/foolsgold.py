"""Updates that resemble each other more than honest ones do: colluders.

FoolsGold (Fung, Yoon and Beschastnikh, arXiv 1808.04866) takes the largest cosine of a client with
any other as the sign of a Sybil, and pardons a client whose own largest cosine is below that of the
one it resembles: it is multiplied by the ratio of the two. The paper compares sums over all rounds;
this compares the round's updates alone, so that nothing has to be kept. The score is the pardoned
cosine itself; that clients with alike rows resemble each other does not look like a conspiracy,
since a score is held against those of the round's other clients. Does not see colluders that take
care to differ. Two clients that train on the same harmful rows resemble each other too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedrai.federation.vetting.scores import Score, Values
from fedrai.federation.vetting.updates import RoundUpdates


def foolsgold() -> Score:
    """The score; see the module."""
    return Score("foolsgold", _measure, _reason)


def _measure(updates: RoundUpdates) -> Values:
    """Of each client, against all of the round: a twin stays one when the other is caught."""
    values: Values = updates.once("foolsgold", lambda: _largest(updates))
    return {name: values[name] for name in updates.names}


def _largest(updates: RoundUpdates) -> Values:
    updates.once("twins", lambda: _twins(updates))  # of the same clients, for reasons
    values = pardoned(updates.cosines).max(dim=1).values
    return dict(zip(updates.names, values.tolist(), strict=True))


def _twins(updates: RoundUpdates) -> dict[str, str]:
    """The reason of each client: whom it resembles."""
    others, middle = updates.cosines.clone(), _middle(updates.cosines)
    others.fill_diagonal_(-1)
    largest = others.max(dim=1)
    pairs = zip(updates.names, largest.values.tolist(), largest.indices.tolist(), strict=True)
    return {
        name: f"its update resembles that of {updates.names[twin]} (cosine {cosine:.2f}; median of"
        f" the round {middle:.2f})"
        for name, cosine, twin in pairs
    }


def pardoned(cosines: Tensor) -> Tensor:
    """Cosines with those of better-behaved clients reduced; the diagonal is 0."""
    others = cosines.clone()
    others.fill_diagonal_(-1)
    largest = others.max(dim=1).values.clamp(min=1e-12)
    ratio = (largest[:, None] / largest[None, :]).clamp(max=1)
    reduced = others.clamp(min=0) * ratio
    reduced.fill_diagonal_(0)
    return reduced


def _middle(cosines: Tensor) -> float:
    """The median of the cosines of all pairs."""
    count = len(cosines)
    pairs = cosines[tuple(torch.triu_indices(count, count, offset=1))]
    return float(pairs.quantile(0.5)) if len(pairs) else 0.0


def _reason(updates: RoundUpdates, _values: Values, client: str) -> str:
    reasons: dict[str, str] = updates.once("twins", lambda: _twins(updates))
    return reasons[client]
