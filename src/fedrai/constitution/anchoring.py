"""A mean of weights: the aggregated adapter, part of the way back to where the run started.

Clients move an adapter in many directions; the harm is one of them, and what they learn of their
tasks another. Half way back most of the refusals are there again, while the loss on held-out
answers may be lower than at either end (arXiv 2109.01903 finds the same of robustness). It costs no
forward pass, and brings nothing that the start did not have.
"""

from __future__ import annotations

from fedrai.model import AdapterState


def anchored_to(start: AdapterState | None, adapter: AdapterState, part: float) -> AdapterState:
    """The weights on the line from an adapter to the one that a run started from.

    A and B of LoRA are averaged each by itself, as FedAvg does.

    Args:
        start: the adapter to go back to; None: there is none, and the other comes back.
        adapter: the aggregated one.
        part: of the start, 0 to 1.
    """
    if start is None or not part:
        return adapter
    return {name: (1 - part) * value + part * start[name] for name, value in adapter.items()}
