"""`safe-merge`: merge the layers that deviate with the start (SafeMERGE, arXiv 2503.17239).

A layer deviates if the cosine of Safe LoRA's test (see `safe_lora`) is below the threshold. Then

    W = (1 - share) W_aggregated + share W_start = W_start + (1 - share) dW

and all other layers stay as they are. The published code merges the factors of a LoRA of its own
safety training, by default with a share of 0.2 below a cosine of 0.35; here the safe adapter is the
start, and the products are merged.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedrai.federation.defences.base import Outcome, Task, corrected
from fedrai.federation.defences.safe_lora import Test, cosines
from fedrai.model import AdapterState
from fedrai.model.products import LowRank, layers_of


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
        tests = {
            layer: Test.of(self.start, task.adapter, layer, self.scale, "published")
            for layer in layers_of(task.adapter)
        }

        def correct(layer: str, moved: LowRank) -> LowRank | None:
            return moved * (1 - self.share) if tests[layer].fails(self.threshold) else None

        outcome = corrected(task, self.start, correct)
        return Outcome(outcome.adapter, {**outcome.report, **cosines(list(tests.values()))})
