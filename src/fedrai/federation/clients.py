"""How the server reaches clients: messages go out through a Grid, and replies come in."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrai.federation import protocol

POLL = 1.0  # seconds between looks for replies
NO_DEADLINE = 30 * 86400.0  # seconds that Flower keeps the messages of a round without a deadline
SLACK = 86400.0  # seconds after a deadline that it keeps them, so that late replies can be counted


class LateReplies:
    """Counts replies that arrive after their round, and drops them.

    Args:
        grid: reaches the clients.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._open: set[str] = set()

    def expect(self, message_ids: Collection[str]) -> None:
        """Add messages whose round is over."""
        self._open |= set(message_ids)

    def count(self) -> int:
        """Replies since the last call; a node that is gone has not replied."""
        if not self._open:
            return 0
        replies: list[Message] = list(self._grid.pull_messages(set(self._open)))
        self._open -= {reply.metadata.reply_to_message_id for reply in replies}
        return sum(not reply.has_error() for reply in replies)


@dataclass(frozen=True, slots=True)
class Clients:
    """Who takes part in a run, and how they are reached.

    Attributes:
        grid: reaches the clients.
        nodes: for a round, Flower's node ids of the clients that are present, by name.
        offer: what the recipe asks of clients in other processes; empty: they share this one.
        late: counts replies that arrive after their round; None: they are not counted.
    """

    grid: Grid
    nodes: Callable[[int], Mapping[str, int]]
    offer: str = ""
    late: LateReplies | None = None

    def message(self, content: RecordDict, node: int, number: int, timeout: float) -> Message:
        """A train message of a round; `timeout` in seconds, 0: none."""
        ttl = timeout + SLACK if timeout else NO_DEADLINE
        return Message(content, node, MessageType.TRAIN, group_id=str(number), ttl=ttl)

    def exchange(
        self,
        messages: Mapping[str, Message],
        timeout: float,
        is_closed: Callable[[], bool],
        on_wait: Callable[[Iterable[str]], None],
    ) -> Iterator[tuple[str, Message]]:
        """Send messages and yield (client, reply) as replies arrive, one for each client.

        Args:
            messages: messages by client.
            timeout: seconds to wait for replies; 0: no limit.
            is_closed: whether the round needs no further reply.
            on_wait: is told of the clients that have not replied yet.
        """
        sent: dict[
            str, str
        ] = {}  # client by message id; one request each, so that none is lost with another
        for name, message in messages.items():
            sent |= {id_: name for id_ in self.grid.push_messages([message]) if id_}
        waiting = set(sent)
        deadline = time.monotonic() + timeout if timeout else float("inf")
        while waiting and not is_closed() and time.monotonic() < deadline:
            replies = list(self.grid.pull_messages(waiting))
            for reply in replies:
                id_ = reply.metadata.reply_to_message_id
                if id_ in waiting and _is_from(messages[sent[id_]], reply):
                    waiting.discard(id_)
                    yield sent[id_], reply
            if not replies:
                on_wait(sorted(sent[id_] for id_ in waiting))
                time.sleep(POLL)
        if self.late is not None:
            self.late.expect(waiting)


def _is_from(message: Message, reply: Message) -> bool:
    """Whether a reply is that of the message's client, or Flower's that there will be none."""
    source = reply.metadata.src_node_id
    is_gone = reply.has_error() and source == protocol.SUPERLINK
    return is_gone or bool(source == message.metadata.dst_node_id)
