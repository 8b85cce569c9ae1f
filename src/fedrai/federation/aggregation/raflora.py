"""`raflora`: weights by rank, against rank collapse (raFLoRA, Wu et al., arXiv 2602.13486).

Directions of a client's product are ordered by strength, since it starts from the singular vectors
of the global one. In the plain mean of clients of different ranks, direction i of those that have
it is divided by all clients, so that the higher directions shrink in each round by a constant
factor, until only the smallest common rank is left. Here each direction is weighted by those that
have it:

    M = sum_i sum_k w_ki b_ki a_ki^T,   w_ki = p_k / sum_{j: r_j >= i} p_j  if r_k >= i, else 0

with b_ki column i of B_k and a_ki row i of A_k; then as `flexlora`. With equal ranks w_ki = p_k:
the same as `flexlora` to the bit. A direction that no client of the round has, while others of the
federation do, keeps what the global adapter has there (our choice: with sampled clients it would
vanish otherwise). The result is not the mean of the products, by intention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedrai.federation.aggregation.lora import Replies, Rule, refitted, weighted_sum
from fedrai.model.adapters import AdapterState
from fedrai.model.products import LowRank


def combine(replies: Replies) -> AdapterState:
    """The best approximation of the products, weighted by rank, in each layer."""
    weights, kept = rank_weights(replies)
    adapters = [reply.adapter for reply in replies.replies]

    def make(layer: str) -> LowRank:
        if not bool(kept.any()):
            return weighted_sum(adapters, weights, layer)
        return weighted_sum([*adapters, replies.current], [*weights, kept], layer)

    return refitted(replies, make)


def rank_weights(replies: Replies) -> tuple[list[Tensor], Tensor]:
    """Weights of each client's ranks, and those of the global adapter, 1 where no client has one.

    Returns:
        Tensors (rank,), float64.
    """
    size = replies.rank
    columns: list[list[float]] = []
    for i in range(size):
        there = [reply.weight if reply.rank > i else 0.0 for reply in replies.replies]
        total = sum(there)
        columns.append([weight / total if total else 0.0 for weight in there])
    table = torch.tensor(columns, dtype=torch.float64)  # (rank, clients)
    missing = table.sum(1) == 0
    missing[replies.trained :] = False
    return list(table.T), missing.double()


RULE = Rule(combine=combine, refits=True)
