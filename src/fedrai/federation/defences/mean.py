"""`mean`: the mean of the aggregated weights and those of the start.

    W = (1 - share) W_aggregated + share W_start

A and B are averaged separately, as in FedAvg. Merging with the weights before the tuning restores
much of what a tuning damaged (arXiv 2412.19512). It is the recipe's `constitution.anchor` as a
defence, and the control that other defences are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedrai.constitution.anchoring import average_with_start
from fedrai.federation.defences.base import Outcome, Task
from fedrai.model import AdapterState


@dataclass(frozen=True, slots=True)
class MeanWithStart:
    """The mean with the start.

    Attributes:
        start: the aligned adapter.
        share: its weight, 0 to 1.
    """

    start: AdapterState
    share: float

    def after(self, task: Task) -> Outcome:
        """The mean."""
        return Outcome(average_with_start(self.start, task.adapter, self.share))
