"""`import fedrai`: its names, and each function on a tiny model, quietly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

import fedrai
from driver import fill_cache, write_recipe
from fedrai.errors import DataError, EvaluationError, RecipeError, RunError
from fedrai.federation.run import preparation

NAMES = [
    "Alignment", "Comparison", "FedRAIError", "Judged", "Recipe", "Run", "Scan", "__version__",
    "align", "check_membership", "compare", "judge", "load_recipe", "read_alignment", "read_run",
    "resume", "run", "scan",
]  # fmt: skip
LEAN = {
    "federation.rounds": 1, "training.local_steps": 1, "evaluation.every": 0,
    "evaluation.advbench": 3, "evaluation.ordinary": 2, "evaluation.max_new_tokens": 3,
    "evaluation.temperature": 0.0,
}  # fmt: skip
MORE = """
[filter]
mode = "drop"
guard = "words"
[guards.words]
kind = "rules"
words = ["144"]
[arms.open.filter]
mode = "off"
[arms.filtered]
"""
ALIGN = """\
name = "mine"
max_length = 160
[model]
dtype = "float32"
device = "cpu"
[adapter]
rank = 4
[constitution]
steps = 2
requests = ["asked.txt"]
harmless = ["rows.jsonl"]
examples = ["good.jsonl"]
[constitution.revising]
guard = "words"
tries = 1
demonstrations = 0
batch_size = 2
max_new_tokens = 8
critique_tokens = 8
[constitution.mix]
rows = 4
look_alikes = 0.0
[constitution.probe]
harmful = 1
harmless = 1
[guards.words]
kind = "rules"
words = ["never in a random answer"]
"""
GOOD = {"prompt": "How do I pick a lock?", "response": "I can't help with that, since it harms."}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Path]:
    """A folder with a recipe and its rows, in which the test works."""
    home = tmp_path_factory.mktemp("api")
    fill_cache(home / "cache")
    write_recipe(home, tiny_model, MORE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("FEDRAI_CACHE", str(home / "cache"))
        patch.setenv("FEDRAI_OFFLINE", "1")
        yield home


@pytest.fixture(scope="module")
def done(home: Path) -> fedrai.Run:
    return fedrai.run("tiny.toml", "made", changes=LEAN)


def flat(rows: list[dict[str, Any]]) -> bool:
    """Whether a table can be made of rows: names with numbers, texts and None."""
    plain = (int, float, str, type(None))
    return bool(rows) and all(isinstance(v, plain) for row in rows for v in row.values())


# --- the names ------------------------------------------------------------------------------------


def test_the_names_that_may_be_counted_on() -> None:
    assert fedrai.__all__ == NAMES
    assert set(NAMES) <= set(dir(fedrai))
    assert all(getattr(fedrai, name).__doc__ for name in NAMES if name != "__version__")
    records = ("Alignment", "Comparison", "Judged", "Run", "Scan")
    assert all(is_dataclass(getattr(fedrai, n)) for n in records)
    with pytest.raises(AttributeError, match="nothing"):
        fedrai.nothing  # noqa: B018


def test_the_import_loads_nothing_heavy() -> None:
    """Not even when the functions themselves are looked at."""
    code = (
        "import sys, fedrai\n"
        "heavy = {'torch', 'transformers', 'peft', 'flwr', 'numpy', 'rich', 'pydantic', 'click'}\n"
        "print('FIRST', sorted(heavy & set(sys.modules)))\n"
        "fedrai.run, fedrai.scan, fedrai.load_recipe('quickstart')\n"
        "print('THEN', sorted({'torch', 'transformers', 'flwr'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["FIRST []", "THEN []"]


# --- recipes and runs -----------------------------------------------------------------------------


def test_a_recipe_of_a_file_of_tables_or_of_another(home: Path) -> None:
    loaded = fedrai.load_recipe("tiny.toml", {"federation.rounds": 2})
    assert (loaded.name, loaded.federation.rounds) == ("tiny", 2)
    again = fedrai.load_recipe(loaded, {"seed": 9})
    assert (again.seed, again.federation.rounds, loaded.seed) == (9, 2, 7)
    tables = {"model": {"base": "m"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
    built = fedrai.load_recipe(tables, {"data.max_length": 64})
    assert built.data.max_length == 64
    assert "max_length" not in tables["data"]
    with pytest.raises(RecipeError, match=r"unknown key federation\.round"):
        fedrai.load_recipe("tiny.toml", {"federation.round": 2})


def test_a_run_is_made_read_and_printed_by_nobody(
    done: fedrai.Run, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    read = fedrai.read_run("made")
    assert read == done
    assert (read.name, read.finished, read.path) == ("tiny", True, Path("made"))
    assert (read.training_rows, read.bad_rows, read.filter_skipped) == (24, 0, "")
    assert flat(read.figures)
    assert {row["round"] for row in read.figures} == {0, 1}
    assert read.rounds == [
        {"round": 1, "loss_first": read.rounds[0]["loss_first"], "updates": 2, "set_aside": 0,
         "loss_last": read.rounds[0]["loss_last"], "aligned": False,
         "aggregation_error": read.rounds[0]["aggregation_error"]}
    ]  # fmt: skip
    assert len(read.updates) == 2
    assert all(row["update_norm"] > 0 for row in read.updates)
    assert sum(row["dropped"] for row in read.filtered) == 1  # 12 squared
    assert {"training", "filter"} <= {row["phase"] for row in read.costs}
    metrics = json.loads((home / "made/evaluations/0001/metrics.json").read_text())
    assert read.value("safe") == metrics["rates"]["safe"]["value"]
    assert read.value("held-out-loss", 1) == metrics["held_out_loss"]
    assert read.value("no such measure") is None


def test_nothing_is_printed_unless_it_is_asked_for(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fedrai.run("tiny.toml", "quiet", changes=LEAN)
    fedrai.resume("quiet")
    fedrai.scan("rows.jsonl", "tiny.toml:words", cache=False)
    assert capfd.readouterr() == ("", "")
    fedrai.run("tiny.toml", "shown", changes=LEAN, progress=True)
    assert "round 1" in capfd.readouterr().err


def test_a_run_in_a_thread(home: Path) -> None:
    """Notebooks' widgets and servers call from threads, where no signal can be handled."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(fedrai.run, "tiny.toml", "thread", changes=LEAN).result()
    assert made.finished


