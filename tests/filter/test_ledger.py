"""The filter's ledger: sums, shares, what may cross the wire, and its noise."""

import json
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.errors import RecipeError
from fedrai.filter.ledger import (
    CATEGORIES,
    COUNT_NAMES,
    PROBLEMS,
    DeclaredHarm,
    FilterLedger,
    add_noise,
    total,
)


def ledger(**changes) -> FilterLedger:
    """Ten rows, three unsafe ones and one unscored dropped."""
    values = {
        "guard": "g@1",
        "threshold": 0.5,
        "mode": "drop",
        "part": "pair",
        "rows": 10,
        "kept": 6,
        "dropped": 4,
        "replaced": 0,
        "unsafe": 3,
        "unscored": dict.fromkeys(PROBLEMS, 0) | {"failed": 1},
        "categories": dict.fromkeys(CATEGORIES, 0) | {"fraud": 2, "other": 1},
        "histogram": (6, 0, 0, 0, 0, 0, 0, 0, 1, 2),
        "removed": ("00", "11", "22", "33"),
        "confusion": DeclaredHarm(4, 1, 6, 1),
    }
    return FilterLedger(**values | changes)


def test_counts_are_all_named_numbers_and_nothing_else():
    counts = ledger().counts()
    assert set(counts) == COUNT_NAMES
    assert {name: n for name, n in counts.items() if n} == {
        "rows": 10, "unsafe": 3, "dropped": 4, "unscored-failed": 1,
        "category-fraud": 2, "category-other": 1,
    }  # fmt: skip
    assert all(type(n) is int for n in counts.values())


def test_shares_of_an_experiment():
    harm, loss = ledger().residual_harm(), ledger().benign_loss()
    assert (harm.successes, harm.scored, harm.value) == (1, 6, 1 / 6)
    assert (loss.successes, loss.scored) == (1, 6)
    assert ledger(confusion=None).residual_harm() is None
    assert ledger(confusion=None).benign_loss() is None


def test_all_dropped_is_no_data_not_zero():
    empty = ledger(kept=0, dropped=10, confusion=DeclaredHarm(10, 0, 0, 0))
    assert str(empty.residual_harm()) == "no data"
    assert str(empty.benign_loss()) == "no data"


def test_a_total_adds_up():
    other = ledger(
        rows=5, kept=5, dropped=0, unsafe=0, threshold=0.7, removed=(), guard="a@2",
        unscored=dict.fromkeys(PROBLEMS, 0), categories=dict.fromkeys(CATEGORIES, 0) | {"fraud": 1},
        histogram=(5, *[0] * 9), confusion=DeclaredHarm(1, 1, 4, 0),
    )  # fmt: skip
    both = total([ledger(), other])
    assert both == ledger(
        guard="a@2, g@1", threshold=None, rows=15, kept=11, dropped=4, unsafe=3, removed=(),
        categories=dict.fromkeys(CATEGORIES, 0) | {"fraud": 3, "other": 1},
        histogram=(11, 0, 0, 0, 0, 0, 0, 0, 1, 2), confusion=DeclaredHarm(5, 2, 10, 1),
    )  # fmt: skip
    assert both.residual_harm().value == 2 / 11
    assert total([ledger()]) == ledger(removed=())
    assert total([ledger(), ledger(confusion=None)]).confusion is None
    assert total([other, ledger()]) == both
    with pytest.raises(ValueError, match="no ledger"):
        total([])


@pytest.mark.parametrize("one", [ledger(), ledger(confusion=None), total([ledger()] * 2)])
def test_json_and_back(one):
    assert FilterLedger.from_json(json.loads(json.dumps(one.to_json()))) == one


# --- noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.5])
def test_noise_has_the_two_sided_geometric_distribution(epsilon):
    draws, rng = 20_000, random.Random(1)
    names = dict.fromkeys(map(str, range(draws)), 1000)
    noise = Counter(n - 1000 for n in add_noise(names, epsilon, rng).values())
    a = math.exp(-epsilon)
    for z in range(-6, 7):
        p = (1 - a) / (1 + a) * a ** abs(z)
        sigma = math.sqrt(draws * p * (1 - p))
        assert abs(noise[z] - draws * p) < 4 * sigma, z
    variance = sum(z * z * n for z, n in noise.items()) / draws
    assert variance == pytest.approx(2 * a / (1 - a) ** 2, rel=0.06)


def test_a_ratio_of_chances_is_bounded_by_epsilon():
    """Counts 7 and 8 give any answer with chances whose ratio is at most exp(epsilon)."""
    rng, epsilon, draws = random.Random(2), 1.0, 40_000
    one, two = (
        Counter(add_noise(dict.fromkeys(map(str, range(draws)), n), epsilon, rng).values())
        for n in (7, 8)
    )
    for answer in range(4, 12):
        assert abs(math.log(one[answer] / two[answer])) < epsilon + 0.15


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50)), st.floats(0.01, 20))
def test_noisy_counts_keep_their_names_and_are_never_negative(counts, epsilon):
    found = add_noise(counts, epsilon, random.Random(3))
    assert list(found) == list(counts)
    assert all(type(n) is int and n >= 0 for n in found.values())


def test_noise_is_of_each_count_by_itself_and_not_repeatable_by_default():
    counts = dict.fromkeys(map(str, range(200)), 10_000)
    one, two = add_noise(counts, 0.1), add_noise(counts, 0.1)
    assert one != two
    assert len(set(one.values())) > 20


def test_much_epsilon_is_little_noise():
    assert add_noise({"rows": 5, "unsafe": 0}, 50.0) == {"rows": 5, "unsafe": 0}


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf, 1e-9])
def test_an_epsilon_that_means_nothing_is_refused(epsilon):
    with pytest.raises(RecipeError, match="epsilon"):
        add_noise({"rows": 1}, epsilon)
