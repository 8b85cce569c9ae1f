"""Runs with each defence finish, say what it did, and resume to the same bits after a kill."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from driver import COMMIT, fill_cache, killed_cases, lean, outcome, run_cases, write_recipe

pytestmark = pytest.mark.slow

ARITHMETIC = {
    "mean": 'method = "mean"',
    "resta": 'method = "resta"\n[defence.resta]\ndrop = 0.5',
    "safe-lora": 'method = "safe-lora"\n[defence.safe_lora]\nthreshold = 1.0',
    "safe-merge": 'method = "safe-merge"\n[defence.safe_merge]\nthreshold = 1.0',
    "csulora": 'method = "csulora"',
    "two": 'method = ["csulora", "mean"]',
}
WITH_ROWS = {
    "unaligned": 'method = "resta"\n[defence.resta]\nunaligned = "harmful"\nrows = "{rows}"\n'
    "steps = 2",
    "antidote": 'method = "antidote"\n[defence.antidote]\nrows = "{rows}"\ncount = 3',
    "post-hoc": 'method = "post-hoc"\n[defence.post_hoc]\nharmful = ["{red}"]\n'
    'harmless = ["{plain}"]\ncount = 4\nsteps = 2\nmax_new_tokens = 8',
    "lisa": 'method = "lisa"\n[defence.lisa]\nrows = "{rows}"\nalign_steps = 1\nown_steps = 2',
    "constrained-sft": 'method = "constrained-sft"',
    "asft and mean": 'method = ["asft", "mean"]',
}
CLIENTS = ("lisa", "constrained-sft")  # the others also act on the server
KILLS = {
    "post-hoc": {"kind": "event", "pattern": "defence-progress"},
    "unaligned": {"kind": "event", "pattern": "defence-progress", "nth": 2},
    "lisa": {"kind": "step", "nth": 8},
    "constrained-sft": {"kind": "step", "nth": 8},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("defended")


@pytest.fixture(scope="module")
def results(folder: Path, tiny_model: Path) -> dict[str, Any]:
    """Whole, killed and resumed runs by method, in processes that fork."""
    cache = fill_cache(folder / "cache")
    plain = write_recipe(folder / "data", tiny_model)
    text = lean(plain.read_text(), local_steps=3)
    plain.write_text(text)
    (folder / "red.txt").write_text("".join(f"gadget{n} wombat{n}\n" for n in range(8)))
    (folder / "plain.txt").write_text("".join(f"teapot{n} kettle{n}\n" for n in range(8)))
    places = {"{rows}": "data/rows.jsonl", "{red}": "red.txt", "{plain}": "plain.txt"}
    start = f'start = "{folder}/start/rounds/0002/adapter"'
    started = text.replace("[adapter]\n", f"[adapter]\n{start}\n")

    def cases(methods: dict[str, str]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for name, defence in methods.items():
            for mark, file in places.items():
                defence = defence.replace(mark, f"{folder}/{file}")
            file = folder / "data" / f"{name}.toml"
            file.write_text(f"{started}\n[defence]\n{defence}\n")
            made.append({"name": name, "argv": ["run", file, "--out", name]})
            made += killed_cases(name, file, KILLS.get(name, COMMIT))
        return made

    def run(made: list[dict[str, Any]]) -> dict[str, Any]:
        return run_cases(made, tiny_model, folder, cache)

    (folder / "data/none.toml").write_text(started)
    undefended = {"start": plain, "none": folder / "data/none.toml"}
    results = run([{"name": n, "argv": ["run", f, "--out", n]} for n, f in undefended.items()])
    for few in batched({**ARITHMETIC, **WITH_ROWS}.items()):
        results |= run(cases(dict(few)))
    return results


def batched(methods: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Three methods at a time, so that a busy machine has time enough for each process."""
    whole = list(methods)
    yield from (whole[k : k + 3] for k in range(0, len(whole), 3))


@pytest.mark.parametrize("name", [*ARITHMETIC, *WITH_ROWS])
def test_a_killed_run_resumes_to_the_same_bits(
    name: str, folder: Path, results: dict[str, Any]
) -> None:
    assert results[name]["code"] == 0, results[name]["err"]
    assert results[f"{name}-killed"]["code"] == -signal.SIGKILL
    assert results[f"{name}-resumed"]["code"] == 0, results[f"{name}-resumed"]["err"]
    assert outcome(folder / f"{name}-killed") == outcome(folder / name)
    assert outcome(folder / name) != outcome(folder / "none")


@pytest.mark.parametrize("name", [n for n in (*ARITHMETIC, *WITH_ROWS) if n not in CLIENTS])
def test_a_run_says_what_its_defence_did(name: str, folder: Path, results: dict[str, Any]) -> None:
    body = json.loads((folder / name / "rounds/0001/round.json").read_text())
    for step in body["defence"]:
        # a random model declines nothing, so post-hoc has no rows to train on
        assert step["moved"] > 0 or step["method"] == "post-hoc"
        assert f"defence: {step['method']} moved the model by" in results[name]["err"]
    assert body["costs"]["defence"]["seconds"] > 0
    assert "defence" not in json.loads((folder / "none/rounds/0001/round.json").read_text())


def test_what_is_made_once_is_kept_in_the_run(folder: Path, results: dict[str, Any]) -> None:
    assert (folder / "unaligned/defence/unaligned.safetensors").is_file()
    assert len((folder / "post-hoc/defence/answers.jsonl").read_text().splitlines()) == 8
    rounds = [json.loads((folder / f"unaligned/rounds/000{n}/round.json").read_text())
              for n in (1, 2)]  # fmt: skip
    operations = [body["costs"]["defence"]["operations"] for body in rounds]
    assert operations[0] > 0 == operations[1]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_defence_of_the_clients_counts_as_training(
    name: str, folder: Path, results: dict[str, Any]
) -> None:
    made, plain = (
        json.loads((folder / run / "rounds/0001/round.json").read_text()) for run in (name, "none")
    )
    assert "defence" not in made
    assert made["costs"]["training"]["operations"] > plain["costs"]["training"]["operations"]
