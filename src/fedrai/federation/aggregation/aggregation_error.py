"""How far an aggregated adapter is from the mean of the clients' products.

    error = |B A - sum p_k B_k A_k|

by the Frobenius norm over all layers together, without LoRA's scale, which cancels. It is given as
a part of the mean product's norm, and of the norm of the mean's change: what the clients' training
of the round added in the mean. The second says how much of what was learned is lost; with a strong
start the first is small whatever happens. For `plain` it is the norm of

    sum p_k (B_k - mean(B)) (A_k - mean(A)),

zero when the clients agree in one factor. For `flexlora` it is that of the singular values that are
cut off, and for `ffa` and `rolora` rounding. Inner products of stacked factors give all norms at
O(n^2 r^2 (outputs + inputs)) for a layer; they are exact to about 1e-8 of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedrai.model.adapters import AdapterState
from fedrai.model.products import layers_of, product


def aggregation_error(
    aggregate: AdapterState,
    start: AdapterState,
    adapters: Sequence[AdapterState],
    weights: Sequence[float],
) -> dict[str, float] | None:
    """The error of an aggregate, as parts of two norms.

    Args:
        aggregate: the aggregated adapter.
        start: the global adapter that the clients started from.
        adapters: the clients'.
        weights: their weights in the mean.

    Returns:
        `of_product` and `of_change`; None where the adapter has no LoRA layers or a norm is zero.
    """
    total = sum(weights)
    mean = [weight / total for weight in weights]
    products = _inner_products([aggregate, start, *adapters])
    if products is None:
        return None
    error, size, change = (
        _norm(products, [*ends, *(sign * p for p in mean)])
        for *ends, sign in ((1.0, 0.0, -1.0), (0.0, 0.0, 1.0), (0.0, -1.0, 1.0))
    )
    if not size or not change:
        return None
    return {"of_product": error / size, "of_change": error / change}


def _inner_products(adapters: Sequence[Mapping[str, Tensor]]) -> Tensor | None:
    """Inner products of what adapters add to all layers together, (adapters, adapters)."""
    total = None
    for layer in layers_of(adapters[0]):
        parts = [product(adapter, layer) for adapter in adapters]
        lefts, rights = torch.cat([p.left for p in parts], 1), torch.cat([p.right for p in parts])
        blocks = (lefts.T @ lefts) * (rights @ rights.T)
        count, rank = len(parts), parts[0].left.shape[1]
        layer_sum = blocks.reshape(count, rank, count, rank).sum((1, 3))
        total = layer_sum if total is None else total + layer_sum
    return total


def _norm(products: Tensor, weights: Sequence[float]) -> float:
    """The norm of a weighted sum."""
    factors = torch.tensor(weights, dtype=torch.float64)
    return math.sqrt(max(0.0, float(factors @ products @ factors)))
