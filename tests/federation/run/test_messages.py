"""Runs with lossy messages: bytes, the same after a kill, and what a recipe may not combine."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from driver import COMMIT, fill_cache, killed_cases, lean, outcome, run_cases, write_recipe

# isort: split
from fedrai import recipe
from fedrai.errors import RecipeError
from fedrai.federation.codecs import Codec
from fedrai.federation.variates import numbers
from fedrai.model import read_adapter
from fedrai.runs import RunFolder

pytestmark = pytest.mark.slow

FLEXLORA = 'aggregation={algorithm="fedavg", lora="flexlora"}'
MESSAGES = {
    "plain": "",
    "int8": 'up = "int8"\ndown = "int8"',
    "int4": 'up = "int4"\ndown = "bf16"',
    "top-k": 'up = "top-k"',
}
HEADER = 300  # bytes at most: the array's name and its format


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("messages")


@pytest.fixture(scope="module")
def results(folder: Path, tiny_model: Path) -> dict[str, Any]:
    """Whole, killed and resumed runs by kind of message, in one process that forks."""
    cache = fill_cache(folder / "cache")
    text = lean(write_recipe(folder / "data", tiny_model).read_text())
    cases: list[dict[str, Any]] = []
    for name, section in MESSAGES.items():
        file = folder / "data" / f"{name}.toml"
        file.write_text(f"{text}\n[messages]\n{section}\n")
        cases.append({"name": name, "argv": ["run", file, "--out", name]})
    cases += killed_cases("int4", folder / "data/int4.toml", COMMIT)
    return run_cases(cases, tiny_model, folder, cache)


def test_a_killed_run_resumes_to_the_same_bits(folder: Path, results: dict[str, Any]) -> None:
    assert results["int4"]["code"] == 0, results["int4"]["err"]
    assert results["int4-killed"]["code"] == -signal.SIGKILL
    assert results["int4-resumed"]["code"] == 0, results["int4-resumed"]["err"]
    assert outcome(folder / "int4-killed") == outcome(folder / "int4")
    assert outcome(folder / "int4") != outcome(folder / "plain")


@pytest.mark.parametrize("name", MESSAGES)
def test_bytes_in_the_costs_are_those_of_the_codecs(
    name: str, folder: Path, results: dict[str, Any]
) -> None:
    assert results[name]["code"] == 0, results[name]["err"]
    adapter = read_adapter(folder / name / "rounds/0001/adapter")
    count = sum(tensor.numel() for tensor in adapter.values())
    settings = recipe.load(folder / "data" / f"{name}.toml").messages
    for number in (1, 2):
        costs = json.loads((folder / name / f"rounds/{number:04d}/round.json").read_text())["costs"]
        for key, kind in (("bytes_up", settings.up), ("bytes_down", settings.down)):
            expected = 2 * Codec(kind).size(count)  # of two clients
            assert 0 <= costs["training"][key] - expected < 2 * HEADER


def test_int8_stays_near_the_run_in_float32(folder: Path, results: dict[str, Any]) -> None:
    plain, other = (read_adapter(folder / n / "rounds/0002/adapter") for n in ("plain", "int8"))
    start = read_adapter(folder / "plain" / "rounds/0001/adapter")
    moved = sum(float((plain[n] - start[n]).square().sum()) for n in plain) ** 0.5
    error = sum(float((plain[n] - other[n]).square().sum()) for n in plain) ** 0.5
    assert 0 < error < moved / 2


def test_clients_keep_what_their_messages_lost(folder: Path, results: dict[str, Any]) -> None:
    for name in MESSAGES:
        run = RunFolder.open(folder / name)
        kept = [numbers(run.residuals(client)) for client in ("client-01", "client-02")]
        assert kept == ([[], []] if name == "plain" else [[1, 2], [1, 2]])


@pytest.mark.parametrize(
    ("section", "more", "problem"),
    [
        (
            'up = "int4"',
            'aggregation={algorithm="fedavg", lora="flexlora"}',
            "fits the factors anew",
        ),
        ('up = "int4"', "defence.method=resta", "fits the factors anew"),
        ('up = "top-k"\nerror_feedback = false', "", "would never send small changes"),
        ('down = "int8"', "adapter.ranks=[2]", "factors that are computed for them"),
        ('up = "bf16"', "federation.mode=local", "no adapters are exchanged"),
    ],
)
def test_what_does_not_combine_is_refused(
    section: str, more: str, problem: str, tmp_path: Path, tiny_model: Path
) -> None:
    file = write_recipe(tmp_path, tiny_model)
    file.write_text(f"{file.read_text()}\n[messages]\n{section}\n")
    overrides = [more, "adapter.start=somewhere"] if "defence" in more else [more]
    with pytest.raises(RecipeError) as error:
        recipe.load(file, [o for o in overrides if o])
    assert problem in error.value.message


def test_recipes_without_the_section_keep_their_hash(folder: Path, results: dict[str, Any]) -> None:
    text = (folder / "data" / "plain.toml").read_text()
    (folder / "data" / "before.toml").write_text(text.replace("[messages]\n", ""))
    before, plain = (recipe.load(folder / "data" / f"{n}.toml") for n in ("before", "plain"))
    assert before.hash == plain.hash
    assert recipe.load(folder / "data" / "int4.toml").hash != plain.hash
    assert recipe.load(folder / "data" / "int4.toml").clients_hash == plain.clients_hash
