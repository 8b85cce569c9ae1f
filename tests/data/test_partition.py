"""Dividing rows over clients, by counts worked out by hand and by what must always hold."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.data import partition
from fedrai.errors import DataError
from fedrai.records import Example, Message


def rows(
    count: int, name: str = "benign", labels: int = 1, *, harmful: bool = False
) -> list[Example]:
    """Rows with labels in turn; `origin` tells them apart."""
    message = (Message("user", "q"), Message("assistant", "a"))
    return [
        Example(message, f"{name}.jsonl, line {i + 1}", f"label-{i % labels}", harmful)
        for i in range(count)
    ]


def origins(examples: list[Example]) -> list[str]:
    return [e.origin for e in examples]


def sizes(shards: partition.Shards) -> list[int]:
    return [len(part) for part in shards.values()]


def all_rows(shards: partition.Shards) -> list[str]:
    return sorted(o for part in shards.values() for o in origins(part))


NAMES = partition.client_names(4)


def test_client_names():
    assert partition.client_names(3) == ["client-01", "client-02", "client-03"]
    assert partition.client_names(100)[::99] == ["client-001", "client-100"]
    names = partition.client_names(120)
    assert sorted(names) == names


# --- mix ------------------------------------------------------------------------------------------


def counts(mixed: list[Example]) -> dict[str, int]:
    return dict(Counter(e.origin.split(".")[0] for e in mixed))


def test_a_mixture_holds_the_shares():
    a, b = rows(100, "a"), rows(100, "b")
    assert counts(partition.mix([(a, 3.0), (b, 1.0)], 40, 0)) == {"a": 30, "b": 10}
    assert counts(partition.mix([(a, 3.0), (b, 1.0)], 0, 0)) == {"a": 100, "b": 33}  # a runs out
    assert counts(partition.mix([(a, None), (rows(50, "b"), None)], 30, 0)) == {"a": 20, "b": 10}
    assert counts(partition.mix([(a, None), (rows(7, "b"), None)], 0, 0)) == {"a": 100, "b": 7}
    assert partition.mix([], 0, 0) == []


def test_what_is_left_over_goes_to_the_largest_remainders():
    sources = [(rows(10, name), 1.0) for name in "abc"]
    assert counts(partition.mix(sources, 5, 0)) == {"a": 2, "b": 2, "c": 1}
    uneven = [(rows(10, "a"), 0.5), (rows(10, "b"), 0.3), (rows(10, "c"), 0.2)]
    assert counts(partition.mix(uneven, 7, 0)) == {"a": 4, "b": 2, "c": 1}  # 3.5, 2.1, 1.4


@pytest.mark.parametrize("sources", [[([], None)], [(rows(9), 0.5), ([], 0.5)]])
def test_a_dataset_without_rows_gives_no_mixture(sources):
    with pytest.raises(DataError, match="has no usable row"):
        partition.mix(sources, 0, 0)


def test_a_mixture_draws_no_row_twice_and_follows_the_seed():
    sources = [(rows(60, "a"), None), (rows(40, "b"), None)]
    drawn = partition.mix(sources, 50, 7)
    assert len(set(origins(drawn))) == 50
    assert drawn == partition.mix(sources, 50, 7)
    other = partition.mix(sources, 50, 8)
    assert set(origins(drawn)) != set(origins(other))
    whole = partition.mix(sources, 0, 7)
    assert sorted(origins(whole)) == sorted(origins(sources[0][0] + sources[1][0]))
    assert origins(whole) != origins(sources[0][0] + sources[1][0])  # shuffled


def test_a_source_that_is_too_small_is_named():
    with pytest.raises(DataError) as caught:
        partition.mix([(rows(100, "a"), 1.0), (rows(9, "b"), 1.0)], 20, 0)
    assert caught.value.message == "20 rows need 10 from the dataset of b.jsonl, which has 9"
    assert "data.rows_per_client" in caught.value.hint


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 10)), min_size=1, max_size=5),
    st.integers(0, 9),
)
def test_a_mixture_of_all_there_is_never_asks_for_too_much(parts, seed):
    sources = [(rows(n, f"s{i}"), share) for i, (n, share) in enumerate(parts)]
    drawn = partition.mix(sources, 0, seed)
    assert len(set(origins(drawn))) == len(drawn)
    weights = np.array([share for _, share in parts])
    wanted = len(drawn) * weights / weights.sum()
    sizes = counts(drawn)
    for i, want in enumerate(wanted):
        assert abs(sizes.get(f"s{i}", 0) - want) < 1 + 1e-6


# --- sizes ----------------------------------------------------------------------------------------


def test_equal_parts():
    shards = partition.equal(rows(10), NAMES)
    assert list(shards) == NAMES
    assert sizes(shards) == [3, 3, 2, 2]
    assert [o for part in shards.values() for o in origins(part)] == origins(rows(10))


def test_power_law_by_hand():
    shards = partition.power_law(rows(104), NAMES, 1.0, 3)
    # 100 rows beyond one each, by 1, 1/2, 1/3, 1/4 of 25/12: 48, 24, 16, 12
    assert sorted(sizes(shards)) == [13, 17, 25, 49]
    assert all_rows(shards) == sorted(origins(rows(104)))
    firsts = {tuple(sizes(partition.power_law(rows(104), NAMES, 1.0, s))) for s in range(20)}
    assert len(firsts) > 5  # the seed decides which client is large
    assert shards == partition.power_law(rows(104), NAMES, 1.0, 3)


def test_a_larger_exponent_is_more_unequal():
    largest = [max(sizes(partition.power_law(rows(200), NAMES, e, 0))) for e in (0.01, 1.0, 3.0)]
    assert largest[0] <= 52
    assert largest[0] < largest[1] < largest[2]


@given(st.integers(1, 40), st.integers(0, 300), st.floats(0.1, 8), st.integers(0, 99))
def test_every_client_gets_a_row_and_every_row_a_client(clients, spare, exponent, seed):
    names, given_rows = partition.client_names(clients), rows(clients + spare)
    for shards in (
        partition.equal(given_rows, names),
        partition.power_law(given_rows, names, exponent, seed),
    ):
        assert min(sizes(shards)) >= 1
        assert all_rows(shards) == sorted(origins(given_rows))


def by_source(shards: partition.Shards) -> list[dict[str, int]]:
    return [dict(Counter(e.source for e in part)) for part in shards.values()]


def of(source: str, count: int, *, harmful: bool = False) -> list[Example]:
    """Rows of a source that has a label."""
    return [replace(row, source=source) for row in rows(count, source, harmful=harmful)]


def test_equal_parts_by_source():
    """Ten everyday and six sensitive rows for four clients: 2.5 and 1.5 each, dealt in turn."""
    drawn = partition.mix([(of("everyday", 10), None), (of("sensitive", 6), None)], 0, 5)
    shards = partition.equal(drawn, NAMES, by_source=True)
    assert by_source(shards) == [
        {"everyday": 3, "sensitive": 1}, {"everyday": 3, "sensitive": 1},
        {"everyday": 2, "sensitive": 2}, {"everyday": 2, "sensitive": 2},
    ]  # fmt: skip
    assert all_rows(shards) == sorted(origins(drawn))
    assert shards == partition.equal(drawn, NAMES, by_source=True)


@given(
    st.integers(1, 12), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40),
    st.sampled_from([0.0, 1.0]),
)  # fmt: skip
def test_shares_by_source_hold_on_every_client(clients, a, b, c, exponent):
    """To less than a row where all sizes are the same, and to three where they are not."""
    names = partition.client_names(clients)
    totals = {"a": a + clients, "b": b, "c": c}
    drawn = [row for source, total in totals.items() for row in of(source, total)]

    def divided(**more: bool) -> partition.Shards:
        if exponent:
            return partition.power_law(drawn, names, exponent, 0, **more)
        return partition.equal(drawn, names, **more)

    shards = divided(by_source=True)
    assert all_rows(shards) == sorted(origins(drawn))
    assert sizes(shards) == sizes(divided())
    allowed = 1 - 1e-9 if len(set(sizes(shards))) == 1 else 3
    for part, counts in zip(shards.values(), by_source(shards), strict=True):
        for source, total in totals.items():
            wanted = total * len(part) / len(drawn)
            assert abs(counts.get(source, 0) - wanted) < allowed


def test_fewer_rows_than_clients():
    with pytest.raises(DataError, match="3 rows cannot be divided over 4 clients"):
        partition.equal(rows(3), NAMES)
    with pytest.raises(DataError, match="3 rows cannot be divided over 4 clients"):
        partition.power_law(rows(3), NAMES, 1.2, 0)


# --- labels ---------------------------------------------------------------------------------------


def skew(shards: partition.Shards, labels: int) -> float:
    """Mean share of a client's most frequent label."""
    return float(
        np.mean(
            [
                max(Counter(e.label for e in part).values()) / len(part)
                for part in shards.values()
                if part
            ]
        )
    )


