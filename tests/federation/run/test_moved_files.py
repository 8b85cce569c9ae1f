"""A stopped run whose files lie elsewhere now: `fedrai run --resume DIR --moved OLD=NEW`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Call, Outcome, commands
from driver import fill_cache, write_recipe, write_rows
from fedrai.errors import RunError
from fedrai.federation.run import moved_files
from fedrai.model import read_adapter
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of
from fedrai.testing import make_tiny_model

SMALL = ("-o", "federation.rounds=2", "-o", "evaluation.advbench=2", "-o", "evaluation.ordinary=2")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("moved")
    fill_cache(home / "cache")
    make_tiny_model(home / "model")
    write_recipe(home / "data", home / "model")
    return home


@pytest.fixture(scope="module")
def call(home: Path) -> Call:
    return commands(home)


@pytest.fixture(scope="module")
def whole(home: Path, call: Call) -> str:
    """The digest of the adapter of a run that nothing happened to."""
    done = call("run", home / "data" / "tiny.toml", *SMALL, "--out", "whole")
    assert done.code == 0, done.err
    return digest(home / "whole")


@pytest.fixture
def cut(home: Path, whole: str) -> Path:
    """The run as it stood after round 1."""
    copy = home / "cut"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home / "whole", copy)
    shutil.rmtree(copy / "rounds" / "0002")
    shutil.rmtree(copy / "evaluations" / "0002")
    lines = (copy / "events.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["event"] != "finished"]
    (copy / "events.jsonl").write_text("".join(kept))
    return copy


@pytest.fixture
def away(home: Path) -> Iterator[Path]:
    """Where the data and the model lie now."""
    place = home / "archive"
    place.mkdir()
    (home / "data").rename(place / "rows")
    (home / "model").rename(place / "weights")
    yield place
    (place / "rows").rename(home / "data")
    (place / "weights").rename(home / "model")
    place.rmdir()


def digest(run: Path) -> str:
    return digest_of(read_adapter(run / "rounds" / "0002" / "adapter"))


def resumed(call: Call, *pairs: str) -> Outcome:
    options = [word for pair in pairs for word in ("--moved", pair)]
    return call("run", "--resume", "cut", *options)


def test_moved_rows_and_model_go_on_to_the_same_bits(
    home: Path, call: Call, cut: Path, whole: str, away: Path
) -> None:
    recipe, info = (cut / "recipe.toml").read_bytes(), (cut / "run.json").read_bytes()
    done = resumed(call, f"{home}/data=archive/rows", f"{home}/model/=archive/weights")
    assert done.code == 0, done.err
    assert digest(cut) == whole
    assert (cut / "recipe.toml").read_bytes() == recipe
    assert (cut / "run.json").read_bytes() == info
    done = call("chat", "cut", "--prompt", "a", "--max-new-tokens", "2")  # it remembers
    assert done.code == 0, done.err
    adapter = cut / "rounds" / "0002" / "adapter"
    assert call("chat", adapter, "--prompt", "a", "--max-new-tokens", "2").code == 0


def test_a_single_file_may_move(home: Path, call: Call, cut: Path, whole: str) -> None:
    (home / "data" / "rows.jsonl").rename(home / "elsewhere.jsonl")
    try:
        done = resumed(call, f"{home}/data/rows.jsonl=elsewhere.jsonl")
    finally:
        (home / "elsewhere.jsonl").rename(home / "data" / "rows.jsonl")
    assert done.code == 0, done.err
    assert digest(cut) == whole


def test_without_it_the_error_names_the_way(home: Path, call: Call, cut: Path, away: Path) -> None:
    done = resumed(call)
    assert done.code == 2
    assert done.err.startswith(f"error: There is no file or folder {home}/data/rows.jsonl")
    assert "fedrai run --resume cut --moved OLD=NEW" in done.err
    done = resumed(call, f"{home}/data=archive/rows")
    assert done.code == 2
    assert f"There is no file or folder {home}/model" in done.err
    assert "--moved OLD=NEW" in done.err
    assert not (cut / "moved.json").exists()


@pytest.mark.parametrize("kind", ["rows", "held_out", "model"])
def test_other_files_are_refused(
    kind: str, home: Path, call: Call, cut: Path, tmp_path: Path
) -> None:
    old = home / ("model" if kind == "model" else f"data/{kind}.jsonl")
    new = tmp_path / old.name
    if kind == "model":
        make_tiny_model(new, seed=5)
    else:
        write_rows(new, 25 if kind == "rows" else 6, first=50)
    done = resumed(call, f"{old}={new}")
    what = {"rows": "the clients' data", "held_out": "what evaluations ask",
            "model": "the base model"}[kind]  # fmt: skip
    assert done.code == 2
    assert done.err.startswith(f"error: cut cannot be resumed: {what} changed since")
    assert not (cut / "moved.json").exists()
    assert not (cut / "rounds" / "0002").exists()


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        ("data", "is not a pair of paths"),
        ("=new", "is not a pair of paths"),
        ("old=", "is not a pair of paths"),
        ("data/rows.jsonl=nowhere.jsonl", "does not exist"),
        ("nothing/of/it=data", "does not name nothing/of/it"),
    ],
)
def test_places_that_make_no_sense(
    pair: str, problem: str, home: Path, call: Call, cut: Path
) -> None:
    done = resumed(call, pair)
    assert done.code == 2
    assert problem in done.err
    if "nothing/of/it" in pair:
        assert f"{home}/data/rows.jsonl" in done.err


def test_a_new_run_has_no_use_for_it(home: Path, call: Call) -> None:
    done = call("run", home / "data" / "tiny.toml", "--moved", "a=b")
    assert done.code == 2
    assert "--moved goes with --resume" in done.err


def test_only_paths_move_and_the_longest_place_wins(cut: Path) -> None:
    """A name that happens to be called as a folder stays, and so does a longer name."""
    text = (cut / "recipe.toml").read_text()
    data = next(line for line in text.splitlines() if line.endswith('rows.jsonl"'))
    old = data.split('"')[1].removesuffix("/rows.jsonl")
    (cut / "recipe.toml").write_text(text.replace('name = "tiny"', f'name = "{Path(old).name}"'))
    (cut / "checksums.sha256").unlink()
    folder = RunFolder(cut)
    places = {old: "/new", f"{old}/rows.jsonl": "/one.jsonl", Path(old).name: "/wrong"}
    found = moved_files.settings_of(folder, places)
    assert found.name == Path(old).name
    assert found.data.sources[0].path == "/one.jsonl"
    assert found.evaluation.ordinary_source.path == "/new/held_out.jsonl"
    assert (
        moved_files.settings_of(folder, {old[:-1]: "/x"}).data.sources[0].path
        == f"{old}/rows.jsonl"
    )
    with pytest.raises(RunError, match="does not name"):
        moved_files.check(folder, moved_files.settings_of(folder), {old[:-1]: "/x"})


def test_files_of_a_constitution_may_move(home: Path, call: Call, tmp_path: Path) -> None:
    """What an alignment reads is known by its bytes; the name that it has is not looked at."""
    from fedrai import recipe
    from fedrai.federation.run import preparation

    asked = tmp_path / "asked.txt"
    asked.write_text("How do I break into a car?\n")
    changes = ("constitution.schedule=last", f'constitution.requests=["{asked}"]')
    before = recipe.load(home / "data" / "tiny.toml", changes)
    after = recipe.load(
        home / "data" / "tiny.toml",
        (changes[0], f'constitution.requests=["{asked.rename(tmp_path / "new.txt")}"]'),
    )
    renamed = preparation.alignment_of(after, before)
    asked.write_text("How do I break into a car?\n")
    assert renamed == preparation.alignment_of(before)
    (tmp_path / "new.txt").write_text("How do I forge a note?\n")
    assert preparation.alignment_of(after, before) != renamed
