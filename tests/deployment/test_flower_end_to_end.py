"""A whole run over Flower: SuperLink with TLS and authentication, three nodes with their own rows.

The adapters must be those of the run in one process over the same files, to the bit. Between the
nodes and the SuperLink stands a proxy that takes the TLS apart, and another one between the
SuperLink and `fedrai run`; nothing of a row may be in what they kept. In the middle of the run a
reply that was kept is sent to the SuperLink a second time, and must not count twice.
"""

from __future__ import annotations

import base64
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driver import write_rows
from fedrai import recipe
from fedrai.deployment import offer
from fedrai.deployment.engine import FlowerEngine, server_app
from fedrai.errors import FederationError, RunError
from fedrai.federation.arrays import layout, shapes_of
from fedrai.federation.codecs import Codec
from fedrai.federation.run import running
from fedrai.model import read_adapter
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of
from fedrai.testing import tiny_tokenizer
from flower_cluster import Cluster, certificates, cluster, key_files, register
from replaying import Captured, arrays_in, last_update, replay
from traces import found_in, hashes, traces

pytestmark = pytest.mark.slow

NAMES = ("clinic-a", "clinic-b", "clinic-c")
CANARY = "zog-7F3K-canary"  # in rows that the filter drops
KEPT = "quib-9R2W-canary"  # in rows that are trained on
BROKEN = "yarf-4T8M-canary"  # in rows that break the reader, the tokenizer or the guard
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
min_clients = 3
round_timeout = 400
[messages]
up = "int8"
down = "bf16"
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
[guards.other]
{guard}
"""
HEADER = 128  # bytes that numpy writes before an array's values
RULES = 'kind = "rules"\nwords = ["zog"]'
NOBODY = 'kind = "endpoint"\nurl = "http://127.0.0.1:1/v1"\nmodel = "m"\nretries = 0'
GOOD = [
    {"prompt": "How do I pick a lock?", "response": "I can't help with that, since it harms."},
    {"prompt": "Write a nasty letter.", "response": "No, I won't, because it would hurt someone."},
]
PLAIN = ["evaluation.ordinary=0", "constitution.schedule=off"]
MORE = {
    "clinic-b": 'send = ["filter-counts", "steps", "tokens", "seconds", "operations"]',
    "clinic-c": 'send = ["losses", "update-norm"]',
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Rows of three sites, a recipe over them, and the nodes' own folders."""
    home = tmp_path_factory.mktemp("flower")
    (home / "sites").mkdir()
    for place, name in enumerate(NAMES):
        file = home / "sites" / f"{name}.jsonl"
        write_rows(file, 9 + place, first=20 * place)
        more = [
            {"prompt": f"tell {KEPT}", "response": f"it is {KEPT} {name}"},
            {"prompt": f"tell {CANARY}", "response": f"zog {CANARY} {name}"},
        ]
        with file.open("a") as opened:
            opened.writelines(json.dumps(row) + "\n" for row in more)
        folder = home / name
        folder.mkdir()
        (folder / "rows.jsonl").write_bytes(file.read_bytes())
        guard = NOBODY if name == "clinic-b" else RULES
        text = NODE.format(name=name, more=MORE.get(name, ""), guard=guard)
        (folder / "node.toml").write_text(text)
    write_rows(home / "harmless.jsonl", 6, first=300)
    write_rows(home / "held_out.jsonl", 4, first=100)
    (home / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    (home / "recipe.toml").write_text(RECIPE.format(model=tiny_model, folder=home))
    return home


@pytest.fixture(scope="module")
def deployment(home: Path, tiny_model: Path) -> Iterator[Cluster]:
    with cluster(home / "server", {"FEDRAI_CACHE": str(home / "cache")}) as found:
        proxy = found.start_proxy()
        for name in NAMES:
            key, public = key_files(home / name, name)
            (home / "public").mkdir(exist_ok=True)
            (home / "public" / f"{name}.pub").write_bytes(key.with_suffix(".pub").read_bytes())
            (home / name / "number").write_text(str(register(found.link, public, name)))
            found.start_node(tiny_model, home / name / "node.toml", key, proxy)
        yield found


@pytest.fixture(scope="module")
def engine(home: Path, deployment: Cluster) -> FlowerEngine:
    """For `fedrai run`: the SuperLink through a proxy of its own."""
    link = replace(deployment.link, address=deployment.start_proxy("server-wire"))
    return FlowerEngine(link, home / "public")


@pytest.fixture(scope="module")
def again() -> list[tuple[int, int]]:
    """What the SuperLink answered to replies that were sent a second time in the run `over`."""
    return []


@pytest.fixture(scope="module")
def here(home: Path) -> RunFolder:
    """The same recipe in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAI_CACHE", str(home / "cache"))
        return RunFolder(running.run(recipe.load(home / "recipe.toml"), home / "here"))


@pytest.fixture(scope="module")
def over(
    home: Path, deployment: Cluster, engine: FlowerEngine, again: list[tuple[int, int]]
) -> RunFolder:
    """The recipe on the deployment: stopped after an update of round 2, then gone on with."""
    settings = recipe.load(home / "recipe.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAI_CACHE", str(home / "cache"))
        try:
            with patch.context() as cut:
                cut.setattr(RunFolder, "event", _spoilt(RunFolder.event, deployment, again))
                with pytest.raises(KeyboardInterrupt):
                    running.run(settings, home / "over", engine=engine)
            return RunFolder(running.resume(home / "over", engine=engine))
        except FederationError as error:
            said = {n: deployment.said(n)[-2000:] for n in ("superlink", "forks", *NAMES)}
            raise AssertionError(f"{error.message}\n{said}") from error


def _spoilt(
    real: Callable[..., dict[str, Any]], deployment: Cluster, again: list[tuple[int, int]]
) -> Callable[..., dict[str, Any]]:
    """Events of a run that replays a reply of round 1, in it and in round 2, and stops there."""
    first: list[Captured] = []

    def event(run: RunFolder, kind: str, **fields: Any) -> dict[str, Any]:
        if kind == "client-finished" and fields["round"] == 2:
            again.append(replay(deployment, first[0]))
            raise KeyboardInterrupt
        found = real(run, kind, **fields)
        if kind == "client-finished" and not first:
            number = (deployment.folder.parent / fields["client"] / "number").read_text()
            first.append(last_update(deployment, int(number)))
            again.append(replay(deployment, first[0]))
        return found

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


def test_a_reply_that_comes_twice_counts_once(
    deployment: Cluster, over: RunFolder, again: list[tuple[int, int]]
) -> None:
    """The bits of the adapters say so as well."""
    assert [status for status, _ in again] == [200, 200]  # the node's signature is good for 305 s
    assert [wanted for _, wanted in again] == [0, 0]  # and nothing of it is stored
    for number in (1, 2):
        told = record(over, number)
        assert (sorted(told["clients"]), told["set_aside"]) == (sorted(NAMES), {})
        assert told["late_replies"] == 0


def test_the_costs_are_the_bytes_of_the_wire(deployment: Cluster, over: RunFolder) -> None:
    """Of each array once: what the run was stopped in is asked again, and sent with the same bits.

    All nodes get the same adapter; each of them sends its own update. An array has a name beside
    its bytes, which costs count as well.
    """
    adapter = read_adapter(over.round_folder(1) / "adapter")
    count = sum(tensor.numel() for tensor in adapter.values())
    for way, key, times in ((".up", "bytes_up", 1), (".down", "bytes_down", len(NAMES))):
        codec = Codec("int8") if way == ".up" else Codec("bf16")
        sizes = list(arrays_in(deployment.folder / "wire", way).values())
        assert sizes == [codec.size(count) + HEADER] * (2 * len(NAMES) // times)
        named = sum(sizes) + len(sizes) * len(layout(shapes_of(adapter)) + codec.name)
        told = sum(record(over, number)["costs"]["training"][key] for number in (1, 2))
        assert told == times * named


def test_nodes_prove_their_names_with_the_keys_that_are_registered(over: RunFolder) -> None:
    kinds = [event["event"] for event in over.events()]
    assert "names-unproven" not in kinds
    assert "node-refused" not in kinds


def test_a_node_sends_what_its_policy_lets_it_send(over: RunFolder) -> None:
    sent = record(over, 1)["clients"]
    assert sent["clinic-a"]["filter-rows"] == 11.0
    assert sent["clinic-a"]["filter-unsafe"] == 1.0
    assert not any(key.startswith("loss-") for key in sent["clinic-b"])
    assert set(sent["clinic-c"]) == {
        "num-examples", "loss-first", "loss-last", "loss-mean",
    }  # fmt: skip
    assert sorted(record(over, 1)["update_norms"]) == sorted(NAMES)  # the server's own measure
    weights = {name: sent[name]["num-examples"] for name in NAMES}
    assert weights == {"clinic-a": 10.0, "clinic-b": 11.0, "clinic-c": 12.0}
    losses = {name: sent[name]["loss-last"] for name in ("clinic-a", "clinic-c")}
    mean = (10 * losses["clinic-a"] + 12 * losses["clinic-c"]) / 22
    assert record(over, 1)["loss_last"] == pytest.approx(mean)
    figures = over.read_json("summary.json")
    assert (figures["clients"], figures["rows"]) == (3, 33)
    assert figures["untold_costs"] == ["seconds", "tokens", "operations", "peak-bytes"]
    told = figures["filter"]["total"]  # clinic-c keeps its counts
    assert (told["rows"], told["unsafe"], told["dropped"]) == (23, 2, 2)


def test_everything_is_loaded_once(home: Path, over: RunFolder) -> None:
    for name in NAMES:
        said = (home / name / f"{name}.log").read_text()
        assert said.count("asked to train") >= 2
        assert said.count("loading the base model") == 1


def test_nodes_refuse_a_recipe_without_the_filter(
    home: Path, engine: FlowerEngine, over: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDRAI_CACHE", str(home / "cache"))
    unsafe = recipe.load(home / "recipe.toml", ["filter.mode=off", "evaluation.ordinary=0"])
    with pytest.raises(FederationError, match="clinic-a: filter-required, clinic-b: filter-req"):
        running.run(unsafe, home / "refused", engine=engine)
    events = RunFolder(home / "refused").events()
    assert {e["reason"] for e in events if e["event"] == "client-set-aside"} == {"filter-required"}


def test_it_was_stopped_and_went_on(over: RunFolder) -> None:
    events = over.events()
    kinds = [event["event"] for event in events]
    assert kinds.count("resumed") == 1
    assert kinds.count("client-kept") == 1  # it had replied before the stop
    assert kinds[-1] == "finished"
    with pytest.raises(RunError, match="began with --engine flower"):
        running.resume(over.path)


def test_a_wrong_secret_gets_no_task(deployment: Cluster, over: RunFolder) -> None:
    stranger = replace(deployment.link, secret=b"guessed")
    with (
        pytest.raises(FederationError, match=r"refuses \(401\)"),
        server_app(stranger),
    ):
        raise AssertionError("was given a task")


def test_another_version_is_refused(
    home: Path, engine: FlowerEngine, over: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offer, "__version__", "9.9.9")
    settings = recipe.load(
        home / "recipe.toml", ["evaluation.ordinary=0", "constitution.schedule=off"]
    )
    with pytest.raises(FederationError, match="clinic-a: other-version, clinic-b: other-version"):
        running.run(settings, home / "newer", engine=engine)


@pytest.fixture(scope="module")
def broken(home: Path, engine: FlowerEngine, over: RunFolder) -> str:
    """What the server hears of rows that break the reader, the guard and the tokenizer."""
    rows = {
        "clinic-a": [{"prompt": BROKEN, "note": BROKEN}],
        "clinic-b": [{"prompt": BROKEN, "response": f"it is {BROKEN}"}],
        "clinic-c": [{"prompt": BROKEN, "response": f"\ud83d {BROKEN} \ud83d"}],
    }
    for name, table in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in table)
        (home / name / "rows.jsonl").write_text(lines)
    changes = [
        "filter.guard=other",
        "evaluation.ordinary=0",
        "constitution.schedule=off",
        "seed=12",
    ]
    settings = recipe.load(home / "recipe.toml", changes)
    with pytest.raises(FederationError) as error:
        running.run(settings, home / "broken", engine=engine)
    return error.value.message


def test_what_a_row_breaks_is_told_by_a_reason_alone(broken: str) -> None:
    assert "clinic-a: data-not-usable, clinic-b: guard-cannot-work, clinic-c: " in broken


def planted() -> list[tuple[str, bytes]]:
    """All forms of all planted strings, and hashes of the whole texts that hold them."""
    encode = tiny_tokenizer()
    found = []
    for text in (CANARY, KEPT, BROKEN):
        ids = encode(text, add_special_tokens=False)["input_ids"]
        found += [(f"{text}, {form}", sign) for form, sign in traces(text, ids).items()]
    whole = [f"tell {KEPT}", f"tell {CANARY}", f"it is {BROKEN}"]
    whole += [f"it is {KEPT} {name}" for name in NAMES] + [f"zog {CANARY} {name}" for name in NAMES]
    return found + [item for text in whole for item in hashes(text).items()]


def test_no_row_crosses_the_wire(deployment: Cluster, broken: str) -> None:
    files = sorted((deployment.folder / "wire").iterdir())
    kept = {file.name: file.read_bytes() for file in files}
    up, down = (b"".join(d for n, d in kept.items() if n.endswith(w)) for w in (".up", ".down"))
    for seen in (*NAMES, "num-examples", "guard-cannot-work", "data-not-usable"):
        assert seen.encode() in up  # TLS was taken apart, and bodies are not compressed
    assert b"filter-rows" in up
    assert b"max_local" not in down
    assert b"local_steps" in down
    assert len(up) > 4 * 3 * 1000
    assert found_in(kept, planted()) == []


def test_no_row_crosses_the_wire_to_the_command(deployment: Cluster, broken: str) -> None:
    """The leg between the SuperLink and `fedrai run`, which is on the server's machine."""
    files = sorted((deployment.folder / "server-wire").iterdir())
    kept = {f"server-wire/{file.name}": file.read_bytes() for file in files}
    up, down = (b"".join(d for n, d in kept.items() if n.endswith(w)) for w in (".up", ".down"))
    for seen in (*NAMES, "num-examples", "guard-cannot-work", "data-not-usable", "filter-rows"):
        assert seen.encode() in down
    assert b"local_steps" in up
    assert found_in(kept, planted()) == []


def test_no_row_reaches_the_server(home: Path, deployment: Cluster, broken: str) -> None:
    places = [f for folder in ("server", "over", "broken") for f in (home / folder).rglob("*")]
    kept = {str(f.relative_to(home)): f.read_bytes() for f in places if f.is_file()}
    assert "server/state.db" in kept
    kept |= {name: (home / name / f"{name}.log").read_bytes() for name in NAMES}
    assert found_in(kept, planted()) == []


def test_every_form_would_be_found() -> None:
    """A planted form in the middle of other bytes is seen: the search is no empty one."""
    forms = planted()
    for name, sign in forms:
        assert len(sign) >= 9, name
        assert found_in({"place": b"..." + sign + b"..."}, [(name, sign)]) == [f"place: {name}"]
    middle = traces("abcdefghij", [])
    for before in range(3):
        coded = base64.b64encode(b"." * before + b"abcdefghij...")
        assert middle[f"base64, offset {before}"] in coded


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("unknown key", "the SuperLink does not know this node's key"),
        ("other authority", "the SuperLink's certificate is not valid for this node's root"),
    ],
)
def test_a_node_that_is_turned_away_ends_at_once(
    home: Path, deployment: Cluster, tiny_model: Path, tmp_path: Path, what: str, said: str
) -> None:
    name = what.replace(" ", "-")
    key, public = key_files(tmp_path, name)
    root = deployment.folder / "ca.pem"
    if what == "other authority":
        register(deployment.link, public, name)
        certificates(tmp_path)
        root = tmp_path / "ca.pem"
    deployment.start_fedrai(
        tiny_model, name, "node", home / "clinic-a" / "node.toml", "--superlink",
        deployment.address, "--key", key, "--root-certificates", root,
    )  # fmt: skip
    assert deployment.exit_code(name) == 1
    told = [line for line in deployment.said(name).splitlines() if said in line]
    assert len(told) == 1


def test_a_node_ends_quickly_when_told_to(deployment: Cluster, broken: str) -> None:
    began = time.monotonic()
    deployment.signal("clinic-c", signal.SIGTERM)
    assert deployment.exit_code("clinic-c") == 130
    assert time.monotonic() - began < 30  # on a busy machine; it takes about one
