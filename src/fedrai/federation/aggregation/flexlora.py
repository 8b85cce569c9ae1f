"""`flexlora`: the mean product, cut to the adapter's rank (FlexLoRA, Bai et al., arXiv 2402.11505).

    M = sum p_k B_k A_k = U S V^T;   B = U_r S_r^(1/2),   A = S_r^(1/2) V_r^T

The squared error |B A - M|^2 is the sum of the squares of the singular values that are cut off, the
least that a rank r allows (Eckart and Young); M has rank n r at most. The paper puts S into B; here
both factors take its root, so that both keep learning at the same rate. A direction without weight
gets a zero column in B and a row of A, as in a fresh adapter.

A client of a smaller rank starts from the first columns of B and rows of A, which are the best
approximation of that rank.
"""

from __future__ import annotations

from fedrai.federation.aggregation.lora import Replies, Rule, mean_product, refitted
from fedrai.model.adapters import AdapterState


def combine(replies: Replies) -> AdapterState:
    """The best approximation of the mean product in each layer."""
    return refitted(replies, lambda layer: mean_product(replies, layer))


RULE = Rule(combine=combine, refits=True)
