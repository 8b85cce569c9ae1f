"""Nodes that come, leave, come back or lie about their names; replies that come too late."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid

from clock import Clock
from fedrai.deployment.setup.certificates import make_node_key
from fedrai.errors import FederationError
from fedrai.federation import protocol
from fedrai.federation.clients import LateReplies
from fedrai.federation.flower_internals import set_message_id, set_task_identity
from fedrai.federation.run import roster
from fedrai.federation.run.proof import KeyOf, keys_in, prover
from fedrai.federation.run.roster import Roster

EMPTY = RecordDict()


class Nodes(Grid):  # type: ignore[misc]
    """A Grid whose nodes answer with what they are told to say; None: not at all."""

    def __init__(self, says: dict[int, Any]) -> None:
        self.says, self.online = says, set(says)
        self.asked: dict[str, Message] = {}
        self.questions: list[int] = []

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object: ...

    def create_message(self, *args: Any, **fields: Any) -> Message:
        raise AssertionError("Flower gave this up")

    def get_node_ids(self) -> Iterable[int]:
        return list(self.online)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            ids.append(f"m{len(self.asked)}")
            set_message_id(message, ids[-1])
            self.asked[ids[-1]] = message
            self.questions.append(message.metadata.dst_node_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for id_ in message_ids:
            node = self.asked[id_].metadata.dst_node_id
            said = self.says[node]
            if said is not None:
                found.append(reply(id_, node, said))
        return found

    def send_and_receive(self, *args: Any, **fields: Any) -> Iterable[Message]:
        raise AssertionError("the roster pushes and pulls")


def reply(asked: str, node: int, said: Any) -> Message:
    metadata = Metadata(1, "r", node, 1, asked, "", 0.0, 60.0, "query")
    if isinstance(said, Error):
        return Message(said, metadata=metadata)
    content = RecordDict({"name": ConfigRecord({"name": said})}) if isinstance(said, str) else said
    return Message(content, metadata=metadata)


class Heard(list[tuple[str, dict[str, Any]]]):
    def __call__(self, kind: str, **fields: Any) -> None:
        self.append((kind, fields))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(roster, "time", SimpleNamespace(monotonic=clock, sleep=clock.sleep))
    set_task_identity(1, 1, 1)


def test_nodes_are_known_by_name_and_asked_once(heard: Heard) -> None:
    grid = Nodes({30: "b", 20: "a"})
    found = Roster(grid, heard, 0)
    assert found.look() == {"a": 20, "b": 30} == found.look()
    assert list(found.look()) == ["a", "b"]
    assert sorted(grid.questions) == [20, 30]
    assert heard == [("nodes-present", {"clients": ["a", "b"]})]


def test_a_node_that_leaves_is_not_there_and_comes_back_unasked(heard: Heard) -> None:
    grid = Nodes({20: "a", 30: "b"})
    found = Roster(grid, heard, 0)
    found.look()
    grid.online = {20}
    assert found.look() == {"a": 20}
    grid.online = {20, 30}
    assert found.look() == {"a": 20, "b": 30}
    assert len(grid.questions) == 2


@pytest.mark.parametrize(
    "said",
    [
        None, "", "a b", "../a", "a\n", "x" * 65, Error(1, "my secret"), EMPTY,
        RecordDict({"name": ConfigRecord({"name": "a", "more": "rows"})}),
        RecordDict({"name": ConfigRecord({"name": 3})}),
        RecordDict({"name": ConfigRecord({"name": "a"}), "other": ConfigRecord()}),
    ],
)  # fmt: skip
def test_what_is_no_name_takes_no_part(heard: Heard, said: Any) -> None:
    found = Roster(Nodes({20: said, 30: "b"}), heard, 0)
    assert found.look() == {"b": 30} == found.look()


def test_a_name_stays_with_the_first_to_claim_it(heard: Heard) -> None:
    grid = Nodes({20: "a"})
    found = Roster(grid, heard, 0)
    found.look()
    grid.says[30] = "a"
    grid.online = {20, 30}
    assert found.look() == {"a": 20} == found.look()
    refused = [fields for kind, fields in heard if kind == "node-refused"]
    assert refused == [{"client": "a", "node": "30", "reason": "name-is-taken"}]
    grid.online = {30}  # the first has gone: a node without a key comes back under a new number
    assert found.look() == {"a": 30}


# --- names that are proven ------------------------------------------------------------------------

Claim = Callable[[bytes, int], RecordDict]


class Signing(Nodes):
    """Nodes that answer a question by its nonce."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for id_ in message_ids:
            asked = self.asked[id_]
            node = asked.metadata.dst_node_id
            nonce = asked.content.config_records["question"].get("nonce", b"")
            found.append(reply(id_, node, self.says[node](nonce, node)))
        return found


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """Private keys by name; the public ones of "a" and "b" are registered."""
    (tmp_path / "nodes").mkdir()
    found = {}
    for name in ("a", "b", "mallory"):
        private, public = make_node_key()
        found[name] = tmp_path / f"{name}.key"
        found[name].write_bytes(private)
        if name != "mallory":
            (tmp_path / "nodes" / f"{name}.pub").write_bytes(public)
    return found


