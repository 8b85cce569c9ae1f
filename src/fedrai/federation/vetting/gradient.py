"""What an update learns, by the gradients of the server's own rows: `gradient` and `progress`.

The server holds harmful requests with a harmful answer and with a refusal. One backward pass over
each at the start of the round gives the gradients of the two losses, g_h and g_r, here at length 1.

    gradient   c = - cosine(change, sign(g_h - r g_r)),  r the cosine of both
               score = c / median |c|

What is left of g_h without g_r is the direction in which a model learns to give harmful answers
rather than to speak of harm at all.

    progress   c = - cosine(change, sign(g_h + g_r))
               score = - ln(c * root of the number of weights), at least 1 within the logarithm

Whoever trains on text goes down in the loss of any answer a little: among millions of weights a
direction that was not trained has a cosine of about one over the root of their number, so that the
product counts standard deviations of chance. It is some tens for honest clients, about 1 for noise
and free riders, below 0 for a flipped sign. It needs no other client.

The signs, because the clients train with Adam, whose steps are close to them. The idea is that of a
root data set on the server (FLTrust, Cao et al., arXiv 2012.13995), whose gradient is the good
direction; here one direction is the bad one. It is the first order of what `functional` reads, at
the cost of one backward pass a round instead of a forward pass a client, and does not depend on the
norm of the update. `gradient` is blind to harm that the server's rows do not resemble. Only the
first tokens of an answer are read: whether it refuses is decided there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from fedrai.federation.vetting.scores import Score, Values, others
from fedrai.federation.vetting.updates import Arithmetic, RoundUpdates
from fedrai.model import AdapterState, LanguageModel
from fedrai.records import Tokens
from fedrai.runs.costs import training_operations
from fedrai.training.sft import summed_loss, token_counts

FEWEST, MOST = 4, 24
"""Rows of each kind."""
ANSWER = 12
"""Longest answer that is read, in tokens."""
BATCH = 8
SMALLEST = 1e-6


@dataclass(frozen=True, slots=True)
class ContrastRows:
    """The same requests with two answers.

    Attributes:
        harmful: with a harmful answer, cut to `ANSWER` tokens.
        refused: with a refusal.
    """

    harmful: Sequence[Tokens]
    refused: Sequence[Tokens]


class Gradient:
    """Takes the gradients of a round's start.

    Args:
        model: the base model.
        rows: the server's rows, the first of which are read.
        budget: share of the training's operations.
    """

    def __init__(self, model: LanguageModel, rows: ContrastRows, budget: float) -> None:
        self._model, self._rows, self._budget = model, rows, budget

    @property
    def gradient(self) -> Score:
        """Whether an update learns harmful answers; see the module."""
        return Score("gradient", self._contrast, _reason)

    @property
    def progress(self) -> Score:
        """Whether an update learns anything; see the module."""
        return Score("progress", self._progress, _progress_reason, is_absolute=True)

    def _contrast(self, updates: RoundUpdates) -> Values:
        return in_units({name: self._along(updates, name)[0] for name in updates.names})

    def _progress(self, updates: RoundUpdates) -> Values:
        weights = sum(tensor.numel() for tensor in updates.start.values())
        sizes = {name: self._along(updates, name)[1] * weights**0.5 for name in updates.names}
        return {name: -math.log(max(1.0, size)) for name, size in sizes.items()}

    def _along(self, updates: RoundUpdates, name: str) -> tuple[float, float]:
        """Alignments of a client's change with the directions of both scores."""
        directions = updates.once("gradient", lambda: self._directions(updates))
        start, adapter = updates.start, updates.adapters[name]
        parts: tuple[float, float] = updates.once(
            ("gradient", name), lambda: tuple(alignment(start, adapter, d) for d in directions)
        )
        return parts

    def _directions(self, updates: RoundUpdates) -> tuple[AdapterState, AdapterState]:
        number = self._count(updates)
        gradients = [
            self._gradient(updates, side[:number])
            for side in (self._rows.harmful, self._rows.refused)
        ]
        return contrast(*gradients), common(*gradients)

    def _count(self, updates: RoundUpdates) -> int:
        """As many rows of each kind as the budget allows."""
        most = min(MOST, len(self._rows.harmful))
        allowed = self._budget * updates.training_operations * len(updates.names)
        numbers = range(most, min(FEWEST, most) - 1, -1)
        fits = (n for n in numbers if self._both(n) <= allowed)
        return next(fits, numbers[-1]) if allowed else most

    def _both(self, number: int) -> float:
        """Operations of the gradients of so many rows of each kind."""
        sides = (self._rows.harmful, self._rows.refused)
        return sum(self._operations(side[:number]) for side in sides)

    def _operations(self, rows: Sequence[Tokens]) -> float:
        tokens, labels = token_counts(rows)
        return training_operations(self._model.shape(), tokens, labels, tokens / len(rows))

    def _gradient(self, updates: RoundUpdates, rows: Sequence[Tokens]) -> AdapterState:
        """The gradient of the mean loss per label token at the round's start, by tensor."""
        tokens, labels = token_counts(rows)
        updates.meter.add(Arithmetic(self._operations(rows), tokens))
        with self._model.using(updates.start), self._model.mode(training=False):
            for weight in self._model.parameters.values():
                weight.grad = None
            for at in range(0, len(rows), BATCH):
                loss = summed_loss(self._model, rows[at : at + BATCH]) / labels
                loss.backward()  # type: ignore[no-untyped-call]
            return {name: _taken(w) for name, w in self._model.parameters.items()}


