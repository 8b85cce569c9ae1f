"""A linear probe on the change of the first layer's B, trained on shadow clients.

Safe-FedLLM (arXiv 2601.07177, as we read it) flattens the change of the second LoRA factors of the
first layer and trains a linear classifier that tells updates of harmful from those of harmless
training. Nobody has labelled updates, so the server makes its own: *shadow clients*, trained from
the start of the run with the run's own training settings, half on harmless rows and half on harmful
ones. The features are scaled to length 1, so that a client cannot hide by its norm.

The classifier is logistic regression with an L2 penalty. There are far fewer shadow clients than
features, so it is solved in the span of the shadow clients (the representer theorem), by Newton's
method on as many numbers as there are clients. The score is the logit: above 0, an update looks
more like the harmful shadow clients. In later rounds the start has moved, and the probe is not
trained again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrai.federation.vetting.scores import Score, Values, others
from fedrai.federation.vetting.updates import Arithmetic, RoundUpdates
from fedrai.model import AdapterState

PENALTY = 0.01
STEPS = 30
LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Shadows:
    """Shadow clients.

    Attributes:
        start: the adapter that they started from.
        harmless: their adapters after training on harmless rows.
        harmful: after training on harmful rows.
    """

    start: AdapterState
    harmless: Sequence[AdapterState]
    harmful: Sequence[AdapterState]


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier of features: logit = weights . features + bias."""

    weights: Tensor
    bias: float

    def logit(self, features: Tensor) -> float:
        """Above 0: like the harmful ones."""
        return float(features @ self.weights) + self.bias


def linear(shadows: Callable[[RoundUpdates], Shadows]) -> Score:
    """The score; `shadows` gives the shadow clients, which are trained where there are none yet."""
    trained: list[Probe] = []

    def measure(updates: RoundUpdates) -> Values:
        if not trained:
            trained.append(train_probe(shadows(updates)))
        count = len(trained[0].weights)
        updates.meter.add(Arithmetic(2.0 * count * len(updates.names)))
        return {n: trained[0].logit(features(updates.start, updates.adapters[n]))
                for n in updates.names}  # fmt: skip

    return Score("linear", measure, _reason, is_absolute=True)


def features(start: AdapterState, adapter: AdapterState) -> Tensor:
    """The change of all second factors of the first layer, flat, of length 1 (or 0)."""
    names = first_layer(start)
    change = torch.cat([(adapter[n].double() - start[n].double()).flatten() for n in names])
    unit: Tensor = change / change.norm().clamp(min=1e-300)
    return unit


def first_layer(adapter: Mapping[str, Tensor]) -> list[str]:
    """Names of the second factors (B) of the lowest layer; all of them where none has a number."""
    factors = [name for name in sorted(adapter) if "lora_B" in name]
    layers = {n: int(match.group(1)) for n in factors if (match := LAYER.search(n)) is not None}
    lowest = min(layers.values(), default=None)
    return [n for n in factors if layers.get(n) == lowest] if layers else factors


def train_probe(shadows: Shadows) -> Probe:
    """The classifier of harmful against harmless shadow clients."""
    both = [*shadows.harmless, *shadows.harmful]
    points = torch.stack([features(shadows.start, adapter) for adapter in both])
    labels = torch.tensor([0.0] * len(shadows.harmless) + [1.0] * len(shadows.harmful))
    return logistic(points, labels.double())


def logistic(points: Tensor, labels: Tensor) -> Probe:
    """Logistic regression with the penalty PENALTY / 2 * |w|^2 on the mean loss.

    Args:
        points: (n, features); w is a sum of a_i x_i over them.
        labels: 0 or 1, (n,).
    """
    count = len(points)
    products = points @ points.T
    basis = torch.cat([products, torch.ones(count, 1, dtype=torch.float64)], dim=1)
    penalty = torch.zeros(count + 1, count + 1, dtype=torch.float64)
    penalty[:count, :count] = PENALTY * products
    solved = torch.zeros(count + 1, dtype=torch.float64)
    for _ in range(STEPS):
        chance = torch.sigmoid(basis @ solved)
        gradient = basis.T @ (chance - labels) / count + penalty @ solved
        curvature = basis.T @ (basis * (chance * (1 - chance) / count)[:, None]) + penalty
        solved = solved - torch.linalg.lstsq(curvature, gradient, driver="gelsd").solution
    return Probe(points.T @ solved[:count], float(solved[count]))


def _reason(_updates: RoundUpdates, values: Values, client: str) -> str:
    return (
        "the change of its first layer is like that of shadow clients trained on harmful rows"
        f" (logit {values[client]:+.2f}, others {others(values, client):+.2f})"
    )
