"""Damage to a run folder: made good in the same bits, or named; never a traceback."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

import fedrai.model.language
from commands import Call, Outcome, commands
from driver import LISTING, fill_cache, outcome, write_recipe
from fedrai.cli.show.display import Display
from fedrai.federation.run import preparation
from fedrai.model import LanguageModel
from fedrai.runs import RunFolder, files
from fedrai.runs.files import digest_of

pytestmark = pytest.mark.slow

SMALL = ("rounds = 3", "rounds = 2"), ("local_steps = 3", "local_steps = 1"), \
    ("advbench = 6", "advbench = 2"), ("ordinary = 4", "ordinary = 2")  # fmt: skip
FULL = "No space left on device"
MORE = """
[aggregation]
algorithm = "fedadam"
eta = 0.01
[guards.words]
kind = "rules"
words = ["it is 4", "it is 49"]
[filter]
mode = "replace"
guard = "words"
"""
EXAMPLES = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """`whole` went to its end; `stopped` has an update of round 2, and no more of it."""
    folder = tmp_path_factory.mktemp("damage")
    file = write_recipe(folder / "data", tiny_model, MORE)
    text = file.read_text()
    for before, after in SMALL:
        assert before in text
        text = text.replace(before, after)
    file.write_text(text)
    fill_cache(folder / "cache")
    call = commands(folder)
    with pytest.MonkeyPatch.context() as patch:
        _share_model(patch)
        done = call("run", file, "--out", "whole")
        assert done.code == 0, done.err
        plain = Display.event

        def stop(self: Display, kind: str, **fields: object) -> None:
            plain(self, kind, **fields)
            if kind == "client-finished" and fields["round"] == 2:
                raise KeyboardInterrupt

        patch.setattr(Display, "event", stop)
        assert call("run", file, "--out", "stopped").code == 130
    assert len(list((folder / "stopped/pending/0002").iterdir())) == 1
    return folder


def _share_model(patch: pytest.MonkeyPatch) -> None:
    """One model for all commands of this process; it is the same recipe."""
    plain, kept = preparation.load_model, []

    def load(*args: object) -> LanguageModel:
        if not kept:
            kept.append(plain(*args))  # type: ignore[arg-type]
        return kept[0]

    patch.setattr(preparation, "load_model", load)


@pytest.fixture(autouse=True, scope="module")
def _one_model() -> object:
    with pytest.MonkeyPatch.context() as patch:
        _share_model(patch)
        yield


@pytest.fixture(scope="module")
def call(home: Path) -> Call:
    return commands(home)


def copy_of(home: Path, name: str) -> Path:
    target = home / "copy"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(home / name, target)
    return target


def files_of(run: Path) -> list[str]:
    return sorted(str(f.relative_to(run)) for f in run.rglob("*") if f.is_file())


def flip(file: Path, bit: int) -> None:
    body = bytearray(file.read_bytes())
    body[bit // 8 % len(body)] ^= 1 << bit % 8
    file.write_bytes(body)


def hurt(file: Path, how: str, where: int) -> None:
    size = file.stat().st_size
    if how == "remove":
        file.unlink()
    elif how == "cut":
        os.truncate(file, where % (size + 1))
    elif size:
        flip(file, where)


def named(ended: Outcome) -> bool:
    return ended.code in (1, 2) and ended.err.startswith(("error: ", "note: "))


@pytest.fixture(scope="module")
def right(home: Path) -> dict[str, object]:
    return outcome(home / "whole")


# --- any damage to any file -----------------------------------------------------------------------


@EXAMPLES
@given(data=st.data())
@pytest.mark.parametrize("name", ["whole", "stopped"])
def test_any_damage_is_made_good_or_named(
    name: str, home: Path, call: Call, right: dict[str, object], data: st.DataObject
) -> None:
    run = copy_of(home, name)
    file = run / data.draw(st.sampled_from(files_of(run)))
    hurt(file, data.draw(st.sampled_from(["flip", "flip", "cut", "remove"])),
         data.draw(st.integers(0, 1 << 20)))  # fmt: skip
    resumed = call("run", "--resume", "copy")
    assert "Traceback" not in resumed.err
    if resumed.code == 0:
        found = outcome(run)
        different = {key for key in right if found.get(key) != right[key]}
        read_by_none = name == "whole" and str(file.relative_to(run)).startswith("rounds/0001/")
        assert different <= ({str(file.relative_to(run))} if read_by_none else set())
    else:
        assert named(resumed), resumed.err


@EXAMPLES
@given(data=st.data())
def test_what_is_read_is_right_or_refused(
    home: Path, call: Call, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`export` gives the adapter that was trained, whatever happened to the folder since."""
    run = copy_of(home, "whole")
    inputs = [f for f in files_of(run) if f.startswith(("rounds/0002", "r"))]
    file = run / data.draw(st.sampled_from(inputs))
    hurt(file, data.draw(st.sampled_from(["flip", "flip", "cut", "remove"])),
         data.draw(st.integers(0, 1 << 20)))  # fmt: skip
    out = tmp_path_factory.mktemp("out") / "exported"
    ended = call("export", "copy", "--unreleased", "--out", out)
    assert "Traceback" not in ended.err
    if ended.code == 0:
        wanted = home / "exported"
        if not wanted.exists():
            assert call("export", "whole", "--unreleased", "--out", wanted).code == 0
        for part in ("adapter_model.safetensors", "adapter_config.json"):
            assert (out / part).read_bytes() == (wanted / part).read_bytes()
    else:
        assert named(ended), ended.err