def test_dirichlet_is_skewed_when_alpha_is_small_and_even_when_it_is_large():
    given_rows = rows(2000, labels=5)
    skewed = [skew(partition.dirichlet(given_rows, NAMES, 0.05, s), 5) for s in range(5)]
    even = [skew(partition.dirichlet(given_rows, NAMES, 1000.0, s), 5) for s in range(5)]
    assert np.mean(skewed) > 0.6
    assert max(even) < 0.25  # 0.2 is perfectly even
    for part in partition.dirichlet(given_rows, NAMES, 1000.0, 0).values():
        assert 450 < len(part) < 550


@given(st.integers(2, 6), st.integers(1, 100), st.floats(0.01, 100), st.integers(0, 99))
def test_dirichlet_gives_every_row_to_one_client(labels, count, alpha, seed):
    given_rows = rows(labels + count, labels=labels)
    shards = partition.dirichlet(given_rows, NAMES, alpha, seed)
    assert list(shards) == NAMES
    assert all_rows(shards) == sorted(origins(given_rows))
    assert shards == partition.dirichlet(given_rows, NAMES, alpha, seed)


def test_dirichlet_follows_the_seed():
    given_rows = rows(100, labels=4)
    drawn = [sizes(partition.dirichlet(given_rows, NAMES, 0.5, s)) for s in range(10)]
    assert len({tuple(d) for d in drawn}) == 10


