"""What a defence of the server gets and gives.

"Change" is the change of the clients' training everywhere in this package: what the aggregated
adapter adds to a layer beyond the adapter that the *run* started from (`adapter.start`), as a
matrix of the layer's shape (`model.products`). The scale of LoRA is left out where it cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedrai.model import AdapterState
from fedrai.model.products import FIRST, LowRank, change, fit, layers_of, product, with_layer
from fedrai.runs.costs import Cost


@dataclass(frozen=True, slots=True)
class Task:
    """One round's adapter to defend.

    Attributes:
        number: round number, from 1.
        before: the adapter that the round started from.
        adapter: the aggregated one, after the defences that come before this one.
    """

    number: int
    before: AdapterState
    adapter: AdapterState


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a defence made.

    Attributes:
        adapter: the adapter to continue with.
        report: plain values for `round.json` that a repetition reproduces, so no seconds.
        cost: tokens and operations; the seconds are measured from outside.
    """

    adapter: AdapterState
    report: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


class Method(Protocol):
    """A defence of the server."""

    def after(self, task: Task) -> Outcome:
        """The adapter to continue with; depends on the task and the settings only."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What defences work with.

    Attributes:
        seed: the recipe's.
        scale: LoRA's scale, alpha / rank.
        start: the adapter of `adapter.start`; None: there is none.
    """

    seed: int = 0
    scale: float = 1.0
    start: AdapterState | None = None

    @property
    def aligned(self) -> AdapterState:
        """The adapter of `adapter.start`; a recipe that needs it has one."""
        assert self.start is not None
        return self.start


Correct = Callable[[str, LowRank], LowRank | None]
"""Of a layer's name and its change: the corrected change; None: the layer stays as it is."""


def corrected(task: Task, start: AdapterState, correct: Correct) -> Outcome:
    """Correct the change of each layer, and fit the adapter's factors to the result.

    Args:
        task: the aggregated adapter.
        start: the adapter that changes are relative to.
        correct: corrects one layer.

    Returns:
        The adapter, and in the report `layers` (corrected ones), `of` (all), and `truncation`: the
        norm of what the adapter's rank cannot hold, as a part of the norm of the corrected layers.
    """
    adapter, layers = task.adapter, layers_of(task.adapter)
    kept = lost = count = 0.0
    for layer in layers:
        new = correct(layer, change(start, task.adapter, layer))
        if new is None:
            continue
        rank = task.adapter[layer + FIRST].shape[0]
        fitted = fit(product(start, layer) + new, rank)
        adapter = with_layer(adapter, layer, fitted)
        kept, lost, count = kept + fitted.kept, lost + fitted.lost, count + 1
    truncation = (lost / (kept + lost)) ** 0.5 if kept + lost else 0.0
    return Outcome(adapter, {"layers": int(count), "of": len(layers), "truncation": truncation})