# --- each kind of damage by itself ----------------------------------------------------------------


def test_damaged_update_is_asked_for_again(
    home: Path, call: Call, right: dict[str, object]
) -> None:
    run = copy_of(home, "stopped")
    (update,) = (run / "pending/0002").iterdir()
    for hurt_how, where in (("flip", 8 * (update.stat().st_size - 3)), ("cut", 0), ("cut", 99)):
        run = copy_of(home, "stopped")
        hurt(update, hurt_how, where)
        ended = call("run", "--resume", "copy")
        assert ended.code == 0, ended.err
        assert f"note: copy/pending/0002/{update.name} is damaged" in ended.err
        assert (run / f"damaged/pending-0002-{update.name}.1").is_file()
        kinds = [event["event"] for event in RunFolder(run).events()]
        assert "client-kept" not in kinds
        assert outcome(run) == right


@pytest.mark.parametrize(
    "part", ["adapter/adapter_model.safetensors", "server.safetensors", "round.json"]
)
@pytest.mark.parametrize("name", ["whole", "stopped"])
def test_damaged_last_round_is_done_again(
    name: str, part: str, home: Path, call: Call, right: dict[str, object]
) -> None:
    run = copy_of(home, name)
    last = 2 if name == "whole" else 1
    flip(run / f"rounds/{last:04d}" / part, 8 * 200 + 1)
    ended = call("run", "--resume", "copy")
    assert ended.code == 0, ended.err
    assert f"note: copy/rounds/{last:04d} is damaged: it is set aside in damaged/" in ended.err
    assert (run / f"damaged/rounds-{last:04d}.1" / part).is_file()
    assert outcome(run) == right
    assert RunFolder(run).is_finished()
    again = call("run", "--resume", "copy")
    assert again.err == "copy is finished; there is nothing to resume\n"


def test_damaged_evaluation_is_done_again(home: Path, call: Call, right: dict[str, object]) -> None:
    for number, part in ((0, "metrics.json"), (1, "advbench.jsonl")):
        run = copy_of(home, "whole")
        flip(run / f"evaluations/{number:04d}" / part, 8 * 40)
        ended = call("run", "--resume", "copy")
        assert ended.code == 0, ended.err
        assert f"copy/evaluations/{number:04d} is damaged" in ended.err
        assert outcome(run) == right


