"""SCAFFOLD's arithmetic: by hand, and on a task whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch

import driver  # noqa: F401 (imports Flower without a warning of its typer)
from fedrai.errors import FederationError
from fedrai.federation.aggregation import build
from fedrai.federation.aggregation.scaffold import Variates, change, correction
from fedrai.federation.metrics import ROWS, WEIGHT
from fedrai.federation.protocol import Update

State = dict[str, torch.Tensor]


def state(*values: float) -> State:
    return {"w": torch.tensor(values, dtype=torch.float32)}


def update(weight: float, *values: float, **more: float) -> Update:
    return Update(state(*values), {WEIGHT: weight, **more})


def test_a_client_s_change_by_hand() -> None:
    # (x - y) / 0.5 - c = ([1, 2] - [0, 3]) / 0.5 - [1, -1] = [2, -2] - [1, -1]
    assert change(state(1, -1), state(1, 2), state(0, 3), 0.5)["w"].tolist() == [1, -1]


def test_the_correction_is_none_where_it_changes_nothing() -> None:
    assert correction(state(0, 0), state(0, 0)) is None
    assert correction(state(2, 3), state(2, 3)) is None
    found = correction(state(2, 3), state(2, 1))
    assert found is not None
    assert found["w"].tolist() == [0, 2]


def test_the_server_s_variate_is_the_mean_over_all_clients() -> None:
    """The paper's formula with equal weights: c + (sum of changes) / N, for two of four clients."""
    variates = Variates(4, lambda _round, _rows: 0.5)
    assert variates.common(state(9))["w"].tolist() == [0]
    variates.advance(1, state(1), {"a": update(7, 0), "b": update(7, 2)})
    assert variates.common(state(9))["w"].tolist() == [0]  # (2 - 2) / 4
    variates.advance(2, state(1), {"a": update(7, 0), "c": update(7, -1)})
    # a's change is 2 - 0, c's is 4 - 0
    assert variates.common(state(9))["w"].tolist() == [6 / 4]
    variates.advance(3, state(1), {"c": update(7, 1)})
    assert variates.common(state(9))["w"].tolist() == [(6 - 1.5) / 4]
    assert [variates.counted(name) for name in "abcd"] == [2, 1, 3, 0]


def test_the_server_s_variate_has_the_weights_of_the_mean() -> None:
    variates = Variates(2, lambda _round, _rows: 1.0)
    variates.advance(1, state(0), {"a": update(1, -4), "b": update(3, 8)})
    # c_a = 4 and c_b = -8 with weights of 1/4 and 3/4
    assert variates.common(state(0))["w"].tolist() == [-5]
    variates.advance(2, state(0), {"a": update(100, 5)})  # the weight stays the first one
    # c_a is 4 + (-5 + 5) = 4
    assert variates.common(state(0))["w"].tolist() == [-5]


def test_the_stated_rows_decide_the_learning_rates() -> None:
    asked: list[tuple[int, int]] = []

    def rate_sum(number: int, rows: int) -> float:
        asked.append((number, rows))
        return 1.0

    variates = Variates(2, rate_sum)
    variates.advance(3, state(0), {"a": update(10, 1, **{ROWS: 500}), "b": update(10, 1)})
    assert asked == [(3, 500), (3, 10)]


def test_what_the_server_derives_is_the_mean_of_what_clients_keep() -> None:
    torch.manual_seed(1)
    weights = {"a": 2.0, "b": 3.0, "c": 7.0}
    variates = Variates(3, lambda _round, _rows: 0.3)
    kept = {name: state(0, 0, 0) for name in weights}
    for number, present in enumerate(["abc", "ac", "b", "bc"], 1):
        start, common = {"w": torch.randn(3)}, variates.common(state(0, 0, 0))
        sent = {name: {"w": torch.randn(3)} for name in present}
        for name in present:
            kept[name] = {
                "w": kept[name]["w"] + change(common, start, sent[name], 0.3)["w"]
            }  # fmt: skip
        updates = {name: Update(sent[name], {WEIGHT: weights[name]}) for name in present}
        variates.advance(number, start, updates)
        mean = sum(kept[name]["w"] * weight for name, weight in weights.items()) / 12
        assert torch.allclose(variates.common(start)["w"], mean, atol=1e-5)


