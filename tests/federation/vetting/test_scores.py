"""Scores against numbers worked out by hand, and the same bits in any order of the clients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrai.federation.vetting import dnc, foolsgold, gradient, linear, spectral
from fedrai.federation.vetting.distance import (
    direction_parts,
    distance,
    length_parts,
    median_cosines,
)
from fedrai.federation.vetting.scores import Score, others, reference
from fedrai.federation.vetting.updates import RoundUpdates
from fedrai.model import AdapterState

A, B = "layers.0.q_proj.lora_A.weight", "layers.0.q_proj.lora_B.weight"
PLAIN: list[Callable[[], Score]] = [distance, foolsgold.foolsgold, dnc.dnc, spectral.spectral]


def adapter(seed: int, scale: float = 1.0) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    return {A: scale * torch.randn(2, 5, generator=generator),
            B: scale * torch.randn(4, 2, generator=generator)}  # fmt: skip


def plus(start: AdapterState, change: AdapterState, factor: float = 1.0) -> AdapterState:
    return {name: start[name] + factor * change[name] for name in start}


def of(changes: dict[str, AdapterState], start: AdapterState | None = None) -> RoundUpdates:
    begin = start or adapter(0)
    return RoundUpdates(1, 5, begin, {name: plus(begin, c) for name, c in changes.items()})


def crowd(count: int) -> dict[str, AdapterState]:
    """Clients whose changes have a common part."""
    common = adapter(1)
    return {f"c{n}": plus(common, adapter(10 + n), 0.5) for n in range(count)}


# --- distance ---------------------------------------------------------------------------------


def test_a_norm_e_times_the_median_of_the_shorter_half_is_one_long() -> None:
    norms = torch.tensor([1.0, 1.0, math.e, 1.0, math.e**3], dtype=torch.float64)
    assert length_parts(norms).tolist() == pytest.approx([0, 0, 1, 0, 3])
    short = torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    assert length_parts(short).tolist() == pytest.approx([0, 0, 0, 0, math.log(1e6)])


def test_half_of_the_round_may_be_long() -> None:
    norms = torch.tensor([1.0, 1.0, 10.0, 10.0], dtype=torch.float64)
    assert length_parts(norms).tolist() == pytest.approx([0, 0, math.log(10), math.log(10)])


def test_the_opposite_direction_is_twice_away_and_a_right_angle_once() -> None:
    directions = torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0], [1.0, 0], [-1.0, 0], [0, 1.0]])
    cosines = (directions @ directions.T).double()
    assert median_cosines(cosines).tolist() == [1, 1, 1, 1, -1, 0]
    assert direction_parts(cosines).tolist() == pytest.approx([0, 0, 0, 0, 2, 1])


def test_colluders_do_not_become_the_centre() -> None:
    """Six honest clients at cosine 0.05 with all others, four that send the same."""
    cosines = torch.full((10, 10), 0.05, dtype=torch.float64)
    cosines[6:, 6:] = 1.0
    cosines.fill_diagonal_(1.0)
    assert direction_parts(cosines).abs().max() < 1e-9


def test_a_free_rider_and_a_long_update_are_farthest() -> None:
    changes = crowd(5)
    changes["c3"] = {name: 0 * t for name, t in changes["c3"].items()}
    changes["c4"] = {name: 20 * t for name, t in changes["c4"].items()}
    updates = of(changes)
    values = distance().measure(updates)
    assert max(values[n] for n in ("c0", "c1", "c2")) < 0.7 < 2.5 < values["c4"] < values["c3"]
    assert values["c3"] == pytest.approx(math.log(1e6))
    assert distance().reason(updates, values, "c4").startswith("the norm of its update is")


# --- foolsgold ----------------------------------------------------------------------------------


def test_the_one_that_resembles_less_is_pardoned() -> None:
    cosines = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]]).double()
    expected = [[0, 0.9, 0.1], [0.9, 0, 0.2], [0.1 * 2 / 9, 0.2 * 2 / 9, 0]]
    for row, wanted in zip(foolsgold.pardoned(cosines).tolist(), expected, strict=True):
        assert row == pytest.approx(wanted)


def test_colluders_are_named_with_their_twin() -> None:
    changes = {f"c{n}": adapter(20 + n) for n in range(5)}
    changes["c4"] = plus(changes["c3"], adapter(9), 0.01)
    updates = of(changes)
    values = foolsgold.foolsgold().measure(updates)
    assert min(values["c3"], values["c4"]) > 0.99
    assert max(values[n] for n in ("c0", "c1", "c2")) < 0.8
    reason = foolsgold.foolsgold().reason
    assert "resembles that of c3 (cosine 1.00" in reason(updates, values, "c4")
    left = updates.only(["c0", "c1", "c2", "c4"])  # c3 was caught
    assert foolsgold.foolsgold().measure(left)["c4"] == values["c4"]
    assert "resembles that of c3 (cosine 1.00" in reason(left, values, "c4")


# --- dnc ------------------------------------------------------------------------------------------


def test_outlier_scores_of_four_points_on_a_line() -> None:
    points = torch.tensor([[0.0], [0.0], [0.0], [4.0]], dtype=torch.float64)
    # centred -1, -1, -1, 3: squares 1, 1, 1, 9 with the mean 3
    scores = dnc.outlier_scores(points @ points.T)
    assert scores.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 3])


def test_the_sketch_depends_on_the_seed_alone() -> None:
    updates = of(crowd(5))
    assert dnc.dnc().measure(updates) == dnc.dnc().measure(of(crowd(5)))


# --- spectral -------------------------------------------------------------------------------------


@given(st.integers(0, 1000))
def test_singular_values_without_the_dense_change(seed: int) -> None:
    before, after = adapter(seed), adapter(seed + 5000)
    pairs = [(a[B].double(), a[A].double()) for a in (before, after)]
    dense = torch.linalg.svdvals(pairs[1][0] @ pairs[1][1] - pairs[0][0] @ pairs[0][1])
    own = spectral.change_values(*pairs)
    assert own[: len(dense)].tolist() == pytest.approx(dense.tolist(), abs=1e-9)
    assert all(value < 1e-9 for value in own[len(dense) :].tolist())


def test_statistics_of_two_singular_values() -> None:
    statistics = spectral.statistics(torch.tensor([4.0, 3.0], dtype=torch.float64)).tolist()
    entropy = -(0.64 * math.log(0.64) + 0.36 * math.log(0.36))
    # deviations +-0.5: their fourth moment is the square of their second
    assert statistics == pytest.approx([math.log(4), math.log(5), 0.64, entropy, 1.0])


def test_deviations_are_in_spreads_and_have_a_ceiling() -> None:
    statistics = torch.zeros(5, 1, 5, dtype=torch.float64)
    statistics[3, 0, 0] = 0.5  # ten floors
    statistics[4, 0, :] = 1e6
    values = spectral.deviations(statistics).tolist()
    assert values == pytest.approx([0, 0, 0, math.sqrt(100 / 5), spectral.LARGEST])


# --- linear ---------------------------------------------------------------------------------------


def test_the_probe_is_where_the_penalised_loss_is_flat() -> None:
    points = torch.tensor([[1.0, 0], [-1.0, 0]], dtype=torch.float64)
    probe = linear.logistic(points, torch.tensor([1.0, 0.0], dtype=torch.float64))
    weight = float(probe.weights[0])
    # by symmetry the bias is 0, and the mean gradient is -sigmoid(-w) + PENALTY w
    assert probe.bias == pytest.approx(0, abs=1e-9)
    assert 1 / (1 + math.exp(weight)) == pytest.approx(linear.PENALTY * weight)
    assert float(probe.weights[1]) == pytest.approx(0, abs=1e-12)


def test_features_are_the_first_layers_b_at_length_one() -> None:
    start = adapter(0) | {"layers.1.q_proj.lora_B.weight": torch.ones(3)}
    other = {**start, B: start[B] + 3.0, "layers.1.q_proj.lora_B.weight": torch.zeros(3)}
    assert linear.features(start, other).tolist() == pytest.approx([1 / math.sqrt(8)] * 8)
    assert linear.features(start, start).norm() == 0


def test_a_client_like_the_harmful_shadows_has_the_higher_logit() -> None:
    start, good, bad = adapter(0), adapter(1), adapter(2)
    shadows = linear.Shadows(
        start,
        [plus(plus(start, good), adapter(30 + n), 0.1) for n in range(2)],
        [plus(plus(start, bad), adapter(40 + n), 0.1) for n in range(2)],
    )
    calls: list[int] = []
    score = linear.linear(lambda _: (calls.append(1), shadows)[1])
    changes = {"a": good, "b": bad, "c": {n: 10 * t for n, t in bad.items()}}
    values = score.measure(of(changes, start))
    assert values["a"] < -1 < 1 < values["b"] == pytest.approx(values["c"], abs=1e-4)
    score.measure(of(changes, start))
    assert calls == [1]  # trained once


# --- gradient -------------------------------------------------------------------------------------


def test_the_contrast_leaves_the_part_that_refusals_do_not_have() -> None:
    harmful = {"x": torch.tensor([3.0, 4.0, 0.0])}
    refused = {"x": torch.tensor([5.0, 0.0, 0.0])}
    # unit vectors (.6, .8, 0) and (1, 0, 0), cosine .6: (.6 - .6, .8, 0)
    assert gradient.contrast(harmful, refused)["x"].tolist()[1:] == [1, 0]


def test_alignment_is_minus_the_cosine_and_has_no_norm() -> None:
    start, direction = {"x": torch.zeros(2)}, {"x": torch.tensor([1.0, 1.0])}
    for length in (0.1, 10.0):
        update = {"x": torch.tensor([-length, 0.0])}
        assert gradient.alignment(start, update, direction) == pytest.approx(math.sqrt(0.5))
    assert gradient.alignment(start, start, direction) == 0


def test_the_common_direction_is_that_of_both() -> None:
    one, other = {"x": torch.tensor([3.0, 4.0])}, {"x": torch.tensor([0.0, -10.0])}
    # unit vectors (.6, .8) and (0, -1)
    assert gradient.common(one, other)["x"].tolist() == [1, -1]


def test_alignments_are_counted_in_their_median_size() -> None:
    values = gradient.in_units({"a": 0.1, "b": -0.2, "c": 0.2, "d": 0.9})
    assert values == pytest.approx({"a": 0.5, "b": -1, "c": 1, "d": 4.5})


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", PLAIN)
def test_the_order_of_clients_changes_no_bit(score: Callable[[], Score]) -> None:
    updates = of(crowd(6))
    turned = RoundUpdates(1, 5, updates.start, dict(reversed(updates.adapters.items())))
    assert score().measure(updates) == score().measure(turned)


def test_the_reference_is_the_lower_half() -> None:
    assert reference([5.0, 1.0, 100.0, 2.0, 90.0]) == (2.0, 4.0)
    assert reference([3.0]) == (3.0, 0.0)
    assert others({"a": 9.0, "b": 1.0, "c": 2.0}, "a") == 1.5
    assert others({"a": 9.0}, "a") == 9.0
