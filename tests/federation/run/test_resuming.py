"""A run that is killed at any point and resumed ends in the same bits."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from driver import fedrai, fill_cache, outcome, run_cases, write_recipe, write_rows

pytestmark = pytest.mark.slow

# Three rounds of two clients with three steps each; an evaluation has three batches of answers.
KILLS: dict[str, dict[str, Any]] = {
    "second client of round 2 trains": {"kind": "step", "nth": 11},
    "an update was just kept": {
        "kind": "replace",
        "pattern": r"pending/0002/\.new-",
        "when": "after",
    },
    "an update is being kept": {"kind": "replace", "pattern": r"pending/0001/\.new-", "nth": 2},
    "base evaluation": {"kind": "answers", "nth": 2},
    "evaluation of round 2": {"kind": "answers", "nth": 8},
    "evaluation is being written": {"kind": "rename", "pattern": r"evaluations/\.new-0001"},
    "between commit and evaluation": {"kind": "event", "pattern": "evaluation-started", "nth": 3},
    "round.json is being written": {
        "kind": "replace",
        "pattern": r"rounds/\.new-0002/\.new-round\.json",
    },
    "round folder is being written": {"kind": "rename", "pattern": r"rounds/\.new-0003"},
    "round committed, updates still there": {
        "kind": "rename",
        "pattern": r"rounds/\.new-0002",
        "when": "after",
    },
    "finished, summary not written": {"kind": "event", "pattern": "^finished$"},
}
WORDS = '\n[guards.words]\nkind = "rules"\nwords = ["it is 4", "it is 49", "{}"]\n'
FILTER = '[filter]\nmode = "replace"\nguard = "words"\ncount_epsilon = 0.3\n'
FILTER_KILLS: dict[str, dict[str, Any]] = {
    "ledger is being written": {"kind": "replace", "pattern": r"clients/\.new-client-02\.filter"},
    "totals are being written": {"kind": "replace", "pattern": r"\.new-filter\.json"},
    "rows are filtered": {"kind": "event", "pattern": "filter-finished", "when": "after"},
    "filtered clients train": {"kind": "step", "nth": 5},
}
ADAM = '\n[aggregation]\nalgorithm = "fedadam"\neta = 0.01\n'
ADAM_KILLS = ["second client of round 2 trains", "round folder is being written"]
SCAFFOLD = '\n[aggregation]\nalgorithm = "scaffold"\n'
SCAFFOLD_KILLS: dict[str, dict[str, Any]] = {
    "a variate of round 2 is being kept": {
        "kind": "replace",
        "pattern": r"variates/client-0\d/\.new-0002",
        "nth": 2,
    },
    "a variate of round 2 was kept, its update not": {
        "kind": "replace",
        "pattern": r"variates/client-0\d/\.new-0002",
        "when": "after",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def whole(folder: Path, tiny_model: Path) -> Path:
    """The uninterrupted run, in an ordinary process of its own."""
    recipe = write_recipe(folder / "data", tiny_model)
    cache = fill_cache(folder / "cache")
    done = fedrai("run", recipe, "--out", "whole", cwd=folder, cache=cache)
    assert done.returncode == 0, done.stderr
    return folder / "whole"


@pytest.fixture(scope="module")
def results(folder: Path, whole: Path, tiny_model: Path) -> dict[str, Any]:
    """Every killed run and what became of it, in one process that forks."""
    plain = folder / "data" / "tiny.toml"
    adam = folder / "data" / "adam.toml"
    adam.write_text(plain.read_text() + ADAM)
    cases: list[dict[str, Any]] = []

    def killed(name: str, recipe: Path, at: dict[str, Any]) -> None:
        cases.append({"name": name, "argv": ["run", recipe, "--out", name], "at": at})

    def resumed(name: str, again: str = "", at: dict[str, Any] | None = None) -> None:
        case = {"name": f"{name}, resumed{again}", "argv": ["run", "--resume", name]}
        cases.append({**case, "at": at} if at else case)

    for name, at in KILLS.items():
        killed(name, plain, at)
        resumed(name)
    for name, at in FILTER_KILLS.items():
        killed(name, _filtered(folder, name), at)
        resumed(name)
    for name, number in (("filter killed", signal.SIGKILL), ("filter ctrl-c", signal.SIGINT)):
        file, at = _filtered(folder, name), {"kind": "judged", "pattern": "client-02"}
        killed(name, file, {**at, "number": number})
        cases.append({"name": f"{name}, again", "argv": ["run", file, "--out", name]})
    cases.append({"name": "filtered", "argv": ["run", _filtered(folder, "filtered"),
                                               "--out", "filtered"]})  # fmt: skip
    cases.append({"name": "adam", "argv": ["run", adam, "--out", "adam"]})
    for name in ADAM_KILLS:
        killed(f"adam, {name}", adam, KILLS[name])
        resumed(f"adam, {name}")
    scaffold = folder / "data" / "scaffold.toml"
    scaffold.write_text(plain.read_text() + SCAFFOLD)
    cases.append({"name": "scaffold", "argv": ["run", scaffold, "--out", "scaffold"]})
    for name, at in SCAFFOLD_KILLS.items():
        killed(name, scaffold, at)
        resumed(name)
    killed("twice", plain, {"kind": "step", "nth": 2})
    resumed("twice", " and killed", {"kind": "answers", "nth": 4})
    resumed("twice")
    killed("ctrl-c", plain, {"kind": "step", "nth": 8, "number": signal.SIGINT})
    resumed("ctrl-c")
    return run_cases(cases, tiny_model, folder, folder / "cache")


def _filtered(folder: Path, name: str) -> Path:
    """A recipe with a filter; its guard is another for each name, and says the same."""
    file = folder / "data" / f"{name}.toml"
    file.write_text((folder / "data" / "tiny.toml").read_text() + WORDS.format(name) + FILTER)
    return file


def test_whole_run_holds_what_is_compared(whole: Path) -> None:
    files = outcome(whole)
    for number in (1, 2, 3):
        assert f"rounds/{number:04d}/adapter/adapter_model.safetensors" in files
        assert len(files[f"rounds/{number:04d}/round.json"]["clients"]) == 2
    for number in (0, 1, 2, 3):
        assert files[f"evaluations/{number:04d}/advbench.jsonl"].count(b"\n") == 6
        assert files[f"evaluations/{number:04d}/ordinary.jsonl"].count(b"\n") == 4
        assert files[f"evaluations/{number:04d}/metrics.json"]["held_out_loss"] > 0
    adapters = [files[f"rounds/{n:04d}/adapter/adapter_model.safetensors"] for n in (1, 2, 3)]
    assert len(set(adapters)) == 3
    losses = [files[f"evaluations/{n:04d}/metrics.json"]["held_out_loss"] for n in range(4)]
    assert losses[3] < losses[0]
    answers = [files[f"evaluations/{n:04d}/advbench.jsonl"] for n in range(4)]
    assert len(set(answers)) == 4  # sampled, and by different models


@pytest.mark.parametrize("name", KILLS)
def test_killed_run_resumes_to_the_same_bits(
    name: str, folder: Path, whole: Path, results: dict[str, Any]
) -> None:
    assert results[name]["code"] == -signal.SIGKILL, results[name]["err"]
    after = results[f"{name}, resumed"]
    assert after["code"] == 0, after["err"]
    assert "Traceback" not in after["err"]
    assert outcome(folder / name) == outcome(whole)
    assert not list((folder / name).rglob(".new-*"))
    assert json.loads((folder / name / "summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("name", ADAM_KILLS)
def test_server_state_survives_a_kill(name: str, folder: Path, results: dict[str, Any]) -> None:
    assert results["adam"]["code"] == 0, results["adam"]["err"]
    assert results[f"adam, {name}"]["code"] == -signal.SIGKILL
    assert results[f"adam, {name}, resumed"]["code"] == 0, results[f"adam, {name}, resumed"]["err"]
    files = outcome(folder / "adam")
    assert files["rounds/0001/server.safetensors"] != files["rounds/0003/server.safetensors"]
    assert outcome(folder / f"adam, {name}") == files


@pytest.mark.parametrize("name", SCAFFOLD_KILLS)
def test_control_variates_survive_a_kill(name: str, folder: Path, results: dict[str, Any]) -> None:
    assert results["scaffold"]["code"] == 0, results["scaffold"]["err"]
    assert results[name]["code"] == -signal.SIGKILL
    assert results[f"{name}, resumed"]["code"] == 0, results[f"{name}, resumed"]["err"]
    assert outcome(folder / name) == outcome(folder / "scaffold")
    runs = [folder / name / "variates", folder / "scaffold" / "variates"]
    kept = [{str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*.*")} for run in runs]
    assert kept[0] == kept[1]
    assert len(kept[1]) >= 4


def test_run_can_be_killed_again_after_resuming(
    folder: Path, whole: Path, results: dict[str, Any]
) -> None:
    assert results["twice"]["code"] == -signal.SIGKILL
    assert results["twice, resumed and killed"]["code"] == -signal.SIGKILL
    assert results["twice, resumed"]["code"] == 0, results["twice, resumed"]["err"]
    assert outcome(folder / "twice") == outcome(whole)


def test_kept_updates_are_not_trained_again(folder: Path, results: dict[str, Any]) -> None:
    def events(name: str) -> list[str]:
        lines = (folder / name / "events.jsonl").read_text().splitlines()
        return [json.loads(line)["event"] for line in lines]

    del results
    after = events("an update was just kept")
    after = after[after.index("resumed") :]
    assert after.count("client-kept") == 1
    assert after.count("client-finished") == 3  # one of round 2, two of round 3
    committed = events("between commit and evaluation")
    committed = committed[committed.index("resumed") :]
    assert "client-kept" not in committed
    assert committed.count("client-finished") == 2


def test_ctrl_c_stops_with_the_command_that_goes_on(
    folder: Path, whole: Path, results: dict[str, Any]
) -> None:
    stopped = results["ctrl-c"]
    assert stopped["code"] == 130
    assert "Traceback" not in stopped["err"]
    assert (
        stopped["err"]
        .rstrip()
        .endswith("stopped; nothing is lost. Resume with:\n  fedrai run --resume ctrl-c")
    )
    assert results["ctrl-c, resumed"]["code"] == 0, results["ctrl-c, resumed"]["err"]
    assert outcome(folder / "ctrl-c") == outcome(whole)


def screening(run: Path) -> dict[str, Any]:
    """What the filter leaves in a run, without its costs and the name of its guard."""
    files = {file.name: json.loads(file.read_text()) for file in run.rglob("*filter.json")}
    files["filter.json"].pop("cost")
    for ledger in (files["filter.json"]["total"], *(f for f in files.values() if "guard" in f)):
        assert ledger.pop("guard").startswith("words@")
    return files


@pytest.mark.parametrize("name", FILTER_KILLS)
def test_filtered_run_resumes_to_the_same_bits(
    name: str, folder: Path, results: dict[str, Any]
) -> None:
    assert results["filtered"]["code"] == 0, results["filtered"]["err"]
    assert results[name]["code"] == -signal.SIGKILL, results[name]["err"]
    after = results[f"{name}, resumed"]
    assert after["code"] == 0, after["err"]
    assert outcome(folder / name) == outcome(folder / "filtered")
    assert screening(folder / name) == screening(folder / "filtered")
    assert not list((folder / name).rglob(".new-*"))


@pytest.mark.parametrize("name", ["filter killed", "filter ctrl-c"])
def test_run_that_stopped_in_its_filter_begins_again(
    name: str, folder: Path, results: dict[str, Any]
) -> None:
    stopped = results[name]
    assert stopped["code"] == (130 if "ctrl-c" in name else -signal.SIGKILL)
    assert "Traceback" not in stopped["err"]
    assert ("stopped before training; verdicts so far are kept" in stopped["err"]) == (
        "ctrl-c" in name
    )
    assert results[f"{name}, again"]["code"] == 0, results[f"{name}, again"]["err"]
    assert outcome(folder / name) == outcome(folder / "filtered")
    assert screening(folder / name) == screening(folder / "filtered")


def test_filtered_run_holds_what_is_compared(folder: Path, results: dict[str, Any]) -> None:
    assert results["filtered"]["code"] == 0, results["filtered"]["err"]
    found = screening(folder / "filtered")
    assert sorted(found) == [
        "client-01.filter.json", "client-02.filter.json", "client-03.filter.json", "filter.json",
    ]  # fmt: skip
    total = found["filter.json"]["total"]
    assert (total["rows"], total["unsafe"], total["replaced"]) == (25, 2, 2)
    plain, filtered = outcome(folder / "whole"), outcome(folder / "filtered")
    weights = "rounds/0003/adapter/adapter_model.safetensors"
    assert plain[weights] != filtered[weights]
    rounds = [filtered[f"rounds/{n:04d}/round.json"]["clients"] for n in (1, 2, 3)]
    seen: dict[str, list[dict[str, float]]] = {}
    for clients in rounds:
        for name, numbers in clients.items():
            counts = {key: n for key, n in numbers.items() if key.startswith("filter-")}
            seen.setdefault(name, []).append(counts)
    assert max(map(len, seen.values())) > 1
    assert all(counts == said[0] for said in seen.values() for counts in said)


def _in_process(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str | Path
) -> int | str | None:
    from fedrai.cli import main

    monkeypatch.chdir(folder)
    monkeypatch.setenv("FEDRAI_CACHE", str(folder / "cache"))
    monkeypatch.setattr("sys.argv", ["fedrai", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_resuming_a_finished_run_changes_nothing(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contents() -> dict[str, bytes]:
        return {str(f): f.read_bytes() for f in whole.rglob("*") if f.is_file()}

    before = contents()
    assert _in_process(monkeypatch, folder, "run", "--resume", "whole") == 0
    assert contents() == before


@pytest.fixture
def cut(folder: Path, whole: Path, tmp_path: Path) -> Path:
    """A copy of the run as it stood after round 2, before it finished."""
    copy = folder / "cut"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    for gone in ("rounds/0003", "evaluations/0003"):
        shutil.rmtree(copy / gone)
    lines = (copy / "events.jsonl").read_text().splitlines(keepends=True)
    (copy / "events.jsonl").write_text("".join(lines[:-1]) + '{"time": "2025-01-01T0')
    return copy


def test_cut_event_line_is_mended(
    folder: Path, whole: Path, cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _in_process(monkeypatch, folder, "run", "--resume", "cut") == 0
    assert outcome(cut) == outcome(whole)
    kinds = []
    for line in (cut / "events.jsonl").read_text().splitlines():
        if line != '{"time": "2025-01-01T0':
            kinds.append(json.loads(line)["event"])
    assert kinds.count("finished") == 1
    assert "resumed" in kinds


@pytest.mark.parametrize(
    ("key", "changed"),
    [("recipe_hash", "recipe.toml"), ("data_fingerprint", "the clients' data")],
)
def test_resuming_something_else_is_refused(
    key: str,
    changed: str,
    folder: Path,
    cut: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = folder / "data" / "rows.jsonl"
    before = rows.read_text()
    if key == "recipe_hash":
        recipe = (cut / "recipe.toml").read_text()
        assert "learning_rate = 0.02" in recipe
        recipe = recipe.replace("learning_rate = 0.02", "learning_rate = 0.03")
        (cut / "recipe.toml").write_text(recipe)
    else:
        write_rows(rows, 25, first=1)
    try:
        code = _in_process(monkeypatch, folder, "run", "--resume", "cut")
    finally:
        rows.write_text(before)
    assert code == 2
    assert capsys.readouterr().err == (
        f"error: cut cannot be resumed: {changed} changed since the run began\n"
        "  start a new run with --out\n"
    )
    assert sorted(f.name for f in (cut / "rounds").iterdir()) == ["0001", "0002"]


def test_resuming_no_run_folder_is_one_line(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _in_process(monkeypatch, folder, "run", "--resume", "data") == 2
    assert capsys.readouterr().err == (
        "error: data is not a run folder (no run.json)\n  `fedrai runs` lists runs\n"
    )
    assert _in_process(monkeypatch, folder, "run", "--resume", "nowhere") == 2
    assert capsys.readouterr().err.startswith("error: nowhere is not a run folder")
