"""`ffa`: the first factor is frozen (FFA-LoRA, Sun et al., arXiv 2403.12313).

    A = A_0 for all clients and rounds;  B = sum p_k B_k

Then mean(B) A_0 = mean(B_k A_0): the aggregate is the mean of the products exactly. A_0 is that of
`adapter.start`, or the fresh one that the seed draws. Clients train and send B alone, which halves
the bytes of their messages; the server sends both factors, since a client keeps nothing from round
to round, and a constitution or a defence on the server may have changed A for all of them.

Half of the weights learn, in a row space that is fixed at the start; the paper scales the product
up or the learning rate for it. Noise for privacy on B alone is not multiplied by that on A.
"""

from __future__ import annotations

from fedrai.federation.aggregation.lora import Rule

RULE = Rule(frozen=lambda _round: "A")
