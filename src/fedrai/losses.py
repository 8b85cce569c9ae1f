"""Losses as pure tensor functions.

`linear_cross_entropy` never holds all logits: rows of the output layer's product are made in chunks
and turned into gradients at once, since the output layer is frozen. With 49,152 words in the
vocabulary that is most of the memory and a quarter of the time of a training step.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

CHUNK = 256  # label tokens whose logits exist at once


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None = None
) -> Tensor:
    """Summed cross-entropy of `softmax(hidden @ weight.T)`.

    Args:
        hidden: last hidden states at the positions that predict a label, (N, D).
        weight: the frozen output layer, (V, D); gets no gradient.
        labels: ids to predict, (N,).
        softcap: logits become `softcap * tanh(logits / softcap)` (Gemma 2).

    Returns:
        The sum over the N labels, in nats, float32 scalar.
    """
    loss = _LinearCrossEntropy.apply(hidden, weight, labels, softcap)  # type: ignore[no-untyped-call]
    return cast(Tensor, loss)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None
    ) -> Tensor:
        wanted = hidden.requires_grad
        gradient = torch.empty_like(hidden) if wanted else hidden.new_empty(0)
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, hidden.shape[0], CHUNK):
            rows = slice(start, start + CHUNK)
            loss, slope = _chunk(hidden[rows], weight, labels[rows], softcap, wanted)
            total += loss
            if slope is not None:
                gradient[rows] = slope.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].to(gradient.dtype), None, None, None


def _chunk(
    hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Loss of one chunk, and the gradient of its logits (N, V) in float32 if wanted."""
    logits = (hidden @ weight.T).float()
    bend = None
    if softcap is not None:
        tanh = torch.tanh(logits / softcap)
        logits, bend = softcap * tanh, 1 - tanh**2
    column = labels[:, None]
    normaliser = torch.logsumexp(logits, -1, keepdim=True)
    loss = (normaliser - logits.gather(1, column)).sum()
    if not wanted:
        return loss, None
    slope = logits.sub_(normaliser).exp_()
    slope.scatter_add_(1, column, torch.full_like(column, -1, dtype=slope.dtype))
    return loss, slope if bend is None else slope * bend
