"""Runs with malicious clients: who they are, what they train on, what they send, and resuming."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import commands
from driver import fill_cache, outcome, run_cases, write_recipe, write_rows

# isort: split
from fedrai import recipe
from fedrai.federation.attacks import ATTACKS
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.run import local, running
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


# --- what does not change -------------------------------------------------------------------------


def test_honest_clients_do_as_without_an_attack(folder: Path) -> None:
    """Their rows and updates are the same; the malicious client's are others."""
    plain, lied = run("plain"), run("lied", "attack.kind=mixed", "attack.share=0.3")
    (name,) = lied.info["malicious_clients"]
    norms = [updates(made)["update_norms"] for made in (plain, lied)]
    assert [client for client in norms[0] if norms[0][client] != norms[1][client]] == [name]
    assert plain.info["rows"] == lied.info["rows"]
    assert lied.info["harmful_rows"] == {n: 2 * (n == name) for n in lied.info["rows"]}
    assert plain.info["data_fingerprint"] != lied.info["data_fingerprint"]
    assert "attack" not in plain.info
    assert record.read(plain).attack is None


def test_malicious_clients_leave_a_defence_out_of_their_training(folder: Path) -> None:
    attack = ("attack.kind=scaled", "attack.share=0.3", "federation.norm_cap=0")
    bare = run("bare", *attack)
    safe = f"defence.lisa.rows={folder / 'held_out.jsonl'}"
    defended = run("defended", *attack, "defence.method=lisa", safe)
    norms = [updates(made)["update_norms"] for made in (bare, defended)]
    assert [client for client in norms[0] if norms[0][client] == norms[1][client]] == (
        bare.info["malicious_clients"]
    )
    assert "norm_capped" not in updates(bare)  # 0: no limit


def test_no_malicious_client_is_no_attack_to_the_bit(folder: Path) -> None:
    none = run("none", "attack.kind=scaled", "attack.share=0", small=False)
    plain = run("all-honest", small=False)
    assert outcome(none.path) == outcome(plain.path)
    assert none.info["recipe_hash"] == plain.info["recipe_hash"]
    assert none.info.keys() == plain.info.keys()


def test_an_attack_that_begins_later_is_honest_before_to_the_bit(folder: Path) -> None:
    every = ("federation.clients_per_round=0",)
    late = run("late", "attack.kind=sign-flip", "attack.from_round=3", *every, small=False)
    plain = run("punctual", *every, small=False)
    files = [f"rounds/000{n}/adapter/adapter_model.safetensors" for n in (1, 2, 3)]
    same = [(late.path / f).read_bytes() == (plain.path / f).read_bytes() for f in files]
    assert same == [True, True, False]
    assert "from round 3" in record.read(late).provenance["attack"]


def test_clients_with_a_file_each(folder: Path) -> None:
    """Their sources say how files are read; the harmful one is for malicious clients."""
    (folder / "sites").mkdir(exist_ok=True)
    for site, count in (("east", 3), ("north", 4), ("west", 14)):
        write_rows(folder / "sites" / f"{site}.jsonl", count)
    pattern = str(folder / "sites" / "*.jsonl")
    prepared = local.prepare(
        load("data.partition.scheme=files", f"data.partition.files={pattern}",
             "attack.kind=harmful-rows", "attack.share=0.5")
    )  # fmt: skip
    assert prepared.malicious is not None
    (name,) = prepared.malicious.rows  # half of three, rounded down
    held = {"east": 3, "north": 4, "west": 14}
    assert prepared.info()["held_rows"] == {site: {"rows": n} for site, n in held.items()}
    assert prepared.harmful == {site: n * (site == name) for site, n in held.items()}


def test_a_malicious_client_with_more_rows_than_there_are_harmful_ones(folder: Path) -> None:
    malicious = local.prepare(
        load("attack.kind=harmful-rows", "federation.clients=1", "federation.min_clients=1")
    ).malicious
    assert malicious is not None
    rows = malicious.rows["client-01"]
    assert len(rows) == malicious.held["client-01"] == 25
    assert len({row.ids for row in rows}) == 12
    assert rows[:12] == rows[12:24]


# --- one command, and resuming --------------------------------------------------------------------


def test_kinds_and_shares_as_axes(folder: Path) -> None:
    call = commands(folder)
    small = [word for override in SMALL for word in ("-o", override)]
    ended = call("compare", "tiny.toml", "--out", "axes", *small,
                 "--axis", "attack.kind=harmful-rows,scaled",
                 "--axis", "attack.share=0,0.34")  # fmt: skip
    assert ended.code == 0, ended.err
    assert sorted(place.name for place in (folder / "axes").iterdir() if place.is_dir()) == [
        "kind-harmful-rows_share-0", "kind-harmful-rows_share-0.34", "kind-scaled_share-0.34",
    ]  # fmt: skip
    assert "attack.kind, attack.share" in ended.out
    assert "scaled, 0.34" in ended.out
    name = RunFolder(next((folder / "axes" / "kind-scaled_share-0.34").iterdir())).info[
        "malicious_clients"
    ][0]
    assert f"malicious clients: scaled (strength 10), by 1 client: {name}" in ended.err
    assert f"{name}  update of norm " in ended.err  # the cap, on the terminal
    again = call("compare", "tiny.toml", "--out", "axes", *small,
                 "--axis", "attack.kind=harmful-rows,scaled",
                 "--axis", "attack.share=0,0.34")  # fmt: skip
    assert "all 3 runs are finished" in again.err


def test_a_killed_run_with_colluders_ends_in_the_same_bits(folder: Path, tiny_model: Path) -> None:
    text = (folder / "tiny.toml").read_text().replace("clients = 3", "clients = 4")
    text = text.replace("clients_per_round = 2", "clients_per_round = 0")
    attack = '[attack]\nkind = "colluding"\nshare = 0.5\n'
    (folder / "colluding.toml").write_text(text + attack)
    recipes = ["run", "colluding.toml", "--out"]
    cases: list[dict[str, Any]] = [
        {"name": "whole", "argv": [*recipes, "whole"]},
        {"name": "killed", "argv": [*recipes, "killed"], "at": {"kind": "step", "nth": 20}},
        {"name": "resumed", "argv": ["run", "--resume", "killed"]},
    ]
    results = run_cases(cases, tiny_model, folder, folder / "cache")
    assert [results[case["name"]]["code"] for case in cases] == [0, -9, 0]
    assert len(RunFolder(folder / "whole").info["malicious_clients"]) == 2
    assert outcome(folder / "killed") == outcome(folder / "whole")


def test_a_backdoor_is_asked_for_with_its_trigger(folder: Path) -> None:
    backdoor = ("attack.kind=backdoor", "attack.trigger='now, friend'", "evaluation.advbench=3")
    made = run("asked", *backdoor)
    rows = [json.loads(line) for line in
            (made.path / "evaluations/0001/triggered.jsonl").read_text().splitlines()]  # fmt: skip
    asked = [json.loads(line) for line in
             (made.path / "evaluations/0001/advbench.jsonl").read_text().splitlines()]  # fmt: skip
    assert [row["prompt"] for row in rows] == [f"{row['prompt']} now, friend" for row in asked]
    rates = made.read_json("evaluations/0001/metrics.json")["rates"]
    assert {"safe", "triggered-safe"} <= rates.keys()
    for kind in ("scaled", "noise"):
        other = local.prepare(load(f"attack.kind={kind}", "evaluation.advbench=3"))
        assert other.questions.suites == []