def saying(name: str, key: Path) -> Claim:
    """An honest node's answer, made as `NodeApp` makes it."""
    prove = prover(key)
    return lambda nonce, node: protocol.pack_name(
        protocol.pack_question(nonce), name, lambda n: prove(n, node, name)
    )


def registered(keys: dict[str, Path]) -> KeyOf:
    return keys_in(keys["a"].parent / "nodes")


def reasons(heard: Heard) -> list[tuple[str, str]]:
    return [(f["node"], f["reason"]) for kind, f in heard if kind == "node-refused"]


def test_a_name_is_its_key_owners(heard: Heard, keys: dict[str, Path]) -> None:
    grid = Signing({20: saying("a", keys["a"]), 30: saying("b", keys["b"])})
    assert Roster(grid, heard, 0, registered(keys)).look() == {"a": 20, "b": 30}
    nonces = {bytes(m.content["question"]["nonce"]) for m in grid.asked.values()}
    assert {len(nonce) for nonce in nonces} == {32}
    assert len(nonces) == 2  # each is used once


def test_a_registered_node_cannot_answer_for_one_that_is_away(
    heard: Heard, keys: dict[str, Path]
) -> None:
    """The node of "b" says that it is "a", which is not there; then "a" comes."""
    grid = Signing({30: saying("a", keys["b"])})
    found = Roster(grid, heard, 0, registered(keys))
    assert found.look() == {} == found.look()
    assert reasons(heard) == [("30", "name-not-proven")]
    assert grid.questions == [30]  # it is not asked again with every look
    grid.says[20] = saying("a", keys["a"])
    grid.online = {20, 30}
    assert found.look() == {"a": 20}


def test_a_name_without_a_key_or_a_proof_takes_no_part(heard: Heard, keys: dict[str, Path]) -> None:
    plain = RecordDict({"name": ConfigRecord({"name": "a"})})
    grid = Signing({
        20: lambda nonce, node: plain,
        30: saying("mallory", keys["mallory"]),
        40: saying("A", keys["a"]),
        50: lambda nonce, node: RecordDict(
            {"name": ConfigRecord({"name": "a", "signature": bytes(104)})}
        ),
        60: lambda nonce, node: RecordDict(
            {"name": ConfigRecord({"name": "a", "signature": "text"})}
        ),
    })  # fmt: skip
    assert Roster(grid, heard, 0, registered(keys)).look() == {}
    assert sorted(reasons(heard)) == [
        ("20", "name-not-proven"), ("30", "name-not-registered"), ("40", "name-not-registered"),
        ("50", "name-not-proven"),
    ]  # fmt: skip


def test_an_answer_to_another_question_or_node_is_no_proof(
    heard: Heard, keys: dict[str, Path]
) -> None:
    """What "a" once signed is said again by another node, and by its own for another nonce."""
    seen: list[RecordDict] = []
    honest = saying("a", keys["a"])

    def overheard(nonce: bytes, node: int) -> RecordDict:
        seen.append(honest(nonce, node))
        return seen[-1]

    assert Roster(Signing({20: overheard}), heard, 0, registered(keys)).look() == {"a": 20}
    replayed = Signing({20: lambda nonce, node: seen[0]})
    assert Roster(replayed, heard, 0, registered(keys)).look() == {}
    relayed = Signing({30: lambda nonce, node: honest(nonce, 20)})  # "a" was asked the same
    assert Roster(relayed, heard, 0, registered(keys)).look() == {}
    assert reasons(heard) == [("20", "name-not-proven"), ("30", "name-not-proven")]


