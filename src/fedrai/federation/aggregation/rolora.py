"""`rolora`: the factors are trained in turn (RoLoRA, Chen et al., arXiv 2409.02346, 2502.01755).

    odd rounds:   A stays,  B = sum p_k B_k
    even rounds:  B stays,  A = sum p_k A_k

In each round one factor is common to all clients, so that the aggregate is the mean of the products
exactly, as with `ffa`; over two rounds both learn. B is first: with the B of a fresh adapter, zero,
the gradient of A is zero. Clients send the trained factor alone; the server sends both.
"""

from __future__ import annotations

from fedrai.federation.aggregation.lora import Rule

RULE = Rule(frozen=lambda number: "A" if number % 2 else "B")
