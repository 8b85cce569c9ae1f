"""Aggregation against numbers worked out by hand and formulas from the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import driver  # noqa: F401 (imports Flower without a warning of its typer)
from fedrai.errors import FederationError
from fedrai.federation.aggregation import Aggregator, build
from fedrai.federation.aggregation.norms import update_norm
from fedrai.federation.aggregation.scaffold import Variates
from fedrai.federation.aggregation.weights import capped
from fedrai.federation.metrics import FIRST_LOSS, WEIGHT
from fedrai.federation.protocol import Update
from fedrai.recipe.sections import ALGORITHMS, Robust
from fedrai.runs.files import digest_of, load_tensors, save_tensors

pytestmark = pytest.mark.slow

STATEFUL = ("fedavgm", "fedadam", "fedyogi", "fedadagrad", "scaffold")
MEANS = ("fedavg", "fedprox", "fedavgm", "scaffold",
         "median", "trimmed-mean", "krum", "multi-krum", "bulyan")  # fmt: skip


def make(algorithm: str, **changes: Any) -> Aggregator:
    if algorithm == "bulyan":
        changes.setdefault("malicious", 1)  # against 0 it is a plain mean, and refused
    section = ALGORITHMS[algorithm].model_validate({"algorithm": algorithm, **changes})
    variates = Variates(9, lambda _round, rows: 0.1 * rows) if algorithm == "scaffold" else None
    return build(algorithm, variates=variates, **section.model_dump(exclude={"algorithm"}))


def state(values: Sequence[float]) -> dict[str, torch.Tensor]:
    """Two arrays of an adapter, so that names matter."""
    numbers = torch.tensor(values, dtype=torch.float32)
    return {"x": numbers[:2].reshape(1, 2).clone(), "y": numbers[2:].clone()}


def flat(adapter: Mapping[str, torch.Tensor]) -> list[float]:
    assert {name: tuple(t.shape) for name, t in adapter.items()} == {"x": (1, 2), "y": (2,)}
    return [*adapter["x"].flatten().tolist(), *adapter["y"].tolist()]


def update(values: Sequence[float], weight: float = 1) -> Update:
    return Update(state(values), {WEIGHT: weight, FIRST_LOSS: 0.5 + weight})


def drawn(seed: int, clients: int = 7) -> dict[str, Update]:
    """Updates of some clients with different weights."""
    rng = np.random.default_rng(seed)
    return {f"c{n}": update(rng.normal(size=4).tolist(), 1 + n) for n in range(clients)}


ZERO = state([0, 0, 0, 0])


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox"])
def test_fedavg_weighs_by_rows(algorithm: str) -> None:
    updates = {"a": update([0, 0, 0, 4], 1), "b": update([4, 8, -4, 2], 3)}
    assert flat(make(algorithm).aggregate(1, ZERO, updates)) == [3, 6, -3, 2.5]


def test_fedavg_does_not_depend_on_the_start() -> None:
    updates = {"a": update([0, 0, 0, 4], 1), "b": update([4, 8, -4, 2], 3)}
    assert flat(make("fedavg").aggregate(1, state([9, 9, 9, 9]), updates)) == [3, 6, -3, 2.5]


def test_fedavgm_momentum_by_hand() -> None:
    aggregator = make("fedavgm", server_learning_rate=0.5, server_momentum=0.5)
    # round 1: v = 0 - [1 2 3 4];  w = 0 - 0.5 v
    first = aggregator.aggregate(1, ZERO, {"a": update([1, 2, 3, 4])})
    assert flat(first) == [0.5, 1, 1.5, 2]
    # round 2: v = 0.5 v + (w - 2) = [-0.5 -1 -1.5 -2] + [-1.5 -1 -0.5 0];  w = w - 0.5 v
    second = aggregator.aggregate(2, first, {"a": update([2, 2, 2, 2])})
    assert flat(second) == [1.5, 2, 2.5, 3]


def _fedopt(
    algorithm: str, rounds: Sequence[np.ndarray], eta: float, b1: float, b2: float, tau: float
) -> list[np.ndarray]:
    """Algorithm 2 of Reddi et al., arXiv 2003.00295, in float64, from v = 0.

    FedAdam's rate has Flower's bias correction on top, which the paper leaves out: that of Kingma
    and Ba with t + 1 in the place of t.
    """
    w, m, v = np.zeros(4), np.zeros(4), np.zeros(4)
    found = []
    for t, mean in enumerate(rounds, 1):
        delta = mean - w
        rate = eta
        m = b1 * m + (1 - b1) * delta
        if algorithm == "fedadam":
            v = b2 * v + (1 - b2) * delta**2
            rate = eta * np.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1))
        elif algorithm == "fedyogi":
            v = v - (1 - b2) * delta**2 * np.sign(v - delta**2)
        else:
            v = v + delta**2
        w = w + rate * m / (np.sqrt(v) + tau)
        found.append(w)
    return found


@pytest.mark.parametrize("algorithm", ["fedadam", "fedyogi", "fedadagrad"])
def test_fedopt_follows_the_paper(algorithm: str) -> None:
    means = [np.array([1, 2, -3, 0.5]), np.array([2, -2, 2, 0.25]), np.array([0.5, 1, 0, -4])]
    b1, b2 = (0.0, 0.0) if algorithm == "fedadagrad" else (0.8, 0.95)
    aggregator = make(algorithm, eta=0.1, beta_1=0.8, beta_2=0.95, tau=0.01)
    current = ZERO
    for number, wanted in enumerate(_fedopt(algorithm, means, 0.1, b1, b2, 0.01), 1):
        current = aggregator.aggregate(number, current, {"a": update(means[number - 1].tolist())})
        np.testing.assert_allclose(flat(current), wanted, rtol=2e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_order_of_clients_does_not_matter(algorithm: str) -> None:
    updates = drawn(1)
    turned = dict(sorted(updates.items(), reverse=True))
    start = state([0.1, -0.2, 0.3, -0.4])
    one = make(algorithm).aggregate(1, start, updates)
    other = make(algorithm).aggregate(1, start, turned)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_result_is_float32_and_leaves_its_inputs_alone(algorithm: str) -> None:
    updates, start = drawn(2), state([0.1, -0.2, 0.3, -0.4])
    result = make(algorithm).aggregate(1, start, updates)
    assert {t.dtype for t in result.values()} == {torch.float32}
    for tensor in result.values():
        tensor.zero_()
    assert flat(start) == flat(state([0.1, -0.2, 0.3, -0.4]))
    again = drawn(2)
    assert all(flat(updates[n].adapter) == flat(again[n].adapter) for n in again)


@pytest.mark.parametrize("algorithm", MEANS)
def test_equal_clients_give_their_adapter(algorithm: str) -> None:
    values = [0.5, -1.25, 3, 1024]
    same = {f"c{n}": update(values, 2.0) for n in range(8)}
    changes = {"selected": 4} if algorithm == "multi-krum" else {}
    assert flat(make(algorithm, **changes).aggregate(1, ZERO, same)) == values


VALUES = st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4)
ENOUGH = {"multi-krum": {"malicious": 1, "selected": 3}}
"""Settings with which a rule takes seven updates or more."""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(values=VALUES, start=VALUES, weight=st.integers(1, 1000), count=st.integers(7, 12))
@settings(max_examples=6, deadline=None)
def test_equal_clients_give_what_one_gives(
    algorithm: str, values: list[float], start: list[float], weight: int, count: int
) -> None:
    """The result and, over a second round, the server's state."""
    changes = ENOUGH.get(algorithm, {})
    needed = 7 if issubclass(ALGORITHMS[algorithm], Robust) else 1
    one, many = make(algorithm, **changes), make(algorithm, **changes)
    first, second = state(start), state(start)
    for number, shift in ((1, 0.0), (2, 1.0)):
        same = update([v + shift for v in values], weight)
        first = one.aggregate(number, first, {f"c{n}": same for n in range(needed)})
        second = many.aggregate(number, second, {f"c{n:02}": same for n in range(count)})
        scale = 1 + max(map(abs, [*values, *start]))
        np.testing.assert_allclose(flat(second), flat(first), rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(7)), extra=VALUES)
