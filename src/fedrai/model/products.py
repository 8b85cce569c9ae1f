"""The matrices that an adapter adds to its layers, as products of thin factors.

A LoRA layer adds `scale * B @ A`, with B (outputs, rank) and A (rank, inputs). Sums, differences
and projections of such matrices have thin factors too, whose columns are stacked. Norms, singular
values and the best approximation of a rank then follow from small matrices: QR of both factors, SVD
of the core (Golub and Van Loan, "Matrix Computations", section 5.4.5). The full matrix, (outputs,
inputs), is never formed. Arithmetic is in float64; the scale, the same for all layers, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrai.model.adapters import AdapterState

FIRST, SECOND = ".lora_A.weight", ".lora_B.weight"
NOTHING = 1e-12  # a singular value below this part of the largest one is rounding


@dataclass(frozen=True, slots=True)
class LowRank:
    """The matrix `left @ right`.

    Attributes:
        left: (outputs, k), float64.
        right: (k, inputs), float64; k is its rank at most.
    """

    left: Tensor
    right: Tensor

    def __add__(self, other: LowRank) -> LowRank:
        left, right = [self.left, other.left], [self.right, other.right]
        return LowRank(torch.cat(left, 1), torch.cat(right, 0))

    def __mul__(self, factor: float) -> LowRank:
        return LowRank(factor * self.left, self.right)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """Left singular vectors (outputs, m), singular values (m,), right ones (m, inputs).

        m is the smallest of k, outputs and inputs.
        """
        columns, upper = torch.linalg.qr(self.left)
        rows, lower = torch.linalg.qr(self.right.T)
        u, values, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        return columns @ u, values, v @ rows.T

    def norm(self) -> float:
        """Frobenius norm."""
        upper, lower = (torch.linalg.qr(f, mode="r").R for f in (self.left, self.right.T))
        return float(torch.linalg.norm(upper @ lower.T))

    def inner(self, other: LowRank) -> float:
        """Sum of the products of the elements of two matrices of one shape."""
        return float(((self.left.T @ other.left) * (self.right @ other.right.T)).sum())

    def cosine(self, other: LowRank) -> float | None:
        """Cosine of the angle to another matrix; None if one of them is zero."""
        lengths = self.norm() * other.norm()
        return self.inner(other) / lengths if lengths else None


@dataclass(frozen=True, slots=True)
class Fit:
    """The best approximation of a matrix by factors of an adapter's rank.

    Attributes:
        first: A, (rank, inputs), float32.
        second: B, (outputs, rank), float32.
        kept: sum of the squares of the kept singular values.
        lost: the same of those that were cut off, the squared error of the approximation.
    """

    first: Tensor
    second: Tensor
    kept: float
    lost: float


def fit(matrix: LowRank, rank: int) -> Fit:
    """Cut a matrix to a rank by truncated SVD, the closest there is (Eckart and Young, 1936).

    The factors are balanced: both take the root of each singular value. A direction without weight
    gets a zero column in B and a row of length 1 in A, as in a fresh adapter; with both factors
    zero it could never be trained again.
    """
    u, values, v = matrix.svd()
    u, kept, v = u[:, :rank], values[:rank], v[:rank]
    roots = kept.sqrt()
    idle = kept <= NOTHING * max(float(values.max()), torch.finfo(torch.float64).tiny)
    second = u * roots.where(~idle, torch.zeros_like(roots))
    first = v * roots.where(~idle, torch.ones_like(roots))[:, None]
    missing = rank - len(kept)  # of a layer that is smaller than the rank
    second = torch.nn.functional.pad(second, (0, missing))
    first = torch.nn.functional.pad(first, (0, 0, 0, missing))
    squares = values**2
    return Fit(first.float(), second.float(), float(squares[:rank].sum()),
               float(squares[rank:].sum()))  # fmt: skip


def layers_of(adapter: Mapping[str, Tensor]) -> list[str]:
    """Names of an adapter's layers, sorted."""
    return sorted(name.removesuffix(FIRST) for name in adapter if name.endswith(FIRST))


def product(adapter: Mapping[str, Tensor], layer: str) -> LowRank:
    """What an adapter adds to a layer, without the scale."""
    return LowRank(adapter[layer + SECOND].double(), adapter[layer + FIRST].double())


def change(before: Mapping[str, Tensor], after: Mapping[str, Tensor], layer: str) -> LowRank:
    """What an adapter adds to a layer beyond another one: `B1 A1 - B0 A0`, without the scale."""
    return product(after, layer) + product(before, layer) * -1.0


def change_norm(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Frobenius norm of the change of all layers together, without the scale."""
    return math.hypot(*(change(before, after, layer).norm() for layer in layers_of(before)))


def with_layer(adapter: AdapterState, layer: str, fitted: Fit) -> AdapterState:
    """The adapter with other factors in one layer."""
    return {**adapter, layer + FIRST: fitted.first, layer + SECOND: fitted.second}
