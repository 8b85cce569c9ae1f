"""Calibration and thresholds of a trained guard, on rows whose values are worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from fedrai.errors import GuardError
from fedrai.guards.kinds.framing import ANSWER, REQUEST
from fedrai.guards.training import thresholds
from fedrai.guards.training.loop import TrainingRow, train
from fedrai.guards.training.rows import sets_thresholds
from tiny_guards import encoder, reply, request, rows, settings


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("bert") / "tiny")


def test_curves():
    odds, unsafe = [-1.0, 1.0] * 20, [False, True] * 20
    slope, shift = thresholds._curve("pair", odds, unsafe)
    # Platt's targets: 21/22 and 1/22 at log-odds of 1 and -1.
    assert slope == pytest.approx(math.log(21), rel=1e-4)
    assert shift == pytest.approx(0, abs=1e-6)
    assert thresholds._curve("pair", odds[:14], unsafe[:14]) == (1.0, 0.0)  # seven of each
    with pytest.raises(GuardError, match="did not learn to judge pair rows"):
        thresholds._curve("pair", odds, [not bad for bad in unsafe])


def test_one_strict_threshold_serves_requests_and_answers(bert, tmp_path):
    odds, bad = [i / 4 for i in range(-20, 20)], [i % 3 == 0 or i > 30 for i in range(40)]
    plain = (odds, bad, (1.0, 0.0))
    shifted = ([o + 2 for o in odds], bad, (1.0, 0.5))
    slope, intercept = thresholds._shift_curve(plain, shifted, (0.1, 0.1))
    assert (slope, intercept) == (1.0, pytest.approx(-2))
    some = [replace(row, unsafe=0.0) if i % 29 == 7 else row for i, row in enumerate(rows(280))]
    recipe = settings(bert, strict_fpr=0.2, loose_fpr=0.1, pair_fpr=0.3, epochs=3)
    found = train(recipe, some, tmp_path / "g").held_out
    alarms = [found[kind].counts.false_positive_rate.value for kind in ("prompt", "pair")]
    assert alarms == [pytest.approx(0.2, abs=0.04), pytest.approx(0.3, abs=0.04)]


def test_how_many_rows_tell_a_rate_of_false_alarms():
    some = [request(0.0)] * 10 + [request(1.0)] * 8 + [reply(1.0)] * 8
    assert thresholds._resolves(some, REQUEST, 0.1)
    assert not thresholds._resolves(some, REQUEST, 0.09)
    assert not thresholds._resolves(some[:17], REQUEST, 0.1)  # seven unsafe ones
    assert not thresholds._resolves(some, ANSWER, 0.9)


def test_only_the_named_sources_set_the_thresholds(bert, tmp_path):
    recipe = settings(Path("x"), threshold_sources=["quiet"])
    quiet, loud = (TrainingRow(request(0.0).conversation, 0.0, "", s) for s in ("quiet", "loud"))
    assert [sets_thresholds(recipe, row) for row in (quiet, loud, request(1.0))] == [1, 0, 1]
    assert sets_thresholds(settings(Path("x")), loud)

    # Rows that carry the wrong label pull the strict threshold up, unless they do not set it.
    some = [
        replace(row, unsafe=0.0, source="noise") if i % 9 == 7 else replace(row, source="calm")
        for i, row in enumerate(rows(280))
    ]
    cuts = [
        train(settings(bert, strict_fpr=0.1, loose_fpr=0.1, weights={"noise": 0}, **named),
              some, tmp_path / f"g{n}").reached["strict"]
        for n, named in enumerate(({}, {"threshold_sources": ["calm"]}))
    ]  # fmt: skip
    assert cuts[1].value < cuts[0].value
    assert cuts[1].recall.value > cuts[0].recall.value
    assert cuts[1].false_positive_rate.value <= 0.1 + 1e-9
