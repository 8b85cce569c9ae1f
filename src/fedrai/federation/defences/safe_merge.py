"""`safe-merge`: merge the layers that deviate with the start (SafeMERGE, arXiv 2503.17239).

A layer deviates if the cosine of Safe LoRA's test (see `safe_lora`) is below the threshold. Then

    W = (1 - share) W_aggregated + share W_start = W_start + (1 - share) dW

and all other layers stay as they are. The published code merges the factors with those of a LoRA
from a safety training, by default with a share of 0.2 below a cosine of 0.35; here the safe adapter
is the start, and the products are merged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from fedrai.federation.defences.base import Outcome, Task, corrected
from fedrai.federation.defences.safe_lora import cosine, cosines, deviates, project
from fedrai.model import AdapterState


@dataclass(frozen=True, slots=True)
class SafeMerge:
    """Merging of the layers that deviate.

    Attributes:
        start: the aligned adapter.
        scale: LoRA's scale, alpha / rank.
        threshold: cosine below which a layer is merged.
        share: weight of the start in a merged layer.
    """

    start: AdapterState
    scale: float
    threshold: float
    share: float

    def after(self, task: Task) -> Outcome:
        """The adapter with merged layers."""
        values: list[float | None] = []

        def correct(start: Tensor, moved: Tensor) -> Tensor | None:
            values.append(cosine(project(self.scale * start, moved, "published"), moved))
            return (1 - self.share) * moved if deviates(values[-1], self.threshold) else None

        outcome = corrected(task, self.start, correct)
        return replace(outcome, report={**outcome.report, **cosines(values)})
