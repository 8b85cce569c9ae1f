"""Losses as pure tensor functions: of tokens, of preference pairs, and distance to a reference.

The losses of tokens never hold all logits. The output layer is frozen, so its product is computed
in chunks, each of which is turned into gradients at once. With 49,152 words in the vocabulary that
is most of the memory and a quarter of the time of a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

CHUNK = 256  # label tokens whose logits exist at once

PreferenceKind = Literal["sigmoid", "ipo", "robust"]


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
    losses = token_cross_entropy(hidden, weight, labels, softcap)
    return cast(Tensor, sum(part.sum() for part in torch.split(losses, CHUNK)))


def token_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None = None
) -> Tensor:
    """Cross-entropy of each label, (N,) in nats, float32: minus its log-probability.

    The arguments are those of `linear_cross_entropy`; the gradient may differ by token.
    """

    def chunk(part: Tensor, rows: slice, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        logits, bend = _logits(part, weight, softcap)
        column = labels[rows][:, None]
        normaliser = torch.logsumexp(logits, -1, keepdim=True)
        losses = (normaliser - logits.gather(1, column))[:, 0]
        if not with_gradient:
            return losses, None
        slope = logits.sub_(normaliser).exp_()
        slope.scatter_add_(1, column, torch.full_like(column, -1, dtype=slope.dtype))
        return losses, slope if bend is None else slope * bend

    return cast(Tensor, _ChunkedLoss.apply(hidden, weight, chunk))  # type: ignore[no-untyped-call]


def kl_to_reference(
    hidden: Tensor, reference: Tensor, weight: Tensor, softcap: float | None = None
) -> Tensor:
    """KL divergence of the policy from the reference, `KL(reference || policy)`, at each token.

    Exact, over the whole vocabulary: both models share the output layer, so the hidden states of
    the reference are enough. It is the forward direction, the distillation loss at temperature 1
    (Hinton et al., arXiv 1503.02531, section 2; against forgetting: Li and Hoiem, arXiv
    1606.09282): what the reference may say stays possible. An estimate from the label tokens
    alone, as in reinforcement learning (Schulman 2020, "Approximating KL Divergence"), is valid
    only for tokens drawn from the policy itself, and these come from the data.

    Args:
        hidden: the policy's last hidden states at N positions, (N, D).
        reference: the reference's at the same positions, (N, D); gets no gradient.
        weight: the frozen output layer of both, (V, D); gets no gradient.
        softcap: as in `linear_cross_entropy`.

    Returns:
        One value a position, (N,) in nats, float32.
    """

    def chunk(part: Tensor, rows: slice, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        logits, bend = _logits(part, weight, softcap)
        policy = logits.log_softmax(-1)
        origin = _logits(reference[rows], weight, softcap)[0].log_softmax(-1)
        share = origin.exp()
        values = (share * (origin - policy)).sum(-1)
        if not with_gradient:
            return values, None
        slope = policy.exp_().sub_(share)
        return values, slope if bend is None else slope * bend

    return cast(Tensor, _ChunkedLoss.apply(hidden, weight, chunk))  # type: ignore[no-untyped-call]


def sum_by_row(values: Tensor, counts: Sequence[int]) -> Tensor:
    """The sum of the values of each row, such as log-probabilities of tokens.

    Args:
        values: values of the tokens of all rows, one row after the other, (N,).
        counts: number of values of each row, 0 or more; their sum is N.

    Returns:
        (B,), deterministic on every device.
    """
    return torch.stack([part.sum() for part in torch.split(values, list(counts))])


def constrained_loss(policy: Tensor, reference: Tensor, beta: Tensor) -> Tensor:
    """Constrained SFT (arXiv 2406.05946, equation 3): a limit on each token's drift.

        -(2 / beta) log sigmoid(beta (log policy - log reference))

    Its gradient is that of the cross-entropy times 2 sigmoid(-beta (log policy - log reference)): 1
    where both agree, towards 0 once the policy gives the token a higher probability, at most 2. A
    small beta is plain cross-entropy up to a constant.

    Args:
        policy: log-probabilities of N tokens, in nats.
        reference: the same under the reference.
        beta: limit of each token, above 0.

    Returns:
        (N,).
    """
    return -(2 / beta) * logsigmoid(beta * (policy - reference))


def preference_loss(
    policy: Sequence[Tensor],
    reference: Sequence[Tensor],
    *,
    beta: float = 0.1,
    kind: PreferenceKind = "sigmoid",
    smoothing: float = 0.0,
) -> Tensor:
    """Loss of preference pairs, from log-probabilities of their answers under policy and reference.

    With h the policy's log-ratio of chosen to rejected less the reference's, and m = beta * h:

    - `sigmoid`: -log sigmoid(m), direct preference optimisation (Rafailov et al., arXiv 2305.18290,
      equation 7). With smoothing e it is conservative DPO, -(1 - e) log sigmoid(m)
      - e log sigmoid(-m), for labels that are wrong with probability e (Mitchell 2023, "A note on
      DPO with noisy preferences"): the margin stops growing at log((1 - e) / e).
    - `robust`: (-(1 - e) log sigmoid(m) + e log sigmoid(-m)) / (1 - 2e), unbiased under such labels
      (Chowdhury et al., arXiv 2403.00409, section 3), but without a lower bound.
    - `ipo`: (h - 1 / (2 beta))^2 (Azar et al., arXiv 2310.12036, equation 17). Give it the *mean*
      log-probability per token instead of the sum, as its authors do; h is then free of length.

    Args:
        policy: log-probabilities of the chosen and of the rejected answers, each (B,) in nats,
            float32.
        reference: the same under the reference.
        beta: strength of the pull to the reference; above 0.
        kind: which loss.
        smoothing: e, from 0 to below 0.5; 0 for `ipo`.

    Returns:
        One loss a pair, (B,).

    Raises:
        ValueError: a setting is out of its range.
    """
    check_preference(beta, kind, smoothing)
    ratio = (policy[0] - policy[1]) - (reference[0] - reference[1])
    if kind == "ipo":
        return (ratio - 1 / (2 * beta)) ** 2
    right, wrong = -logsigmoid(beta * ratio), -logsigmoid(-beta * ratio)
    if kind == "robust":
        return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
    return (1 - smoothing) * right + smoothing * wrong


def check_preference(beta: float, kind: str, smoothing: float) -> None:
    """Raise ValueError unless `preference_loss` takes these settings."""
    if kind not in ("sigmoid", "ipo", "robust"):
        raise ValueError(f"kind is {kind!r}, expected 'sigmoid', 'ipo' or 'robust'")
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be above 0, got {beta}")
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"smoothing must lie from 0 to below 0.5, got {smoothing}")
    if kind == "ipo" and smoothing:
        raise ValueError(f"ipo has no smoothing, got {smoothing}")


_Chunk = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor | None]]
"""Of hidden states (N, D) at these positions: values (N,), and the gradient of the logits (N, V)
in float32 if the flag is set."""


class _ChunkedLoss(torch.autograd.Function):
    """Values by token (N,) of hidden states (N, D), with their gradients, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, chunk: _Chunk) -> Tensor:
        with_gradient = hidden.requires_grad
        gradient = torch.empty_like(hidden) if with_gradient else hidden.new_empty(0)
        values = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        for start in range(0, hidden.shape[0], CHUNK):
            rows = slice(start, start + CHUNK)
            values[rows], slope = chunk(hidden[rows], rows, with_gradient)
            if slope is not None:
                gradient[rows] = slope.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].to(gradient.dtype)[:, None], None, None


def _logits(hidden: Tensor, weight: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Logits (N, V) in float32, and their slope under the soft cap."""
    logits = (hidden @ weight.T).float()
    if softcap is None:
        return logits, None
    tanh = torch.tanh(logits / softcap)
    return softcap * tanh, 1 - tanh**2
