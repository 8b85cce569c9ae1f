"""AsFT: penalise change outside of the alignment direction (arXiv 2506.08473).

    loss + strength ||(1 - P) dW||^2, summed over the layers

dW is the change of a layer beyond the start, with LoRA's scale, and P the projection on the columns
of V = W_start - W_base. The published code has Safe LoRA's C = V V^T / ||V|| in place of P, which
it stands for; C is no projection, and with a strong V it would also penalise change along V.

The columns of V are those of B_start, so (1 - P) B_start A_start = 0 and (1 - P) dW = (1 - P) B A.
With N = (1 - P) B the gradients are closed, and cost two thin products a layer and step:

    d/dB = 2 strength scale^2 N (A A^T)      d/dA = 2 strength scale^2 (N^T N) A

A layer to which the start adds nothing has no direction and no penalty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrai.model import AdapterState, LanguageModel
from fedrai.model.products import FIRST, NOTHING, SECOND, common, layers_of, product
from fedrai.records import Tokens
from fedrai.training.master_weights import MasterWeights
from fedrai.training.sft import Hooks, SftSettings


@dataclass(frozen=True, slots=True)
class Asft:
    """AsFT's penalty as a `sft.LocalDefence`.

    Attributes:
        bases: orthonormal columns of what the start adds, by layer, from `directions`.
        strength: weight of the penalty.
        scale: LoRA's scale, alpha / rank.
    """

    bases: Mapping[str, Tensor]
    strength: float
    scale: float

    def begin(
        self, model: LanguageModel, rows: Sequence[Tokens], settings: SftSettings, seed: int
    ) -> Hooks:
        """Nothing needs to be prepared."""
        bases = {layer: basis.to(model.device) for layer, basis in self.bases.items()}
        return Hooks(on_gradient=lambda master: self._add(master, bases))

    @torch.no_grad()
    def _add(self, master: MasterWeights, bases: Mapping[str, Tensor]) -> None:
        weights, factor = master.named(), 2 * self.strength * self.scale**2
        for layer, basis in bases.items():
            a, b = weights[layer + FIRST], weights[layer + SECOND]
            off = b - basis @ (basis.T @ b)
            _add_gradient(b, factor * off @ (a @ a.T))
            _add_gradient(a, factor * (off.T @ off) @ a)


def directions(start: AdapterState) -> dict[str, Tensor]:
    """Orthonormal columns of what the start adds to each layer, (outputs, k) in float32.

    Layers to which it adds nothing are left out.
    """
    bases = {}
    for layer in layers_of(start):
        both = common(product(start, layer))
        u, values, _ = torch.linalg.svd(both.cores[0], full_matrices=False)
        if values[0] > 0:
            bases[layer] = (both.left @ u[:, values > NOTHING * values[0]]).float()
    return bases


def _add_gradient(weight: Tensor, gradient: Tensor) -> None:
    weight.grad = gradient if weight.grad is None else weight.grad + gradient
