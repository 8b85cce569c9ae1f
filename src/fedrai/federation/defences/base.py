"""What a defence of the server gets and gives.

"Change" is the change of the clients' training everywhere in this package: what the aggregated
adapter adds to a layer beyond the adapter that the *run* started from (`adapter.start`), as a
matrix of the layer's shape (`model.products`). The scale of LoRA is left out where it cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fedrai.constitution.records import Request
from fedrai.model import AdapterState, LanguageModel
from fedrai.model.products import FIRST, Fit, common, fit, layers_of, product, with_layer
from fedrai.runs.costs import Cost

OnProgress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much."""


def ignore(_what: str, _done: int, _of: int) -> None:
    """The `OnProgress` that shows nothing."""


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
        model: the base model; None: only defences that do not need it are built.
        max_length: longest row, in tokens.
        requests: requests that the start may answer for a training.
        folder: for what is made once in a run and used in every round.
        on_progress: told of long work; may raise to stop.
    """

    seed: int = 0
    scale: float = 1.0
    start: AdapterState | None = None
    model: LanguageModel | None = None
    max_length: int = 512
    requests: Sequence[Request] = ()
    folder: Path = Path()
    on_progress: OnProgress = ignore

    @property
    def language_model(self) -> LanguageModel:
        """The base model."""
        assert self.model is not None
        return self.model

    @property
    def aligned(self) -> AdapterState:
        """The adapter of `adapter.start`; a recipe that needs it has one."""
        assert self.start is not None
        return self.start


Correct = Callable[..., Tensor | None]
"""Of what the start adds to a layer, its change, and what other adapters add: the corrected change;
None: the layer stays as it is. The matrices are the layer's in common bases (`model.products`)."""


def corrected(task: Task, start: AdapterState, correct: Correct, *others: AdapterState) -> Outcome:
    """Correct the change of each layer, and fit the adapter's factors to the result.

    Args:
        task: the aggregated adapter.
        start: the adapter that changes are relative to.
        correct: corrects one layer.
        others: further adapters that it needs.

    Returns:
        The adapter, and in the report `layers` (corrected ones), `of` (all), and `truncation`: the
        norm of what the adapter's rank cannot hold, as a part of the norm of the corrected layers.
    """
    adapter, layers, fits = dict(task.adapter), layers_of(task.adapter), list[Fit]()
    for layer in layers:
        bases = common(*(product(one, layer) for one in (start, task.adapter, *others)))
        first, second, *rest = bases.cores
        new = correct(first, second - first, *rest)
        if new is None:
            continue
        rank = task.adapter[layer + FIRST].shape[0]
        fits.append(fit(bases.left, first + new, bases.right, rank))
        adapter = with_layer(adapter, layer, fits[-1])
    report = {"layers": len(fits), "of": len(layers), "truncation": _truncation(fits)}
    return Outcome(adapter, report)


def _truncation(fits: Sequence[Fit]) -> float:
    kept, lost = (sum(getattr(one, name) for one in fits) for name in ("kept", "lost"))
    return float((lost / (kept + lost)) ** 0.5) if kept + lost else 0.0
