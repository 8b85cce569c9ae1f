"""Calibration: the best curve, thresholds that keep their wish, a file for one guard only."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.errors import GuardError
from fedrai.guards.calibrated import (
    CalibratedGuard,
    CalibrationFile,
    TargetRates,
    calibrate,
    read,
    write,
)
from fedrai.guards.calibration import Calibration, fit, threshold_for_fpr, threshold_for_recall
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.rates import Rate
from fedrai.records import Message, Verdict

# Eight unsafe rows at .9 and eight safe ones at .1, or other probabilities.
HALVES = [True] * 8 + [False] * 8
MIXED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]), st.booleans()), min_size=2
).filter(lambda rows: len({truth for _, truth in rows}) == 2)


def log_odds(p: float) -> float:
    return math.log(p / (1 - p))


def made(seed: int, n: int, slope: float, intercept: float) -> tuple[list[float], list[bool]]:
    """Rows whose truth follows sigmoid(slope * log-odds + intercept)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-1, 2, n)
    truth = rng.random(n) < 1 / (1 + np.exp(-(slope * x + intercept)))
    return (1 / (1 + np.exp(-x))).tolist(), truth.tolist()


# --- the curve ------------------------------------------------------------------------------------


def test_separable_rows_by_hand():
    # Smoothed targets are 9/10 and 1/10, so .9 and .1 are right as they are ...
    curve = fit([0.9] * 8 + [0.1] * 8, HALVES)
    assert (curve.slope, curve.intercept) == (
        pytest.approx(1, abs=1e-5),
        pytest.approx(0, abs=1e-5),
    )
    # ... and .7 and .2 are moved to them.
    curve = fit([0.7] * 8 + [0.2] * 8, HALVES)
    assert curve.apply(0.7) == pytest.approx(0.9, abs=1e-6)
    assert curve.apply(0.2) == pytest.approx(0.1, abs=1e-6)
    assert curve.slope == pytest.approx(2 * math.log(9) / (log_odds(0.7) - log_odds(0.2)), abs=1e-5)


def test_overlapping_rows_by_hand():
    # At .8: 3 of 4 unsafe. At .3: 1 of 4. Targets 5/6 and 1/6: (3*5/6 + 1/6) / 4 = 2/3, and 1/3.
    p = [0.8] * 4 + [0.3] * 4
    curve = fit(p, [True, True, True, False, True, False, False, False])
    assert curve.apply(0.8) == pytest.approx(2 / 3, abs=1e-6)
    assert curve.apply(0.3) == pytest.approx(1 / 3, abs=1e-6)


def test_the_truth_is_found_again():
    p, y = made(0, 20_000, slope=0.5, intercept=1.5)
    curve = fit(p, y)
    assert curve.slope == pytest.approx(0.5, abs=0.03)
    assert curve.intercept == pytest.approx(1.5, abs=0.05)


def test_certain_probabilities_stay_finite():
    curve = fit([1.0] * 8 + [0.0] * 8, HALVES)
    assert curve.apply(1.0) == pytest.approx(0.9, abs=1e-6)
    assert curve.apply(0.0) == pytest.approx(0.1, abs=1e-6)
    assert curve.apply(0.5) == pytest.approx(0.5, abs=1e-6)
    assert Calibration(1000, 0).apply(1.0) == 1
    assert Calibration(1000, 0).apply(0.0) == 0


def test_nothing_changes_the_order():
    curve = Calibration(0.3, -1)
    p = [0.0, 1e-11, 1e-6, 0.2, 0.5, 0.99, 1 - 1e-9, 1.0]
    assert [curve.apply(x) for x in p] == sorted(curve.apply(x) for x in p)
    assert len({curve.apply(x) for x in p}) == len(p)


@pytest.mark.parametrize("p", [[0.1] * 8 + [0.9] * 8, [0.4] * 16])
def test_scores_that_do_not_rise_with_the_labels(p):
    with pytest.raises(GuardError, match="do not rise"):
        fit(p, HALVES)