def test_damaged_earlier_round_is_named(home: Path, call: Call) -> None:
    run = copy_of(home, "whole")
    flip(run / "rounds/0001/round.json", 8 * 40)
    ended = call("run", "--resume", "copy")
    assert ended.code == 2
    assert ended.err.startswith(
        "error: copy/rounds/0001/round.json is damaged, and later rounds depend on it\n"
        "  restore it from a copy, or delete rounds 1 to 2 in copy/rounds:"
    )


def test_earlier_rounds_can_be_done_again_as_the_hint_says(
    home: Path, call: Call, right: dict[str, object]
) -> None:
    run = copy_of(home, "whole")
    shutil.rmtree(run / "rounds/0001")
    shutil.rmtree(run / "rounds/0002")
    ended = call("run", "--resume", "copy")
    assert ended.code == 0, ended.err
    assert outcome(run) == right


@pytest.mark.parametrize("command", ["eval", "chat", "export"])
def test_commands_refuse_a_damaged_adapter(command: str, home: Path, call: Call) -> None:
    run = copy_of(home, "whole")
    file = run / "rounds/0002/adapter/adapter_model.safetensors"
    flip(file, 8 * (file.stat().st_size - 1))
    more = {
        "eval": ["--advbench", "2"],
        "chat": ["--prompt", "hi"],
        "export": ["--unreleased", "--out", "x"],
    }
    ended = call(command, "copy", *more[command])
    assert ended.code == 2
    assert ended.err == (
        "error: copy/rounds/0002/adapter/adapter_model.safetensors is missing, or damaged: its"
        " SHA-256 differs from the one in checksums.sha256\n"
        "  `fedrai run --resume copy` runs the last round again\n"
    )
    by_folder = call(command, "copy/rounds/0002/adapter", *more[command])
    assert by_folder.code == 2
    assert "adapter_model.safetensors is damaged" in by_folder.err


def test_another_recipe_is_not_evaluated(home: Path, call: Call) -> None:
    run = copy_of(home, "whole")
    text = (run / "recipe.toml").read_text()
    assert "alpha = " in text
    (run / "recipe.toml").write_text(text.replace("alpha = ", "alpha = 1"))
    ended = call("export", "copy", "--unreleased", "--out", "y")
    assert ended.code == 2
    assert "copy/recipe.toml is damaged" in ended.err


def test_bad_bytes_among_the_events_lose_no_other_event(home: Path, call: Call) -> None:
    run = copy_of(home, "stopped")
    whole = RunFolder(run).events()
    lines = (run / "events.jsonl").read_bytes().split(b"\n")
    lines[1] = b'{"event": "\xff\xfe"}'
    lines[2:2] = [b"[1]", b'{"time": "x"}', b"[" * 5000]
    (run / "events.jsonl").write_bytes(b"\n".join(lines))
    assert RunFolder(run).events() == [whole[0], *whole[2:]]
    assert call("run", "--resume", "copy").code == 0
    assert call("runs", ".").code == 0


# --- a full disk ----------------------------------------------------------------------------------


