"""Runs with each defence finish, say what it did, and resume to the same bits after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from driver import fill_cache, outcome, run_cases, write_recipe

pytestmark = pytest.mark.slow

METHODS = {
    "mean": 'method = "mean"',
    "resta": 'method = "resta"\n[defence.resta]\ndrop = 0.5',
    "safe-lora": 'method = "safe-lora"\n[defence.safe_lora]\nthreshold = 1.0',
    "safe-merge": 'method = "safe-merge"\n[defence.safe_merge]\nthreshold = 1.0',
    "csulora": 'method = "csulora"',
    "two": 'method = ["csulora", "mean"]',
}
KILL = {"kind": "rename", "pattern": r"rounds/\.new-0002"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("defended")


@pytest.fixture(scope="module")
def results(folder: Path, tiny_model: Path) -> dict[str, Any]:
    """Whole, killed and resumed runs by method, in one process that forks."""
    cache = fill_cache(folder / "cache")
    plain = write_recipe(folder / "data", tiny_model)
    text = _lean(plain.read_text())
    plain.write_text(text)
    cases: list[dict[str, Any]] = [{"name": "start", "argv": ["run", plain, "--out", "start"]}]
    start = f'start = "{folder}/start/rounds/0002/adapter"'
    started = text.replace("[adapter]\n", f"[adapter]\n{start}\n")
    for name, defence in {"none": "", **METHODS}.items():
        file = folder / "data" / f"{name}.toml"
        file.write_text(f"{started}\n[defence]\n{defence}\n")
        cases.append({"name": name, "argv": ["run", file, "--out", name]})
        if defence:
            killed = f"{name}-killed"
            cases.append({"name": killed, "argv": ["run", file, "--out", killed], "at": KILL})
            cases.append({"name": f"{name}-resumed", "argv": ["run", "--resume", killed]})
    return run_cases(cases, tiny_model, folder, cache)


def _lean(text: str) -> str:
    """The tiny recipe with two clients, two rounds and no questions."""
    lean = {"clients = 3": "clients = 2", "clients_per_round = 2": "", "rounds = 3": "rounds = 2",
            "every = 1": "every = 0", "advbench = 6": "advbench = 0",
            "ordinary = 4": "ordinary = 0"}  # fmt: skip
    for key, value in lean.items():
        text = text.replace(f"\n{key}\n", f"\n{value}\n")
    return text


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_resumes_to_the_same_bits(
    name: str, folder: Path, results: dict[str, Any]
) -> None:
    assert results[name]["code"] == 0, results[name]["err"]
    assert results[f"{name}-killed"]["code"] == -signal.SIGKILL
    assert results[f"{name}-resumed"]["code"] == 0, results[f"{name}-resumed"]["err"]
    assert outcome(folder / f"{name}-killed") == outcome(folder / name)
    assert outcome(folder / name) != outcome(folder / "none")


@pytest.mark.parametrize("name", METHODS)
def test_a_run_says_what_its_defence_did(name: str, folder: Path, results: dict[str, Any]) -> None:
    body = json.loads((folder / name / "rounds/0001/round.json").read_text())
    assert body["defence_norm"] > 0
    for step in body["defence"]:
        assert step["moved"] > 0
        assert f"defence: {step['method']} moved the model by" in results[name]["err"]
    assert body["costs"]["defence"]["seconds"] > 0
    assert "defence" not in json.loads((folder / "none/rounds/0001/round.json").read_text())
