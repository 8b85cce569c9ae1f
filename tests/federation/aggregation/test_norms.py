"""The limit on norms: by hand, and how far one client of ten moves the mean, whatever it sends."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrai.federation import round_record
from fedrai.federation.aggregation import build
from fedrai.federation.aggregation.norms import limited, scaled, update_norm
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.protocol import LARGEST_VALUE, Update

ROWS, NORM = 10.0, 3.0  # the recipe's defaults
START = np.array([0.5, -1.0, 2.0, 0.0], np.float32)


def adapter(values: np.ndarray) -> dict[str, torch.Tensor]:
    return {"w": torch.from_numpy(values.astype(np.float32).reshape(2, 2))}


def mean(changes: Mapping[str, np.ndarray], rows: Mapping[str, float]) -> np.ndarray:
    """How far a round of FedAvg moves its start, with both limits, as the round loop does it."""
    updates = {n: Update(adapter(START + c), {WEIGHT: rows[n]}) for n, c in changes.items()}
    norms = {n: update_norm(adapter(START), update.adapter) for n, update in updates.items()}
    weighted = round_record.weighted(updates, ROWS)
    capped = round_record.capped_norms(norms, NORM)
    counted = round_record.shortened(weighted, capped, lambda _: adapter(START))
    result = build("fedavg").aggregate(1, adapter(START), counted)
    return result["w"].numpy().ravel().astype(float) - START


def length(change: np.ndarray) -> float:
    return float(np.linalg.norm(change))


# --- by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norms", "counted"),
    [
        ([5], [5]),  # nobody to hold it against
        ([1, 3], [1, 3]),
        ([1, 100], [1, 3]),
        ([0, 100], [0, 0]),  # two say nothing of which is right
        ([1, 2, 100], [1, 2, 4.5]),  # three times the mean of 1 and 2
        ([0, 2, 2], [0, 2, 2]),
        ([2, 2, 2, 2, 1000], [2, 2, 2, 2, 6]),
        ([2, 2, 1000, 1000], [2, 2, 6, 6]),  # of three others, two are honest
        ([2, 900, 1000], [2, 900, 1000]),  # two of three: the limit is theirs
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_the_limit_by_hand(norms: list[float], counted: list[float]) -> None:
    by_name = {f"c{n}": float(norm) for n, norm in enumerate(norms)}
    assert list(limited(by_name, 3).values()) == counted
    assert limited(by_name, 0) == by_name


def test_scaling_by_hand() -> None:
    found = scaled({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 2.0])}, 0.25)
    assert found["a"].tolist() == [1.5, 2.0]
    assert update_norm(adapter(START), adapter(START + np.array([3, 0, 4, 0]))) == 5


def test_an_update_within_its_limit_is_the_same_object() -> None:
    one = Update(adapter(START + 1), {WEIGHT: 3})
    assert round_record.capped_norms({"a": 2.0, "b": 2.0}, 3) == {}
    assert round_record.shortened({"a": one}, {}, lambda _: adapter(START))["a"] is one


# --- one client of ten ----------------------------------------------------------------------------

DIRECTIONS = st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(
    lambda values: length(np.array(values)) > 0.1
)
HONEST = st.tuples(DIRECTIONS, st.floats(1, 3), st.integers(60, 400))
"""Directions as they come; norms within 3 times, rows within 7 times of one another."""
SENT = st.one_of(
    st.lists(st.floats(-LARGEST_VALUE + 2, LARGEST_VALUE - 2, width=32), min_size=4, max_size=4),
    st.lists(st.floats(-4, 4, width=32), min_size=4, max_size=4),
)
CLAIMS = st.one_of(st.integers(1, 10**9), st.integers(1, 5000))


def crowd(drawn: list[tuple[list[float], float, int]]) -> tuple[dict[str, np.ndarray], dict]:
    changes, rows = {}, {}
    for number, (direction, norm, count) in enumerate(drawn):
        vector = np.array(direction)
        changes[f"c{number}"] = vector / length(vector) * norm
        rows[f"c{number}"] = float(count)
    return changes, rows


def bounds(changes: Mapping[str, np.ndarray], rows: Mapping[str, float]) -> tuple[float, float]:
    """The largest weight and norm of one more client, from the docstrings, not from the code."""
    most = min(ROWS * float(np.median(list(rows.values()))), sum(rows.values()))
    share = most / (most + sum(rows.values()))
    return share, NORM * float(np.median([length(c) for c in changes.values()]))


@settings(max_examples=200)
@given(st.lists(HONEST, min_size=9, max_size=9), SENT, CLAIMS)
def test_one_of_ten_moves_the_mean_no_further_than_an_honest_client_at_the_limits(
    drawn: list[tuple[list[float], float, int]], sent: list[float], claim: int
) -> None:
    changes, rows = crowd(drawn)
    share, norm = bounds(changes, rows)
    alone = mean(changes, rows)
    moved = mean({**changes, "liar": np.array(sent)}, {**rows, "liar": float(claim)}) - alone
    furthest = share * (norm + length(alone))
    assert length(moved) <= furthest * (1 + 1e-4) + 1e-5
    # an honest client with as many rows and as long an update as the limits allow, which has
    # learnt the opposite of the others
    opposite = -alone / length(alone) * norm if length(alone) else np.array([norm, 0, 0, 0])
    at_limits = share / (1 - share) * sum(rows.values())
    honest = mean({**changes, "far": opposite}, {**rows, "far": at_limits}) - alone
    assert length(honest) == pytest.approx(furthest, rel=1e-4, abs=1e-5)


@settings(max_examples=100)
@given(
    st.lists(HONEST, min_size=8, max_size=8),
    st.lists(st.tuples(SENT, CLAIMS), min_size=2, max_size=2),
)
def test_two_of_ten_have_a_bound_each(
    drawn: list[tuple[list[float], float, int]], lies: list[tuple[list[float], int]]
) -> None:
    """Each is limited by medians of nine others, eight of them honest."""
    changes, rows = crowd(drawn)
    alone = mean(changes, rows)
    both = {f"liar{n}": np.array(sent) for n, (sent, _) in enumerate(lies)}
    claims = {f"liar{n}": float(claim) for n, (_, claim) in enumerate(lies)}
    moved = mean({**changes, **both}, {**rows, **claims}) - alone
    norm = NORM * max(length(change) for change in changes.values())
    most = ROWS * max(rows.values())
    share = 2 * most / (2 * most + sum(rows.values()))
    assert length(moved) <= share * (norm + length(alone)) * (1 + 1e-4) + 1e-5


@given(st.lists(HONEST, min_size=3, max_size=12))
def test_honest_clients_within_the_limits_keep_their_updates(
    drawn: list[tuple[list[float], float, int]],
) -> None:
    changes, _ = crowd(drawn)
    norms = {name: length(change) for name, change in changes.items()}
    assert limited(norms, NORM + 1e-9) == norms


@given(SENT, CLAIMS)
def test_of_two_a_liar_moves_the_mean_by_three_norms_at_most(sent: list[float], claim: int) -> None:
    honest = {"a": np.array([0, 3.0, 0, 4.0])}
    moved = mean({**honest, "liar": np.array(sent)}, {"a": 50.0, "liar": float(claim)})
    assert length(moved) <= 10 / 11 * 15 + 1 / 11 * 5 + 1e-4
