"""`safe-lora`: project the layers that deviate (Safe LoRA, Hsu et al., arXiv 2405.16833).

With V = W_aligned - W_base of a layer (what the start adds to it), its alignment matrix is

    C = V V^T / ||V||_F

and its change dW becomes C dW if the cosine between C dW and dW is below the threshold. The others
stay as they are. C is symmetric and has no negative eigenvalues, so the cosine is 0 to 1. C is not
a projection: it multiplies the part of dW in a direction of V by the square of V's singular value
there over ||V||, so it enlarges the change in strong directions of V and shrinks it in weak ones.
`orthogonal` replaces C by the projection U U^T on the columns of V, which keeps the size.

A layer to which the start adds nothing, or that did not change, has no cosine and is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from fedrai.federation.defences.base import Outcome, Task, corrected
from fedrai.model import AdapterState
from fedrai.model.products import NOTHING

Projection = Literal["published", "orthogonal"]


@dataclass(frozen=True, slots=True)
class SafeLora:
    """Projection of the layers that deviate.

    Attributes:
        start: the aligned adapter.
        scale: LoRA's scale, alpha / rank, by which V is multiplied.
        threshold: cosine below which a layer is projected.
        projection: which C.
    """

    start: AdapterState
    scale: float
    threshold: float
    projection: Projection = "published"

    def after(self, task: Task) -> Outcome:
        """The adapter with projected layers."""
        values: list[float | None] = []

        def correct(start: Tensor, moved: Tensor) -> Tensor | None:
            projected = project(self.scale * start, moved, self.projection)
            values.append(cosine(projected, moved))
            return projected if deviates(values[-1], self.threshold) else None

        outcome = corrected(task, self.start, correct)
        return replace(outcome, report={**outcome.report, **cosines(values)})


def project(aligned: Tensor, moved: Tensor, projection: Projection) -> Tensor:
    """C dW.

    Args:
        aligned: V, with LoRA's scale.
        moved: dW, of the same shape.
        projection: `published`: C = V V^T / ||V||; `orthogonal`: C = U U^T, with the left singular
            vectors U of V.
    """
    norm = torch.linalg.norm(aligned)
    if not norm:
        return torch.zeros_like(moved)
    if projection == "published":
        left, weight = aligned, norm
    else:
        u, values, _ = torch.linalg.svd(aligned, full_matrices=False)
        left, weight = u[:, values > NOTHING * values[0]], torch.ones_like(norm)
    projected: Tensor = left @ (left.T @ moved) / weight
    return projected


def cosine(one: Tensor, other: Tensor) -> float | None:
    """Cosine of the angle between two matrices of one shape; None if one of them is zero."""
    lengths = float(torch.linalg.norm(one) * torch.linalg.norm(other))
    return float((one * other).sum()) / lengths if lengths else None


def deviates(value: float | None, threshold: float) -> bool:
    """Whether a layer with this cosine deviates; one without a cosine does not."""
    return value is not None and value < threshold


def cosines(values: Sequence[float | None]) -> dict[str, float | None]:
    """The least and the median cosine of the layers that have one, for the report."""
    known = [value for value in values if value is not None]
    return {
        "cosine_least": min(known, default=None),
        "cosine_median": median(known) if known else None,
    }
