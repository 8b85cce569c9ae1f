"""Tables of a comparison, the files beside its runs, and where runs lie."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from compared_runs import TABLE, answers, run
from fedrai import recipe
from fedrai.errors import EvaluationError, RecipeError, RunError
from fedrai.report.comparing.layout import Axis, plan_runs
from fedrai.report.comparing.running import seconds_left
from fedrai.report.comparing.writing import compare_runs, notes, write
from fedrai.report.measures import RateSource, heading, in_order, rate_source

T, F = True, False


@pytest.fixture
def study(tmp_path: Path):
    """Two arms with two seeds."""
    plan = []
    for seed in (0, 1):
        under = tmp_path / f"seed-{seed}"
        plan.append(run(under / "fedavg", [F, F, T, None], [F, F], seed=seed))
        plan.append(run(under / "50%_both", [T, T, T, T], [T, F], seed=seed))
    return compare_runs(plan)


def test_markdown_has_a_row_an_arm_and_safety_beside_over_refusal(study) -> None:
    lines = study.text("md").splitlines()
    assert lines[0].startswith(
        "| arm | seeds | development: AdvBench safe % | development: XSTest safe refused % |"
        " development: ordinary refused % |"
    )
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| base model",
        "| fedavg",
        "| 50%_both",
    ]
    cells = lines[4].split(" | ")
    assert cells[1:3] == ["0, 1", "100.0 [51.0, 100.0]"]
    assert lines[3].split(" | ")[2].endswith(", 2 unscored")
    assert "HHH" not in lines[0]  # no run measured it
    assert "not measured" in lines[2]  # what runs start from has no cost


def test_latex_is_booktabs_with_everything_escaped(study) -> None:
    text = study.text("latex")
    assert text.startswith(
        "\\begin{tabular}{llrrrrrrrrr}\n\\toprule\narm & seeds & development: AdvBench safe \\% &"
    )
    assert "50\\%\\_both & 0, 1 & 100.0 [51.0,~100.0] & " in text
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    columns = {line.count(" & ") for line in text.splitlines() if line.endswith("\\\\")}
    assert columns == {10}
    assert not re.search(r"(?<!\\)[%_#]", text)


def test_csv_holds_the_numbers_themselves(study) -> None:
    rows = list(csv.DictReader(io.StringIO(study.text("csv"))))
    assert [row["arm"] for row in rows] == ["base model", "fedavg", "50%_both"]
    figure = study.arms[0].figures["safe"]
    assert float(rows[1]["safe"]) == figure.value == pytest.approx(1 / 3)
    assert float(rows[1]["safe_low"]) == figure.low
    assert (rows[1]["safe_interval"], rows[1]["safe_unscored"]) == ("bootstrap", "2")
    assert rows[0]["tflop"] == ""


def test_files_hold_differences_and_notes_but_no_answers(study, tmp_path: Path) -> None:
    files = write(study, tmp_path)
    assert [file.name for file in files] == [
        "table.md", "table.csv", "table.tex", "differences.md", "differences.csv",
        "safety.svg", "comparison.json"]  # fmt: skip
    assert not any("SECRET" in file.read_text() for file in files)
    body = json.loads((tmp_path / "comparison.json").read_text())
    assert (body["against"], [arm["arm"] for arm in body["arms"]]) == (
        "fedavg", ["fedavg", "50%_both"])  # fmt: skip
    safe = next(one for one in body["differences"] if one["measure"] == "safe")
    assert safe["figure"]["value"] == pytest.approx(2 / 3)
    assert safe["p"] == [0.5, 0.5]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "differences.csv").read_text())))
    assert {row["against"] for row in rows} == {"fedavg"}
    assert next(r for r in rows if r["measure"] == "safe")["p_by_seed"] == "0.5 0.5"
    before = {file: file.stat().st_mtime_ns for file in files}
    assert {file: file.stat().st_mtime_ns for file in write(study, tmp_path)} == before


def test_notes_name_what_is_missing(tmp_path: Path) -> None:
    total = {"guard": "hf@1", "rows": 20, "unsafe": 1, "dropped": 1, "replaced": 0}
    ledger = {"total": total, "cost": {"tokens": 0, "operations": 0.0}, "skipped": ""}
    why = {"hhh": "no network"}
    result = compare_runs(
        [run(tmp_path / "both", [T], filtered=ledger, unavailable=why, finished=False)]
    )
    text = "\n".join(notes(result))
    assert "hhh: not available (no network)." in text
    assert "The Tflop of both include nothing for the filter" in text
    assert "both, seed 0: not finished." in text


def test_a_comparison_without_a_run_or_reference_is_an_error(tmp_path: Path) -> None:
    plan = [run(tmp_path / "one", [T])]
    with pytest.raises(EvaluationError, match="no arm 'x'"):
        compare_runs(plan, against="x")
    (plan[0].path / "run.json").unlink()
    with pytest.raises(RunError, match="no run"):
        compare_runs(plan)


def test_damaged_answers_are_not_half_read(tmp_path: Path) -> None:
    plan = [run(tmp_path / f"seed-{n}/arm", [T, T], seed=n) for n in (0, 1)]
    file = plan[0].path / "evaluations/0001/advbench.jsonl"
    for damage in ("{", "[1]", json.dumps(answers([T])[0]) + "\n{"):
        file.write_text(damage)
        assert compare_runs(plan).arms[0].figures["safe"].kind == "range"


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "suite", "judge"),
    [
        ("safe", "advbench", "rule"),
        ("safe-legacy", "advbench", "legacy"),
        ("safe-guard", "advbench", "guard"),
        ("refused", "ordinary", "rule"),
        ("xstest-safe-refused", "xstest-safe", "rule"),
        ("xstest-unsafe-safe-guard", "xstest-unsafe", "guard"),
        ("harmbench-safe-legacy", "harmbench", "legacy"),
    ],
)
def test_the_name_of_a_rate_gives_its_source(rate: str, suite: str, judge: str) -> None:
    assert rate_source(rate) == RateSource(suite, judge)


def test_columns_have_an_order_and_unknown_ones_stand_before_costs() -> None:
    names = ["tflop", "mine-safe", "held-out-loss", "xstest-safe-refused", "safe"]
    assert in_order(names) == [
        "safe", "xstest-safe-refused", "mine-safe", "held-out-loss", "tflop"]  # fmt: skip
    assert heading("harmbench-safe-guard") == "HarmBench safe (guard)"
    assert rate_source("odd") is None


# --- where runs lie -------------------------------------------------------------------------------


def study_recipe(**more):
    harm = {"data": {"sources": [{"path": "x"}, {"path": "y", "harmful": True}],
                     "harm": {"share": 0.3}}}  # fmt: skip
    arms = {"fedavg": {}, "clean": {"data": {"harm": {"share": 0.0}}}}
    return recipe.validate(TABLE | harm | {"arms": arms} | more)


def places(plan, out: Path) -> list[str]:
    return [entry.path.relative_to(out).as_posix() for entry in plan]


def test_one_seed_needs_no_folder_of_its_own(tmp_path: Path) -> None:
    assert places(plan_runs(study_recipe(), tmp_path), tmp_path) == ["fedavg", "clean"]


def test_seeds_are_outermost_and_each_run_has_its_own(tmp_path: Path) -> None:
    plan = plan_runs(study_recipe(seeds=[3, 4]), tmp_path)
    assert places(plan, tmp_path) == [
        "seed-3/fedavg", "seed-3/clean", "seed-4/fedavg", "seed-4/clean"]  # fmt: skip
    assert [(entry.seed, entry.recipe.seed, entry.recipe.seeds) for entry in plan[::2]] == [
        (3, 3, []), (4, 4, [])]  # fmt: skip
    single = plan_runs(study_recipe(), tmp_path, [3])
    assert [entry.recipe.hash for entry in single] == [entry.recipe.hash for entry in plan[:2]]
    assert recipe.arm(study_recipe(seeds=[3, 4]), "fedavg").seeds == []


def test_an_arm_that_the_axis_does_not_affect_is_one_run(tmp_path: Path) -> None:
    axis = Axis.parse("data.harm.share = 0.1, 0.5")
    plan = plan_runs(study_recipe(), tmp_path, (), axis)
    assert places(plan, tmp_path) == [
        "share-0.1/fedavg", "share-0.1/clean", "share-0.5/fedavg", "share-0.1/clean"]  # fmt: skip
    assert [entry.recipe.data.harm.share for entry in plan] == [0.1, 0.0, 0.5, 0.0]


def test_two_axes_are_every_combination_and_no_attack_is_one_run(tmp_path: Path) -> None:
    axis = Axis.parse("attack.kind=noise,sign-flip", "attack.share = 0, 0.5")
    assert axis == Axis(
        "attack.kind, attack.share", ("noise, 0", "noise, 0.5", "sign-flip, 0", "sign-flip, 0.5")
    )
    plan = plan_runs(study_recipe(arms={}), tmp_path, (), axis)
    assert [place.partition("/")[0] for place in places(plan, tmp_path)] == [
        "kind-noise_share-0", "kind-noise_share-0.5", "kind-noise_share-0",
        "kind-sign-flip_share-0.5"]  # fmt: skip
    attacks = [entry.recipe.attack for entry in plan]
    assert [(one.kind, one.share, one.active) for one in attacks] == [
        ("noise", 0, False), ("noise", 0.5, True), ("sign-flip", 0, False),
        ("sign-flip", 0.5, True)]  # fmt: skip
    assert plan[0].recipe.hash == study_recipe(arms={}).hash
    with pytest.raises(RecipeError, match="the key is repeated"):
        Axis.parse("a.b=1,2", "a.b=3")


def test_a_run_in_the_other_layout_is_used(tmp_path: Path) -> None:
    settings = study_recipe(seed=3)
    hashes = {entry.arm: entry.recipe.hash for entry in plan_runs(settings, tmp_path)}
    for arm in ("fedavg", "clean"):
        run(tmp_path / arm, [T])
        body = json.loads((tmp_path / arm / "run.json").read_text())
        mine = hashes[arm] if arm == "fedavg" else "other"
        (tmp_path / arm / "run.json").write_text(json.dumps({**body, "recipe_hash": mine}))
    plan = plan_runs(settings, tmp_path, [3, 4])
    assert places(plan, tmp_path)[:2] == ["fedavg", "seed-3/clean"]


def test_what_cannot_be_planned(tmp_path: Path) -> None:
    own = study_recipe(arms={"odd": {"seed": 9}})
    with pytest.raises(RecipeError, match="the arm odd sets its own seed"):
        plan_runs(own, tmp_path, [0, 1])
    assert plan_runs(own, tmp_path)[0].seed == 9
    with pytest.raises(RecipeError, match="a seed is repeated"):
        plan_runs(study_recipe(), tmp_path, [1, 1])
    with pytest.raises(RecipeError, match="seeds: a seed is listed twice"):
        study_recipe(seeds=[1, 1])
    with pytest.raises(RecipeError, match=r"expected 1\.0 or less"):
        plan_runs(study_recipe(), tmp_path, (), Axis.parse("data.harm.share=0.1,7"))


@pytest.mark.parametrize(
    "text", ["", "a.b", "a.b=", "a.b=1,,2", "seed=1,2", "a.b=1,1", "a=x/y,x y"]
)
def test_no_axis(text: str) -> None:
    with pytest.raises(RecipeError, match="--axis"):
        Axis.parse(text)


def test_time_left_is_that_of_the_same_arm_or_of_all() -> None:
    assert seconds_left(["a"], {}) is None
    assert seconds_left(["a", "b", "c"], {"a": [10.0, 20.0], "b": [60.0]}) == 15 + 60 + 30
