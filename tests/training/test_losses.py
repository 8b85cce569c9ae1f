"""The chunked loss against torch's own, in value and gradient."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedrai.training.losses import CHUNK, linear_cross_entropy


def draw(rows: int, width: int = 16, words: int = 50, scale: float = 1.0):
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, width, generator=generator) * scale
    weight = torch.randn(words, width, generator=generator)
    return hidden, weight, torch.randint(words, (rows,), generator=generator)


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None) -> Tensor:
    logits = hidden @ weight.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return cross_entropy(logits.float(), labels, reduction="sum")


@pytest.mark.parametrize("softcap", [None, 30.0, 1.5])
@pytest.mark.parametrize("rows", [1, 7, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_value_and_gradient_are_those_of_cross_entropy(rows, softcap):
    hidden, weight, labels = draw(rows)
    ours, theirs = (hidden.clone().requires_grad_() for _ in range(2))
    loss = linear_cross_entropy(ours, weight, labels, softcap)
    expected = plain(theirs, weight, labels, softcap)
    (3 * loss / rows).backward()  # the gradient from above is not one
    (3 * expected / rows).backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_gradient_is_the_slope_of_the_loss(softcap):
    hidden, weight, labels = draw(5, width=4, words=6, scale=0.5)
    hidden.requires_grad_()
    linear_cross_entropy(hidden, weight, labels, softcap).backward()
    step = 1e-3
    for i in range(5):
        for j in range(4):
            moved = torch.zeros_like(hidden)
            moved[i, j] = step
            up, down = (
                plain((hidden + s * moved).double(), weight.double(), labels, softcap)
                for s in (1, -1)
            )
            assert hidden.grad[i, j].item() == pytest.approx(
                ((up - down) / (2 * step)).item(), abs=2e-3
            )


def test_by_hand():
    hidden = torch.tensor([[1.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert hidden.grad.tolist() == [[pytest.approx(-1 / (1 + math.e)), 0.0]]  # p - 1


def test_large_logits_do_not_overflow():
    hidden, weight, labels = draw(4, scale=1e4)
    hidden.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, labels)
    loss.backward()
    torch.testing.assert_close(loss, plain(hidden, weight, labels, None), rtol=1e-5, atol=0)
    assert torch.isfinite(hidden.grad).all()


def test_bfloat16_adds_up_in_float32():
    hidden, weight, labels = draw(2 * CHUNK)
    short = hidden.bfloat16().requires_grad_()
    loss = linear_cross_entropy(short, weight.bfloat16(), labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert short.grad.dtype == torch.bfloat16
    exact = plain(short.detach(), weight.bfloat16(), labels, None)
    torch.testing.assert_close(loss, exact, rtol=1e-5, atol=0)


def test_no_label_no_loss():
    hidden = torch.zeros(0, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.ones(5, 4), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.shape == (0, 4)


def test_the_output_layer_gets_no_gradient():
    hidden, weight, labels = draw(3)
    weight.requires_grad_()
    linear_cross_entropy(hidden.requires_grad_(), weight, labels).backward()
    assert weight.grad is None


def test_without_gradient_the_value_is_the_same():
    hidden, weight, labels = draw(CHUNK + 9)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, labels, 5.0)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(hidden, weight, labels, 5.0), rtol=1e-6, atol=1e-5)
