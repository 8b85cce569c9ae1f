"""`resta`: add the safety vector (RESTA, Bhardwaj et al., arXiv 2402.11746).

    W = W_aggregated + strength (W_aligned - W_unaligned)

Aligned is the adapter of the start. Unaligned is the base model without an adapter, so the safety
vector is what the start adds; or, as in the paper, a model that was trained on harmful rows (see
`unaligned`). The sum has two or three times the adapter's rank and is cut to it.

With `drop` the clients' change is thinned out before (DARE, Yu et al., arXiv 2311.03099): each
element of the change of A and of B is set to zero with this probability, and the others are divided
by 1 - drop. The two draws are independent, so the mean of the product stays the same; DARE of the
product itself would have full rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedrai.federation.defences.base import Outcome, Task, corrected
from fedrai.model import AdapterState
from fedrai.recipe.sections import seed_for
from fedrai.runs.costs import Cost


@dataclass(frozen=True, slots=True)
class Resta:
    """Adding the safety vector.

    Attributes:
        aligned: the adapter of the start.
        unaligned: gives the adapter without alignment, and its cost; None: the base model.
        strength: multiple of the safety vector.
        drop: share of the change's elements that is dropped.
        seed: the recipe's; it decides, with the round, what is dropped.
    """

    aligned: AdapterState
    unaligned: Callable[[], tuple[AdapterState, Cost]] | None
    strength: float
    drop: float = 0.0
    seed: int = 0

    def after(self, task: Task) -> Outcome:
        """The adapter with the safety vector."""
        adapter = task.adapter
        if self.drop:
            generator = torch.Generator().manual_seed(seed_for(self.seed, "dare", task.number))
            adapter = thinned(self.aligned, adapter, self.drop, generator)

        def correct(aligned: Tensor, moved: Tensor, unaligned: Tensor | float = 0.0) -> Tensor:
            return moved + self.strength * (aligned - unaligned)

        thin = Task(task.number, task.before, adapter)
        if self.unaligned is None:
            return corrected(thin, self.aligned, correct)
        unaligned, cost = self.unaligned()
        return replace(corrected(thin, self.aligned, correct, unaligned), cost=cost)


def thinned(
    start: AdapterState, adapter: AdapterState, drop: float, generator: torch.Generator
) -> AdapterState:
    """An adapter whose change is dropped at random, and scaled to keep its mean (DARE)."""

    def thin(moved: Tensor) -> Tensor:
        keep = torch.rand(moved.shape, generator=generator) >= drop
        return moved * keep / (1 - drop)

    return {name: start[name] + thin(adapter[name] - start[name]) for name in sorted(adapter)}
