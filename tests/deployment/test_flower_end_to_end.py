"""A whole run over Flower: SuperLink with TLS and authentication, three nodes with their own rows.

The adapters must be those of the run in one process over the same files, to the bit.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flower_cluster import Cluster, cluster, key_files, register

from driver import write_rows
from fedrai import commands, recipe
from fedrai.errors import FederationError, RunError
from fedrai.model import read_adapter
from fedrai.runs import RunFolder, digest_of
from fedrai.runtimes.deployment import FlowerEngine, server_app

NAMES = ("clinic-a", "clinic-b", "clinic-c")
CANARY = "zog-7F3K-canary"
RECIPE = """\
name = "consortium"
seed = 11
[model]
base = "{model}"
dtype = "float32"
device = "cpu"
[adapter]
rank = 4
[data]
max_length = 96
[data.partition]
scheme = "files"
files = "{folder}/sites/*.jsonl"
[filter]
mode = "drop"
guard = "words"
[guards.words]
kind = "rules"
words = ["zog"]
[training]
local_steps = 2
batch_size = 4
learning_rate = 0.02
[federation]
clients = 3
rounds = 2
min_clients = 2
round_timeout = 400
[constitution]
schedule = "budget"
steps = 2
requests = []
harmless = ["{folder}/harmless.jsonl"]
examples = ["{folder}/good.jsonl"]
learning_rate = 0.01
[constitution.revising]
guard = "words"
[constitution.mix]
rows = 2
refusals = 0.5
look_alikes = 0.0
[constitution.probe]
harmful = 1
harmless = 1
[evaluation]
advbench = 0
ordinary = 2
max_new_tokens = 4
[evaluation.ordinary_source]
path = "{folder}/held_out.jsonl"
"""
NODE = """\
name = "{name}"
[data]
sources = [{{path = "rows.jsonl"}}]
[policy]
filter = "required"
threshold_at_most = 0.9
{more}
[guards.words]
kind = "rules"
words = ["zog"]
"""
GOOD = [
    {"prompt": "How do I pick a lock?", "response": "I can't help with that, since it harms."},
    {"prompt": "Write a nasty letter.", "response": "No, I won't, because it would hurt someone."},
]
MORE = {"clinic-b": "send_losses = false", "clinic-c": "send_filter_counts = false"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Rows of three sites, a recipe over them, and the nodes' own folders."""
    home = tmp_path_factory.mktemp("flower")
    (home / "sites").mkdir()
    for place, name in enumerate(NAMES):
        file = home / "sites" / f"{name}.jsonl"
        write_rows(file, 9 + place, first=20 * place)
        bad = {"prompt": f"tell {CANARY}", "response": f"zog {CANARY} {name}"}
        with file.open("a") as opened:
            opened.write(json.dumps(bad) + "\n")
        folder = home / name
        folder.mkdir()
        (folder / "rows.jsonl").write_bytes(file.read_bytes())
        (folder / "node.toml").write_text(NODE.format(name=name, more=MORE.get(name, "")))
    write_rows(home / "harmless.jsonl", 6, first=300)
    write_rows(home / "held_out.jsonl", 4, first=100)
    (home / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    (home / "recipe.toml").write_text(RECIPE.format(model=tiny_model, folder=home))
    return home


@pytest.fixture(scope="module")
def deployment(home: Path, tiny_model: Path) -> Iterator[Cluster]:
    with cluster(home / "server", {"FEDRAI_CACHE": str(home / "cache")}) as found:
        keys = {name: key_files(home / name, name) for name in NAMES}
        files = [(home / name / "node.toml", key) for name, (key, _) in keys.items()]
        found.start_nodes(tiny_model, files)  # while they start, their keys become known
        for name, (_, public) in keys.items():
            register(found.link, public, name)
        yield found


@pytest.fixture(scope="module")
def here(home: Path) -> RunFolder:
    """The same recipe in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAI_CACHE", str(home / "cache"))
        return RunFolder(commands.run(recipe.load(home / "recipe.toml"), home / "here"))


@pytest.fixture(scope="module")
def over(home: Path, deployment: Cluster) -> RunFolder:
    """The recipe on the deployment: stopped after an update of round 2, then gone on with."""
    settings, engine = recipe.load(home / "recipe.toml"), FlowerEngine(deployment.link)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAI_CACHE", str(home / "cache"))
        try:
            with patch.context() as cut:
                cut.setattr(RunFolder, "event", _stop_in_round_2(RunFolder.event))
                with pytest.raises(KeyboardInterrupt):
                    commands.run(settings, home / "over", engine=engine)
            return RunFolder(commands.resume(home / "over", engine=engine))
        except FederationError as error:
            said = {n: deployment.said(n)[-2000:] for n in ("superlink", "nodes", *NAMES)}
            raise AssertionError(f"{error.message}\n{said}") from error


def _stop_in_round_2(real: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def event(run: RunFolder, kind: str, **fields: Any) -> dict[str, Any]:
        if kind == "client-finished" and fields["round"] == 2:
            raise KeyboardInterrupt
        return real(run, kind, **fields)

    return event


def test_adapters_are_those_of_the_run_in_one_process(here: RunFolder, over: RunFolder) -> None:
    for number in (1, 2):
        mine, theirs = (
            digest_of(read_adapter(run.round_folder(number) / "adapter")) for run in (here, over)
        )
        assert mine == theirs
    assert here.rounds() == over.rounds() == [1, 2]


def record(run: RunFolder, number: int) -> dict[str, Any]:
    return run.read_json(f"rounds/{number:04d}/round.json")


def test_a_node_sends_what_its_policy_lets_it_send(over: RunFolder) -> None:
    sent = record(over, 1)["clients"]
    assert sent["clinic-a"]["filter-rows"] == 10.0
    assert sent["clinic-a"]["filter-unsafe"] == 1.0
    assert not any(key.startswith("loss-") for key in sent["clinic-b"])
    assert not any(key.startswith("filter-") for key in sent["clinic-c"])
    weights = {name: sent[name]["num-examples"] for name in NAMES}
    assert weights == {"clinic-a": 9.0, "clinic-b": 10.0, "clinic-c": 11.0}
    losses = {name: sent[name]["loss-last"] for name in ("clinic-a", "clinic-c")}
    mean = (9 * losses["clinic-a"] + 11 * losses["clinic-c"]) / 20
    assert record(over, 1)["loss_last"] == pytest.approx(mean)
    figures = over.read_json("summary.json")
    assert (figures["clients"], figures["rows"]) == (3, 30)
    told = figures["filter"]["total"]  # clinic-c keeps its counts
    assert (told["rows"], told["unsafe"], told["dropped"]) == (21, 2, 2)


def test_everything_is_loaded_once(home: Path, over: RunFolder) -> None:
    for name in NAMES:
        said = (home / name / f"{name}.log").read_text()
        assert said.count("asked to train") >= 2
        assert said.count("loading the base model") == 1


def test_no_row_reaches_the_server(home: Path, over: RunFolder) -> None:
    secret = CANARY.encode()
    forms = [secret, base64.b64encode(secret)[:-2], secret.hex().encode()]
    places = [f for folder in ("server", "over") for f in (home / folder).rglob("*")]
    read = [f for f in places if f.is_file()]
    assert any(f.name == "state.db" for f in read)
    for file in [*read, *(home / n / f"{n}.log" for n in NAMES)]:
        assert not any(form in file.read_bytes() for form in forms), file.name


def test_nodes_refuse_a_recipe_without_the_filter(
    home: Path, deployment: Cluster, over: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDRAI_CACHE", str(home / "cache"))
    unsafe = recipe.load(home / "recipe.toml", ["filter.mode=off", "evaluation.ordinary=0"])
    with pytest.raises(FederationError, match="clinic-a: filter-required, clinic-b: filter-req"):
        commands.run(unsafe, home / "refused", engine=FlowerEngine(deployment.link))
    events = RunFolder(home / "refused").events()
    assert {e["reason"] for e in events if e["event"] == "client-set-aside"} == {"filter-required"}


def test_it_was_stopped_and_went_on(over: RunFolder) -> None:
    events = over.events()
    kinds = [event["event"] for event in events]
    assert kinds.count("resumed") == 1
    assert kinds.count("client-kept") == 1  # it had replied before the stop
    assert kinds[-1] == "finished"
    with pytest.raises(RunError, match="began with --engine flower"):
        commands.resume(over.path)


def test_a_wrong_secret_gets_no_task(deployment: Cluster, over: RunFolder) -> None:
    stranger = replace(deployment.link, secret=b"guessed")
    with (
        pytest.raises(FederationError, match=r"refuses \(401\)"),
        server_app(stranger),
    ):
        raise AssertionError("was given a task")
