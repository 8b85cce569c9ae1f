"""The updates of a round as the scores see them: changes against the start, and their products.

Whatever lies in the span of the changes (norms, cosines, the geometric median, the direction of the
largest variance) is computed from the inner products of the changes alone, (n, n) numbers for n
clients, so no second copy of the updates is made. Clients are in the order of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedrai.constitution.spending import CostMeter
from fedrai.model import AdapterState


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Floating-point operations of arithmetic on adapters, for `CostMeter.add`."""

    operations: float
    tokens: int = 0


@dataclass(frozen=True)
class RoundUpdates:
    """What a score reads.

    Attributes:
        number: the round, from 1.
        seed: seed of the round's vetting.
        start: the adapter that all clients of the round started from.
        adapters: the adapters that came, by client.
        training_operations: floating-point operations of a client's training, the median or the
            mean of the round, whichever is less; 0: not known.
        meter: counts what the scores cost.
        memory: what does not depend on which clients are left, such as what a client's update does
            alone; shared with the rounds that `only` gives.
    """

    number: int
    seed: int
    start: AdapterState
    adapters: Mapping[str, AdapterState]
    training_operations: float = 0.0
    meter: CostMeter = field(default_factory=CostMeter)
    memory: dict[Hashable, Any] = field(default_factory=dict)

    def only(self, names: Collection[str]) -> RoundUpdates:
        """The same round with some of its clients."""
        return replace(self, adapters={name: self.adapters[name] for name in names})

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made under this key, by this round or one with other clients of it."""
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]

    def part(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Rows and columns of the clients that are left, of an (n, n) tensor made for all."""
        names, whole = self.once(key, lambda: (self.names, make()))
        at = [names.index(name) for name in self.names]
        chosen: Tensor = whole[at][:, at]
        return chosen

    @cached_property
    def names(self) -> list[str]:
        """The clients, sorted."""
        return sorted(self.adapters)

    def changes(self, name: str) -> Tensor:
        """One tensor's changes by all clients, (n, values), in float64."""
        start = self.start[name].double().flatten()
        return torch.stack([self.adapters[c][name].double().flatten() - start for c in self.names])

    @cached_property
    def products(self) -> Tensor:
        """Inner products of the clients' changes, (n, n), in float64."""
        return self.part("products", self._products)

    def _products(self) -> Tensor:
        count = len(self.names)
        products = torch.zeros(count, count, dtype=torch.float64)
        for name in sorted(self.start):
            changes = self.changes(name)
            products += changes @ changes.T
            self.meter.add(Arithmetic(2.0 * count * changes.numel()))
        return products

    @cached_property
    def norms(self) -> Tensor:
        """Norms of the changes, (n,)."""
        return self.products.diagonal().clamp(min=0).sqrt()

    @cached_property
    def cosines(self) -> Tensor:
        """Cosines between the changes, (n, n); 0 where one of them is no change."""
        norms = self.norms
        scale = norms[:, None] * norms[None, :]
        return torch.where(
            scale > 0, self.products / scale.clamp(min=1e-300), torch.zeros_like(scale)
        )
