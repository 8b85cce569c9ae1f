"""Updates that stand out along the direction in which the round varies most.

Divide-and-Conquer (Shejwalkar and Houmansadr, NDSS 2021): choose coordinates at random, centre the
updates, find their top right singular vector v; the score of a client is its squared projection on
v. Repeated with several choices; here the median over them counts, where the paper intersects who
is kept. Two things differ from the paper: the updates are scaled to length 1, since otherwise v is
simply the longest update, which `distance` finds better; and the score is divided by the mean of
the squared projections, so that it has no unit. Blind where the malicious ones are the majority.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedrai.federation.vetting.scores import Score, Values
from fedrai.federation.vetting.updates import Arithmetic, RoundUpdates

SKETCHES = 5
COORDINATES = 20_000
"""Coordinates of a sketch, drawn with the same share from every tensor."""


def dnc() -> Score:
    """The score; see the module."""
    return Score("dnc", _measure, _reason)


def _measure(updates: RoundUpdates) -> Values:
    generator = torch.Generator().manual_seed(updates.seed)
    products = [
        updates.part(("dnc", number), lambda: _sketch_products(updates, generator))
        for number in range(SKETCHES)
    ]
    scores = torch.stack([outlier_scores(part) for part in products]).quantile(0.5, dim=0)
    return dict(zip(updates.names, scores.tolist(), strict=True))


def _sketch_products(updates: RoundUpdates, generator: torch.Generator) -> Tensor:
    """Inner products of the unit changes over randomly chosen coordinates, (n, n)."""
    sizes = {name: updates.start[name].numel() for name in sorted(updates.start)}
    share = min(1.0, COORDINATES / max(1, sum(sizes.values())))
    count = len(updates.names)
    products = torch.zeros(count, count, dtype=torch.float64)
    for name, size in sizes.items():
        chosen = torch.randint(size, (max(1, round(share * size)),), generator=generator)
        start = updates.start[name].flatten()[chosen].double()
        part = torch.stack(
            [updates.adapters[c][name].flatten()[chosen].double() - start for c in updates.names]
        )
        products += part @ part.T
    updates.meter.add(Arithmetic(2.0 * count**2 * COORDINATES))
    norms = products.diagonal().clamp(min=0).sqrt().clamp(min=1e-300)
    return products / norms[:, None] / norms[None, :]


def outlier_scores(products: Tensor) -> Tensor:
    """Squared projections on the top singular direction of the centred points, over their mean.

    Args:
        products: inner products of the points, (n, n). Centred on both sides, its eigenvectors are
            the left singular vectors of the centred points, and the projection of point i on the
            right one is the root of the eigenvalue times the i-th entry.
    """
    count = len(products)
    centring = torch.eye(count, dtype=torch.float64) - 1 / count
    values, vectors = torch.linalg.eigh(centring @ products @ centring)
    squares = values[-1].clamp(min=0) * vectors[:, -1] ** 2
    shares: Tensor = squares / squares.mean().clamp(min=1e-300)
    return shares


def _reason(_updates: RoundUpdates, values: Values, client: str) -> str:
    return (
        f"its update has {values[client]:.1f} times the round's mean share in the direction in"
        " which the updates differ most"
    )
