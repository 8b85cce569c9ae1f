"""Settings of a client's preference tuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fedrai.model.adapters import AdapterState
from fedrai.recipe.alignment import Objective

SUMMED = 100_000  # steps whose learning rates are looked up one by one for their sum


@dataclass(frozen=True, slots=True)
class PairSettings:
    """How a client trains on its pairs; sizes and limits are those of `SftSettings`.

    Attributes:
        steps: optimiser steps, of as many pairs as `batch_size` says.
        learning_rate: learning rate by step of the whole run.
        objective: the loss.
        first_step: the whole run's step at which this training begins.
        from_start: whether the reference is that of the run's start; else it is the adapter that
            the round begins with.
        start: with `from_start`, the reference; None: the base model alone.
    """

    steps: int
    learning_rate: Callable[[int], float]
    objective: Objective
    first_step: int = 0
    from_start: bool = False
    start: AdapterState | None = None

    @property
    def rate_sum(self) -> float:
        """The learning rates of all steps, summed."""
        return summed_rates(self.learning_rate, self.first_step, self.steps)


def summed_rates(learning_rate: Callable[[int], float], first: int, steps: int) -> float:
    """Learning rates of steps, summed; of very many steps every k-th counts k times."""
    stride = max(1, math.ceil(steps / SUMMED))
    starts = range(0, steps, stride)
    return sum(learning_rate(first + n) * min(stride, steps - n) for n in starts)
