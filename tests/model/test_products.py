"""Low-rank matrices against the full ones that they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrai.model import AdapterState
from fedrai.model.products import LowRank, change, change_norm, fit, layers_of, product, with_layer


def draw(seed: int, outputs: int, rank: int, inputs: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(outputs, rank, generator=generator, dtype=torch.float64)
    return LowRank(left, torch.randn(rank, inputs, generator=generator, dtype=torch.float64))


def dense(matrix: LowRank) -> Tensor:
    return matrix.left @ matrix.right


SIZES = st.integers(1, 7)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), SIZES, SIZES, SIZES, SIZES)
def test_sums_norms_products_and_singular_values_are_those_of_the_full_matrix(
    seed: int, outputs: int, inputs: int, first: int, second: int
) -> None:
    one, other = draw(seed, outputs, first, inputs), draw(seed + 1, outputs, second, inputs)
    total = one + other * -0.5
    full = dense(one) - 0.5 * dense(other)
    assert torch.allclose(dense(total), full)
    assert total.norm() == pytest.approx(float(full.norm()))
    assert one.inner(other) == pytest.approx(float((dense(one) * dense(other)).sum()))
    values = torch.linalg.svdvals(full)
    own = total.svd()[1]
    shared = min(len(own), len(values))
    assert torch.allclose(own[:shared], values[:shared], atol=1e-10)
    assert float(values[shared:].sum()) == pytest.approx(0, abs=1e-10)
    u, s, v = total.svd()
    assert torch.allclose((u * s) @ v, full)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), SIZES, SIZES, SIZES, st.integers(1, 8))
def test_a_fit_is_the_truncated_svd_of_the_full_matrix_in_balanced_factors(
    seed: int, outputs: int, inputs: int, k: int, rank: int
) -> None:
    matrix = draw(seed, outputs, k, inputs)
    u, values, v = torch.linalg.svd(dense(matrix), full_matrices=False)
    best = (u[:, :rank] * values[:rank]) @ v[:rank]
    fitted = fit(matrix, rank)
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
    fitted = fit(matrix, 2)
    assert fitted.second.abs().tolist() == [[3, 0], [0, 2], [0, 0]]
    assert fitted.first.abs().tolist() == [[3, 0, 0], [0, 2, 0]]
    assert (fitted.kept, fitted.lost) == (97.0, 1.0)


def test_a_direction_without_weight_can_be_trained_again() -> None:
    matrix = LowRank(torch.tensor([[5.0], [0.0]]).double(), torch.tensor([[1.0, 0.0]]).double())
    stacked = matrix + matrix * 0.0
    fitted = fit(stacked, 2)
    assert torch.allclose(fitted.second @ fitted.first, torch.tensor([[5.0, 0.0], [0.0, 0.0]]))
    assert fitted.second[:, 1].tolist() == [0, 0]
    assert float(fitted.first[1].norm()) == pytest.approx(1.0)
    nothing = fit(matrix * 0.0, 1)
    assert nothing.second.tolist() == [[0], [0]]
    assert float(nothing.first.norm()) == pytest.approx(1.0)


def test_a_layer_smaller_than_the_rank_gets_zeros() -> None:
    fitted = fit(LowRank(torch.tensor([[2.0]]).double(), torch.tensor([[8.0]]).double()), 3)
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
        moved = change(before, after, layer)
        assert torch.allclose(dense(moved), second - first)
        squares.append(float((second - first).square().sum()))
        assert torch.allclose(dense(product(after, layer)), second)
    assert change_norm(before, after) == pytest.approx(math.sqrt(sum(squares)))


def test_with_layer_replaces_both_factors() -> None:
    before = adapter(1)
    fitted = fit(product(before, "a") * 3.0, 2)
    after = with_layer(before, "a", fitted)
    assert after["b.lora_A.weight"] is before["b.lora_A.weight"]
    assert change_norm(before, after) == pytest.approx(2 * product(before, "a").norm(), rel=1e-5)
    assert LowRank(after["a.lora_B.weight"], after["a.lora_A.weight"]).cosine(
        LowRank(before["a.lora_B.weight"], before["a.lora_A.weight"])
    ) == pytest.approx(1.0)
