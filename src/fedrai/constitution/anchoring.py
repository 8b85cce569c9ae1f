"""The recipe's `constitution.anchor`: a mean of weights of the aggregated adapter and the
one that the run started from.

Clients move an adapter in many directions: harm is one of them, their tasks another. Half way back
most refusals return, while the loss on held-out answers may be lower than at either end (arXiv
2109.01903 reports the same for robustness). It needs no forward pass, and adds nothing that the
start did not have.
"""

from __future__ import annotations

from fedrai.model import AdapterState


def average_with_start(
    start: AdapterState | None, adapter: AdapterState, part: float
) -> AdapterState:
    """The weighted mean of an adapter and the one that the run started from.

    A and B of LoRA are averaged separately, as in FedAvg.

    Args:
        start: the adapter of the start; None: the aggregated one is returned.
        adapter: the aggregated one.
        part: weight of the start, 0 to 1.
    """
    if start is None or not part:
        return adapter
    return {name: (1 - part) * value + part * start[name] for name, value in adapter.items()}
