"""Nodes that come, leave, come back or lie about their names; replies that come too late."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid

from fedrai import protocol
from fedrai.errors import FederationError
from fedrai.runtimes import roster
from fedrai.runtimes.flower_internals import be_task, give_id
from fedrai.runtimes.roster import LateReplies, Roster

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
            give_id(message, ids[-1])
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
    monkeypatch.setattr(roster, "LOOK", 0.01)
    be_task(1, 1, 1)


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
    with pytest.raises(FederationError, match=r"1 nodes are there \(a\), the recipe needs 2"):
        found.wait(2, 2)


def test_a_round_waits_once_for_a_newcomers_name(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "NEWCOMERS", 0.05)
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
    assert len(looks) > 2  # 30 might have answered
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
    late.missed(ids)
    assert late.count() == 1
    grid.says[30] = EMPTY
    assert late.count() == 1
    assert late.count() == 0
    assert protocol.read_name(reply("m0", 20, "a")) == "a"
