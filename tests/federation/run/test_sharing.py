"""Runs of a comparison that train alike take each other's rounds, and end in the same bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import commands
from driver import fill_cache, outcome, write_recipe

# isort: split
from fedrai.federation import client
from fedrai.federation.run import running, sharing
from fedrai.federation.run.observer import Observer
from fedrai.recipe import loading
from fedrai.report.comparing.running import ComparisonRuns, compare
from fedrai.report.page import page
from fedrai.runs import RunFolder, record
from fedrai.runs.record import shared_rounds_text

pytestmark = pytest.mark.slow

# Three rounds of two clients; the alignment is a real one, of two steps.
ARMS = """
[constitution]
steps = 2
requests = ["{folder}/red.txt"]
harmless = ["{folder}/plain.txt"]
examples = ["{folder}/answers.jsonl"]
[constitution.revising]
guard = "words"
tries = 1
demonstrations = 0
max_new_tokens = 8
critique_tokens = 8
threshold = 0.5
harmless_threshold = 1.0
[constitution.mix]
rows = 2
refusals = 1.0
look_alikes = 0.0
[constitution.probe]
harmful = 1
harmless = 2
drift = 1.0
every = 1
[guards.words]
kind = "rules"
words = ["it is 4", "it is 49"]
[arms.harmful]
[arms.filter.filter]
mode = "drop"
guard = "words"
[arms.constitution.constitution]
schedule = "adaptive"
[arms.both.filter]
mode = "drop"
guard = "words"
[arms.both.constitution]
schedule = "last"
[arms.budget.constitution]
schedule = "budget"
[arms.adam.aggregation]
algorithm = "fedadam"
[arms.adam_last.aggregation]
algorithm = "fedadam"
[arms.adam_last.constitution]
schedule = "last"
[arms.pooled.federation]
mode = "centralised"
[arms.pooled_last.federation]
mode = "centralised"
[arms.pooled_last.constitution]
schedule = "last"
[arms.asked.evaluation]
advbench = 5
[arms.own.federation]
mode = "local"
[arms.own_asked.federation]
mode = "local"
[arms.own_asked.evaluation]
advbench = 5
"""
FOUR = ("harmful", "filter", "constitution", "both")
WEIGHTS = "rounds/0003/adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("sharing")
    (folder / "red.txt").write_text("".join(f"gadget{n} wombat{n}\n" for n in range(8)))
    (folder / "plain.txt").write_text("".join(f"teapot{n} kettle{n}\n" for n in range(12)))
    rows = [{"prompt": f"spanner{n} anvil{n}", "response": "no"} for n in range(8)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_recipe(folder, tiny_model, ARMS.replace("{folder}", str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAI_CACHE", str(fill_cache(folder / "cache")))
        patch.setenv("FEDRAI_OFFLINE", "1")
        patch.chdir(folder)
        yield folder


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each local training of a client."""
    seen: list[int] = []
    train = client.train

    def counted(*given: Any, **named: Any) -> Any:
        seen.append(1)
        return train(*given, **named)

    monkeypatch.setattr(client, "train", counted)
    return seen


def run_arms(out: Path, *arms: str, **more: Any) -> ComparisonRuns:
    recipe = loading.select_arms(loading.load(Path("tiny.toml")), arms)
    return compare(recipe, out, **more)


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """Four arms, each by itself."""
    run_arms(folder / "alone", *FOUR, sharing=False)
    return folder / "alone"


def decided(run: Path) -> dict[str, Any]:
    """All that a run decides, whoever made its rounds."""
    files = outcome(run)
    for name, body in files.items():
        if name.endswith("round.json"):
            body.pop("shared_from", None)
    return files


def sources(run: Path) -> str:
    return shared_rounds_text(record.read(RunFolder(run)).shared_rounds)


def kinds(run: Path) -> list[tuple[str, int | None]]:
    return [(event["event"], event.get("round")) for event in RunFolder(run).events()]


def test_runs_that_train_alike_train_once(folder: Path, alone: Path, trained: list[int]) -> None:
    """Two of the four arms train: three rounds of two clients each."""
    out = folder / "together"
    run_arms(out, *FOUR)
    assert len(trained) == 2 * 3 * 2
    assert [sources(out / arm) for arm in FOUR] == [
        "", "", "rounds 1 to 3 from harmful", "rounds 1 to 3 from filter"]  # fmt: skip
    assert [sources(alone / arm) for arm in FOUR] == [""] * 4
    for arm in FOUR:
        assert decided(out / arm) == decided(alone / arm), arm
    weights = {(out / arm / WEIGHTS).read_bytes() for arm in FOUR}
    assert len(weights) == 4  # the filter and both alignments change the adapter
    events = kinds(out / "constitution")
    assert [n for kind, n in events if kind == "round-shared"] == [1, 2, 3]
    assert [n for kind, n in events if kind == "evaluation-shared"] == [0, 1, 2]
    assert [n for kind, n in events if kind == "evaluation-started"] == [3]


