"""What the rules for LoRA's two factors have in common.

A client's layer adds scale * B A to the base model's weight. Training is linear in neither product
nor factors, and the mean of products is not the product of means:

    sum p_k B_k A_k  =  mean(B) mean(A)  +  sum p_k (B_k - mean(B)) (A_k - mean(A))

The rules differ in what they do about the last term, each in a file of its own. Rules of factors
(`plain`, `ffa`, `rolora`) leave the arithmetic to the algorithm and only say which factor is
trained; rules of products (`flexlora`, `raflora`, `flora`, `fedex`) replace it. Products are only
formed as stacked thin factors, and cut to a rank by QR of the stacks and an SVD of the small matrix
between them (`model.products`): for n clients of rank r in a layer (outputs, inputs) this takes
O(n^2 r^2 (outputs + inputs) + n^3 r^3) operations, and no matrix of the layer's size.

The scale, alpha / `adapter.rank`, is the same for all clients whatever their rank, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedrai.model.adapters import AdapterState
from fedrai.model.products import (
    FIRST,
    SECOND,
    Fit,
    LowRank,
    common,
    fit,
    layers_of,
    product,
    with_layer,
)
from fedrai.recipe.lora import Ranks


@dataclass(frozen=True, slots=True)
class Reply:
    """A client's update.

    Attributes:
        weight: in the mean; above 0.
        rank: number of its adapter's first ranks that it trained.
        adapter: all ranks; those that it did not train are zero, or as it received them.
    """

    weight: float
    rank: int
    adapter: AdapterState


@dataclass(frozen=True, slots=True)
class Replies:
    """The updates of a round.

    Attributes:
        number: the round, from 1.
        current: the global adapter before it.
        replies: in the order of the clients' names, at least one.
        ranks: the ranks that clients may have.
        seed: the recipe's.
    """

    number: int
    current: AdapterState
    replies: Sequence[Reply]
    ranks: Ranks = field(default_factory=Ranks)
    seed: int = 0

    @property
    def shares(self) -> list[float]:
        """The weights, which sum to 1."""
        total = sum(reply.weight for reply in self.replies)
        return [reply.weight / total for reply in self.replies]

    @property
    def rank(self) -> int:
        """The adapter's rank."""
        return next(t.shape[0] for name, t in self.current.items() if name.endswith(FIRST))

    @property
    def trained(self) -> int:
        """The highest rank that a client may train."""
        return self.ranks.highest or self.rank


Combine = Callable[[Replies], AdapterState]


@dataclass(frozen=True, slots=True)
class Rule:
    """How the factors of LoRA are aggregated.

    Attributes:
        frozen: the factor that clients leave as it is in a round, "A" or "B"; empty: none.
        combine: the next global adapter; None: the algorithm's arithmetic on the trained factors.
        carries: clients receive all ranks, and train the first ones.
        refits: a client of a smaller rank starts from the best approximation of that rank;
            otherwise from the first ranks of the factors.
    """

    frozen: Callable[[int], str] = lambda _round: ""
    combine: Combine | None = None
    carries: bool = False
    refits: bool = False


def mean_product(replies: Replies, layer: str) -> LowRank:
    """The weighted mean of what the clients' adapters add to a layer, as stacked factors."""
    return weighted_sum([reply.adapter for reply in replies.replies], replies.shares, layer)


def mean_with_held(replies: Replies, layer: str) -> LowRank:
    """The same where clients train the first ranks: the others, which all share, once."""
    rank = replies.trained
    parts = [product(reply.adapter, layer) for reply in replies.replies]
    held = product(replies.current, layer)
    scaled = [part.left[:, :rank] * p for part, p in zip(parts, replies.shares, strict=True)]
    return LowRank(
        torch.cat([*scaled, held.left[:, rank:]], 1),
        torch.cat([*(part.right[:rank] for part in parts), held.right[rank:]], 0),
    )


def weighted_sum(
    adapters: Sequence[AdapterState], weights: Sequence[float | Tensor], layer: str
) -> LowRank:
    """The sum of what adapters add to a layer, each times a weight.

    Args:
        adapters: at least one.
        weights: one for each, or one for each of its ranks, (rank,).
        layer: the layer's name.
    """
    parts = [product(adapter, layer) for adapter in adapters]
    scaled = [part.left * weight for part, weight in zip(parts, weights, strict=True)]
    return LowRank(torch.cat(scaled, 1), torch.cat([part.right for part in parts], 0))


def cut(matrix: LowRank, rank: int, spare: LowRank | None = None) -> Fit:
    """The best approximation of a matrix by balanced factors of a rank.

    Args:
        matrix: the matrix.
        rank: of the factors.
        spare: directions without weight are taken from the rows of this matrix, too.
    """
    stacked = matrix if spare is None else matrix + spare * 0.0
    bases = common(stacked)
    return fit(bases.left, bases.cores[0], bases.right, rank)


def refitted(replies: Replies, make: Callable[[str], LowRank]) -> AdapterState:
    """The global adapter whose layers are the best approximations of matrices.

    Args:
        replies: the round's.
        make: the matrix of a layer.
    """
    adapter, rank = dict(replies.current), replies.rank
    for layer in layers_of(adapter):
        spare = product(replies.current, layer)
        adapter = with_layer(adapter, layer, cut(make(layer), rank, spare))
    return adapter


def first_ranks(adapter: AdapterState, rank: int) -> AdapterState:
    """The best approximation of an adapter by one of a smaller rank, in its first ranks.

    A layer to which the adapter adds nothing keeps its first ranks. The other ranks are zero.
    """
    start = {name: torch.zeros_like(tensor) for name, tensor in adapter.items()}
    for layer in layers_of(adapter):
        first, second = adapter[layer + FIRST], adapter[layer + SECOND]
        if bool(second.any()):
            best = cut(product(adapter, layer), rank)
            first, second = best.first, best.second
        start[layer + FIRST][:rank] = first[:rank]
        start[layer + SECOND][:, :rank] = second[:, :rank]
    return start