@settings(max_examples=6, deadline=None)
def test_order_and_updates_without_weight_change_no_bit(
    algorithm: str, seed: int, order: list[int], extra: list[float]
) -> None:
    changes, updates = ENOUGH.get(algorithm, {}), drawn(seed)
    one, other = make(algorithm, **changes), make(algorithm, **changes)
    turned = {f"c{n}": updates[f"c{n}"] for n in order} | {"nobody": update(extra, 0)}
    first = second = state([0.1, -0.2, 0.3, -0.4])
    for number in (1, 2):
        first = one.aggregate(number, first, updates)
        second = other.aggregate(number, second, turned)
        assert digest_of(first) == digest_of(second)
        assert digest_of(one.state()) == digest_of(other.state())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_total_weight_of_zero_is_an_error(algorithm: str) -> None:
    updates = {name: update([1, 2, 3, 4], 0) for name in "abcdefgh"}
    with pytest.raises(FederationError, match=r"^round 4: the total weight of the updates is 0$"):
        make(algorithm).aggregate(4, ZERO, updates)


HONEST = [1.0, -2.0, 0.5, 3.0]


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        ("median", {}),
        ("trimmed-mean", {"trim": 0.2}),
        ("krum", {"malicious": 1}),
        ("multi-krum", {"malicious": 1, "selected": 3}),
        ("bulyan", {"malicious": 1}),
    ],
)
def test_robust_aggregation_ignores_an_outlier(algorithm: str, changes: dict[str, Any]) -> None:
    updates = {f"c{n}": update([v + 0.01 * n for v in HONEST]) for n in range(6)}
    updates["a liar"] = update([1000, -1000, 1000, -1000], 50)
    result = flat(make(algorithm, **changes).aggregate(1, ZERO, updates))
    for value, honest in zip(result, HONEST, strict=True):
        assert honest - 1e-6 <= value <= honest + 0.05 + 1e-6
    assert flat(make("fedavg").aggregate(1, ZERO, updates))[0] > 800


