"""Outside sets in a comparison, the report and its verdict: figures by hand, paired, and first."""

from __future__ import annotations

from pathlib import Path

import pytest

from compared_runs import outside, run
from fedrai.report import build
from fedrai.report.comparing.differences import differences
from fedrai.report.comparing.figures import arms
from fedrai.report.comparing.layout import PlannedRun
from fedrai.report.comparing.reading import read
from fedrai.report.comparing.writing import compare_runs, notes, write
from fedrai.report.read import read_runs
from fedrai.report.summary import summary
from fedrai.report.verdict import RunVerdict, safe, useful

T, F = True, False
Flags = list[bool | None]


def arm(path: Path, asking: Flags, telling: Flags, calm: Flags, seed: int = 0) -> PlannedRun:
    """A run that was asked two harmful sets and a harmless one."""
    figures, rows = outside({"asking": ("harmful", asking), "telling": ("harmful", telling),
                             "calm": ("harmless", calm)})  # fmt: skip
    return run(path, [T, F], seed=seed, rows=rows, outside=figures)


def test_an_arm_has_the_mean_of_its_sets_over_its_seeds(tmp_path: Path) -> None:
    plan = [arm(tmp_path / "seed-0/a", [T, F, F, F], [T], [F]),
            arm(tmp_path / "seed-1/a", [T, T, F, F], [F], [T], seed=1)]  # fmt: skip
    figures = arms(read(plan))[0].figures
    safe_mean = figures["outside-safe"]
    assert safe_mean.value == pytest.approx(((1 / 4 + 1) / 2 + (1 / 2 + 0) / 2) / 2)
    assert (safe_mean.kind, safe_mean.seeds, safe_mean.count) == ("bootstrap", 2, 5)
    assert figures["outside-refused"].value == 0.5
    one = arms(read(plan[:1]))[0].figures["outside-safe"]
    assert (one.value, one.seeds, one.kind) == (0.625, 1, "bootstrap")


def test_what_only_another_seed_was_asked_is_not_unscored(tmp_path: Path) -> None:
    plan = [arm(tmp_path / "seed-0/fedavg", [T, F, None, F], [T], [F]),
            arm(tmp_path / "seed-0/both", [T, T, T, F], [T], [F]),
            arm(tmp_path / "seed-1/fedavg", [T, T], [F], [T], seed=1),
            arm(tmp_path / "seed-1/both", [T, None], [F], [T], seed=1)]  # fmt: skip
    assert [one.figures["outside-safe"].unscored for one in arms(read(plan))] == [1, 1]
    found = {one.measure: one.figure for one in differences(read(plan), "fedavg")}
    assert (found["outside-safe"].unscored, found["outside-refused"].unscored) == (2, 0)


def test_answers_that_do_not_add_up_leave_the_range_of_the_seeds(tmp_path: Path) -> None:
    plan = [arm(tmp_path / "seed-0/a", [T, F], [T], [F]),
            arm(tmp_path / "seed-1/a", [T, T], [T], [F], seed=1)]  # fmt: skip
    (plan[0].path / "evaluations/0001/telling.jsonl").write_text("")
    figure = arms(read(plan))[0].figures["outside-safe"]
    assert (figure.value, figure.low, figure.high, figure.kind) == (0.875, 0.75, 1.0, "range")


def test_a_difference_is_paired_by_set_and_item(tmp_path: Path) -> None:
    plan = [arm(tmp_path / "fedavg", [F, F, T, None], [F], [F]),
            arm(tmp_path / "both", [T, F, T, T], [T], [F])]  # fmt: skip
    found = {one.measure: one for one in differences(read(plan), "fedavg")}
    gap = found["outside-safe"].figure
    assert gap.value == pytest.approx((1 / 3 + 1) / 2)  # the unscored item is in neither
    assert (gap.count, gap.unscored, gap.kind) == (4, 1, "bootstrap")
    assert found["outside-safe"].p == ()
    assert found["outside-refused"].verdict == "within noise (one seed)"
    assert found["outside-refused"].figure.value == 0.0


def test_outside_means_come_first_and_development_sets_say_so(tmp_path: Path) -> None:
    plan = [arm(tmp_path / "fedavg", [F, F], [T], [F]), arm(tmp_path / "both", [T, T], [T], [F])]
    result = compare_runs(plan)
    assert result.table.columns[:4] == (
        "arm", "outside safe %", "outside refused %", "development: AdvBench safe %")  # fmt: skip
    assert "neither trained nor chose anything" in notes(result)[1]
    write(result, tmp_path)
    table = (tmp_path / "outside.md").read_text().splitlines()
    assert table[0] == (
        "| outside set | manner | side | fedavg: declined % | both: declined % |")  # fmt: skip
    assert table[2] == "| asking | question | harmful | 0.0 | 100.0 |"
    assert table[4] == "| calm | question | harmless | 0.0 | 0.0 |"


def test_a_comparison_without_outside_sets_proves_nothing(tmp_path: Path) -> None:
    with_sets = arm(tmp_path / "both", [T], [T], [F])
    result = compare_runs([run(tmp_path / "fedavg", [T]), with_sets])
    assert notes(result)[1].startswith("No outside set was asked of fedavg: figures of development")
    alone = compare_runs([run(tmp_path / "fedavg", [T])])
    assert notes(alone)[1].startswith("No outside set was asked: figures of development")
    assert "outside.md" not in {file.name for file in write(alone, tmp_path / "out")}


# --- the report -----------------------------------------------------------------------------------


def test_outside_sets_decide_whether_a_run_is_safe_and_useful(tmp_path: Path) -> None:
    """AdvBench alone would say no: the model declines half of it."""
    arm(tmp_path / "runs/good", [T] * 60, [T] * 60, [F] * 60)
    arm(tmp_path / "runs/bad", [F] * 60, [F] * 60, [T] * 60)
    bad, good = sorted(read_runs([tmp_path / "runs"]), key=lambda one: one.label)
    assert (safe(good), useful(good)) == (RunVerdict.YES, RunVerdict.YES)
    assert (safe(bad), useful(bad)) == (RunVerdict.NO, RunVerdict.NO)
    assert summary([good, bad]).startswith(
        "1 of 2 runs is both safe and useful: good. Not safe: bad (0 % declined)."
        " Not useful: bad (100 % declined). Before training: 0 % of harmful and 0 % of harmless"
        " requests declined. Safe: at least"
    )


def test_the_report_shows_outside_sets_before_development_sets(tmp_path: Path) -> None:
    arm(tmp_path / "runs/good", [T] * 3 + [F], [T], [F])
    text = build([tmp_path / "runs"], tmp_path / "report.html").read_text()
    outside_place = text.index("Outside sets: 87.5 %")
    assert outside_place < text.index("Development sets:") < text.index("of requests of AdvBench")
    assert "(2 sets, 5 answers) of harmful requests declined." in text
    assert text.index("Safety: harmful requests of outside sets declined") < text.index(
        "Safety, development: requests of AdvBench declined"
    )
    assert "Outside sets after the last evaluated round" in text


def test_a_report_without_outside_sets_says_so_at_once(tmp_path: Path) -> None:
    run(tmp_path / "runs/plain", [T, T])
    text = build([tmp_path / "runs"], tmp_path / "report.html").read_text()
    assert "On development sets only, which chose settings and prove nothing" in text
    assert "No outside set was asked: what follows is of development sets" in text
