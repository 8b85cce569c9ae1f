"""A node's app by itself: what it answers, what it loads, and that its rows stay out of both."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, Metadata, MetricRecord, RecordDict

from driver import write_rows
from fedrai.deployment.node import NodeApp, sendable
from fedrai.deployment.node_site import KEPT_RUNS, load
from fedrai.deployment.offer import make_offer
from fedrai.deployment.setup.certificates import make_node_key
from fedrai.deployment.worker import reply_of
from fedrai.federation import protocol
from fedrai.federation.flower_internals import set_task_identity
from fedrai.federation.protocol import Reason, Update
from fedrai.federation.run import preparation
from fedrai.federation.run.pair_tuning import pair_settings
from fedrai.federation.run.proof import proves
from fedrai.model import LanguageModel
from fedrai.model.parts import Part
from fedrai.recipe.sections import Node, Recipe
from fedrai.training.local import train

CANARY = "canary-5Q2"
ENDS = ("loss-first", "loss-last", "loss-mean")
NODE = """\
name = "clinic"
device = "cpu"
[data]
sources = [{path = "rows.jsonl"}]
[policy]
filter = "any"
guards = ["mine", "no-such-guard"]
"""


@pytest.fixture
def loads(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the base models that were loaded; every one is the tiny model."""
    found: list[str] = []

    def load(recipe: Recipe, *_: Any) -> LanguageModel:
        found.append(recipe.model.base)
        return tiny

    monkeypatch.setattr(preparation, "load_model", load)
    return found


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeApp:
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    set_task_identity(1, 1, 7)
    write_rows(tmp_path / "rows.jsonl", 6)
    (tmp_path / "node.toml").write_text(NODE)
    return NodeApp(tmp_path / "node.toml")


def document(fingerprint: str, run: str = "", **changes: Any) -> str:
    table = {
        "model": {"base": "tiny", "dtype": "float32"},
        "adapter": {"rank": 4},
        "data": {"sources": [{"path": "none.jsonl"}], "max_length": 96},
        "training": {"local_steps": 1, "batch_size": 2},
        "federation": {"rounds": 3},
    }
    return make_offer(Recipe.model_validate(table | changes), fingerprint, run)


def asked(node: NodeApp, content: RecordDict, kind: str = "train") -> Message:
    metadata = Metadata(1, "m", 1, 7, "", "1", 0.0, 600.0, kind)
    context = Context(1, 7, {}, RecordDict(), {})
    return reply_of(node, Message(content, metadata=metadata), context)


def reason(message: Message) -> str:
    assert set(message.content) == {"status"}
    return str(message.content["status"]["reason"])


def test_it_trains_and_loads_once(node: NodeApp, tiny: LanguageModel, loads: list[str]) -> None:
    start = tiny.fresh_adapter(1)
    shapes = {name: tuple(tensor.shape) for name, tensor in start.items()}
    for number in (1, 2):
        content = protocol.pack_task(number, start, document(tiny.fingerprint))
        found = protocol.read_reply(asked(node, content), shapes)
        assert isinstance(found, Update)
        assert found.metrics["num-examples"] == 6.0
    assert loads == ["tiny"]
    asked(node, protocol.pack_task(3, start, document(tiny.fingerprint, seed=9)))
    assert loads == ["tiny", "tiny"]


