"""The record of a run, as everybody but the report takes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedrai.cli import cli
from fedrai.cli.show.summary import LIST_COLUMNS, list_row
from fedrai.federation.run.summarising import summarise
from fedrai.rates import Rate
from fedrai.runs import RunFolder, record
from run_folders import put, report_body, write_filter, write_run


def early(path: Path) -> Path:
    """A run of a version that recorded less."""
    write_run(path)
    put(path / "run.json", {"name": path.name, "rows": {"one": 3, "two": 4}})
    (path / "recipe.toml").unlink()
    for number in (1, 2):
        put(path / f"rounds/000{number}/round.json", {"round": number})
    return path


def test_a_run_that_recorded_less_is_listed(tmp_path: Path) -> None:
    early(tmp_path / "runs/old")
    listed = CliRunner().invoke(cli, ["runs", str(tmp_path / "runs"), "--json"])
    assert listed.exit_code == 0, listed.output
    [figures] = json.loads(listed.stdout).values()
    cells = dict(zip(LIST_COLUMNS[1:], list_row(figures), strict=True))
    assert (cells["status"], cells["rounds"], cells["clients"]) == ("finished", "2", "2")
    assert (cells["harmful rows"], cells["filter"], cells["held-out loss"]) == (
        "0 of 7", "off", "2.500")  # fmt: skip
    assert figures["training_loss"] == [{"round": 1, "last": None}, {"round": 2, "last": None}]


def test_the_summary_holds_evaluations_and_ledgers_as_they_were_written(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", filtered=True)
    summary = summarise(RunFolder(path))
    written = json.loads((path / "evaluations/0002/metrics.json").read_text())
    assert summary["evaluations"]["2"] == {k: v for k, v in written.items() if k != "costs"}
    assert summary["filter"]["total"] == json.loads((path / "filter.json").read_text())["total"]
    assert summary["costs"]["training"]["seconds"] == 20.0
    assert summary["costs"]["filter"]["seconds"] == 4.0


def test_alignments_of_a_run_together(tmp_path: Path) -> None:
    rules = {"constitution": {"schedule": "every", "hash": "e" * 64}}
    reports = {1: report_body(), 2: {"ran": False, "why": "all is well"}}
    run = record.read(RunFolder(write_run(tmp_path / "run", info=rules, reports=reports)))
    assert run.constitution is not None
    assert (run.constitution.alignments, run.constitution.steps) == (1, 30)
    assert run.constitution.full_operations == 2 * 4e12  # as if both rounds had one
    assert run.constitution.saving == pytest.approx(1 - 2e12 / 8e12)
    first, second = (one.alignment for one in run.rounds)
    assert first is not None
    assert second is not None
    assert first.before is not None
    assert first.before.safe == Rate(1, 4)
    assert not second.ran


@pytest.mark.parametrize("name", ["run.json", "rounds/0001/round.json", "filter.json"])
def test_a_file_that_is_no_object_is_named(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path / "run")
    write_filter(path)
    (path / name).write_text("[1]")
    listed = CliRunner().invoke(cli, ["runs", str(tmp_path)])
    assert "not listed" in listed.stderr
    assert f"{name} cannot be read (not a JSON object)" in listed.stderr