def _taken(weight: Tensor) -> Tensor:
    """The gradient of a weight, in float32 on the CPU, which the weight does not keep."""
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
    weight.grad = None
    return gradient.float().cpu()


def common(harmful: AdapterState, refused: AdapterState) -> AdapterState:
    """The signs of the sum of both gradients at length 1."""
    norms = [_dot(g, g) ** 0.5 or 1.0 for g in (harmful, refused)]
    return {n: (harmful[n] / norms[0] + refused[n] / norms[1]).sign() for n in sorted(harmful)}


def contrast(harmful: AdapterState, refused: AdapterState) -> AdapterState:
    """The signs of the part of the first gradient that is orthogonal to the second."""
    norms = [_dot(g, g) ** 0.5 or 1.0 for g in (harmful, refused)]
    share = _dot(harmful, refused) / (norms[0] * norms[1])
    return {
        name: (harmful[name] / norms[0] - share * refused[name] / norms[1]).sign()
        for name in sorted(harmful)
    }


def alignment(start: AdapterState, adapter: AdapterState, direction: AdapterState) -> float:
    """Minus the cosine between the change of an adapter and a direction; 0 without a change."""
    change = {name: adapter[name] - start[name] for name in sorted(start)}
    norms = (_dot(change, change) * _dot(direction, direction)) ** 0.5
    return -_dot(change, direction) / norms if norms else 0.0


def in_units(alignments: Values) -> Values:
    """Alignments over their median size, since cosines depend on the model."""
    unit = median(abs(value) for value in alignments.values())
    return {name: value / max(unit, SMALLEST) for name, value in alignments.items()}


def _dot(one: AdapterState, other: AdapterState) -> float:
    return sum(float((one[n].double() * other[n].double()).sum()) for n in sorted(one))


def _reason(_updates: RoundUpdates, values: Values, client: str) -> str:
    return (
        "its update goes the way in which harmful answers are learned"
        f" ({values[client]:.1f}, others {others(values, client):.1f})"
    )


def _progress_reason(_updates: RoundUpdates, values: Values, client: str) -> str:
    own, rest = math.exp(-values[client]), math.exp(-others(values, client))
    return (
        "its update does not look trained on text: along the gradient it goes"
        f" {own:.0f} times as far as chance, others {rest:.0f} times"
    )