def test_median_and_trimmed_mean_by_hand() -> None:
    values = [[1, 0, 0, 9], [2, 5, 0, 9], [3, 5, 0, 9], [4, 5, 0, -9], [100, 90, 0, -9]]
    updates = {f"c{n}": update(v) for n, v in enumerate(values)}
    assert flat(make("median").aggregate(1, ZERO, updates)) == [3, 5, 0, 9]
    # a fifth off at each end: the means of 2 3 4, of 5 5 5, of 0 0 0 and of -9 9 9
    assert flat(make("trimmed-mean", trim=0.2).aggregate(1, ZERO, updates)) == [3, 5, 0, 3]


def test_krum_takes_the_update_with_the_nearest_neighbours() -> None:
    values = [[0, 0, 0, 0], [1, 0, 0, 0], [2.5, 0, 0, 0], [9, 0, 0, 0], [30, 0, 0, 0]]
    updates = {f"c{n}": update(v) for n, v in enumerate(values)}
    # n - f - 2 = 2 neighbours: squared distances of 0 are 1 + 6.25, of 1 are 1 + 2.25, ...
    assert flat(make("krum", malicious=1).aggregate(1, ZERO, updates)) == [1, 0, 0, 0]
    two = make("multi-krum", malicious=1, selected=2).aggregate(1, ZERO, updates)
    assert flat(two) == [0.5, 0, 0, 0]