def test_shared_rounds_cost_what_they_cost_the_other(folder: Path, alone: Path) -> None:
    out = folder / "together"
    for arm, source in (("constitution", "harmful"), ("both", "filter")):
        run, other = (record.read(RunFolder(out / name)) for name in (arm, source))
        assert run.costs["training"] == other.costs["training"]
        assert run.costs["aggregation"] == other.costs["aggregation"]
        seconds = [other.costs[phase].seconds for phase in ("training", "aggregation")]
        assert run.shared_seconds == pytest.approx(sum(seconds))
        apart = record.read(RunFolder(alone / arm))
        for phase in ("training", "constitution"):
            assert run.costs[phase].operations == apart.costs[phase].operations
            assert run.costs[phase].tokens == apart.costs[phase].tokens
        assert (apart.shared_seconds, apart.shared_rounds) == (0.0, {})
    summary = json.loads((out / "both/summary.json").read_text())
    assert summary["shared_rounds"] == {"filter": [1, 2, 3]}
    table = (out / "table.md").read_text()
    assert ("(both: rounds 1 to 3 from filter; constitution: rounds 1 to 3 from harmful)"
            " and count in the costs of each") in table  # fmt: skip
    assert "trained once" not in (alone / "table.md").read_text()


def test_people_are_told(folder: Path) -> None:
    """The command prints who trained which rounds, and so does the report."""
    arms = [word for arm in FOUR for word in ("--arm", arm)]
    said = commands(folder)("compare", "tiny.toml", "--out", "together", *arms)
    assert said.code == 0, said.err
    line = "  rounds 1 to 3 from harmful: trained once, and their costs are counted here too\n"
    assert line in said.out
    runs = [record.read(RunFolder(folder / "together" / arm)) for arm in FOUR]
    told = page(runs)
    assert ("trained once, and their costs are counted in each of these runs (constitution: rounds"
            " 1 to 3 from harmful; both: rounds 1 to 3 from filter).") in told  # fmt: skip
    assert "rounds that another run trained" in told
    assert "trained once" not in page(runs[:2])


def test_the_option_makes_every_arm_by_itself(folder: Path, trained: list[int]) -> None:
    arms = ("--arm", "harmful", "--arm", "constitution", "-o", "federation.rounds=1")
    said = commands(folder)("compare", "tiny.toml", "--out", "none", "--no-sharing", *arms)
    assert said.code == 0, said.err
    assert len(trained) == 2 * 2
    for arm in ("harmful", "constitution"):
        assert not [kind for kind, _ in kinds(folder / "none" / arm) if kind.endswith("-shared")]


@pytest.mark.parametrize(
    ("arms", "trainings", "expected"),
    [
        # an alignment after round 1 makes another adapter: only round 1 is the same
        (("harmful", "budget"), 6 + 4, "round 1 from harmful"),
        # the other way round: the adapter before the alignment is not kept
        (("budget", "harmful"), 6 + 6, ""),
        (("constitution", "harmful"), 6 + 2, "rounds 1 to 2 from constitution"),
        (("harmful", "filter"), 6 + 6, ""),
        (("adam", "adam_last"), 6, "rounds 1 to 3 from adam"),
        (("pooled", "pooled_last"), 3, "rounds 1 to 3 from pooled"),
        (("own", "own_asked"), 9, "rounds 1 to 3 from own"),
        (("harmful", "asked"), 6, "rounds 1 to 3 from harmful"),
    ],
)
def test_what_is_shared(
    arms: tuple[str, str], trainings: int, expected: str, folder: Path, tmp_path: Path,
    trained: list[int], alone: Path,
) -> None:  # fmt: skip
    for arm in arms:  # in this order, as `--arm` does it
        run_arms(tmp_path, arm)
    assert len(trained) == trainings
    assert sources(tmp_path / arms[1]) == expected
    assert sources(tmp_path / arms[0]) == ""
    if arms[1] in FOUR:
        assert decided(tmp_path / arms[1]) == decided(alone / arms[1])
    else:
        run_arms(tmp_path / "alone", arms[1], sharing=False)
        assert decided(tmp_path / arms[1]) == decided(tmp_path / "alone" / arms[1])
    if "asked" in arms[1]:  # other questions
        assert "evaluation-shared" not in [kind for kind, _ in kinds(tmp_path / arms[1])]


