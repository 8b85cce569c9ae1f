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

from dataclasses import dataclass

import torch

from fedrai.federation.defences.base import Outcome, Task, corrected
from fedrai.model import AdapterState
from fedrai.model.products import LowRank, product


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
        energies = torch.zeros(3, dtype=torch.float64)

        def correct(layer: str, moved: LowRank) -> LowRank | None:
            nonlocal energies
            parts = split(moved, product(self.start, layer), self.energy)
            if parts is None:
                return None
            energies += torch.tensor([part.norm() ** 2 for part in parts], dtype=torch.float64)
            return closest(parts, self.partial, self.outside)

        outcome = corrected(task, self.start, correct)
        shares = (energies / energies.sum().clamp(min=1e-300)).tolist()
        names = ("aligned", "partial", "outside")
        return Outcome(outcome.adapter, {**outcome.report, **dict(zip(names, shares, strict=True))})


def split(
    moved: LowRank, aligned: LowRank, energy: float
) -> tuple[LowRank, LowRank, LowRank] | None:
    """The aligned part of a change, the partial one and the one outside; None without a subspace.

    Args:
        moved: dW.
        aligned: what the start adds to the layer.
        energy: see `CsuLora`.
    """
    u, values, v = aligned.svd()
    total = float((values**2).sum())
    if not total:
        return None
    size = int((torch.cumsum(values**2, 0) < energy * total * (1 - 1e-12)).sum()) + 1
    u, v = u[:, :size], v[:size]
    left, right = u @ (u.T @ moved.left), (moved.right @ v.T) @ v
    off_left, off_right = moved.left - left, moved.right - right
    partial = LowRank(left, off_right) + LowRank(off_left, right)
    return LowRank(left, right), partial, LowRank(off_left, off_right)


def closest(parts: tuple[LowRank, LowRank, LowRank], partial: float, outside: float) -> LowRank:
    """The closest safe update of a change in its three parts."""
    squares = [part.norm() ** 2 for part in parts]
    total = sum(squares)
    if not total:
        return parts[0]
    factors = (1.0, 1 / (1 + partial * squares[1] / total), 1 / (1 + outside * squares[2] / total))
    whole, *others = (part * factor for part, factor in zip(parts, factors, strict=True))
    for other in others:
        whole = whole + other
    return whole