def test_a_trimmed_mean_that_cuts_nothing_is_an_error() -> None:
    """Of [1, 1, 1, 1000] a fifth is no whole update: the result was 250.75."""
    updates = {f"c{n}": update([v, v, v, v]) for n, v in enumerate([1, 1, 1, 1000])}
    with pytest.raises(
        FederationError,
        match=r"trim = 0.2 cuts nothing from 4 updates; 4 arrived \(c0, c1, c2, c3\)",
    ):
        make("trimmed-mean", trim=0.2).aggregate(3, ZERO, updates)
    assert flat(make("trimmed-mean", trim=0.25).aggregate(3, ZERO, updates)) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("algorithm", "changes", "enough"),
    [
        ("median", {}, 3),  # of two it is their mean
        ("median", {"malicious": 2}, 5),
        ("trimmed-mean", {"trim": 0.2}, 5),
        ("trimmed-mean", {"trim": 0.2, "malicious": 2}, 10),
        ("krum", {}, 3),
        ("krum", {"malicious": 2}, 7),
        ("multi-krum", {"malicious": 1, "selected": 3}, 5),
        ("multi-krum", {"malicious": 1, "selected": 6}, 7),  # n - f may be selected
        ("multi-krum", {"selected": 6}, 7),  # all would be the mean
        ("bulyan", {"malicious": 1}, 7),
        ("bulyan", {"malicious": 2}, 11),
    ],
)
def test_robust_rules_need_their_number_of_the_updates_that_came(
    algorithm: str, changes: dict[str, Any], enough: int
) -> None:
    make(algorithm, **changes).aggregate(1, ZERO, drawn(3, clients=enough))
    for came in range(1, enough):
        with pytest.raises(FederationError, match=f"^round 1: .*; {came} arrived ") as e:
            make(algorithm, **changes).aggregate(1, ZERO, drawn(3, clients=came))
        assert "c0" in e.value.message
        assert "round_timeout" in (e.value.hint or "")


@pytest.mark.parametrize("count", range(3, 12))
@pytest.mark.parametrize("algorithm", ["median", "trimmed-mean", "krum", "multi-krum", "bulyan"])
def test_what_a_robust_rule_accepts_withstands_a_liar(algorithm: str, count: int) -> None:
    """Whatever number of updates comes: one of them moves nothing, or the round fails."""
    changes = {"multi-krum": {"malicious": 1, "selected": count - 1}, "krum": {"malicious": 1}}
    updates = {f"c{n}": update([1 + 0.01 * n] * 4) for n in range(count - 1)}
    updates["liar"] = update([1000] * 4, 1e9)
    try:
        result = make(algorithm, **changes.get(algorithm, {})).aggregate(1, ZERO, updates)
    except FederationError:
        return
    assert all(1 <= value <= 1.2 for value in flat(result))


def test_bulyan_against_nobody_is_a_plain_mean_and_refused() -> None:
    with pytest.raises(FederationError, match=r"malicious = 0 is a plain mean"):
        make("bulyan", malicious=0).aggregate(1, ZERO, drawn(3))


# --- what updates count ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "counted"),
    [
        ([5], [5]),  # nobody to hold it against
        ([5, 7], [5, 7]),
        ([5, 2**53], [5, 50]),  # ten times the other's
        ([10, 10, 2**53], [10, 10, 20]),  # not more than both others together
        ([10, 20, 30, 2**53], [10, 20, 30, 60]),
        ([10] * 19 + [2**53], [10] * 19 + [100]),  # ten times the median: 100 of 290
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([100, 1, 1, 1], [3, 1, 1, 1]),
    ],
)
def test_the_cap_by_hand(rows: list[float], counted: list[float]) -> None:
    found = capped({f"c{n}": count for n, count in enumerate(rows)}, 10)
    assert list(found.values()) == counted
    assert capped({f"c{n}": count for n, count in enumerate(rows)}, 0) == {
        f"c{n}": count for n, count in enumerate(rows)
    }


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=30), st.floats(1, 2**53))
def test_one_liar_has_at_most_half_of_the_mean(honest: list[int], claim: float) -> None:
    found = capped({**{f"c{n}": float(r) for n, r in enumerate(honest)}, "liar": claim}, 10)
    assert found["liar"] <= sum(found.values()) / 2 * (1 + 1e-12)
    assert all(0 < found[f"c{n}"] <= rows for n, rows in enumerate(honest))


@given(st.integers(1, 10**6), st.integers(2, 40), st.floats(1, 2**53))
def test_among_equals_a_liar_has_its_multiple_at_most(rows: int, others: int, claim: float) -> None:
    found = capped({**{f"c{n}": float(rows) for n in range(others)}, "liar": claim}, 10)
    assert found["liar"] / sum(found.values()) <= 10 / (10 + others) + 1e-12