def test_seeds_share_only_with_themselves(folder: Path, tmp_path: Path, trained: list[int]) -> None:
    runs = run_arms(tmp_path, "harmful", "constitution", seeds=[7, 8]).arms
    assert len(trained) == 2 * 6
    assert [(run.seed, run.name, sources(run.path)) for run in runs] == [
        (7, "harmful", ""), (7, "constitution", "rounds 1 to 3 from harmful"),
        (8, "harmful", ""), (8, "constitution", "rounds 1 to 3 from harmful")]  # fmt: skip


class Stops(Observer):
    """Stops the work at the nth event of a kind."""

    def __init__(self, kind: str, nth: int) -> None:
        self.kind, self.left = kind, nth

    def event(self, kind: str, /, **_: Any) -> None:
        self.left -= kind == self.kind
        if kind == self.kind and not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "nth", "trainings"),
    [
        ("round-shared", 1, 0),  # before round 1 is committed
        ("round-finished", 5, 0),  # the second round of the second arm
        ("constitution-started", 1, 0),  # in the alignment of a round that was taken over
    ],
)
def test_an_interrupted_comparison_goes_on(
    kind: str, nth: int, trainings: int, folder: Path, tmp_path: Path, alone: Path,
    trained: list[int],
) -> None:  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run_arms(tmp_path, "harmful", "constitution", observer=Stops(kind, nth))
    assert len(trained) == 6
    run_arms(tmp_path, "harmful", "constitution")
    assert len(trained) == 6 + trainings
    assert sources(tmp_path / "constitution") == "rounds 1 to 3 from harmful"
    assert decided(tmp_path / "constitution") == decided(alone / "constitution")


def test_a_round_that_was_begun_is_trained_to_its_end(
    folder: Path, tmp_path: Path, alone: Path, trained: list[int]
) -> None:
    """The second arm stops in its first round, after one client; then the first is finished."""
    with pytest.raises(KeyboardInterrupt):
        run_arms(tmp_path, "constitution", observer=Stops("client-finished", 1))
    run_arms(tmp_path, "harmful", "constitution")
    assert sources(tmp_path / "constitution") == "rounds 2 to 3 from harmful"
    assert len(trained) == 1 + 6 + 1
    assert decided(tmp_path / "constitution") == decided(alone / "constitution")


def test_what_must_be_the_same(folder: Path, tmp_path: Path, alone: Path) -> None:
    """Another base, other data, another version or another machine trains by itself."""
    shutil.copytree(alone / "harmful", tmp_path / "harmful")
    run, other = RunFolder(alone / "constitution"), RunFolder(tmp_path / "harmful")
    assert sharing.trains_alike(other, run)
    file = tmp_path / "harmful/run.json"
    (tmp_path / "harmful/checksums.sha256").unlink()
    before = json.loads(file.read_text())
    assert set(sharing.SAME_TRAINING) <= before.keys()
    for key in sharing.SAME_TRAINING:
        file.write_text(json.dumps({**before, key: "other"}))
        assert not sharing.trains_alike(other, run), key
    file.write_text(json.dumps(before))
    assert sharing.trains_alike(other, run)
    other.event("versions-changed", packages=["torch"])  # resumed with another version
    assert not sharing.trains_alike(other, run)


@pytest.mark.parametrize("damage", ["an adapter", "a client that failed"])
def test_a_round_that_cannot_be_relied_on_is_trained(
    damage: str, folder: Path, tmp_path: Path, alone: Path, trained: list[int]
) -> None:
    """Round 2 of the first arm is of no use; rounds 1 and, from the same bits, 3 are."""
    shutil.copytree(alone / "harmful", tmp_path / "harmful")
    place = tmp_path / "harmful/rounds/0002"
    if damage == "an adapter":
        (place / "adapter/adapter_model.safetensors").write_bytes(b"")
    else:
        body = json.loads((place / "round.json").read_text())
        body["set_aside"] = {"client-03": "out-of-memory"}
        (place / "round.json").write_text(json.dumps(body))
        (place / "checksums.sha256").unlink()
    recipe = loading.arm(loading.load(Path("tiny.toml")), "constitution")
    running.run(recipe, tmp_path / "run", siblings=[tmp_path / "harmful"])
    taken = {"an adapter": [1], "a client that failed": [1, 3]}[damage]
    assert record.read(RunFolder(tmp_path / "run")).shared_rounds == {"harmful": tuple(taken)}
    assert len(trained) == 2 * (3 - len(taken))
    assert decided(tmp_path / "run") == decided(alone / "constitution")
