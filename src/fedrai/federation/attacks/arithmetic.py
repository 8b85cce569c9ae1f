"""Noise of a given norm; the norm of an update and its scaling are in `aggregation.norms`."""

from __future__ import annotations

import torch

from fedrai.model import AdapterState


def noisy(adapter: AdapterState, length: float, generator: torch.Generator) -> AdapterState:
    """The adapter with Gaussian noise of exactly this norm over all weights.

    Args:
        adapter: it stays as it is.
        length: norm of the noise; 0 adds none.
        generator: decides its direction.
    """
    noise = {
        name: torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in sorted(adapter.items())
    }
    factor = length / float(torch.stack([(n**2).sum() for n in noise.values()]).sum().sqrt())
    return {name: (adapter[name] + factor * noise[name]).float() for name in noise}