@given(st.lists(st.integers(10, 100), min_size=3, max_size=30))
def test_honest_clients_within_the_limits_keep_their_rows_to_the_bit(rows: list[int]) -> None:
    """Ten times the smallest, and no one more than the others together."""
    assume(2 * max(rows) <= sum(rows))
    stated = {f"c{n}": float(count) for n, count in enumerate(rows)}
    assert capped(stated, 10) == stated


@pytest.mark.parametrize("seed", range(5))
def test_a_dirichlet_partition_over_ten_labels_is_left_alone(seed: int) -> None:
    draws = np.random.default_rng(seed).dirichlet(np.full(10, 0.5), size=10) * 1000
    stated = {f"c{n}": float(count) for n, count in enumerate(draws.sum(axis=0).round() + 1)}
    assert capped(stated, 10) == stated


def test_update_norm_by_hand() -> None:
    assert update_norm(state([1, 1, 1, 1]), state([4, 1, 5, 1])) == 5


@pytest.mark.parametrize("algorithm", STATEFUL)
def test_restored_state_goes_on_to_the_same_bits(algorithm: str, tmp_path: Path) -> None:
    whole, before = make(algorithm), make(algorithm)
    current = other = state([0.1, -0.2, 0.3, -0.4])
    for number in (1, 2):
        current = whole.aggregate(number, current, drawn(number))
        other = before.aggregate(number, other, drawn(number))
    save_tensors(tmp_path / "server.safetensors", before.state(), {})
    after = make(algorithm)
    after.restore(load_tensors(tmp_path / "server.safetensors")[0])
    fresh = make(algorithm)
    forgetful = fresh.aggregate(3, other, drawn(3))
    for number in (3, 4):
        current = whole.aggregate(number, current, drawn(number))
        other = after.aggregate(number, other, drawn(number))
        assert all(torch.equal(current[name], other[name]) for name in current)
        if number == 3:  # the state matters, to SCAFFOLD for what clients get
            assert flat(forgetful) != flat(current) or algorithm == "scaffold"
            assert digest_of(fresh.state()) != digest_of(whole.state())
    assert whole.state().keys() == after.state().keys()
    assert all(torch.equal(whole.state()[key], after.state()[key]) for key in whole.state())


@pytest.mark.parametrize("algorithm", STATEFUL)
def test_a_state_that_was_taken_does_not_change(algorithm: str) -> None:
    aggregator = make(algorithm)
    current = aggregator.aggregate(1, ZERO, drawn(1))
    taken = aggregator.state()
    copy = {key: tensor.clone() for key, tensor in taken.items()}
    aggregator.aggregate(2, current, drawn(2))
    assert taken
    assert all(torch.equal(taken[key], copy[key]) for key in copy)


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - set(STATEFUL)))
def test_others_keep_no_state(algorithm: str) -> None:
    aggregator = make(algorithm)
    first = aggregator.aggregate(1, ZERO, drawn(1))
    assert aggregator.state() == {}
    aggregator.aggregate(2, first, drawn(2))
    assert flat(aggregator.aggregate(3, ZERO, drawn(1))) == flat(first)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_update_is_an_error(algorithm: str) -> None:
    with pytest.raises(FederationError, match="round 2: no update to aggregate"):
        make(algorithm).aggregate(2, ZERO, {})


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_result_that_is_not_finite_is_an_error() -> None:
    far, other = update([0, 0, 0, 3e38]), state([0, 0, 0, -3e38])
    with pytest.raises(FederationError, match="round 2: the aggregated y is not finite"):
        make("fedavgm").aggregate(2, other, {"a": far})


def test_what_a_strategy_raises_becomes_one_error() -> None:
    wrong = Update({"x": torch.zeros(3)}, {WEIGHT: 1})
    with pytest.raises(FederationError, match="round 1: aggregation failed"):
        make("fedavg").aggregate(1, ZERO, {"a": update([1, 2, 3, 4]), "b": wrong})


def test_unknown_algorithm_names_those_there_are() -> None:
    with pytest.raises(FederationError, match=r"no aggregation 'fedsum'; there are: fedavg,"):
        build("fedsum")
