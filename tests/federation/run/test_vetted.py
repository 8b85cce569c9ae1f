"""Runs with each action of vetting finish, say what it did, and resume to the same bits."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from driver import COMMIT, fill_cache, killed_cases, lean, outcome, run_cases, write_recipe

# isort: split
from fedrai.recipe.vetting import SCORES

pytestmark = pytest.mark.slow

ATTACK = """
[attack]
kind = "noise"
share = 0.25
strength = 60
"""
VETTING = """
[vetting]
scores = ["distance", "dnc", "foolsgold", "spectral", "functional", "gradient",
    "progress", "linear"]
answers = ["{folder}/data/rows.jsonl"]
shadow_harmless = ["{folder}/data/held_out.jsonl"]
shadow_clients = 2
shadow_rows = 4
action = "{action}"
"""
ACTIONS = ("record", "weigh", "set-aside")
KILLS = {
    "commit": COMMIT,
    "shadow": {"kind": "replace", "pattern": r"vetting/\.new-harmful-1"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vetted")


@pytest.fixture(scope="module")
def results(folder: Path, tiny_model: Path) -> dict[str, Any]:
    """Whole, killed and resumed runs by name, in one process that forks."""
    cache = fill_cache(folder / "cache")
    plain = write_recipe(folder / "data", tiny_model)
    text = lean(plain.read_text(), clients=4, local_steps=3)
    cases: list[dict[str, Any]] = []

    def add(name: str, more: str) -> Path:
        file = folder / "data" / f"{name}.toml"
        file.write_text(text + more)
        cases.append({"name": name, "argv": ["run", file, "--out", name]})
        return file

    for action in ACTIONS:
        add(action, ATTACK + VETTING.format(folder=folder, action=action))
    add("none", ATTACK)
    for at, kill in KILLS.items():
        cases += killed_cases(at, folder / "data/set-aside.toml", kill)
    strict = add("strict", ATTACK + VETTING.format(folder=folder, action="set-aside"))
    strict.write_text(strict.read_text().replace("clients = 4\n", "clients = 4\nmin_clients = 4\n"))
    return run_cases(cases, tiny_model, folder, cache)


def body(folder: Path, name: str, number: int = 1) -> dict[str, Any]:
    return json.loads((folder / name / f"rounds/{number:04d}/round.json").read_text())


@pytest.mark.parametrize("action", ACTIONS)
def test_the_client_that_sends_noise_is_found(
    action: str, folder: Path, results: dict[str, Any]
) -> None:
    assert results[action]["code"] == 0, results[action]["err"]
    vetting = body(folder, action)["vetting"]
    assert list(vetting["suspicious"]) == ["client-02"]
    assert vetting["suspicion"]["client-02"] < 1e-3
    for client in ("client-01", "client-03", "client-04"):
        assert vetting["suspicion"][client] > 0.02
    assert set(vetting["scores"]["client-02"]) == set(SCORES)


def test_what_follows_depends_on_the_action(folder: Path, results: dict[str, Any]) -> None:
    """A record changes no bit; the other actions do, each in its way."""
    assert _adapter(folder / "record") == _adapter(folder / "none")
    assert len({_adapter(folder / name) for name in ACTIONS}) == 3
    record, weigh, aside = (body(folder, name)["vetting"] for name in ACTIONS)
    assert (record["set_aside"], record["factors"]) == ({}, {})
    assert (weigh["set_aside"], weigh["factors"]) == ({}, {"client-02": 0.1})
    assert list(aside["set_aside"]) == ["client-02"]
    assert body(folder, "set-aside")["usable"] == 3
    assert body(folder, "set-aside")["set_aside"] == {}  # it did reply
    words = {"record": "suspicious (only recorded)", "weigh": "weighs less after vetting",
             "set-aside": "set aside by vetting"}  # fmt: skip
    for name, text in words.items():
        assert f"client-02  {text}: " in results[name]["err"]


def test_a_caught_client_is_watched_in_the_next_round(
    folder: Path, results: dict[str, Any]
) -> None:
    assert results["set-aside"]["code"] == 0
    assert body(folder, "set-aside")["vetting"]["watched"] == []
    assert "client-02" in body(folder, "set-aside", 2)["vetting"]["watched"]


def test_the_cost_stands_in_the_round(folder: Path, results: dict[str, Any]) -> None:
    assert results["record"]["code"] == 0
    first, second = (body(folder, "record", number) for number in (1, 2))
    for one in (first, second):
        costs, share = one["costs"], one["vetting"]["share"]
        assert share == pytest.approx(
            costs["vetting"]["operations"] / costs["training"]["operations"]
        )
    assert second["vetting"]["share"] < first["vetting"]["share"]  # no shadow clients again
    assert "vetting" not in body(folder, "none")


@pytest.mark.parametrize("at", KILLS)
def test_a_killed_run_resumes_to_the_same_bits(
    at: str, folder: Path, results: dict[str, Any]
) -> None:
    assert results[f"{at}-killed"]["code"] == -signal.SIGKILL
    assert results[f"{at}-resumed"]["code"] == 0, results[f"{at}-resumed"]["err"]
    assert outcome(folder / f"{at}-killed") == outcome(folder / "set-aside")


def test_too_few_left_is_an_error_that_names_who_was_set_aside(
    results: dict[str, Any],
) -> None:
    assert results["strict"]["code"] == 1
    error = " ".join(results["strict"]["err"].split())
    assert "vetting leaves 3 of 4 updates, the recipe needs 4 (client-02: " in error
    assert 'vetting.action = "weigh"' in error


def _adapter(run: Path) -> str:
    file = run / "rounds/0002/adapter/adapter_model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()