def test_a_node_trains_on_its_pairs_as_a_client_in_one_process_does(
    tmp_path: Path, tiny: LanguageModel, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit; and it refuses a recipe for rows that it does not have."""
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    set_task_identity(1, 1, 7)
    rows = [{"prompt": f"q{n}", "chosen": "yes" * n, "rejected": "no"} for n in range(1, 5)]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_rows(tmp_path / "rows.jsonl", 6)
    votes = '{path = "votes.jsonl", rows = "pairs"}'
    (tmp_path / "node.toml").write_text(NODE.replace('{path = "rows.jsonl"}', votes))
    start, node = tiny.fresh_adapter(1), NodeApp(tmp_path / "node.toml")
    pairs = {"path": str(tmp_path / "votes.jsonl"), "rows": "pairs"}
    tuning = {"method": "dpo", "local_steps": 2, "batch_size": 2}
    given = {"data": {"sources": [pairs], "max_length": 96}, "training": tuning}
    content = protocol.pack_task(1, start, document(tiny.fingerprint, **given))
    found = protocol.read_reply(asked(node, content), protocol.shapes_of(start))
    assert isinstance(found, Update)
    assert (found.metrics["pairs"], found.metrics["steps"]) == (4.0, 2.0)

    alone = Recipe.model_validate(
        {"model": {"base": "tiny", "dtype": "float32"}, "adapter": {"rank": 4},
         "federation": {"rounds": 3}, **given}
    )  # fmt: skip
    tokens = NodeApp(tmp_path / "node.toml")  # the same rows
    site = load(document(tiny.fingerprint, **given), tokens.node, tmp_path, tokens._log)
    settings = replace(
        preparation.sft_settings(alone, 0), steps=0, pairs=pair_settings(alone, None, 4)
    )
    expected, _ = train(
        tiny, start, site.tokens, settings, seed=alone.seed_for("training", 1, "clinic")
    )
    assert all(torch.equal(found.adapter[name], expected[name]) for name in expected)

    plain = protocol.pack_task(1, start, document(tiny.fingerprint))
    assert reason(asked(node, plain)) == "no-rows-of-this-kind"
    both = f'{{path = "rows.jsonl"}}, {votes}'
    (tmp_path / "node.toml").write_text(NODE.replace('{path = "rows.jsonl"}', both))
    reply = asked(NodeApp(tmp_path / "node.toml"), plain)
    update = protocol.read_reply(reply, protocol.shapes_of(start))
    assert isinstance(update, Update)
    assert update.metrics["num-examples"] == 6.0  # its answers alone


def test_members_can_compare_what_they_were_sent(
    tmp_path: Path, node: NodeApp, tiny: LanguageModel, loads: list[str]
) -> None:
    """The log names the checksum of each adapter; one changed weight changes it."""
    start = tiny.fresh_adapter(1)
    name = sorted(start)[0]
    other = {**start, name: start[name] + 1}
    lines = []
    for adapter in (start, start, other):
        content = protocol.pack_task(1, adapter, document(tiny.fingerprint))
        asked(node, content)
        lines.append(protocol.checksum(content))
    log = (tmp_path / "clinic.log").read_text()
    assert lines[0] == lines[1] != lines[2]
    assert [log.count(f"from the adapter with checksum {line}") for line in lines] == [2, 2, 1]
    assert protocol.checksum(RecordDict()) == sha256(b"").hexdigest()


@pytest.mark.parametrize("number", [-1, 0, 4])
def test_it_trains_in_the_rounds_of_the_offer_only(
    node: NodeApp, tiny: LanguageModel, loads: list[str], number: int
) -> None:
    """The policy bounds an offer's rounds; a server that asks for more is told no."""
    offer = document(tiny.fingerprint)
    content = protocol.pack_task(number, tiny.fresh_adapter(1), offer)
    assert reason(asked(node, content)) == Reason.TOO_MANY_ROUNDS.value


def test_it_tells_its_name(node: NodeApp) -> None:
    assert protocol.read_name(asked(node, protocol.pack_question(), "query")) == ("clinic", b"")


def test_it_signs_its_name_with_its_key(tmp_path: Path, node: NodeApp) -> None:
    private, public = make_node_key()
    (tmp_path / "node.key").write_bytes(private)
    own = NodeApp(tmp_path / "node.toml", key=tmp_path / "node.key")
    question = protocol.pack_question(bytes(range(32)))
    name, signature = protocol.read_name(asked(own, question, "query")) or ("", b"")
    assert name == "clinic"
    assert proves(public, signature, bytes(range(32)), 7, "clinic")
    assert not proves(public, signature, bytes(range(32)), 8, "clinic")
    assert protocol.read_name(asked(node, question, "query")) == ("clinic", b"")  # without a key
    assert reason(asked(node, RecordDict(), "query")) == Reason.BAD_TASK.value


def test_another_base_model_is_refused(
    node: NodeApp, tiny: LanguageModel, loads: list[str]
) -> None:
    content = protocol.pack_task(1, tiny.fresh_adapter(1), document("0" * 64))
    assert reason(asked(node, content)) == "other-base-model"


def test_without_an_offer_nothing_is_loaded(
    node: NodeApp, tiny: LanguageModel, loads: list[str]
) -> None:
    content = protocol.pack_task(1, tiny.fresh_adapter(1))
    assert reason(asked(node, content)) == Reason.BAD_TASK.value
    assert reason(asked(node, RecordDict(), "evaluate")) == Reason.BAD_TASK.value
    assert loads == []


@pytest.mark.parametrize(
    ("row", "changes", "said"),
    [
        ({"prompt": CANARY}, {}, "data-not-usable"),
        ({"prompt": CANARY, "response": ["a", CANARY]}, {}, "data-not-usable"),
        (
            {"prompt": CANARY, "response": CANARY},
            {"filter": {"mode": "drop", "guard": "no-such-guard"}},
            "guard-cannot-work",
        ),
    ],
)
def test_a_row_that_breaks_something_stays_here(
    node: NodeApp,
    tiny: LanguageModel,
    loads: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    row: dict[str, Any],
    changes: dict[str, Any],
    said: str,
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    content = protocol.pack_task(1, tiny.fresh_adapter(1), document(tiny.fingerprint, **changes))
    assert reason(asked(node, content)) == said
    shown = capfd.readouterr()
    log = (tmp_path / "clinic.log").read_text()
    assert "asked to train" in log
    assert CANARY not in log + shown.out + shown.err


@pytest.mark.parametrize(("most", "refused"), [(3, False), (2, True), (0, False)])
def test_the_limit_of_steps_holds_for_epochs(
    tmp_path: Path, node: NodeApp, tiny: LanguageModel, loads: list[str], most: int, refused: bool
) -> None:
    """Six rows in batches of two are three steps an epoch, which the server cannot know."""
    (tmp_path / "node.toml").write_text(f"{NODE}max_local_steps = {most}\n")
    training = {"local_steps": 9, "local_epochs": 1, "batch_size": 2}
    offer = document(tiny.fingerprint, training=training)
    start = tiny.fresh_adapter(1)
    content = protocol.pack_task(1, start, offer)
    reply = asked(NodeApp(tmp_path / "node.toml"), content)
    if refused:
        assert reason(reply) == Reason.TOO_MANY_STEPS.value
    else:
        shapes = {name: tuple(tensor.shape) for name, tensor in start.items()}
        update = protocol.read_reply(reply, shapes)
        assert isinstance(update, Update)
        assert update.metrics["steps"] == 3


def test_it_keeps_its_control_variates_by_run(
    tmp_path: Path, node: NodeApp, tiny: LanguageModel, loads: list[str]
) -> None:
    start = tiny.fresh_adapter(1)
    shapes = protocol.shapes_of(start)
    common = {name: torch.full_like(tensor, 0.5) for name, tensor in start.items()}
    rule = {"aggregation": {"algorithm": "scaffold"}}

    def reply(owner: NodeApp, number: int, counted: int, run: str) -> Update | Reason:
        offer = document(tiny.fingerprint, run, **rule)
        content = protocol.pack_task(number, start, offer, common, counted)
        return protocol.read_reply(asked(owner, content), shapes)

    assert isinstance(reply(node, 1, 0, "one"), Update)
    assert isinstance(reply(node, 2, 0, "other"), Update)
    again = NodeApp(tmp_path / "node.toml")  # the process was started anew
    assert isinstance(reply(again, 2, 1, "one"), Update)
    assert reply(again, 3, 1, "other") is Reason.VARIATE_LOST
    kept = sorted(f.relative_to(tmp_path / "clinic.variates").as_posix()
                  for f in (tmp_path / "clinic.variates").rglob("*.safetensors"))  # fmt: skip
    names = {run: sha256(run.encode()).hexdigest() for run in ("one", "other")}
    assert kept == sorted(
        [f"{names['one']}/0001.safetensors", f"{names['one']}/0002.safetensors",
         f"{names['other']}/0002.safetensors"]
    )  # fmt: skip
    plain = protocol.pack_task(1, start, document(tiny.fingerprint, "one", **rule))
    assert reason(asked(node, plain)) == Reason.BAD_TASK.value  # without the server's variate
    unasked = protocol.pack_task(1, start, document(tiny.fingerprint), common, 0)
    assert reason(asked(node, unasked)) == Reason.BAD_TASK.value


def test_of_many_runs_it_keeps_the_variates_of_the_last(
    tmp_path: Path, node: NodeApp, tiny: LanguageModel, loads: list[str]
) -> None:
    for number in range(KEPT_RUNS + 2):
        place = tmp_path / "clinic.variates" / f"{number:064x}"
        place.mkdir(parents=True)
        os.utime(place, (number, number))
    start = tiny.fresh_adapter(1)
    offer = document(tiny.fingerprint, "one", aggregation={"algorithm": "scaffold"})
    asked(node, protocol.pack_task(1, start, offer, start, 0))
    kept = {folder.name for folder in (tmp_path / "clinic.variates").iterdir()}
    newest = {f"{number:064x}" for number in range(3, KEPT_RUNS + 2)}
    assert kept == newest | {sha256(b"one").hexdigest()}


@pytest.mark.parametrize(
    ("changes", "withheld", "needed"),
    [
        ({"federation": {"rounds": 3, "weights": "tokens"}}, "label-tokens", "data-label-tokens"),
        ({"aggregation": {"algorithm": "qfedavg"}}, "losses", "loss-first"),
    ],
)
def test_it_refuses_where_the_mean_needs_a_number_that_it_does_not_send(
    tmp_path: Path, node: NodeApp, tiny: LanguageModel, loads: list[str],
    changes: dict[str, Any], withheld: str, needed: str,
) -> None:  # fmt: skip
    start, offer = tiny.fresh_adapter(1), document(tiny.fingerprint, **changes)
    content = protocol.pack_task(1, start, offer)
    update = protocol.read_reply(asked(node, content), protocol.shapes_of(start), {needed})
    assert isinstance(update, Update)
    (tmp_path / "node.toml").write_text(f"{NODE}send = []\n")
    assert reason(asked(NodeApp(tmp_path / "node.toml"), content)) == "numbers-not-sent"
    (tmp_path / "node.toml").write_text(f'{NODE}send = ["{withheld}"]\n')
    update = protocol.read_reply(
        asked(NodeApp(tmp_path / "node.toml"), content), protocol.shapes_of(start), {needed}
    )
    assert isinstance(update, Update)


@pytest.mark.parametrize("way", ["stop", "skip"])
def test_half_a_character_is_a_bad_row_in_the_nodes_log(
    node: NodeApp, tiny: LanguageModel, loads: list[str], tmp_path: Path, way: str
) -> None:
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(f'{{"prompt": "{CANARY} \\ud83d", "response": "yes"}}\n')
    given = {"data": {"sources": [{"path": "x"}], "max_length": 96, "on_bad_rows": way}}
    start = tiny.fresh_adapter(1)
    content = protocol.pack_task(1, start, document(tiny.fingerprint, **given))
    reply = asked(node, content)
    log = (tmp_path / "clinic.log").read_text()
    assert "rows.jsonl, line 7: holds half a character" in log
    assert CANARY not in log
    if way == "stop":
        assert reason(reply) == "data-not-usable"
    else:
        shapes = {name: tuple(tensor.shape) for name, tensor in start.items()}
        update = protocol.read_reply(reply, shapes)
        assert isinstance(update, Update)
        assert (update.metrics["num-examples"], update.metrics["bad-rows"]) == (6.0, 1.0)


@pytest.mark.parametrize("lost", ["file", "both"])
def test_a_full_disk_ends_nothing(
    node: NodeApp, tiny: LanguageModel, loads: list[str], tmp_path: Path, lost: str
) -> None:
    """The log on a full disk, and what the operator sees too: the server still gets an answer."""
    lines: list[str] = []

    def full(line: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "clinic.log").symlink_to("/dev/full")
    node = NodeApp(tmp_path / "node.toml", lines.append if lost == "file" else full)
    start = tiny.fresh_adapter(1)
    shapes = {name: tuple(tensor.shape) for name, tensor in start.items()}
    other = protocol.pack_task(1, start, document("0" * 64))
    assert reason(asked(node, other)) == "other-base-model"
    right = protocol.pack_task(1, start, document(tiny.fingerprint))
    assert isinstance(protocol.read_reply(asked(node, right), shapes), Update)
    if lost == "file":
        assert "refused: other-base-model" in lines
        assert [line for line in lines if "cannot be written" in line] == [
            f"{tmp_path / 'clinic.log'} cannot be written: No space left on device"
        ]


FILTERED = {"mode": "drop", "guard": "mine"}
GUARD = '[guards.mine]\nkind = "rules"\nwords = ["zog"]\n'  # its thresholds are 0.5 and 0.5


@pytest.mark.parametrize(
    ("policy", "asks", "said"),
    [
        ("", {"threshold": 1.0}, "threshold-too-high"),
        ("", {"threshold": 0.51}, "threshold-too-high"),
        ("", {"threshold": 1.0, "judge": "response"}, "judged-part-not-allowed"),
        ("", {"threshold": 0.5}, ""),
        ("", {"threshold": "loose"}, ""),
        ("threshold_at_most = 0.4", {"threshold": "strict"}, "threshold-too-high"),
        ("threshold_at_most = 1.0", {"threshold": 1.0}, ""),
        ("", {"threshold": 0.5, "guard": "no-such-guard"}, "guard-cannot-work"),
        ("", {"threshold": 0.5, "guard": "evil/Llama-Guard-3-8B"}, "guard-not-allowed"),
    ],
)
def test_a_required_filter_is_no_weaker_than_the_guard_means_it(
    node: NodeApp,
    tiny: LanguageModel,
    loads: list[str],
    tmp_path: Path,
    policy: str,
    asks: dict[str, Any],
    said: str,
) -> None:
    text = NODE.replace('filter = "any"', policy) + GUARD
    (tmp_path / "node.toml").write_text(text)
    own = NodeApp(tmp_path / "node.toml")
    offered = document(tiny.fingerprint, filter=FILTERED | asks)
    start = tiny.fresh_adapter(1)
    reply = protocol.read_reply(
        asked(own, protocol.pack_task(1, start, offered)), protocol.shapes_of(start)
    )
    assert isinstance(reply, Update) if not said else reply == said


CASCADE = """
[guards.mine]
kind = "cascade"
first = "words"
second = "more"
low = 0.1
high = 0.9
[guards.words]
kind = "rules"
words = ["zog"]
[guards.more]
kind = "rules"
words = ["zug"]
"""


def test_a_caution_about_the_guard_is_in_the_nodes_log(
    node: NodeApp, tiny: LanguageModel, loads: list[str], tmp_path: Path
) -> None:
    (tmp_path / "node.toml").write_text(NODE + CASCADE)
    own = NodeApp(tmp_path / "node.toml")
    offer = document(tiny.fingerprint, filter=FILTERED)
    start = tiny.fresh_adapter(1)
    reply = asked(own, protocol.pack_task(1, start, offer))
    assert isinstance(protocol.read_reply(reply, protocol.shapes_of(start)), Update)
    assert "the second guard, more, is never asked" in (tmp_path / "clinic.log").read_text()


def test_what_is_sent_can_be_named_and_all_of_it_has_a_name() -> None:
    every = dict.fromkeys(protocol.METRIC_NAMES, 1.0)

    def sent(**policy: Any) -> set[str]:
        owner = Node.model_validate(
            {"name": "a", "data": {"sources": [{"path": "x"}]}, "policy": policy}
        )
        content = RecordDict({"metrics": MetricRecord(every)})
        return set(sendable(content, owner)["metrics"])

    assert sent() == protocol.METRIC_NAMES
    assert sent(send=[]) == {"num-examples"}
    ends = {f"{kind}{end}" for kind in ("", "preference-") for end in ENDS}
    rewards = {"pairs", "reward-margin", "reward-accuracy"}
    assert sent(send=["losses"]) == {"num-examples", *ends, *rewards}
    assert sent(send=["filter-counts"]) == {"num-examples"} | {
        name for name in protocol.METRIC_NAMES if name.startswith("filter-")
    }
    for name in ("bad-rows", "steps", "tokens", "seconds", "operations", "peak-bytes"):
        assert sent(send=[name]) == {"num-examples", name}
    assert sent(send=["update-norm"]) == {"num-examples"}  # the server measures it itself


@pytest.mark.parametrize("part", [Part("A"), Part("B", 2), Part(rank=1, whole=True)])
def test_it_trains_and_sends_the_part_that_the_task_names(
    node: NodeApp, tiny: LanguageModel, loads: list[str], part: Part
) -> None:
    """The node knows no rule for LoRA's factors: the task says all that it needs."""
    start = {name: t + 0.01 for name, t in tiny.fresh_adapter(1).items()}
    shapes = protocol.shapes_of(start)
    content = protocol.pack_task(1, start, document(tiny.fingerprint), part=part)
    update = protocol.read_reply(asked(node, content), part.sent_shapes(shapes))
    assert isinstance(update, Update)
    received = part.expanded(part.received(start), shapes)
    for name, tensor in update.adapter.items():
        assert not torch.equal(tensor, part.cut(name, received[name]))
