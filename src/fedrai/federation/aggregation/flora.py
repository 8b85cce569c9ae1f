"""`flora`: a fresh adapter in each round, beside the product so far (FLoRA, arXiv 2409.05976).

The paper stacks the factors, whose product is the mean exactly whatever the clients' ranks,

    [p_1 B_1 ... p_n B_n] [A_1; ...; A_n] = sum p_k B_k A_k,

sends the stack to all clients, which add it to their base models, and starts from a fresh adapter.
Here the base model of a run never changes, and one adapter of a fixed rank is what is evaluated,
aligned and handed out. So the first ranks of the adapter, the highest of `adapter.ranks`, are the
fresh adapter that clients train, and the others hold what the rounds have added up to:

    held = best approximation of  sum p_k (held + B_k A_k)  by the remaining ranks

What differs from the paper: the sum is cut to the remaining ranks, where the paper's dense weights
take any; while it fits, as in the first rounds of a small federation, it is exact. Clients receive
all ranks and send those that they train, in place of the whole stack.

A fresh start in each round has a price: B is zero, so A learns nothing in the first step, and what
the fresh A forgets adds noise (arXiv 2602.16936). In the first round, and after a constitution, the
first ranks go on from what is in them.
"""

from __future__ import annotations

from fedrai.federation.aggregation.lora import Replies, Rule, cut, mean_with_held
from fedrai.model.adapters import AdapterState
from fedrai.model.parts import fresh_adapter
from fedrai.model.products import FIRST, SECOND, layers_of
from fedrai.recipe.run import seed_for


def combine(replies: Replies) -> AdapterState:
    """A fresh adapter in the first ranks, and the mean of the products in the others."""
    shapes = {name: tuple(tensor.shape) for name, tensor in sorted(replies.current.items())}
    adapter = fresh_adapter(shapes, seed_for(replies.seed, "flora", replies.number))
    rank = replies.trained
    for layer in layers_of(adapter):
        held = cut(mean_with_held(replies, layer), replies.rank - rank)
        adapter[layer + FIRST][rank:] = held.first
        adapter[layer + SECOND][:, rank:] = held.second
    return adapter


RULE = Rule(combine=combine, carries=True)
