"""The matrices that an adapter adds to its layers, as products of thin factors.

A LoRA layer adds `scale * B @ A`, with B (outputs, rank) and A (rank, inputs). Sums and differences
of such matrices have thin factors too, whose columns are stacked. `common` gives several matrices
of a layer in orthonormal bases that hold all of their columns and rows: there they are small, and
every formula of products, norms and projections among them is the same as for the full matrices
(outputs, inputs), which are never formed (Golub and Van Loan, "Matrix Computations", section
5.4.5). Arithmetic is in float64; the scale, the same for all layers, is left out.
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

    def inner(self, other: LowRank) -> float:
        """Sum of the products of the elements of two matrices of one shape."""
        return float(((self.left.T @ other.left) * (self.right @ other.right.T)).sum())

    def norm(self) -> float:
        """Frobenius norm; of a difference exact to about 1e-8 of its terms."""
        return math.sqrt(max(0.0, self.inner(self)))


@dataclass(frozen=True, slots=True)
class Common:
    """Matrices of one layer in common bases: each is `left @ core @ right`.

    Attributes:
        left: orthonormal columns, (outputs, m).
        cores: one small matrix (m, n) for each.
        right: orthonormal rows, (n, inputs).
    """

    left: Tensor
    cores: tuple[Tensor, ...]
    right: Tensor


def common(*matrices: LowRank) -> Common:
    """Matrices of one shape in bases that hold the columns and the rows of all of them."""
    left, upper = torch.linalg.qr(torch.cat([matrix.left for matrix in matrices], 1))
    right, lower = torch.linalg.qr(torch.cat([matrix.right for matrix in matrices], 0).T)
    sizes = [matrix.left.shape[1] for matrix in matrices]
    parts = zip(upper.split(sizes, 1), lower.split(sizes, 1), strict=True)
    return Common(left, tuple(one @ other.T for one, other in parts), right.T)


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


def fit(left: Tensor, core: Tensor, right: Tensor, rank: int) -> Fit:
    """Cut `left @ core @ right` to a rank by truncated SVD: the closest there is (Eckart, Young).

    The factors are balanced: both take the root of each singular value. A direction without weight
    gets a zero column in B and a row of length 1 in A, as in a fresh adapter; with both factors
    zero it could never be trained again.

    Args:
        left: orthonormal columns, (outputs, m).
        core: (m, n).
        right: orthonormal rows, (n, inputs).
        rank: the adapter's.
    """
    u, values, v = torch.linalg.svd(core, full_matrices=False)
    kept = values[:rank]
    idle = kept <= NOTHING * max(float(values.max()), torch.finfo(torch.float64).tiny)
    roots = kept.sqrt()
    second = (left @ u[:, :rank]) * roots.where(~idle, torch.zeros_like(roots))
    first = (v[:rank] @ right) * roots.where(~idle, torch.ones_like(roots))[:, None]
    missing = rank - len(kept)  # of a layer that is smaller than the rank
    second = torch.nn.functional.pad(second, (0, missing))
    first = torch.nn.functional.pad(first, (0, 0, 0, missing))
    squares = values**2
    sums = float(squares[:rank].sum()), float(squares[rank:].sum())
    return Fit(first.float(), second.float(), *sums)


def layers_of(adapter: Mapping[str, Tensor]) -> list[str]:
    """Names of an adapter's layers, sorted."""
    return sorted(name.removesuffix(FIRST) for name in adapter if name.endswith(FIRST))


def product(adapter: Mapping[str, Tensor], layer: str) -> LowRank:
    """What an adapter adds to a layer, without the scale."""
    return LowRank(adapter[layer + SECOND].double(), adapter[layer + FIRST].double())


def change_norm(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Frobenius norm of the change `B1 A1 - B0 A0` of all layers together, without the scale."""
    changed = [
        layer
        for layer in layers_of(before)
        if not all(torch.equal(before[layer + f], after[layer + f]) for f in (FIRST, SECOND))
    ]
    norms = ((product(after, n) + product(before, n) * -1.0).norm() for n in changed)
    return math.hypot(*norms)


def with_layer(adapter: AdapterState, layer: str, fitted: Fit) -> AdapterState:
    """The adapter with other factors in one layer."""
    return {**adapter, layer + FIRST: fitted.first, layer + SECOND: fitted.second}
