"""The Gaussian mechanism on updates: clip each, add up, add noise, divide by their number.

Of n updates with changes d_i = y_i - x of the weights that clients train,

    mean = x + (sum_i d_i min(1, C / |d_i|) + z C N(0, I)) / n

with the norm over all trained weights together, C = `privacy.clip` and z = `noise_multiplier`. All
in float64, clients in the order of their names; the result is float32. A client that adds its own
noise does the same with n = 1. The noise is that of the *sum*: n, the number of updates that came,
is known anyway, and dividing by it afterwards costs nothing (see `accounting`).

A rule for LoRA decides what clients train: with `ffa` B alone, and only B gets noise. With `plain`
both factors do, and the product is
    (B + E)(A + F) = B A + B F + E A + E F,
whose last term grows with the square of the noise, while with A frozen it is B A + E A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedrai.federation.privacy.noise import Gaussian
from fedrai.model.adapters import AdapterState

SHORTER = 1 - 1e-12  # rounding must not make a clipped change longer than the limit


def clipped_change(
    start: AdapterState, adapter: AdapterState, trained: Sequence[str], clip: float
) -> tuple[dict[str, Tensor], float]:
    """An update's change of the trained weights in float64, clipped, and its norm before.

    Args:
        start: what training began with.
        adapter: what came of it.
        trained: names of the tensors that are trained.
        clip: the largest norm.
    """
    change = {name: adapter[name].double() - start[name].double() for name in sorted(trained)}
    norm = float(torch.stack([(part**2).sum() for part in change.values()]).sum().sqrt())
    if norm > clip * SHORTER:
        change = {name: part * (clip * SHORTER / norm) for name, part in change.items()}
    return change, norm


def noised_mean(
    start: AdapterState,
    updates: Sequence[AdapterState],
    trained: Sequence[str],
    *,
    clip: float,
    multiplier: float,
    key: bytes,
) -> AdapterState:
    """The noised mean of updates, float32; what is not trained is that of `start`.

    Args:
        start: what training began with.
        updates: adapters in the order of the clients' names, at least one.
        trained: names of the tensors that are trained.
        clip: the largest norm of an update's change.
        multiplier: standard deviation of the noise on the sum of changes, by `clip`.
        key: of the noise.
    """
    total: dict[str, Tensor] = {}
    for adapter in updates:
        for name, part in clipped_change(start, adapter, trained, clip)[0].items():
            total[name] = total[name] + part if name in total else part
    noise = noise_like(total, multiplier * clip, key)
    mean = {
        name: (start[name].double() + (total[name] + noise[name]) / len(updates)).float()
        for name in total
    }
    return {**start, **mean}


def noise_like(tensors: Mapping[str, Tensor], deviation: float, key: bytes) -> dict[str, Tensor]:
    """Gaussian noise in the shapes of tensors, in the order of their names."""
    stream = Gaussian(key)
    return {
        name: torch.from_numpy(stream.draw(tensors[name].numel())).reshape(tensors[name].shape)
        * deviation
        for name in sorted(tensors)
    }
