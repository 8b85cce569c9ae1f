"""q-FedAvg by hand, and what a client can gain by a false loss."""

from __future__ import annotations

import pytest
import torch

import driver  # noqa: F401 (imports Flower without a warning of its typer)
from fedrai.errors import FederationError
from fedrai.federation.aggregation import build
from fedrai.federation.aggregation.qfedavg import bounded
from fedrai.federation.metrics import FIRST_LOSS, WEIGHT
from fedrai.federation.protocol import Update


def update(value: float, loss: float, rows: float = 1) -> Update:
    return Update({"w": torch.tensor([value])}, {WEIGHT: rows, FIRST_LOSS: loss})


def aggregated(q: float, lipschitz: float, cap: float = 0, **updates: Update) -> float:
    rule = build("qfedavg", q=q, lipschitz=lipschitz, cap=cap)
    return float(rule.aggregate(1, {"w": torch.tensor([0.0])}, updates)["w"])


def test_the_formula_by_hand() -> None:
    # D: 1 * 2 * -1 and 4 * 2 * -3; h: 1 * 1 * 2^2 + 2 * 1 = 6 and 1 * 1 * 6^2 + 2 * 4 = 44
    found = aggregated(1, 2, a=update(1, 1.0), b=update(3, 4.0))
    assert found == pytest.approx(26 / 50, rel=1e-6)


@pytest.mark.parametrize("lipschitz", [0.5, 1, 20000])
def test_with_q_0_it_is_the_unweighted_mean(lipschitz: float) -> None:
    found = aggregated(0, lipschitz, a=update(1, 0.1, rows=50), b=update(3, 9.0))
    assert found == pytest.approx(2, rel=1e-6)


def test_a_large_l_stops_the_model() -> None:
    """Why L is not 1 / learning rate here: updates of norm 1, as ten steps of AdamW make them."""
    clients = {name: update(1, 2.0) for name in "abc"}
    assert aggregated(0.1, 20000, **clients) == pytest.approx(1 / 1001, rel=1e-3)
    assert aggregated(0.1, 1, **clients) == pytest.approx(1 / 1.05, rel=1e-3)


@pytest.mark.parametrize(
    ("losses", "q", "times", "counted"),
    [
        ([2, 2, 3], 1, 10, [2, 2, 3]),
        ([2, 2, 2, 1e6], 1, 10, [2, 2, 2, 6]),  # no more than the others together
        ([2] * 12 + [1e6], 1, 10, [2] * 12 + [20]),  # ten times their median
        ([4, 4, 4, 1e6], 0.5, 10, [4, 4, 4, 36]),  # their roots are 2, and 6 together
        ([2, 2, 1e-9], 1, 10, [2, 2, 0.2]),
        ([2, 2, 1e6], 0, 10, [2, 2, 1e6]),  # all count alike
        ([2, -1e-3, 1e6], 1, 0, [2, 1e-6, 1e6]),
        ([5], 1, 10, [5]),
    ],
)
def test_the_bounds_of_losses_by_hand(
    losses: list[float], q: float, times: float, counted: list[float]
) -> None:
    assert bounded(losses, q, times) == pytest.approx(counted, rel=1e-9)


@pytest.mark.parametrize("loss", [1e6, 1e-9, 0.0, -1e-3])
def test_a_false_loss_moves_the_model_by_half_of_the_liars_update_at_most(loss: float) -> None:
    honest = {name: update(1, 2.0) for name in "abcd"}
    with_liar = aggregated(1, 1, cap=10, liar=update(-1, loss), **honest)
    assert 0 <= with_liar <= 1
    if loss < 1:  # it cannot stop the model either: h of a loss of 2 / 10 is 1 + 0.2
        assert with_liar > 0.5
        assert abs(aggregated(0.5, 1, liar=update(-1, loss), **honest)) < 0.1


def test_a_missing_loss_is_an_error() -> None:
    rule = build("qfedavg", q=1, lipschitz=1)
    with pytest.raises(FederationError, match="aggregation failed"):
        rule.aggregate(1, {"w": torch.zeros(1)}, {"a": Update({"w": torch.ones(1)}, {WEIGHT: 1})})
