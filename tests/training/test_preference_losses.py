"""Losses of tokens and pairs by hand, against torch's own, and in their properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from fedrai.training.losses import (
    CHUNK,
    kl_to_reference,
    linear_cross_entropy,
    preference_loss,
    sum_by_row,
    token_cross_entropy,
)


def draw(rows: int, width: int = 16, words: int = 50):
    generator = torch.Generator().manual_seed(rows)
    hidden, other = torch.randn(2, rows, width, generator=generator)
    weight = torch.randn(words, width, generator=generator)
    labels = torch.randint(words, (rows,), generator=generator)
    above = torch.randn(rows, generator=generator)  # what backward brings, unlike for every token
    return hidden, other, weight, labels, above


def plain_logits(hidden: Tensor, weight: Tensor, softcap: float | None) -> Tensor:
    logits = (hidden @ weight.T).float()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


# --- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("rows", [1, 7, CHUNK, 2 * CHUNK + 5])
def test_each_token_has_its_own_cross_entropy_and_gradient(rows, softcap):
    hidden, _, weight, labels, above = draw(rows)
    ours, theirs = (hidden.clone().requires_grad_() for _ in range(2))
    losses = token_cross_entropy(ours, weight, labels, softcap)
    expected = cross_entropy(plain_logits(theirs, weight, softcap), labels, reduction="none")
    losses.backward(above)
    expected.backward(above)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_a_token_that_is_left_out_of_the_sum_has_no_gradient():
    hidden, _, weight, labels, _ = draw(3)
    hidden.requires_grad_()
    token_cross_entropy(hidden, weight, labels)[:2].sum().backward()
    assert hidden.grad[:2].abs().sum(1).min() > 0
    assert hidden.grad[2].tolist() == [0.0] * 16


@pytest.mark.parametrize("rows", [0, 1, CHUNK + 3])
def test_the_sum_over_tokens_is_the_loss_of_training(rows):
    hidden, _, weight, labels, _ = draw(rows)
    alone, together = (hidden.clone().requires_grad_() for _ in range(2))
    losses = token_cross_entropy(alone, weight, labels)
    total = linear_cross_entropy(together, weight, labels)
    (losses.sum() / 7).backward()
    (total / 7).backward()
    torch.testing.assert_close(losses.sum(), total, rtol=1e-6, atol=0)
    assert torch.equal(alone.grad, together.grad)


def test_sums_by_row_by_hand():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], requires_grad=True)
    sums = sum_by_row(values, [2, 0, 3])
    assert sums.tolist() == [3.0, 0.0, 28.0]
    (sums * torch.tensor([1.0, 9.0, -2.0])).sum().backward()
    assert values.grad.tolist() == [1.0, 1.0, -2.0, -2.0, -2.0]


def test_counts_that_do_not_fit_the_values_are_an_error():
    with pytest.raises(RuntimeError):
        sum_by_row(torch.zeros(5), [2, 2])


# --- the KL divergence ----------------------------------------------------------------------------


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("rows", [1, 7, CHUNK, 2 * CHUNK + 5])
def test_the_kl_divergence_is_torchs(rows, softcap):
    hidden, other, weight, _, above = draw(rows)
    ours, theirs = (hidden.clone().requires_grad_() for _ in range(2))
    values = kl_to_reference(ours, other, weight, softcap)
    policy = log_softmax(plain_logits(theirs, weight, softcap), -1)
    origin = log_softmax(plain_logits(other, weight, softcap), -1)
    expected = kl_div(policy, origin, reduction="none", log_target=True).sum(-1)
    values.backward(above)
    expected.backward(above)
    assert expected.min() > 0.01
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_the_kl_divergence_by_hand():
    """Reference (1/2, 1/2), policy (3/4, 1/4)."""
    weight = torch.tensor([[1.0], [0.0]])
    hidden = torch.tensor([[math.log(3)]], requires_grad=True)
    value = kl_to_reference(hidden, torch.tensor([[0.0]]), weight)
    value.sum().backward()
    assert value.item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), abs=1e-6)
    assert hidden.grad.item() == pytest.approx(3 / 4 - 1 / 2)
    other_way = kl_to_reference(torch.tensor([[0.0]]), torch.tensor([[math.log(3)]]), weight)
    assert other_way.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)


def test_there_is_no_divergence_from_oneself():
    hidden, _, weight, _, _ = draw(CHUNK + 1)
    policy = hidden.clone().requires_grad_()
    values = kl_to_reference(policy, hidden, weight, 2.0)
    values.sum().backward()
    assert values.tolist() == [0.0] * (CHUNK + 1)
    assert policy.grad.abs().max() == 0


def test_the_reference_and_the_output_layer_get_no_gradient():
    hidden, other, weight, _, _ = draw(3)
    kl_to_reference(
        hidden.requires_grad_(), other.requires_grad_(), weight.requires_grad_()
    ).sum().backward()
    assert hidden.grad is not None
    assert other.grad is None
    assert weight.grad is None


def test_bfloat16_is_compared_in_float32():
    hidden, other, weight, _, _ = draw(9)
    policy = hidden.bfloat16().requires_grad_()
    values = kl_to_reference(policy, other.bfloat16(), weight.bfloat16())
    values.sum().backward()
    assert (values.dtype, policy.grad.dtype) == (torch.float32, torch.bfloat16)
    with torch.no_grad():
        same = kl_to_reference(policy, other.bfloat16(), weight.bfloat16())
    assert torch.equal(values, same)
    exact = kl_to_reference(hidden, other, weight)
    torch.testing.assert_close(values.detach(), exact, rtol=0.1, atol=0.1)


# --- pairs ----------------------------------------------------------------------------------------


def loss_of(ratio: float, **options: object) -> float:
    """The loss of one pair by the policy's log-ratio less the reference's."""
    chosen, rejected = torch.tensor([-20.0 + ratio]), torch.tensor([-30.0])
    return preference_loss(
        (chosen, rejected), (torch.tensor([-12.0]), torch.tensor([-22.0])), **options
    ).item()


def test_pairs_by_hand():
    assert loss_of(0.0) == pytest.approx(math.log(2))
    assert loss_of(10.0, beta=0.2) == pytest.approx(math.log(1 + math.exp(-2)))
    assert loss_of(10.0, beta=0.2, smoothing=0.25) == pytest.approx(
        0.75 * math.log(1 + math.exp(-2)) + 0.25 * math.log(1 + math.exp(2)), abs=1e-6
    )
    assert loss_of(3.0, kind="ipo", beta=0.25) == pytest.approx(1.0)  # (3 - 2)^2
    assert loss_of(-1.0, kind="ipo", beta=0.25) == pytest.approx(9.0)
    assert loss_of(10.0, kind="robust", beta=0.2, smoothing=0.25) == pytest.approx(
        (0.75 * math.log(1 + math.exp(-2)) - 0.25 * math.log(1 + math.exp(2))) / 0.5, abs=1e-5
    )


def test_chosen_and_rejected_of_policy_and_reference_are_told_apart():
    losses = preference_loss(
        torch.tensor([[-1.0, -5.0, -5.0, -5.0], [-5.0, -1.0, -5.0, -5.0]]),
        torch.tensor([[-5.0, -5.0, -1.0, -5.0], [-5.0, -5.0, -5.0, -1.0]]),
        beta=0.5,
    )
    low, high = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert losses.tolist() == pytest.approx([low, high, high, low])


@given(
    st.floats(-30, 30), st.floats(0.01, 2), st.floats(0, 0.49), st.sampled_from(["sigmoid", "ipo"])
)
def test_a_common_shift_of_both_answers_changes_nothing(ratio, beta, smoothing, kind):
    smoothing = 0.0 if kind == "ipo" else smoothing
    options = {"beta": beta, "kind": kind, "smoothing": smoothing}
    shifted = preference_loss(
        torch.tensor([[ratio + 7.0], [7.0]]),
        torch.tensor([[-3.0], [-3.0]]),
        **options,
    )
    assert shifted.item() == pytest.approx(loss_of(ratio, **options), rel=1e-3, abs=1e-4)


@given(st.floats(-20, 20), st.floats(0.05, 1), st.floats(0.01, 0.45))
def test_the_robust_loss_is_right_on_average(ratio, beta, error):
    """Labels flipped with that probability: the expected loss is that of the true labels."""
    options = {"beta": beta, "kind": "robust", "smoothing": error}
    expected = (1 - error) * loss_of(ratio, **options) + error * loss_of(-ratio, **options)
    assert expected == pytest.approx(loss_of(ratio, beta=beta), rel=1e-3, abs=1e-4)


def test_smoothing_stops_the_margin_where_the_labels_are_worth_no_more():
    policy = torch.tensor([math.log(0.9 / 0.1) / 0.5], requires_grad=True)
    zero = torch.zeros(1)
    preference_loss((policy, zero), (zero, zero), beta=0.5, smoothing=0.1).sum().backward()
    assert policy.grad.item() == pytest.approx(0.0, abs=1e-7)
    for further, sign in ((-1, -1), (1, 1)):
        moved = (policy.detach() + further).requires_grad_()
        preference_loss((moved, zero), (zero, zero), beta=0.5, smoothing=0.1).sum().backward()
        assert moved.grad.item() * sign > 0.01


def test_the_slope_is_that_of_the_paper():
    """-beta * sigmoid(-beta h) on the chosen answer, the opposite on the rejected (section 4)."""
    values = [torch.tensor([v], requires_grad=True) for v in (-4.0, -7.0, -5.0, -5.0)]
    preference_loss(values[:2], values[2:], beta=0.5).sum().backward()
    slope = -0.5 / (1 + math.exp(1.5))
    assert values[0].grad.item() == pytest.approx(slope)
    assert values[1].grad.item() == pytest.approx(-slope)


def test_margins_without_bound_stay_finite():
    far = torch.tensor([1e6, -1e6], requires_grad=True)
    zero = torch.zeros(2)
    losses = preference_loss((far, zero), (zero, zero), beta=0.1, smoothing=0.1)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([1e4, 9e4])
    assert far.grad.tolist() == pytest.approx([0.01, -0.09])


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "hinge"},
        {"beta": 0.0},
        {"beta": -1.0},
        {"beta": math.nan},
        {"smoothing": 0.5},
        {"smoothing": -0.1},
        {"smoothing": math.nan},
        {"kind": "ipo", "smoothing": 0.1},
    ],
)
def test_settings_out_of_range_are_errors(options):
    with pytest.raises(ValueError, match=r"kind|beta|smoothing"):
        loss_of(1.0, **options)