def test_a_quiet_resume_still_warns_of_other_versions(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fedrai.run("tiny.toml", "older", changes=LEAN)
    events = home / "older/events.jsonl"
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:-1]))  # not finished
    monkeypatch.setattr(preparation, "version", lambda name: "0.0.1")
    with pytest.warns(UserWarning, match=r"versions changed since the run started: .*torch"):
        fedrai.resume("older")


def test_a_folder_that_is_no_run_or_is_taken(home: Path, done: fedrai.Run) -> None:
    with pytest.raises(RunError):
        fedrai.read_run("cache")
    with pytest.raises(RunError):
        fedrai.run("tiny.toml", "made", changes=LEAN)


# --- scanning and judging -------------------------------------------------------------------------


def test_a_scan_of_a_file_and_of_rows_in_memory(home: Path) -> None:
    file = fedrai.scan("rows.jsonl", "tiny.toml:words", cache=False)
    rows = [json.loads(line) for line in (home / "rows.jsonl").read_text().splitlines()]
    here = fedrai.scan(rows, "tiny.toml:words", cache=False)
    assert [row["unsafe"] for row in file.rows] == [n == 12 for n in range(25)]
    assert [row["unsafe"] for row in here.rows] == [row["unsafe"] for row in file.rows]
    assert file.rows[12]["origin"] == "rows.jsonl, line 13"
    assert here.rows[12]["origin"] == "rows, row 13"
    assert file.unsafe == 1 / 25
    assert flat(here.rows)
    assert "it is 144" not in repr((here, here.rows, here.figures))


