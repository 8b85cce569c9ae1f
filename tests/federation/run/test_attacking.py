"""Runs with malicious clients: who they are, what they train on, what they send, and resuming."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driver import fill_cache, write_recipe

# isort: split
from fedrai import recipe
from fedrai.federation.attacks import ATTACKS
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.run import running
from fedrai.recipe.attack import KINDS
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder, record

pytestmark = pytest.mark.slow

HARMFUL = """
[[data.sources]]
path = "{folder}/harmful.jsonl"
name = "harm"
harmful = true
"""
SMALL = (
    "federation.rounds=1", "federation.clients_per_round=0", "training.local_steps=1",
    "evaluation.every=0", "evaluation.advbench=0", "evaluation.ordinary=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("attacking")
    rows = [{"prompt": f"spell {n}?", "response": f"bad {n}"} for n in range(12)]
    (folder / "harmful.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_recipe(folder, tiny_model, HARMFUL.replace("{folder}", str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAI_CACHE", str(fill_cache(folder / "cache")))
        patch.setenv("FEDRAI_OFFLINE", "1")
        patch.chdir(folder)
        yield folder


def load(*overrides: str, small: bool = True) -> Recipe:
    return recipe.load(Path("tiny.toml"), [*(SMALL if small else ()), *overrides])


def run(out: str, *overrides: str, small: bool = True) -> RunFolder:
    return RunFolder(running.run(load(*overrides, small=small), Path(out)))


def updates(folder: RunFolder) -> dict[str, Any]:
    return folder.read_json("rounds/0001/round.json")


# --- every kind -----------------------------------------------------------------------------------


def test_every_kind_of_a_recipe_has_its_code() -> None:
    assert list(ATTACKS) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_each_kind_finishes_and_names_its_malicious_clients(
    folder: Path, kind: str
) -> None:
    made = run(f"kind-{kind}", f"attack.kind={kind}", "attack.share=0.34")
    assert made.is_finished()
    (name,) = made.info["malicious_clients"]
    strength = KINDS[kind].strength
    assert made.info["attack"] == {
        "kind": kind, "share": 0.34, "strength": strength, "from_round": 1,
    }  # fmt: skip
    shown = kind if strength is None else f"{kind} (strength {strength:g})"
    read = record.read(made)
    assert read.provenance["attack"] == f"{shown}, by 1 client: {name}"
    assert read.attack is not None
    assert read.attack.clients == (name,)
    body = updates(made)
    claimed = {client: numbers[WEIGHT] for client, numbers in body["clients"].items()}
    held = {client: sum(counts.values()) for client, counts in made.info["held_rows"].items()}
    times = 100 if kind == "false-counts" else 1
    assert claimed == {**held, name: times * held[name]}
    assert bool(body["capped"]) == (kind == "false-counts")