def test_a_key_that_comes_later_counts_when_the_node_is_asked_again(
    heard: Heard, keys: dict[str, Path]
) -> None:
    file = keys["a"].parent / "nodes" / "a.pub"
    public = file.read_bytes()
    file.unlink()
    found = Roster(Signing({20: saying("a", keys["a"])}), heard, 0, registered(keys))
    assert found.look() == {}
    found._retry_at.clear()  # its minute is over
    file.write_bytes(public)
    assert found.look() == {"a": 20}


@pytest.mark.parametrize("public", [b"", b"x", b"ssh-rsa AAAA", b"\xff"])
def test_a_damaged_public_key_proves_nothing(
    heard: Heard, keys: dict[str, Path], public: bytes
) -> None:
    (keys["a"].parent / "nodes" / "a.pub").write_bytes(public)
    grid = Signing({20: saying("a", keys["a"])})
    assert Roster(grid, heard, 0, registered(keys)).look() == {}
    assert reasons(heard) == [("20", "name-not-proven")]


def test_a_private_key_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="cannot read"):
        prover(tmp_path / "none.key")
    (tmp_path / "node.key").write_text("no key")
    with pytest.raises(FederationError, match=r"node.key is not an OpenSSH private key"):
        prover(tmp_path / "node.key")


def test_names_that_differ_in_case_only_are_one(heard: Heard) -> None:
    """Their files would be the same on some disks."""
    found = Roster(Nodes({20: "Clinic", 30: "clinic"}), heard, 0)
    assert found.look() == {"Clinic": 20}
    assert reasons(heard) == [("30", "name-is-taken")]


def test_an_answer_from_another_node_counts_for_nobody(heard: Heard) -> None:
    class Mixed(Nodes):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return [reply(id_, 99, "b") for id_ in message_ids]

    assert Roster(Mixed({20: "a"}), heard, 0).look() == {}


def test_waiting_ends_with_the_last_node(heard: Heard) -> None:
    grid = Nodes({20: "a", 30: None})

    def emit(kind: str, **fields: Any) -> None:
        heard(kind, **fields)
        if kind == "waiting-for-nodes":
            grid.says[30] = "b"

    assert Roster(grid, emit, 0).wait(2, 2) == {"a": 20, "b": 30}
    assert ("waiting-for-nodes", {"missing": 1}) in heard


def test_when_patience_ends_enough_is_enough(heard: Heard) -> None:
    found = Roster(Nodes({20: "a", 30: None}), heard, 0.05)
    assert found.wait(2, 1) == {"a": 20}
    with pytest.raises(FederationError, match=r"1 nodes are present \(a\), the recipe needs 2"):
        found.wait(2, 2)


def test_a_round_waits_once_for_a_newcomers_name(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Nodes({20: "a", 30: None})
    found = Roster(grid, heard, 0)
    looks: list[float] = []
    pull = grid.pull_messages

    def slow(ids: Iterable[str]) -> Iterable[Message]:
        looks.append(1)
        grid.says[40] = "c" if len(looks) > 4 else None
        return pull(ids)

    monkeypatch.setattr(grid, "pull_messages", slow)
    assert found.present(1) == {"a": 20}
    assert len(looks) == 1 + roster.NEWCOMERS / roster.POLL  # 30 might have answered
    waited = len(looks)
    assert found.present(1) == {"a": 20}
    assert len(looks) == waited + 1  # not a second time
    looks.clear()
    grid.online.add(40)
    assert found.present(1) == {"a": 20, "c": 40}


def test_late_replies_are_counted_once_and_dropped() -> None:
    grid = Nodes({20: EMPTY, 30: None, 40: Error(5, "gone")})
    ids = list(grid.push_messages([Message(EMPTY, node, "train") for node in (20, 30, 40)]))
    late = LateReplies(grid)
    assert late.count() == 0
    late.expect(ids)
    assert late.count() == 1
    grid.says[30] = EMPTY
    assert late.count() == 1
    assert late.count() == 0
    assert protocol.read_name(reply("m0", 20, "a")) == ("a", b"")
