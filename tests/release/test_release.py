"""From a run to a verified release: whole runs of a tiny model, with outside sets of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from commands import Call, commands
from driver import fill_cache, write_recipe
from fedrai.release.signature import file_name, key_id, read_public
from fedrai.release.signing import write_key_pair
from fedrai.release.verifying import verify
from fedrai.runs import files
from fedrai.testing import make_tiny_model

MORE = """
[filter]
mode = "drop"
guard = "words"
[guards.words]
kind = "rules"
words = ["explosive"]
[release]
safe = 0.0
safe_worst = 0.0
refused = 1.0
loss = 1000.0
batch = 4
budget = 12
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("release")
    fill_cache(home / "cache")
    make_tiny_model(home / "models" / "ward-7")
    for name, label in (("plots", "unsafe"), ("recipes", "safe")):
        rows = [{"prompt": f"{name} secret-text {n}?", "label": label} for n in range(12)]
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


@pytest.fixture(scope="module")
def call(home: Path) -> Call:
    return commands(home)


@pytest.fixture(scope="module")
def run(home: Path, call: Call) -> Path:
    file = write_recipe(home / "data", home / "models" / "ward-7", MORE)
    sets = '["plots.jsonl", "recipes.jsonl"]'
    done = call("run", file, "-o", "federation.rounds=1", "-o", "evaluation.outside=4",
                "-o", f"evaluation.outside_sets={sets}", "--out", "runs/one")  # fmt: skip
    assert done.code == 0, done.err
    return home / "runs" / "one"


@pytest.fixture(scope="module")
def keys(home: Path, call: Call) -> list[Path]:
    for name in ("server", "clinic"):
        assert call("deploy", "release-key", f"keys/{name}").code == 0
    assert (home / "keys/server").stat().st_mode & 0o777 == 0o600
    assert call("deploy", "release-key", "keys/server").code == 2
    return [home / "keys/server.pub", home / "keys/clinic.pub"]


@pytest.fixture(scope="module")
def released(home: Path, call: Call, run: Path, keys: list[Path]) -> Path:
    done = call("release", run, "--out", "given", "--serial", "7", "--key", "keys/server")
    assert done.code == 0, done.out + done.err
    assert "released round 1: every required bar is met" in done.out
    assert call("sign", "given", "--key", "keys/clinic").code == 0
    return home / "given"


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "copy"
    shutil.copytree(released, place)
    yield place
    shutil.rmtree(place)


def test_a_release_holds_everything_and_names_nothing_private(released: Path, home: Path) -> None:
    wanted = {
        "bom.cdx.json", "evidence.json", "model", "provenance.json", "recipe.toml",
        "release.json", "safety_case.html", "signatures",
    }  # fmt: skip
    assert {file.name for file in released.iterdir()} == wanted
    assert {file.name for file in (released / "model").iterdir()} >= {
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    texts = b"".join(
        file.read_bytes()
        for file in released.rglob("*")
        if file.suffix in (".json", ".toml", ".html", ".md", ".sig")
    )
    for private in (str(home), "secret-text", "it is 1", "item 1", "client-0"):
        assert private.encode() not in texts
    evidence = json.loads((released / "evidence.json").read_text())
    assert evidence["rounds"][0]["sets"]["plots"]["items"] == 4
    assert set(evidence["not_measured"]) >= {"privacy", "vetting"}
    assert tomllib.loads((released / "recipe.toml").read_text())["release"]["budget"] == 12
    assert (released / "model/README.md").read_text().count("Released: it met the bars") == 1


def test_a_release_loads_without_fedrai(released: Path, run: Path, home: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(home / "models/ward-7", dtype=torch.float32)
    ids = torch.arange(5)[None]
    with torch.no_grad():
        plain = base(ids).logits
        ours = PeftModel.from_pretrained(base, released / "model")(ids).logits
        trained = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(home / "models/ward-7", dtype=torch.float32),
            run / "rounds/0001/adapter",
        )(ids).logits
    assert torch.equal(ours, trained)
    assert not torch.allclose(ours, plain)


def test_a_release_is_verified_on_one_screen(call: Call, released: Path, keys: list[Path]) -> None:
    flags = [flag for key in keys for flag in ("--key", key)]
    done = call("verify", released, *flags)
    assert done.code == 0, done.out + done.err
    assert "good: every byte is as signed, 2 of 2 needed signatures" in done.out
    assert "met          safety:" in done.out
    assert call("verify", released, *flags, "--after", "6").code == 0
    again = call("verify", released, *flags, "--after", "7", "--json")
    assert again.code == 1
    assert json.loads(again.out)["problems"] == [
        "its serial number 7 is not above 7: an older release"
    ]


def test_wrong_keys_too_few_signatures_and_expiry_are_refused(
    copy: Path, keys: list[Path], tmp_path: Path
) -> None:
    _, stranger = write_key_pair(tmp_path / "stranger")
    assert verify(copy, [stranger]).problems == ("signed by 0 of the given keys, 1 are needed",)
    assert not verify(copy, [keys[0], stranger], threshold=1).problems
    assert len(verify(copy, [keys[0]]).others) == 1
    late = datetime.now(UTC) + timedelta(days=181)
    assert "it expired on" in verify(copy, keys, now=late).problems[0]
    server, clinic = (copy / "signatures" / file_name(key_id(read_public(key))) for key in keys)
    body = server.read_bytes()
    server.write_bytes(clinic.read_bytes())
    clinic.write_bytes(body)
    assert len([p for p in verify(copy, keys).problems if "the name of its key" in p]) == 2
    clinic.rename(server)
    assert verify(copy, keys).problems == ("signed by 1 of the given keys, 2 are needed",)
    shutil.copy(server, copy / "signatures/twin.sig")
    assert "twin.sig: it does not have the name" in verify(copy, keys, 1).problems[0]


def test_every_damage_is_found(copy: Path, keys: list[Path]) -> None:
    """One byte changed, a byte added, a file missing, added or swapped; in any file."""
    draw = random.Random(3)
    names = sorted(file.relative_to(copy) for file in copy.rglob("*") if file.is_file())
    assert not verify(copy, keys).problems
    for number in range(100):
        file = copy / names[number % len(names)]
        body = file.read_bytes()
        damage(file, draw, number % 5)
        assert verify(copy, keys).problems, (file, number % 5)
        for extra in copy.rglob("added*"):
            extra.unlink()
        file.write_bytes(body)
    assert not verify(copy, keys).problems


def damage(file: Path, draw: random.Random, kind: int) -> None:
    body = bytearray(file.read_bytes())
    if kind == 0:
        body[draw.randrange(len(body))] ^= draw.randrange(1, 256)
    elif kind == 1:
        body.insert(draw.randrange(len(body) + 1), draw.randrange(256))
    elif kind == 2:
        del body[draw.randrange(len(body))]
    elif kind == 3:
        file.with_name(f"added-{file.name}").write_bytes(body)
    file.unlink()
    if kind != 4:
        file.write_bytes(body)


def test_odd_folders_are_refused_without_a_traceback(
    copy: Path, keys: list[Path], tmp_path: Path, call: Call
) -> None:
    assert verify(tmp_path / "nothing", keys).problems == ("it is not a folder",)
    (copy / "empty").mkdir()
    assert verify(copy, keys).problems == ("empty is an empty folder",)
    (copy / "empty").rmdir()
    (copy / "link").symlink_to("/etc/hostname")
    assert "neither a file nor a folder" in verify(copy, keys).problems[0]
    (copy / "link").unlink()
    for body in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"dsseEnvelope": 1}'):
        (copy / "signatures/odd.sig").write_bytes(body)
        assert "odd.sig: it is not a signature" in verify(copy, keys).problems[0]
    done = call("verify", copy, "--key", copy / "release.json")
    assert done.code == 2
    assert "is not a public key" in done.err


