"""The record of a run, as everybody but the report takes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedrai.cli import cli
from fedrai.cli.show.summary import LIST_COLUMNS, list_row, rows_notes
from fedrai.errors import RunError
from fedrai.rates import Rate
from fedrai.report.provenance import provenance
from fedrai.runs import RunFolder, record
from fedrai.runs.record import Summary, summarise, write_summary
from fedrai.runs.record.summary import RoundLoss, SetAside, SourceRows
from fedrai.runs.schema import SCHEMA
from run_folders import put, report_body, write_filter, write_run


def early(path: Path) -> Path:
    """A run of a version that recorded less."""
    write_run(path)
    put(path / "run.json", {"name": path.name, "rows": {"one": 3, "two": 4}})
    (path / "recipe.toml").unlink()
    for number in (1, 2):
        put(path / f"rounds/000{number}/round.json", {"round": number})
    return path


def test_a_run_of_an_earlier_version_is_listed(tmp_path: Path) -> None:
    early(tmp_path / "runs/old")
    listed = CliRunner().invoke(cli, ["runs", str(tmp_path / "runs"), "--json"])
    assert listed.exit_code == 0, listed.output
    [figures] = json.loads(listed.stdout).values()
    summary = Summary.from_json(tmp_path / "runs/old", figures)
    assert summary == summarise(RunFolder(tmp_path / "runs/old"))
    cells = dict(zip(LIST_COLUMNS[1:], list_row(summary), strict=True))
    assert (cells["status"], cells["rounds"], cells["clients"]) == ("finished", "2", "2")
    assert (cells["harmful rows"], cells["filter"], cells["held-out loss"]) == (
        "not known of 7", "off", "2.500")  # fmt: skip
    assert figures["training_loss"] == [{"round": 1, "last": None}, {"round": 2, "last": None}]


def test_the_summary_holds_evaluations_and_ledgers_as_they_were_written(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", filtered=True)
    write_summary(RunFolder(path))
    body = json.loads((path / "summary.json").read_text())
    written = json.loads((path / "evaluations/0002/metrics.json").read_text())
    assert body["schema"] == SCHEMA
    assert body["evaluations"]["2"] == {k: v for k, v in written.items() if k != "costs"}
    assert body["filter"]["total"] == json.loads((path / "filter.json").read_text())["total"]
    assert body["costs"]["training"]["seconds"] == 20.0
    assert body["costs"]["filter"]["seconds"] == 4.0
    assert Summary.from_json(path, body) == summarise(RunFolder(path))


def test_a_summary_without_a_schema_is_read(tmp_path: Path) -> None:
    body = {
        "name": "old", "recipe_hash": "a" * 64, "status": "finished", "start": "", "rounds": 2,
        "clients": 2, "rows": 7, "harmful_rows": 0, "bad_rows": 1, "filter": None,
        "constitution": None, "evaluations": {"0": {"held_out_loss": 2.5}},
        "training_loss": [{"round": 1, "last": 2.0}, {"round": 2, "last": None}],
        "set_aside": [{"round": 2, "client": "one", "reason": "late"}],
        "costs": {"training": {"seconds": 3.0}}, "untold_costs": ["tokens"],
    }  # fmt: skip
    found = Summary.from_json(tmp_path, body)
    assert found.evaluations == {0: {"held_out_loss": 2.5}}
    assert found.training_loss == (RoundLoss(1, 2.0), RoundLoss(2, None))
    assert found.set_aside == (SetAside(2, "one", "late"),)
    assert (found.costs["training"].seconds, found.unreported_costs) == (3.0, ("tokens",))
    assert found.bad_row_problems == {}


HELD = {"one": {"everyday": 17, "sensitive": 8, "harmful": 11},
        "two": {"everyday": 18, "sensitive": 7, "harmful": 11}}  # fmt: skip
LEFT = {"one": {"everyday": 17, "sensitive": 6, "harmful": 2},
        "two": {"everyday": 18, "sensitive": 7}}  # fmt: skip


def test_rows_by_source(tmp_path: Path) -> None:
    info = {"held_rows": HELD, "trained_rows": LEFT}
    path = write_run(tmp_path / "run", info=info)
    summary = summarise(RunFolder(path))
    assert summary.sources == {
        "everyday": SourceRows(35, 17, 18, 35),
        "sensitive": SourceRows(15, 7, 8, 13),
        "harmful": SourceRows(22, 11, 11, 2),
    }
    assert rows_notes(summary)[0] == (
        "rows of a client: 17 to 18 everyday (35 in all), 7 to 8 sensitive (15 in all, 13 left),"
        " 11 harmful (22 in all, 2 left)"
    )
    assert Summary.from_json(path, summary.to_json()) == summary


def test_rows_by_source_are_not_known_of_every_run(tmp_path: Path) -> None:
    one = {"held_rows": {"one": {"rows": 9}}, "trained_rows": {"one": {"rows": 9}}}
    for name, info in (("earlier", {}), ("plain", one)):
        notes = rows_notes(summarise(RunFolder(write_run(tmp_path / name, info=info))))
        assert not any("rows of a client" in note for note in notes)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ([], "not a JSON object"),
        ({"schema": SCHEMA + 1}, "later version"),
        ({"name": 1}, "at name"),
    ],
)
def test_an_invalid_summary_is_refused(tmp_path: Path, body: object, problem: str) -> None:
    with pytest.raises(RunError, match=problem):
        Summary.from_json(tmp_path, body)


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
def test_a_file_that_is_not_an_object_is_an_error(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path / "run")
    write_filter(path)
    (path / name).write_text("[1]")
    listed = CliRunner().invoke(cli, ["runs", str(tmp_path)])
    assert "not listed" in listed.stderr
    assert f"{name} cannot be read (not a JSON object)" in listed.stderr


@pytest.mark.parametrize(
    ("reports", "expected", "unreported", "text"),
    [
        ([{"a": {}, "b": {}}], None, 2, "not reported"),
        (
            [{"a": {"bad-rows": 9}}, {"a": {"bad-rows": 2}, "b": {}}],
            2,
            1,
            "2 (1 client does not report)",
        ),
        ([{"a": {"bad-rows": 2}, "b": {"bad-rows": 0}}], 2, 0, "2"),
    ],
)
def test_unusable_rows_of_a_deployment_are_those_that_nodes_report(
    tmp_path: Path,
    reports: list[dict[str, dict[str, float]]],
    expected: int | None,
    unreported: int,
    text: str,
) -> None:
    """Each node's latest report counts; replies without the number are accepted."""
    run = RunFolder.create(tmp_path / "run", "", {"engine": "flower", "bad_row_count": 0})
    for number, clients in enumerate(reports, 1):
        put(run.round_folder(number) / "round.json", {"round": number, "clients": clients})
    body, summary = record.read(run), summarise(run)
    assert (body.bad_rows, body.bad_rows_unreported) == (expected, unreported)
    assert (summary.bad_rows, summary.bad_rows_unreported) == (expected, unreported)
    assert provenance([body]).rows[-1].cells[1].text == text
    assert list_row(summary)[LIST_COLUMNS.index("skipped rows") - 1] == text
    assert any(text in line for line in rows_notes(summary))