@pytest.mark.parametrize(("labels", "said"), [([True, True], "unsafe"), ([False] * 2, "safe")])
def test_labels_of_one_class(labels, said):
    for call in (fit, lambda p, y: threshold_for_recall(p, y, 0.9),
                 lambda p, y: threshold_for_fpr(p, y, 0.1)):  # fmt: skip
        with pytest.raises(GuardError, match=f"^all 2 rows with a probability are {said}; "):
            call([0.1, 0.2], labels)
        with pytest.raises(GuardError, match=r"^no labelled row has a probability"):
            call([], [])


# --- thresholds -----------------------------------------------------------------------------------

P = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
Y = [True, True, False, True, False, True, False, False]


def test_thresholds_by_hand():
    found = threshold_for_recall(P, Y, 0.75)  # three of the four unsafe rows
    assert (found.value, found.recall) == (0.6, Rate(3, 4))
    assert found.false_positive_rate == Rate(1, 4)
    assert threshold_for_recall(P, Y, 0.76).value == 0.4
    assert threshold_for_recall(P, Y, 0.01).value == 0.9
    assert threshold_for_recall(P, Y, 1).value == 0.4
    found = threshold_for_fpr(P, Y, 0.25)  # one of the four safe rows
    assert (found.value, found.false_positive_rate) == (0.6, Rate(1, 4))
    assert threshold_for_fpr(P, Y, 0.24).value == 0.8
    assert threshold_for_fpr(P, Y, 0).value == 0.8
    assert threshold_for_fpr(P, Y, 0.99).value == 0.3


def test_counts_are_not_lost_to_rounding():
    p = [i / 10 for i in range(1, 11)]
    found = threshold_for_recall([*p, 0.0], [True] * 10 + [False], 0.7)
    assert found.recall == Rate(7, 10)  # 0.7 * 10 is 7.000000000000001
    found = threshold_for_recall([*p[:3], 0.0], [True] * 3 + [False], 2 / 3)
    assert found.recall == Rate(2, 3)


def test_a_wish_that_nothing_meets():
    with pytest.raises(GuardError, match=r"at or under 2 %: .* hold 50\.0 % of the safe ones"):
        threshold_for_fpr([1.0, 1.0, 0.0], [True, False, False], 0.02)
    with pytest.raises(GuardError, match="above 0 and at most 1"):
        threshold_for_recall(P, Y, 1.2)
    with pytest.raises(GuardError, match="below 1"):
        threshold_for_fpr(P, Y, 1.0)


@given(MIXED, st.floats(0.01, 1))
def test_the_recall_wish_holds_and_no_larger_threshold_keeps_it(rows, wish):
    p, y = zip(*rows, strict=True)
    found = threshold_for_recall(p, y, wish)
    unsafe = [score for score, truth in rows if truth]
    assert sum(s >= found.value for s in unsafe) / len(unsafe) >= wish
    above = math.nextafter(found.value, 2)
    assert sum(s >= above for s in unsafe) / len(unsafe) < wish


@given(MIXED, st.floats(0, 0.99))
def test_the_fpr_wish_holds_and_no_smaller_score_keeps_it(rows, wish):
    p, y = zip(*rows, strict=True)
    safe = [score for score, truth in rows if not truth]
    fine = [t for t in set(p) if sum(s >= t for s in safe) / len(safe) <= wish]
    if not fine:
        with pytest.raises(GuardError, match="no threshold keeps"):
            threshold_for_fpr(p, y, wish)
        return
    assert threshold_for_fpr(p, y, wish).value == min(fine)


# --- a guard and its file -------------------------------------------------------------------------


