"""Low-rank matrices against the full ones that they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrai.model import AdapterState
from fedrai.model.products import (
    Fit,
    LowRank,
    change_norm,
    common,
    fit,
    layers_of,
    product,
    with_layer,
)


def draw(seed: int, outputs: int, rank: int, inputs: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(outputs, rank, generator=generator, dtype=torch.float64)
    return LowRank(left, torch.randn(rank, inputs, generator=generator, dtype=torch.float64))


def fit_of(matrix: LowRank, rank: int) -> Fit:
    bases = common(matrix)
    return fit(bases.left, bases.cores[0], bases.right, rank)


def dense(matrix: LowRank) -> Tensor:
    return matrix.left @ matrix.right


SIZES = st.integers(1, 7)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), SIZES, SIZES, SIZES, SIZES)
def test_sums_norms_and_products_are_those_of_the_full_matrix(
    seed: int, outputs: int, inputs: int, first: int, second: int
) -> None:
    one, other = draw(seed, outputs, first, inputs), draw(seed + 1, outputs, second, inputs)
    total = one + other * -0.5
    full = dense(one) - 0.5 * dense(other)
    assert torch.allclose(dense(total), full)
    assert total.norm() == pytest.approx(float(full.norm()))
    assert one.inner(other) == pytest.approx(float((dense(one) * dense(other)).sum()))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), SIZES, SIZES, SIZES, SIZES)
def test_formulas_in_common_bases_are_those_of_full_matrices(
    seed: int, outputs: int, inputs: int, first: int, second: int
) -> None:
    one, other = draw(seed, outputs, first, inputs), draw(seed + 1, outputs, second, inputs)
    bases = common(one, other)
    small, big = bases.cores, (dense(one), dense(other))
    for core, full in zip(small, big, strict=True):
        assert torch.allclose(bases.left @ core @ bases.right, full)
    formula = bases.left @ (small[0] @ small[0].T @ small[1] - small[1]) @ bases.right
    assert torch.allclose(formula, big[0] @ big[0].T @ big[1] - big[1])
    assert torch.allclose(bases.left.T @ bases.left, torch.eye(bases.left.shape[1]).double())
    assert torch.allclose(bases.right @ bases.right.T, torch.eye(bases.right.shape[0]).double())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), SIZES, SIZES, SIZES, st.integers(1, 8))
def test_a_fit_is_the_truncated_svd_of_the_full_matrix_in_balanced_factors(
    seed: int, outputs: int, inputs: int, k: int, rank: int
) -> None:
    matrix = draw(seed, outputs, k, inputs)
    u, values, v = torch.linalg.svd(dense(matrix), full_matrices=False)
    best = (u[:, :rank] * values[:rank]) @ v[:rank]
    fitted = fit_of(matrix, rank)
    first, second = fitted.first.double(), fitted.second.double()
    assert (first.shape, second.shape) == ((rank, inputs), (outputs, rank))
    assert torch.allclose(second @ first, best, atol=1e-4)
    assert fitted.lost == pytest.approx(float((dense(matrix) - best).square().sum()), abs=1e-9)
    assert fitted.kept == pytest.approx(float(best.square().sum()))
    held = min(rank, k, outputs, inputs)
    grams = (second.T @ second)[:held, :held], (first @ first.T)[:held, :held]
    assert torch.allclose(*grams, atol=1e-4)


def test_a_fit_by_hand() -> None:
    # diag(9, 4, 1) cut to rank 2: roots 3 and 2 in both factors, the square of 1 is lost
    matrix = LowRank(torch.diag(torch.tensor([9.0, 4.0, 1.0])).double(), torch.eye(3).double())
    fitted = fit_of(matrix, 2)
    assert fitted.second.abs().tolist() == [[3, 0], [0, 2], [0, 0]]
    assert fitted.first.abs().tolist() == [[3, 0, 0], [0, 2, 0]]
    assert (fitted.kept, fitted.lost) == (97.0, 1.0)


def test_a_direction_without_weight_can_be_trained_again() -> None:
    matrix = LowRank(torch.tensor([[5.0], [0.0]]).double(), torch.tensor([[1.0, 0.0]]).double())
    stacked = matrix + matrix * 0.0
    fitted = fit_of(stacked, 2)
    assert torch.allclose(fitted.second @ fitted.first, torch.tensor([[5.0, 0.0], [0.0, 0.0]]))
    assert fitted.second[:, 1].tolist() == [0, 0]
    assert float(fitted.first[1].norm()) == pytest.approx(1.0)
    nothing = fit_of(matrix * 0.0, 1)
    assert nothing.second.tolist() == [[0], [0]]
    assert float(nothing.first.norm()) == pytest.approx(1.0)


def test_a_layer_smaller_than_the_rank_gets_zeros() -> None:
    fitted = fit_of(LowRank(torch.tensor([[2.0]]).double(), torch.tensor([[8.0]]).double()), 3)
    assert fitted.second.abs().tolist() == [[4, 0, 0]]
    assert fitted.first.abs().tolist() == [[4], [0], [0]]


def adapter(seed: int, size: float = 1.0) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        f"{layer}.lora_{part}.weight": shape
        for layer in ("b", "a")
        for part, shape in (("A", (2, 5)), ("B", (4, 2)))
    }
    return {name: size * torch.randn(s, generator=generator) for name, s in shapes.items()}


def test_the_change_of_an_adapter_is_that_of_its_matrices() -> None:
    before, after = adapter(1), adapter(2)
    assert layers_of(before) == ["a", "b"]
    squares = []
    for layer in ("a", "b"):
        first, second = (
            a[f"{layer}.lora_B.weight"].double() @ a[f"{layer}.lora_A.weight"].double()
            for a in (before, after)
        )
        squares.append(float((second - first).square().sum()))
        assert torch.allclose(dense(product(after, layer)), second)
    assert change_norm(before, after) == pytest.approx(math.sqrt(sum(squares)))
    assert change_norm(before, before) == 0
    one = {**before, "a.lora_A.weight": after["a.lora_A.weight"]}
    moved = product(one, "a") + product(before, "a") * -1.0
    assert change_norm(before, one) == pytest.approx(moved.norm()) != 0


def test_with_layer_replaces_both_factors() -> None:
    before = adapter(1)
    fitted = fit_of(product(before, "a") * 3.0, 2)
    after = with_layer(before, "a", fitted)
    assert after["b.lora_A.weight"] is before["b.lora_A.weight"]
    assert change_norm(before, after) == pytest.approx(2 * product(before, "a").norm(), rel=1e-5)
