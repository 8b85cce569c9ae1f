"""The run folder: whole files or none, one process at a time, readable after a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from fedrai.errors import RunError
from fedrai.runs import RunFolder, check_free, find_runs, record
from fedrai.runs.files import load_tensors, save_tensors, write_text
from fedrai.runs.schema import SCHEMA


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", 'name = "x"\n', {"name": "x", "rows": {"a": 3}})


def contents(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*"))


def test_create_writes_recipe_and_info(run: RunFolder) -> None:
    assert contents(run.path) == ["checksums.sha256", "recipe.toml", "run.json"]
    assert (run.path / "recipe.toml").read_text() == 'name = "x"\n'
    info = RunFolder.open(run.path).info
    assert (info["name"], info["rows"]) == ("x", {"a": 3})
    assert info["created"].endswith("+00:00")
    assert info["schema"] == SCHEMA


def test_a_run_of_a_later_version_is_refused(run: RunFolder) -> None:
    file = run.path / "run.json"
    later = json.loads(file.read_text()) | {"schema": SCHEMA + 1}
    run.write_json("run.json", later, listed=True)
    with pytest.raises(RunError, match="later version of FedRAI") as caught:
        record.read(run)
    assert caught.value.hint == "update FedRAI"
    earlier = {name: value for name, value in later.items() if name != "schema"}
    run.write_json("run.json", earlier, listed=True)
    assert record.read(run).name == "x"


def test_create_accepts_an_empty_folder(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "", {})
    assert (tmp_path / "run.json").is_file()


def test_create_refuses_a_run_and_says_how_to_resume(run: RunFolder) -> None:
    with pytest.raises(RunError) as caught:
        RunFolder.create(run.path, "", {})
    assert caught.value.message == f"{run.path} already holds a run"
    assert caught.value.hint == (
        f"resume it with `fedrai run --resume {run.path}`, or choose another with --out"
    )
    assert (run.path / "recipe.toml").read_text() == 'name = "x"\n'


def test_create_refuses_a_folder_with_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="already holds files") as caught:
        RunFolder.create(tmp_path, "", {})
    assert caught.value.hint == "choose another folder with --out"
    assert contents(tmp_path) == ["thesis.tex"]


def test_create_refuses_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("mine")
    with pytest.raises(RunError, match="is a file; expected a folder"):
        RunFolder.create(file, "", {})
    with pytest.raises(RunError):
        RunFolder.create(file / "below", "", {})
    assert file.read_text() == "mine"


def test_unwritable_parent_is_refused_before_anything_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may all
    with pytest.raises(RunError, match=f"^{tmp_path} cannot be written$"):
        check_free(tmp_path / "a" / "b")
    with pytest.raises(RunError):
        RunFolder.create(tmp_path / "a" / "b", "", {})
    assert contents(tmp_path) == []


def test_disk_error_while_creating_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write the run in .*: No space left on device"):
        RunFolder.create(tmp_path / "run", "", {})


def test_check_free_writes_nothing(tmp_path: Path) -> None:
    check_free(tmp_path / "new" / "run")
    check_free(tmp_path)
    assert contents(tmp_path) == []


def test_open_needs_a_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="is not a run folder"):
            RunFolder.open(path)


# --- whole or not at all --------------------------------------------------------------------------


def test_folder_appears_whole(run: RunFolder) -> None:
    def write(folder: Path) -> None:
        assert folder != run.round_folder(1)
        assert not run.round_folder(1).exists()
        (folder / "deep").mkdir()
        write_text(folder / "deep" / "file.json", "{}")

    run.commit_round(1, write)
    assert contents(run.path / "rounds") == [
        "0001", "0001/checksums.sha256", "0001/deep", "0001/deep/file.json",
    ]  # fmt: skip
    assert (run.rounds(), run.last_round()) == ([1], 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_crash_while_writing_leaves_no_folder(run: RunFolder, error: type[BaseException]) -> None:
    def crash(folder: Path) -> None:
        write_text(folder / "round.json", "{}")
        raise error

    run.save_pending(1, "a", {"w": torch.ones(2)}, {})
    with pytest.raises(error):
        run.commit_round(1, crash)
    assert (run.rounds(), run.last_round(), run.evaluations()) == ([], 0, [])
    assert (run.pending(1) / "a.safetensors").is_file()  # still wanted
    run.commit_round(1, lambda folder: write_text(folder / "round.json", '{"round": 1}'))
    assert run.read_json("rounds/0001/round.json") == {"round": 1}
    assert contents(run.path / "rounds") == [
        "0001", "0001/checksums.sha256", "0001/round.json",
    ]  # fmt: skip


def test_disk_error_while_committing_says_how_to_resume(run: RunFolder) -> None:
    def full(_folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left on device") as caught:
        run.commit_round(1, full)
    assert caught.value.hint.endswith(f"then `fedrai run --resume {run.path}`")


def test_commit_drops_the_pending_updates_of_its_round_only(run: RunFolder) -> None:
    for number in (1, 2):
        run.save_pending(number, "a", {"w": torch.ones(2)}, {})
    run.commit_round(1, lambda folder: write_text(folder / "round.json", "{}"))
    assert contents(run.path / "pending") == ["0002", "0002/a.safetensors"]


def test_file_stays_as_it_was_when_writing_fails(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_json("summary.json", {"n": 1})

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError):
        run.write_json("summary.json", {"n": 2})
    with pytest.raises(RunError):
        run.save_pending(1, "a", {"w": torch.ones(1)}, {})
    assert run.read_json("summary.json") == {"n": 1}
    assert not (run.pending(1) / "a.safetensors").exists()


def test_tensors_and_notes_round_trip_to_the_bit(tmp_path: Path) -> None:
    tensors = {
        "b": torch.tensor([0.1, -0.0, 1e-45]),
        "a": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
    }
    save_tensors(tmp_path / "x.safetensors", tensors, {"metrics": '{"loss": 0.1}'})
    found, note = load_tensors(tmp_path / "x.safetensors")
    assert note == {"metrics": '{"loss": 0.1}'}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes()
    assert contents(tmp_path) == ["x.safetensors"]


# --- after a kill ---------------------------------------------------------------------------------


def test_repair_deletes_incomplete_files(run: RunFolder) -> None:
    half = run.path / "rounds" / ".new-0002"
    (half / "adapter").mkdir(parents=True)
    for name in ("adapter/adapter_config.json", ".new-round.json", "adapter/.new-x"):
        (half / name).write_text("half")
    (run.path / "pending" / "0001").mkdir(parents=True)
    (run.path / "pending" / "0001" / ".new-a.safetensors").write_text("half")
    (run.path / "pending" / "0001" / "b.safetensors").write_text("whole")
    (run.path / ".new-summary.json").write_text("half")
    before = (run.path / "run.json").read_bytes()
    run.repair()
    assert contents(run.path) == [
        "checksums.sha256",
        "pending",
        "pending/0001",
        "pending/0001/b.safetensors",
        "recipe.toml",
        "rounds",
        "run.json",
    ]
    assert (run.path / "run.json").read_bytes() == before
    run.repair()


def test_incomplete_event_is_left_out_and_the_next_one_is_complete(run: RunFolder) -> None:
    run.event("started", command="fedrai run x")
    run.event("round-started", round=1, clients=["a", "b"])
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"time": "2025-01-01T00:00:00", "event": "rou')
    assert [e["event"] for e in run.events()] == ["started", "round-started"]
    run.repair()
    run.event("resumed", after_round=0)
    run.repair()
    found = run.events()
    assert [e["event"] for e in found] == ["started", "round-started", "resumed"]
    assert found[1]["clients"] == ["a", "b"]
    assert (run.path / "events.jsonl").read_text().count("\n") == 4


def test_events_of_a_new_run_are_none(run: RunFolder) -> None:
    assert run.events() == []
    run.repair()
    assert not (run.path / "events.jsonl").exists()


def test_only_complete_folders_count(run: RunFolder) -> None:
    for name in ("0001", "0010", ".new-0011", "notes"):
        (run.path / "rounds" / name).mkdir(parents=True)
        (run.path / "evaluations" / name).mkdir(parents=True)
    (run.path / "rounds" / "0012").write_text("a file")
    for name in ("0010", ".new-0011"):
        (run.path / "evaluations" / name / "metrics.json").write_text("{}")
    assert (run.rounds(), run.last_round()) == ([1, 10], 10)
    assert run.evaluations() == [10]


def test_damaged_json_is_one_error(run: RunFolder) -> None:
    (run.path / "run.json").write_text('{"name": "x"')
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        _ = run.info
    with pytest.raises(RunError, match=r"round\.json cannot be read \(FileNotFoundError\)"):
        run.read_json("rounds/0001/round.json")


# --- one process at a time ------------------------------------------------------------------------


def _hold(path: Path, held: Event, done: Event) -> None:
    with RunFolder(path).lock():
        held.set()
        done.wait(60)


def test_lock_keeps_other_processes_out(run: RunFolder) -> None:
    spawn = multiprocessing.get_context("spawn")
    held, done = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(run.path, held, done))
    process.start()
    try:
        assert held.wait(60)
        with pytest.raises(RunError, match=f"another process is working on {run.path}") as caught, \
                run.lock():  # fmt: skip
            pass
        assert caught.value.hint == "wait for it, or stop it first"
    finally:
        done.set()
        process.join(60)
    with run.lock():
        pass


def test_lock_is_free_after_an_error(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="inside"), run.lock():
        raise ValueError("inside")
    with run.lock(), pytest.raises(RunError), RunFolder(run.path).lock():
        pass


# --- lists ----------------------------------------------------------------------------------------


def test_find_runs_looks_four_levels_deep(tmp_path: Path) -> None:
    for name in ("b", "a", "compare/arm-1", "compare/arm-2", "one/2/3/4", "one/2/3/d/5"):
        RunFolder.create(tmp_path / name, "", {"name": name})
    (tmp_path / "no run").mkdir()
    found = [str(run.path.relative_to(tmp_path)) for run in find_runs(tmp_path)]
    assert found == ["a", "b", "compare/arm-1", "compare/arm-2", "one/2/3/4"]
    assert [r.path for r in find_runs(tmp_path / "a")] == [tmp_path / "a"]
    assert find_runs(tmp_path / "nowhere") == []


def test_a_client_log_that_cannot_be_written(run: RunFolder) -> None:
    (run.path / "clients").mkdir()
    (run.path / "clients" / "a.log").symlink_to("/dev/full")
    with pytest.raises(RunError, match="No space left on device"):
        run.client_log("a", "ValueError at x.py:1")


def test_client_log_is_appended(run: RunFolder) -> None:
    run.client_log("a", "ValueError at x.py:1")
    run.client_log("a", "MemoryError at y.py:2")
    lines = (run.path / "clients" / "a.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "ValueError at x.py:1",
        "MemoryError at y.py:2",
    ]


def test_events_are_json_lines_with_a_time(run: RunFolder) -> None:
    returned = run.event("round-finished", round=1, loss_first=0.25)
    line = (run.path / "events.jsonl").read_text()
    assert json.loads(line) == returned
    assert list(returned) == ["time", "event", "round", "loss_first"]


def test_full_disk_at_an_event_is_one_error(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_fields: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match="No space left on device"):
        run.event("started")