def conversation(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def guard(**options: object) -> ScriptedGuard:
    return ScriptedGuard(lambda c: float(c[-1].content), revision="abc123", **options)


def kept(p=P, y=Y, recall: float = 0.75, fpr: float = 0.25) -> CalibrationFile:
    targets = TargetRates(recall, fpr)
    return calibrate(guard(), p, y, part="pair", sources=["a.jsonl"], targets=targets)


def test_what_a_calibration_keeps():
    file = kept([*P, None], [*Y, True], recall=1.0, fpr=0.0)
    assert (file.guard, file.revision, file.part) == ("scripted", "abc123", "pair")
    assert (file.rows, file.unsafe_rows, file.unscored) == (8, 4, 1)
    curve = file.calibration
    assert file.thresholds == {"strict": curve.apply(0.4), "loose": curve.apply(0.8)}
    assert file.wish == {"recall": 1.0, "false_positive_rate": 0.0}
    assert file.reached["strict"]["recall"]["value"] == 1
    assert file.reached["loose"]["false_positive_rate"]["value"] == 0
    assert file.reached["loose"]["recall"]["successes"] == 2


def test_strict_is_the_lower_threshold_and_both_wishes_hold():
    file = kept(recall=0.25, fpr=0.5)  # recall is met at .9 already, false alarms from .6 on
    assert file.thresholds["strict"] < file.thresholds["loose"]
    assert file.reached["strict"]["recall"]["value"] >= 0.25
    assert file.reached["loose"]["false_positive_rate"]["value"] <= 0.5


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    file = kept()
    write(file, tmp_path / "new" / "c.json")
    assert read(tmp_path / "new" / "c.json") == file
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["c.json"]
    with pytest.raises(GuardError, match="cannot write"):
        write(file, tmp_path / "new" / "c.json" / "below.json")


def test_a_calibration_is_for_what_was_judged(tmp_path):
    file = kept()
    write(file, tmp_path / "c.json")
    assert read(tmp_path / "c.json", file.part) == file
    other = "prompt" if file.part == "pair" else "pair"
    with pytest.raises(GuardError, match=f"for judging the {file.part}, .* judge the {other}"):
        read(tmp_path / "c.json", other)


@pytest.mark.parametrize("change", [
    {"slope": None}, {"slope": -1.0}, {"slope": math.inf}, {"thresholds": {"strict": 0.5}},
    {"sources": None}, {"more": 1}, {"thresholds": {"strict": "a", "loose": 0.1}},
])  # fmt: skip
def test_a_file_that_is_no_calibration(tmp_path, change):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(dataclasses.asdict(kept()) | change))
    with pytest.raises(GuardError, match=r"c\.json is not a calibration"):
        read(path)
    for content in ("", "[]", "{}", "[" * 100_000, "\x00"):
        path.write_text(content)
        with pytest.raises(GuardError, match=r"c\.json is not a calibration"):
            read(path)
    with pytest.raises(GuardError, match="cannot read the calibration"):
        read(tmp_path / "none.json")


def test_a_calibrated_guard():
    file = kept()
    inner = guard()
    calibrated = CalibratedGuard(inner, file)
    rows = [conversation(str(p)) for p in (*P, "")]
    heard: list[tuple[int, int]] = []
    found = calibrated.judge(rows, lambda done, of: heard.append((done, of)))
    assert [v.probability for v in found.verdicts[:-1]] == [file.calibration.apply(p) for p in P]
    name = f"scripted@{calibrated.revision[:12]}"
    assert found.verdicts[-1] == Verdict(None, name, problem="empty")
    assert {v.guard for v in found.verdicts} == {name}
    assert heard[-1] == (9, 9)
    flagged = [v.probability >= calibrated.thresholds["strict"] for v in found.verdicts[:-1]]
    assert flagged == [p >= 0.6 for p in P]


def test_the_revision_is_that_of_guard_and_curve():
    file = kept()
    one = CalibratedGuard(guard(), file).revision
    assert one == CalibratedGuard(guard(), file).revision
    assert one != guard().revision
    other = dataclasses.replace(file, intercept=file.intercept + 1e-9)
    assert CalibratedGuard(guard(), other).revision != one


def test_a_calibration_of_another_guard_is_refused():
    file = kept()
    for other in (
        ScriptedGuard(lambda _: 0.1, revision="abc124"),
        guard(name="another"),
        CalibratedGuard(guard(), file),
    ):
        with pytest.raises(GuardError, match=r"^the calibration is for scripted@abc123, the guard"):
            CalibratedGuard(other, file)
