"""What goes wrong between machines: killed, hanging, late nodes; a killed server; hostile bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from flwr.app import Message, Metadata

from fedrai.deployment.careful_grid import CarefulGrid
from fedrai.federation import protocol
from fedrai.federation.flower_internals import HttpGrid, set_message_id
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.protocol import Reason, Update
from flower_parts import (
    ConfirmMessageReceivedResponse,
    PullAppMessagesResponse,
    PullObjectResponse,
    Run,
    get_all_nested_objects,
    get_object_tree,
    message_to_proto,
    no_object_id_recompute,
)
from scenarios import QUICK, Place, Seen, place, set_aside, took_part

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAI_CACHE", str(home / "cache"))
        with place(home / "place", tiny_model) as found:
            yield found


BOTH, LATE = ["north", "south"], {"south": "no-reply-in-time"}
AFTER = {  # by fault: who took part in each round, and who was set aside
    "node_hangs": ([["north"], BOTH], [LATE, {}]),
    "server_killed": ([BOTH, BOTH], [{}, {}]),
    "disk_full": ([BOTH, BOTH], [{}, {}]),
}


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.__name__)
def test_a_run_survives(fault: Callable[[Place], Seen], here: Place) -> None:
    run = fault(here).run
    assert run.is_finished()
    assert [took_part(run, n) for n in (1, 2)] == AFTER[fault.__name__][0]
    assert [set_aside(run, n) for n in (1, 2)] == AFTER[fault.__name__][1]


# --- replies whose inside is wrong ----------------------------------------------------------------

ADAPTER = {"a": torch.tensor([1.0, 2.0, 3.0])}
SHAPES = {"a": (3,)}


class Runtime:
    """A SuperLink's Runtime API that holds replies; every reply is given out once, as there."""

    def __init__(self) -> None:
        self.replies: dict[str, tuple[Any, Any]] = {}
        self.objects: dict[str, bytes] = {}

    def add(self, asked: str, node: int, spoil: bytes = b"") -> None:
        """Keep a reply; `spoil` is cut out of its objects (lengths are put right again)."""
        content = protocol.pack_update({"a": ADAPTER["a"] * node}, {WEIGHT: node})
        metadata = Metadata(1, "", node, 1, asked, "1", 0.0, 60.0, "train")
        message = Message(content, metadata=metadata)
        set_message_id(message, message.object_id)
        with no_object_id_recompute():
            self.replies[asked] = (message_to_proto(message), get_object_tree(message))
            found = get_all_nested_objects(message).items()
            self.objects |= {id_: spoilt(thing.deflate(), spoil) for id_, thing in found}

    def PullMessages(self, request: Any) -> Any:
        ready = [self.replies.pop(id_) for id_ in request.message_ids if id_ in self.replies]
        return PullAppMessagesResponse(
            messages_list=[message for message, _ in ready],
            message_object_trees=[tree for _, tree in ready],
        )

    def PullObject(self, request: Any) -> Any:
        return PullObjectResponse(
            object_found=True, object_available=True, object_content=self.objects[request.object_id]
        )

    def ConfirmMessageReceived(self, request: Any) -> Any:
        return ConfirmMessageReceivedResponse()


def spoilt(data: bytes, part: bytes) -> bytes:
    """An object of Flower's with other bytes of the same length in its body."""
    head, _, body = data.partition(b"\x00")
    return head + b"\x00" + body.replace(part, b"#" * len(part)) if part else data


def grid_of(runtime: Runtime) -> CarefulGrid:
    grid = CarefulGrid("127.0.0.1:1", True, None, token="t")
    grid._client, grid._run = runtime, Run.create_empty(1)
    grid._nodes = {"m1": 11, "m2": 12, "m3": 13}
    return grid


@pytest.mark.parametrize("part", [b'"arraychunk_ids"', b"num-examples", b"{", b"numpy"])
def test_a_reply_that_flower_cannot_read_is_one_nodes_affair(part: bytes) -> None:
    runtime = Runtime()
    for number in (1, 2, 3):
        runtime.add(f"m{number}", 10 + number, part if number == 2 else b"")
    replies = list(grid_of(runtime).pull_messages(["m1", "m2", "m3", "m4"]))
    found = {r.metadata.src_node_id: protocol.read_reply(r, SHAPES) for r in replies}
    assert [r.metadata.reply_to_message_id for r in replies] == ["m1", "m2", "m3"]
    assert found[12] in (Reason.UNREADABLE, Reason.BAD_METRICS)
    for node in (11, 13):
        update = found[node]
        assert isinstance(update, Update)
        assert torch.equal(update.adapter["a"], ADAPTER["a"] * node)


def test_flowers_own_grid_loses_the_other_replies_with_it() -> None:
    """If this fails, Flower has mended it, and `CarefulGrid` can go."""
    runtime = Runtime()
    for number in (1, 2, 3):
        runtime.add(f"m{number}", 10 + number, b'"arraychunk_ids"' if number == 2 else b"")
    with pytest.raises(ValueError, match="Expecting property name"):
        HttpGrid.pull_messages(grid_of(runtime), ["m1", "m2", "m3"])
    assert runtime.replies == {}


def test_trouble_with_the_connection_is_not_the_nodes() -> None:
    class Gone(Runtime):
        def PullMessages(self, request: Any) -> Any:
            raise httpx.ConnectError("gone")

    with pytest.raises(httpx.ConnectError):
        grid_of(Gone()).pull_messages(["m1"])
