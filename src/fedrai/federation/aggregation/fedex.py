"""`fedex`: each factor's mean, and what is missing beside it (FedEx-LoRA, arXiv 2410.09432).

    B = sum p_k B_k,   A = sum p_k A_k,   residual = sum p_k B_k A_k - B A

The paper adds scale * residual to the base model, so that base + scale B A is the mean of the
clients' models exactly, and goes on training B and A; its published code leaves the weights p_k
out. Here the base model of a run never changes, and one adapter of a fixed rank is what is
evaluated, aligned and handed out. So clients train the first ranks of the adapter, the highest of
`adapter.ranks`, and the others hold the residuals of all rounds:

    held = best approximation of  sum p_k (held + B_k A_k) - B A  by the remaining ranks

It is multiplied by the scale as all of the adapter is. A round adds a residual of rank (n + 1) r at
most, and the ranks bound the sum: exact while it fits, then without the weakest directions. The
paper's own variant for fewer bytes cuts each residual alike.
"""

from __future__ import annotations

import torch

from fedrai.federation.aggregation.lora import Replies, Rule, cut, mean_with_held
from fedrai.model.adapters import AdapterState
from fedrai.model.products import FIRST, SECOND, LowRank, layers_of


def combine(replies: Replies) -> AdapterState:
    """The means of the factors in the first ranks, and the residual in the others."""
    rank = replies.trained
    adapter = {name: tensor.clone() for name, tensor in replies.current.items()}
    for layer in layers_of(adapter):
        first, second = adapter[layer + FIRST], adapter[layer + SECOND]
        first[:rank] = _mean(replies, layer + FIRST)[:rank]
        second[:, :rank] = _mean(replies, layer + SECOND)[:, :rank]
        means = LowRank(second[:, :rank].double(), first[:rank].double())
        held = cut(mean_with_held(replies, layer) + means * -1.0, replies.rank - rank)
        first[rank:], second[:, rank:] = held.first, held.second
    return adapter


def _mean(replies: Replies, name: str) -> torch.Tensor:
    """The weighted mean of a tensor."""
    adapters = [reply.adapter[name].double() for reply in replies.replies]
    parts = [p * tensor for p, tensor in zip(replies.shares, adapters, strict=True)]
    return torch.stack(parts).sum(0)


RULE = Rule(combine=combine, carries=True)
