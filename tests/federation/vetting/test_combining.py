"""Honest tails, the combined number, and the verdicts that follow from it."""

from __future__ import annotations

import math

import pytest
import torch

from fedrai.federation.vetting import combining
from fedrai.federation.vetting.combining import Honest, Tail, relative, shares, suspicion
from fedrai.federation.vetting.scores import Score, Values, plain_reason
from fedrai.federation.vetting.updates import RoundUpdates
from fedrai.federation.vetting.verdicts import RoundVerdict, judge_clients
from fedrai.recipe.vetting import SCORES
from fedrai.runs.costs import Cost

TAIL = Tail((1.0, 2.0, 4.0), (1.0, 0.1, 0.001))
HONEST = Honest(1.0, TAIL)


def score(values: Values, name: str = "s", *, absolute: bool = False) -> Score:
    return Score(name, lambda u: {n: values[n] for n in u.names}, plain_reason(name), absolute)


def updates(*names: str) -> RoundUpdates:
    return RoundUpdates(1, 0, {}, {name: {"x": torch.zeros(1)} for name in names})


def test_a_tail_is_log_linear_between_entries_and_beyond_them() -> None:
    assert [TAIL.share(v) for v in (-5, 1, 2, 3, 4, 5)] == pytest.approx(
        [1, 1, 0.1, 0.01, 0.001, 0.0001]
    )
    assert TAIL.share(1e9) == combining.SMALLEST


def test_z_is_counted_from_the_lower_half() -> None:
    # the lower half 1, 2, 3: median 2, range 2
    z = relative({"a": 1, "b": 2, "c": 3, "d": 12, "e": 22}, 1.0)
    assert z == {"a": -0.5, "b": 0, "c": 0.5, "d": 5, "e": 10}
    assert relative({"a": 1, "b": 1, "c": 1, "d": 2}, 4.0)["d"] == 0.25  # the floor


def test_with_fewer_than_four_clients_only_absolute_scores_are_known() -> None:
    values = {"a": 0.0, "b": 9.0, "c": 0.0}
    assert shares(score(values), values, HONEST) == {"a": None, "b": None, "c": None}
    both = Honest(1.0, TAIL, TAIL)
    known = shares(score(values, absolute=True), values, both)
    assert known["a"] == 1
    assert known["b"] == pytest.approx(1e-8)


def test_a_client_must_be_worse_than_others_and_bad_in_itself() -> None:
    both = Honest(1.0, TAIL, Tail((100.0, 101.0), (1.0, 0.1)))
    values = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 50.0}
    assert shares(score(values, absolute=True), values, both)["d"] == 1


def test_where_most_are_bad_the_absolute_number_counts() -> None:
    both = Honest(1.0, TAIL, TAIL)
    values = {"a": 0.0, "b": 9.0, "c": 9.0, "d": 9.0, "e": 9.0}
    p = shares(score(values, absolute=True), values, both)
    assert p["a"] == 1
    assert all(p[name] < 1e-6 for name in "bcde")  # though all of them look alike
    assert shares(score(values), values, both)["b"] == 1  # relative to each other they look well


def test_of_several_scores_the_smallest_counts_times_their_number() -> None:
    assert suspicion({"x": 0.5, "y": 0.001, "z": None}) == pytest.approx(0.002)
    assert suspicion({"x": 0.9, "y": 0.8}) == 1
    assert suspicion({"x": None}) is None


def test_a_watched_client_is_suspicious_earlier() -> None:
    z = 1 + math.log(0.03) / math.log(0.1)  # p = 0.03
    values = {"a": 0.0, "b": 0.0, "c": 0.0, "d": z}
    for watched, expected in ((frozenset[str](), False), (frozenset({"d"}), True)):
        verdicts = judge_clients(updates(*"abcd"), [score(values)], {"s": HONEST}, 0.02, watched)
        assert verdicts["d"].is_suspicious is expected
        assert verdicts["d"].suspicion == pytest.approx(0.03)
        assert verdicts["d"].is_watched is expected
        assert bool(verdicts["d"].reason) is expected


def test_who_is_caught_does_not_make_the_others_odd() -> None:
    """`b` looks bad beside nothing but `a`, which is caught first."""

    def measure(seen: RoundUpdates) -> Values:
        crowd = {**dict.fromkeys("cdef", 0.0), "b": 4.0 if "a" in seen.names else 0.0, "a": 9.0}
        return {name: crowd[name] for name in seen.names}

    moving = Score("s", measure, plain_reason("s"))
    verdicts = judge_clients(updates(*"abcdef"), [moving], {"s": HONEST}, 0.02, frozenset())
    assert [name for name, one in verdicts.items() if one.is_suspicious] == ["a"]
    assert verdicts["a"].suspicion == pytest.approx(1e-8)
    assert verdicts["b"].suspicion == 1


def test_scores_that_need_no_other_client_come_first() -> None:
    """Half of the round is caught by its own numbers, and does not serve as the reference."""
    alone = Honest(1.0, None, TAIL)
    absolute = {**dict.fromkeys("abc", 9.0), **dict.fromkeys("defgh", 0.0)}
    compared = {**dict.fromkeys("abc", -50.0), **dict.fromkeys("defgh", 0.0)}
    scores = [
        Score("own", lambda u: {n: absolute[n] for n in u.names}, plain_reason("own"), True),
        Score("other", lambda u: {n: compared[n] for n in u.names}, plain_reason("other")),
    ]
    verdicts = judge_clients(
        updates(*"abcdefgh"), scores, {"own": alone, "other": HONEST}, 0.02, frozenset()
    )
    assert [name for name, one in verdicts.items() if one.is_suspicious] == ["a", "b", "c"]
    assert verdicts["a"].reason == "own 9.00, others 0.00"


def test_the_reason_is_that_of_the_worst_score() -> None:
    good, bad = dict.fromkeys("abcd", 0.0), {**dict.fromkeys("abc", 0.0), "d": 9.0}
    scores = [score(good, "first"), score(bad, "second")]
    verdicts = judge_clients(
        updates(*"abcd"), scores, {"first": HONEST, "second": HONEST}, 0.02, frozenset()
    )
    assert verdicts["d"].reason == "second 9.00, others 0.00"
    assert verdicts["d"].scores == {"first": 0.0, "second": 9.0}


@pytest.mark.parametrize(
    ("action", "aside", "factors"),
    [("record", [], {}), ("weigh", [], {"d": 0.1}), ("set-aside", ["d"], {})],
)
def test_actions(action: str, aside: list[str], factors: dict[str, float]) -> None:
    values = {**dict.fromkeys("abc", 0.0), "d": 9.0}
    clients = judge_clients(updates(*"abcd"), [score(values)], {"s": HONEST}, 0.02, frozenset())
    verdict = RoundVerdict(clients, action, 0.02, 0.1, Cost(), {"share": 0.01})
    assert list(verdict.suspicious) == ["d"]
    assert (list(verdict.aside), verdict.factors) == (aside, factors)
    assert verdict.to_json()["share"] == 0.01


def test_every_score_that_comes_along_has_a_table_whose_tail_falls() -> None:
    tables = combining.shipped()
    assert set(tables) == set(SCORES)
    for one in tables.values():
        assert one.relative or one.absolute
        for tail in filter(None, (one.relative, one.absolute)):
            assert list(tail.values) == sorted(set(tail.values))
            assert list(tail.shares) == sorted(set(tail.shares), reverse=True)
            assert tail.shares[0] == 1
            assert tail.shares[-1] > 0
        assert one.floor > 0