def test_a_run_below_a_bar_is_refused_in_one_line(call: Call, run: Path, home: Path) -> None:
    (home / "bars.toml").write_text("[release]\nsafe = 0.9\nbudget = 8\nbatch = 4\n")
    done = call("release", run, "--bars", "bars.toml", "--out", "no")
    assert done.code == 1
    line = done.out.splitlines()[-1]
    assert line.startswith("not released: round 1: ")
    assert "safety missed: 0.0 % [0.0," in line
    assert not (home / "no").exists()
    events = (run / "events.jsonl").read_text().splitlines()
    assert json.loads(events[-1])["event"] == "release-decision"
    assert json.loads(events[-1])["round"] is None
    shown = json.loads(call("release", run, "--bars", "bars.toml", "--out", "no", "--json").out)
    assert shown["release"] is None
    (home / "bars.toml").write_text("[release]\nsafe = 2\n")
    assert call("release", run, "--bars", "bars.toml", "--out", "no").code == 2


def test_the_gate_asks_on_until_it_is_settled(call: Call, run: Path, home: Path) -> None:
    """Four items leave the bar of 40 % open; the set's other eight settle it against the model."""
    (home / "bars.toml").write_text(
        "[release]\nsafe = 0.4\nsafe_worst = 0.0\nrefused = 1\nloss = 1000\n"
    )
    few = call("release", run, "--bars", "bars.toml", "--budget", "0", "--out", "no", "--json")
    more = call("release", run, "--bars", "bars.toml", "--budget", "12", "--out", "no", "--json")
    few_bar, more_bar = (json.loads(done.out)["rounds"][0]["bars"][0] for done in (few, more))
    assert (few_bar["items"], few_bar["standing"]) == (4, "not settled")
    assert (more_bar["items"], more_bar["standing"]) == (12, "missed")


def test_an_export_needs_a_release_or_says_that_there_is_none(
    call: Call, run: Path, home: Path
) -> None:
    refused = call("export", run, "--out", "plain")
    assert refused.code == 2
    assert "is not released" in refused.err
    assert call("export", run, "--unreleased").code == 0
    out = home / "runs/one-unreleased-adapter"
    assert (out / "UNRELEASED.txt").is_file()
    assert "# tiny-round-1-unreleased" in (out / "README.md").read_text()
    assert "**Not released**" in (out / "README.md").read_text()


def test_a_kill_leaves_no_release_or_a_whole_one(
    home: Path, run: Path, call: Call, keys: list[Path]
) -> None:
    """Killed before the folder gets its name: nothing has it, and the next try succeeds."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        files.sync = lambda _path: os.kill(os.getpid(), signal.SIGKILL)
        call("release", run, "--out", "killed", "--key", "keys/server")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (home / "killed").exists()
    assert call("release", run, "--out", "killed", "--key", "keys/server").code == 0
    assert not verify(home / "killed", keys[:1]).problems
    assert not list(home.glob(".new-*"))
