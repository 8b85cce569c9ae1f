"""`csulora`: the closest safe update (CSULoRA, arXiv 2605.30640), as we read its abstract.

The aligned subspace of a layer is spanned by the leading left and right singular vectors of what
the start adds to it, as many as hold `energy` of its squared norm. With the projections P on these
left and Q on these right vectors, a change dW has three parts:

    aligned: P dW Q     partial: P dW (1 - Q) + (1 - P) dW Q     outside: (1 - P) dW (1 - Q)

The closest safe update is the X with the least

    ||X - dW||^2 + partial e_p ||X_partial||^2 + outside e_o ||X_outside||^2

where e_p and e_o are the parts' shares of ||dW||^2. The parts are orthogonal, so it has a closed
form: the aligned part stays, and the others are divided by 1 + penalty * e. A small stray part is
hardly touched, a change that lies mostly outside is damped most. The paper's own penalties may
differ; its abstract says "according to their relative energy".

A layer to which the start adds nothing has no aligned subspace and is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedrai.federation.defences.base import Outcome, Task, corrected
from fedrai.model import AdapterState
from fedrai.model.products import NOTHING


@dataclass(frozen=True, slots=True)
class CsuLora:
    """The closest safe update.

    Attributes:
        start: the aligned adapter.
        energy: share of the start's squared norm in the aligned subspace, 0 to 1.
        partial: penalty of the part that is aligned on one side.
        outside: penalty of the part that is aligned on neither.
    """

    start: AdapterState
    energy: float
    partial: float
    outside: float

    def after(self, task: Task) -> Outcome:
        """The adapter with corrected layers."""
        energies = []

        def correct(start: Tensor, moved: Tensor) -> Tensor | None:
            parts = split(moved, start, self.energy)
            if parts is None:
                return None
            energies.append(torch.stack([part.square().sum() for part in parts]))
            return closest(parts, self.partial, self.outside)

        outcome = corrected(task, self.start, correct)
        return replace(outcome, report={**outcome.report, **_shares(energies)})


def split(moved: Tensor, aligned: Tensor, energy: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """The aligned part of a change, the partial one and the one outside; None without a subspace.

    Args:
        moved: dW.
        aligned: what the start adds to the layer, of the same shape.
        energy: see `CsuLora`.
    """
    u, values, v = torch.linalg.svd(aligned, full_matrices=False)
    squares = values**2
    if not squares.sum():
        return None
    reached = torch.cumsum(squares, 0) >= energy * squares.sum() * (1 - NOTHING)
    size = int((~reached).sum()) + 1
    u, v = u[:, :size], v[:size]
    left, right = u @ (u.T @ moved), (moved @ v.T) @ v
    both = (left @ v.T) @ v
    return both, left + right - 2 * both, moved - left - right + both


def closest(parts: tuple[Tensor, Tensor, Tensor], partial: float, outside: float) -> Tensor:
    """The closest safe update of a change in its three parts."""
    squares = [float(part.square().sum()) for part in parts]
    total = sum(squares) or 1.0
    whole, some, none = parts
    return (
        whole
        + some / (1 + partial * squares[1] / total)
        + none / (1 + outside * squares[2] / total)
    )


def _shares(energies: Sequence[Tensor]) -> dict[str, float]:
    """The parts' shares of the squared norm of all changes together."""
    if not energies:
        return {}
    sums = torch.stack(list(energies)).sum(0)
    shares = (sums / sums.sum().clamp(min=torch.finfo(torch.float64).tiny)).tolist()
    return dict(zip(("aligned", "partial", "outside"), shares, strict=True))