def test_state_is_restored_to_the_bit() -> None:
    aggregator = build("scaffold", variates=Variates(3, lambda _round, _rows: 0.3))
    again = build("scaffold", variates=Variates(3, lambda _round, _rows: 0.3))
    first = {"a": update(2, 0.1, 0.2), "b": update(5, 0.3, -0.7)}
    second = {"b": update(5, 0.9, 0.4), "c": update(1, 0.2, 0.1)}
    aggregator.aggregate(1, state(0.5, 0.6), first)
    again.restore(aggregator.state())
    for one in (aggregator, again):
        one.aggregate(2, state(0.2, 0.3), second)
    assert set(aggregator.state()) == {
        "variates/sum/w", "variates/client/a", "variates/client/b", "variates/client/c"
    }  # fmt: skip
    assert all(torch.equal(part, again.state()[key]) for key, part in aggregator.state().items())


def test_a_variate_that_clients_would_refuse_is_an_error() -> None:
    aggregator = build("scaffold", variates=Variates(1, lambda _round, _rows: 1e-9))
    with pytest.raises(FederationError, match="round 1: the control variate w holds values above"):
        aggregator.aggregate(1, state(1), {"a": update(2, 0)})


# --- quadratics with different optima -------------------------------------------------------------

RATE, STEPS = 0.1, 10
CURVES: Mapping[str, tuple[float, float]] = {
    "a": (1.0, 4.0), "b": (5.0, -2.0), "c": (0.5, 10.0), "d": (3.0, 1.0)
}  # fmt: skip
"""Curvature and optimum of each client's objective, h / 2 (w - b)^2."""


def optimum(weights: Mapping[str, float]) -> float:
    """Where the weighted sum of the gradients h (w - b) is 0."""
    bent = {name: weight * CURVES[name][0] for name, weight in weights.items()}
    return sum(bent[name] * CURVES[name][1] for name in weights) / sum(bent.values())


def trained(name: str, start: State, step: State | None) -> State:
    """Plain gradient steps of one client, each with the correction."""
    curve, best = CURVES[name]
    w = start["w"].clone()
    for _ in range(STEPS):
        w = w - RATE * (curve * (w - best) + (0 if step is None else step["w"]))
    return {"w": w}


def rounds(rule: str, weights: Mapping[str, float], sampled: Sequence[str], count: int) -> float:
    """The adapter's only weight after some rounds of the clients in turn."""
    variates = Variates(len(weights), lambda _round, _rows: RATE * STEPS)
    aggregator = build(rule, variates=variates if rule == "scaffold" else None)
    current = state(0)
    kept = {name: state(0) for name in weights}
    for number in range(1, count + 1):
        common = variates.common(current)
        present = sampled[(number - 1) % len(sampled)]
        steps = {n: correction(common, kept[n]) if rule == "scaffold" else None for n in present}
        sent = {name: trained(name, current, steps[name]) for name in present}
        for name in present:
            moved = change(common, current, sent[name], RATE * STEPS)
            kept[name] = {"w": kept[name]["w"] + moved["w"]}
        updates = {name: Update(sent[name], {WEIGHT: weights[name]}) for name in present}
        current = aggregator.aggregate(number, current, updates)
    return float(current["w"])


@pytest.mark.parametrize(
    "weights", [dict.fromkeys("abcd", 1.0), {"a": 10.0, "b": 1.0, "c": 30.0, "d": 5.0}]
)
@pytest.mark.parametrize("sampled", [["abcd"], ["abc", "bd", "acd"]])
def test_scaffold_reaches_the_joint_optimum_and_fedavg_does_not(
    weights: dict[str, float], sampled: list[str]
) -> None:
    best = optimum(weights)
    assert rounds("scaffold", weights, sampled, 300) == pytest.approx(best, abs=1e-3)
    assert abs(rounds("fedavg", weights, sampled, 300) - best) > 0.3


def test_the_first_round_is_that_of_fedavg_to_the_bit() -> None:
    weights = {"a": 10.0, "b": 1.0, "c": 30.0, "d": 5.0}
    assert rounds("scaffold", weights, ["abcd"], 1) == rounds("fedavg", weights, ["abcd"], 1)
    assert rounds("scaffold", weights, ["abcd"], 2) != rounds("fedavg", weights, ["abcd"], 2)
