"""When a round is aligned: tables worked out by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.constitution.schedule import Decision, decide, satisfied, score
from fedrai.recipe.alignment import Alignment, Probe

BOUNDS = Probe(safe=0.9, useful=0.8, drift=0.1)
UNWATCHED = Probe(safe=0.9, useful=0.8, drift=1.0)
SHARES = st.floats(0, 1)


def runs(section: Alignment, now: Any = None) -> list[int]:
    """The rounds of a run of six that are aligned."""
    return [n for n in range(1, 7) if decide(section, n, last=n == 6, now=now).run]


@pytest.mark.parametrize(
    ("schedule", "every", "aligned"),
    [
        ("off", 1, []),
        ("full", 1, [1, 2, 3, 4, 5, 6]),
        ("budget", 4, [1, 2, 3, 4, 5, 6]),
        ("every", 1, [1, 2, 3, 4, 5, 6]),
        ("every", 2, [2, 4, 6]),
        ("every", 4, [4, 6]),  # and the last: that model is handed out
        ("every", 9, [6]),
        ("last", 1, [6]),
    ],
)
def test_rounds_by_schedule(schedule, every, aligned):
    assert runs(Alignment(schedule=schedule, every=every)) == aligned


@pytest.mark.parametrize(
    ("number", "last", "why"),
    [(3, False, "every 3 rounds"), (3, True, "every 3 rounds"), (4, True, "last round"),
     (4, False, "not one of every 3 rounds")],
)  # fmt: skip
def test_the_reason_is_given(number, last, why):
    section = Alignment(schedule="every", every=3)
    assert decide(section, number, last=last).why == why


def test_with_a_drift_of_1_only_the_last_round_can_start_it():
    section = Alignment(schedule="adaptive", probe=UNWATCHED)
    assert runs(section, {"safe": 0.0, "useful": 0.0}) == [6]
    assert decide(section, 3, last=False) == Decision(False, "not the last round")


def adaptive(
    safe: float, useful: float, before: tuple[float, float] | None = None, last: bool = False
) -> Decision:
    return decide(
        Alignment(schedule="adaptive", probe=BOUNDS),
        2,
        last=last,
        now={"safe": safe, "useful": useful},
        before=dict(zip(("safe", "useful"), before, strict=True)) if before else None,
    )


@pytest.mark.parametrize(
    ("now", "before", "last", "run"),
    [
        # against the targets 0.9 and 0.8, less the drift of 0.1
        ((0.80, 0.70), None, False, False),
        ((0.79, 0.70), None, False, True),
        ((0.80, 0.69), None, False, True),
        ((1.00, 0.00), None, False, True),  # either side starts it
        ((0.00, 1.00), None, False, True),
        # against what was reached last, where that is lower than the target
        ((0.50, 0.70), (0.60, 0.80), False, False),
        ((0.49, 0.70), (0.60, 0.80), False, True),
        ((0.80, 0.30), (0.90, 0.40), False, False),
        ((0.80, 0.29), (0.90, 0.40), False, True),
        # what was reached beyond the target may be lost again
        ((0.80, 0.70), (1.00, 1.00), False, False),
        # the last round wants the targets themselves, whatever was reached
        ((0.90, 0.80), None, True, False),
        ((0.89, 0.80), None, True, True),
        ((0.90, 0.79), (0.10, 0.10), True, True),
        ((0.90, 0.80), (1.00, 1.00), True, False),
    ],
)
def test_adaptive_by_hand(now, before, last, run):
    assert adaptive(*now, before, last).run is run


def test_adaptive_says_which_side_and_how_far():
    assert adaptive(0.5, 0.1).why == "probe: safe at 50%, below 80%"
    assert adaptive(0.9, 0.1).why == "probe: useful at 10%, below 70%"
    assert adaptive(0.9, 0.1, last=True).why == "probe: useful at 10%, below 80%"
    assert adaptive(0.9, 0.75).why == "probe: safe 90%, useful 75%"


def test_adaptive_needs_a_probe():
    with pytest.raises(ValueError, match="needs a probe"):
        decide(Alignment(schedule="adaptive", probe=BOUNDS), 1, last=False)


@given(SHARES, SHARES)
def test_the_last_round_is_aligned_just_where_the_bounds_are_not_satisfied(safe, useful):
    assert adaptive(safe, useful, last=True).run is not satisfied(
        BOUNDS, safe + 1e-9, useful + 1e-9
    )


@pytest.mark.parametrize(
    ("safe", "useful", "expected"),
    [(0.45, 0.8, 0.5), (0.9, 0.2, 0.25), (0.45, 0.2, 0.25), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0)],
)
def test_scores_by_hand(safe, useful, expected):
    assert score(BOUNDS, safe, useful) == pytest.approx(expected)


def test_a_bound_of_zero_is_always_met():
    nothing = Probe(safe=0.0, useful=0.0)
    assert score(nothing, 0.0, 0.0) == 1.0
    assert satisfied(nothing, 0.0, 0.0)


@given(SHARES, SHARES)
def test_a_score_of_one_is_that_of_satisfied_bounds_alone(safe, useful):
    assert (score(BOUNDS, safe, useful) == 1) is satisfied(BOUNDS, safe, useful)