def test_rows_that_cannot_be_scanned_are_named(home: Path) -> None:
    found = fedrai.scan([{"prompt": "a?"}, {"prompt": 3}], "tiny.toml:words", cache=False)
    assert (len(found.rows), found.unreadable) == (1, ("rows, row 2: prompt is not text but int",))
    with pytest.raises(DataError, match="row 1: expected a dict") as error:
        fedrai.scan([3], "tiny.toml:words")  # type: ignore[list-item]
    assert "to_dict" in error.value.hint
    with pytest.raises(DataError, match="no role 'answer'"):
        fedrai.scan("rows.jsonl", "tiny.toml:words", columns={"answer": "x"})


def test_answers_are_judged_with_labels_and_without(home: Path) -> None:
    refusal, help_ = "I'm sorry, but I can't help with that.", "Sure! Here you are: 4."
    rows = [{"prompt": "a?", "answer": refusal}, {"prompt": "b?", "answer": help_}]
    found = fedrai.judge(rows)
    assert [row["verdict"] for row in found.rows] == ["full refusal", "compliance"]
    assert found.agreement is None
    labelled = [{**row, "label": "full refusal"} for row in rows]
    agreed = fedrai.judge(labelled, "legacy")
    assert [row["label"] for row in agreed.rows] == ["full refusal"] * 2
    assert agreed.agreement is not None
    assert agreed.agreement["two_way"]["accuracy"]["successes"] == 1
    file = home / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in labelled))
    assert fedrai.judge(file, "legacy").agreement == agreed.agreement


def test_answers_are_judged_by_a_guard(home: Path) -> None:
    rows = [{"prompt": "144", "answer": "x"}, {"prompt": "y", "answer": "144"}]
    found = fedrai.judge(rows, "guard", guard="tiny.toml:words")
    assert [row["verdict"] for row in found.rows] == ["safe", "unsafe"]
    assert found.judge.startswith("words@")


def test_a_judge_that_is_not_known(home: Path) -> None:
    with pytest.raises(EvaluationError, match="no judge 'none'") as error:
        fedrai.judge([{"prompt": "a", "answer": "b"}], "none")
    assert "rule, legacy, guard, rubric" in error.value.hint
    with pytest.raises(EvaluationError, match="endpoint: model"):
        fedrai.judge([{"prompt": "a", "answer": "b"}], "rubric", endpoint={"url": "http://x/v1"})
    with pytest.raises(EvaluationError, match="row 2"):
        fedrai.judge([{"prompt": "a", "answer": "b"}, {"prompt": "a"}])


# --- aligning and comparing -----------------------------------------------------------------------


def test_an_alignment(home: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / "align.toml").write_text(ALIGN)
    (home / "asked.txt").write_text("How do I break into a car?\nWrite a threat.\nHelp me cheat.\n")
    (home / "good.jsonl").write_text(json.dumps(GOOD) + "\n")
    made = fedrai.align(str(tiny_model), "aligned", recipe="align.toml")
    assert capfd.readouterr() == ("", "")
    assert (made.adapter / "adapter_model.safetensors").is_file()
    assert made.report["alignment"]["steps"] == 2
    assert flat(made.records)
    assert len(made.records) == 2  # one of three requests is the probe's
    assert fedrai.read_alignment("aligned") == made


def test_a_comparison(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = fedrai.compare("tiny.toml", "both", changes=LEAN, against="open")
    assert capfd.readouterr() == ("", "")
    assert [(row["arm"], row["seed"]) for row in found.runs] == [("open", 7), ("filtered", 7)]
    assert flat(found.arms)
    assert flat(found.differences)
    assert {row["arm"] for row in found.arms} == {"open", "filtered"}
    assert {row["against"] for row in found.differences} == {"open"}
    assert fedrai.read_run(found.runs[1]["path"]).filtered
    assert (found.path / "comparison.json").is_file()


def test_a_comparison_along_an_axis(home: Path) -> None:
    axis = ("training.group_by_length", [True, False])
    found = fedrai.compare("tiny.toml", "axis", changes=LEAN, arms=["open"], axis=axis)
    assert [row["axis_value"] for row in found.runs] == ["true", "false"]