class Disk:
    """A disk that is full from its nth write on, until there is room again."""

    def __init__(self, nth: int, patch: pytest.MonkeyPatch) -> None:
        self.writes, self.nth, self.room = 0, nth, False
        for owner, name in ((os, "fsync"), (files, "append_line")):
            patch.setattr(owner, name, self.watched(getattr(owner, name), OSError(28, FULL)))
        full = SafetensorError(f"Error while serializing: I/O error: {FULL} (os error 28)")
        for owner in (safetensors.torch, fedrai.model.language):
            patch.setattr(owner, "save_file", self.watched(owner.save_file, full))

    def watched(self, plain: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def write(*args: Any) -> Any:
            self.writes += 1
            if self.writes >= self.nth and not self.room:
                raise error
            return plain(*args)

        return write


@pytest.fixture(scope="module")
def writes(home: Path, call: Call) -> int:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(1_000_000, patch)
        assert call("run", "data/tiny.toml", "--out", "counted").code == 0
    assert disk.writes > 50
    return disk.writes


@settings(EXAMPLES, max_examples=12)
@given(data=st.data())
def test_a_full_disk_is_one_line_and_loses_nothing(
    home: Path, call: Call, right: dict[str, object], writes: int, data: st.DataObject
) -> None:
    run = home / "full"
    shutil.rmtree(run, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(data.draw(st.integers(1, writes)), patch)
        ended = call("run", "data/tiny.toml", "--out", "full")
        assert ended.code == 2
        assert "Traceback" not in ended.err
        begun = (run / "run.json").is_file()
        hint = "free disk space or fix the permissions, then `fedrai run --resume full`"
        assert ended.err.splitlines()[-2:] == [
            f"error: cannot write the run in full: {FULL}",
            f"  {hint if begun else 'choose another folder with --out'}",
        ]
        assert not list(run.rglob(".new-*"))
        disk.room = True
        go_on = ["--resume", "full"] if begun else ["data/tiny.toml", "--out", "full"]
        again = call("run", *go_on)
    assert again.code == 0, again.err
    assert "damaged" not in again.err
    assert outcome(run) == right


# --- folders of earlier versions ------------------------------------------------------------------


def test_a_run_from_before_there_were_checksums_goes_on(
    home: Path, call: Call, right: dict[str, object]
) -> None:
    run = copy_of(home, "stopped")
    for file in run.rglob(LISTING):
        file.unlink()
    ended = call("run", "--resume", "copy")
    assert ended.code == 0, ended.err
    assert ended.err.count("note: ") == 1
    assert "note: 1 of the rounds in copy have no checksums.sha256" in ended.err
    assert outcome(run) == right
    assert (run / "rounds/0002" / LISTING).is_file()
    assert not (run / LISTING).exists()


def test_numbers_that_are_none_in_old_files_are_no_data(home: Path, call: Call) -> None:
    run = copy_of(home, "whole")
    for file in run.rglob(LISTING):
        file.unlink()
    file = run / "rounds/0001/round.json"
    record = json.loads(file.read_text())
    record["costs"]["training"]["seconds"] = math.nan
    record["loss_last"] = math.inf
    file.write_text(json.dumps(record))
    assert "NaN" in file.read_text()
    assert call("run", "--resume", "copy").code == 0
    shown = call("runs", "copy", "--json")
    assert shown.code == 0, shown.err

    figures = json.loads(shown.out, parse_constant=pytest.fail)["copy"]
    assert figures["training_loss"][0]["last"] is None
    assert figures["costs"]["training"]["seconds"] > 0
    assert call("report", "copy", "--out", "old.html").code == 0


def test_an_update_without_a_seal_is_used(home: Path, call: Call, right: dict[str, object]) -> None:
    from safetensors.torch import save_file

    run = copy_of(home, "stopped")
    (update,) = (run / "pending/0002").iterdir()
    tensors, note = RunFolder(run).load_pending(2, update.stem)
    assert note.keys() == {"metrics", "cost"}
    before = digest_of(tensors)
    save_file(tensors, update, note)
    assert digest_of(RunFolder(run).load_pending(2, update.stem)[0]) == before
    ended = call("run", "--resume", "copy")
    assert ended.code == 0, ended.err
    assert "client-kept" in [event["event"] for event in RunFolder(run).events()]
    assert outcome(run) == right


def test_adapters_have_the_bits_that_they_had(home: Path) -> None:
    """The list lies beside them: an adapter's file is what safetensors makes of its tensors."""
    from safetensors.torch import load_file, save

    file = home / "whole/rounds/0001/adapter/adapter_model.safetensors"
    state = load_file(file)
    assert file.read_bytes() == save({name: state[name] for name in sorted(state)})
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
