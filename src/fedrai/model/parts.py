"""The part of an adapter that a client receives, trains and sends.

A client may train one factor only, or the first ranks only. The model's adapter always has all
ranks: those that a client does not have are zero in both factors, so they add nothing, get no
gradient, and the product of the factors is that of the smaller adapter (padding).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrai.model.adapters import AdapterState
from fedrai.model.products import FIRST, SECOND

Shapes = Mapping[str, tuple[int, ...]]
FACTORS = ("", "A", "B")
"""Names of a frozen factor; empty: none is."""
_AXES = {"A": 0, "B": 1}  # of the ranks


@dataclass(frozen=True, slots=True)
class Part:
    """What of an adapter a client trains in a round.

    Attributes:
        frozen: the factor that stays as it is: "A", "B" or none.
        rank: the first ranks are trained; 0: all.
        whole: the client also receives the other ranks, and leaves them as they are.
    """

    frozen: str = ""
    rank: int = 0
    whole: bool = False

    @property
    def is_all(self) -> bool:
        """Whether all of the adapter is trained."""
        return not self.frozen and not self.rank

    def trains(self, name: str) -> bool:
        """Whether a tensor is trained, all of it or its first ranks."""
        return not self.frozen or factor_of(name) != self.frozen

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """The first ranks of a tensor, as a view; the tensor itself if all are trained."""
        factor = factor_of(name)
        if not self.rank or not factor:
            return tensor
        return tensor.narrow(_AXES[factor], 0, self.rank)

    def sent_shapes(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what a client sends, of those of the whole adapter."""
        return {n: self._cut_shape(n, shape) for n, shape in shapes.items() if self.trains(n)}

    def received_shapes(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what a client receives: both factors, of its own ranks or of all."""
        if self.whole:
            return dict(shapes)
        return {name: self._cut_shape(name, shape) for name, shape in shapes.items()}

    def _cut_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        factor = factor_of(name)
        if not self.rank or not factor:
            return shape
        axis = _AXES[factor]
        return (*shape[:axis], self.rank, *shape[axis + 1 :])

    def sent(self, adapter: AdapterState) -> AdapterState:
        """What a client sends of a trained adapter."""
        if self.is_all:
            return adapter
        return {n: self.cut(n, tensor) for n, tensor in adapter.items() if self.trains(n)}

    def received(self, adapter: AdapterState) -> AdapterState:
        """What a client receives of an adapter."""
        if self.whole or not self.rank:
            return adapter
        return {name: self.cut(name, tensor) for name, tensor in adapter.items()}

    def expanded(self, received: AdapterState, shapes: Shapes) -> AdapterState:
        """What a client received with zeros in the place of the ranks that it does not have."""
        if self.whole or not self.rank:
            return received
        return self.filled(received, {n: torch.zeros(shape) for n, shape in shapes.items()})

    def filled(self, sent: AdapterState, start: AdapterState) -> AdapterState:
        """The whole adapter of a client, from what it sent and what it started from."""
        if self.is_all:
            return sent
        adapter = {name: tensor.clone() for name, tensor in start.items()}
        for name, tensor in sent.items():
            self.cut(name, adapter[name]).copy_(tensor)
        return adapter


ALL = Part()


def factor_of(name: str) -> str:
    """The factor that a tensor is, "A" or "B"; empty: it is neither."""
    if name.endswith(FIRST):
        return "A"
    return "B" if name.endswith(SECOND) else ""


def rank_of(shapes: Shapes) -> int:
    """The rank of an adapter; 0: it has no LoRA factors."""
    return max((shape[0] for name, shape in shapes.items() if name.endswith(FIRST)), default=0)


def fresh_adapter(shapes: Shapes, seed: int) -> AdapterState:
    """A new adapter: first factors uniform in +-1/sqrt(inputs), as in peft; others zero.

    Args:
        shapes: its tensors, drawn in their order.
        seed: decides the values.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if "lora_A" in name:
            bound = 1 / math.sqrt(shape[1])
            state[name] = (2 * torch.rand(shape, generator=generator) - 1) * bound
        else:
            state[name] = torch.zeros(shape)
    return state