def test_dirichlet_needs_two_labels():
    with pytest.raises(DataError, match="at least two labels") as caught:
        partition.dirichlet(rows(10), NAMES, 0.5, 0)
    assert "columns.label" in caught.value.hint


# --- harm -----------------------------------------------------------------------------------------


def place(share: float, malicious: int | None = None, seed: int = 0, spare: int = 100):
    shards = partition.equal(rows(40), NAMES)  # 10 each
    harmful = rows(spare, "harmful", harmful=True)
    return partition.place_harm(shards, harmful, share=share, malicious=malicious, seed=seed)


def harmful_counts(placed: partition.Shards) -> list[int]:
    return [sum(e.harmful for e in part) for part in placed.values()]


def test_spread_puts_a_share_on_every_client():
    for share, count in ((0.0, 0), (0.1, 1), (0.3, 3), (1.0, 10)):
        placed = place(share)
        assert harmful_counts(placed) == [count] * 4
        assert sizes(placed) == [10] * 4
        assert len(set(all_rows(placed))) == 40


def test_concentrated_puts_it_on_the_malicious_clients():
    placed = place(0.5, malicious=2)
    assert sorted(harmful_counts(placed)) == [0, 0, 5, 5]
    assert sizes(placed) == [10] * 4
    assert harmful_counts(place(1.0, malicious=0)) == [0] * 4
    chosen = {tuple(harmful_counts(place(0.5, malicious=1, seed=s))) for s in range(30)}
    assert len(chosen) == 4  # each client is malicious under some seed


@pytest.mark.parametrize("malicious", [None, 2])
def test_benign_rows_stay_with_their_client_and_only_give_way(malicious):
    clean, mixed = place(0.0, malicious), place(0.3, malicious)
    before = partition.equal(rows(40), NAMES)
    for name in NAMES:
        assert set(origins(clean[name])) == set(origins(before[name]))
        benign = [
            o for e, o in zip(mixed[name], origins(mixed[name]), strict=True) if not e.harmful
        ]
        replaced = sum(e.harmful for e in mixed[name])
        assert set(benign) <= set(origins(clean[name]))
        assert len(benign) == 10 - replaced
    less = place(0.1, malicious)
    for name in NAMES:  # a larger share replaces the same rows and more
        benign = {e.origin for e in mixed[name] if not e.harmful}
        assert benign <= {e.origin for e in less[name] if not e.harmful}


def test_harmful_rows_are_shuffled_in_and_nobodys_twice():
    placed = place(0.5)
    harmful = [e.origin for part in placed.values() for e in part if e.harmful]
    assert len(set(harmful)) == 20
    assert any([e.harmful for e in part] != [False] * 5 + [True] * 5 for part in placed.values())


def test_placing_follows_the_seed_and_not_the_order_of_clients():
    assert place(0.3, seed=1) == place(0.3, seed=1)
    assert place(0.3, seed=1) != place(0.3, seed=2)
    shards = partition.equal(rows(40), NAMES)
    backwards = dict(reversed(shards.items()))
    harmful = rows(12, "harmful", harmful=True)
    options = {"share": 0.3, "malicious": None, "seed": 1}
    assert partition.place_harm(backwards, harmful, **options) == partition.place_harm(
        shards, harmful, **options
    )


def test_too_few_harmful_rows():
    assert harmful_counts(place(0.3, spare=12)) == [3] * 4
    with pytest.raises(DataError, match="needs 12 rows, the sources have 11") as caught:
        place(0.3, spare=11)
    assert "data.harm.share" in caught.value.hint


def test_nothing_is_changed_in_place():
    shards = partition.equal(rows(40), NAMES)
    harmful = rows(12, "harmful", harmful=True)
    partition.place_harm(shards, harmful, share=0.3, malicious=None, seed=0)
    assert shards == partition.equal(rows(40), NAMES)
    assert len(harmful) == 12
