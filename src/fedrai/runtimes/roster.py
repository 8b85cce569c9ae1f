"""Who is there: names of nodes that come, leave and come back, and replies that come too late.

Flower knows nodes by number. Each is asked for its name once; the first node to claim a name keeps
it for as long as it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedrai import protocol
from fedrai.errors import FederationError

ASK = 60.0  # seconds that a node has for telling its name
NEWCOMERS = 10.0  # seconds that a round waits, once, for a node that has not told its name yet
LOOK = 0.5  # seconds between looks
Emit = Callable[..., None]


class Roster:
    """The nodes of a deployment by the names of their clients.

    Args:
        grid: reaches the nodes.
        emit: hears of nodes that come, leave, or claim a name that is taken.
        patience: seconds to wait for nodes; 0: for ever.
    """

    def __init__(self, grid: Grid, emit: Emit, patience: float) -> None:
        self._grid, self._emit, self._patience = grid, emit, patience
        self._names: dict[int, str] = {}  # of all nodes that ever told theirs
        self._asked: dict[str, tuple[int, float]] = {}  # node and deadline by message id
        self._shown: tuple[str, ...] | None = None
        self._refused: set[int] = set()
        self._waited: set[int] = set()  # newcomers that a round has waited for

    def wait(self, wanted: int, needed: int) -> Mapping[str, int]:
        """Wait until so many nodes are there.

        Args:
            wanted: how many to wait for.
            needed: how many are enough when the patience is over.

        Raises:
            FederationError: fewer than `needed` came in time.
        """
        until = time.monotonic() + self._patience if self._patience else float("inf")
        while len(found := self.look()) < wanted and time.monotonic() < until:
            self._emit("waiting-for-nodes", missing=wanted - len(found))
            time.sleep(LOOK)
        if len(found) < needed:
            raise FederationError(
                f"{len(found)} nodes are there ({', '.join(found) or 'none'}), the recipe needs"
                f" {needed}",
                hint="`fedrai deploy check` tests a node",
            )
        return found

    def present(self, needed: int) -> Mapping[str, int]:
        """The nodes at the start of a round; waits while there are too few, and once for newcomers.

        Raises:
            FederationError: as `wait`.
        """
        found = self.wait(needed, needed)
        new = {node for node, _ in self._asked.values()} - self._waited
        self._waited |= new
        until = time.monotonic() + NEWCOMERS
        while new - set(self._names) and time.monotonic() < until:
            time.sleep(LOOK)
            found = self.look()
        return found

    def look(self) -> dict[str, int]:
        """The nodes that are there now and have a name, sorted by it."""
        online = set(self._grid.get_node_ids())
        self._ask(online)
        self._hear()
        found: dict[str, int] = {}
        for node, name in self._names.items():  # in the order in which they told it
            if node in online and found.setdefault(name, node) != node:
                self._refuse(node, name)
        found = dict(sorted(found.items()))
        self._show(found)
        return found

    def _ask(self, online: Collection[int]) -> None:
        now = time.monotonic()
        self._asked = {i: (n, t) for i, (n, t) in self._asked.items() if t > now and n in online}
        pending = {node for node, _ in self._asked.values()}
        new = [n for n in sorted(online) if n not in self._names and n not in pending]
        asked = [
            Message(protocol.pack_question(), node, MessageType.QUERY, ttl=ASK) for node in new
        ]
        ids = self._grid.push_messages(asked) if asked else []
        for node, id_ in zip(new, ids, strict=True):
            if id_:
                self._asked[id_] = (node, now + ASK)

    def _hear(self) -> None:
        replies: Iterable[Message] = (
            self._grid.pull_messages(list(self._asked)) if self._asked else []
        )
        for reply in replies:
            node, _ = self._asked.get(reply.metadata.reply_to_message_id, (0, 0.0))
            name = protocol.read_name(reply)
            if node == reply.metadata.src_node_id:
                self._asked.pop(reply.metadata.reply_to_message_id)
                if name is not None:
                    self._names[node] = name

    def _refuse(self, node: int, name: str) -> None:
        if node not in self._refused:
            self._refused.add(node)
            self._emit("node-refused", client=name, node=str(node), reason="name-is-taken")

    def _show(self, found: Mapping[str, int]) -> None:
        names = tuple(found)
        if names != self._shown:
            self._shown = names
            self._emit("nodes-present", clients=list(names))


class LateReplies:
    """Counts replies that come after their round, and drops them.

    Args:
        grid: reaches the nodes.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._open: set[str] = set()

    def missed(self, message_ids: Collection[str]) -> None:
        """Hear of messages whose round is over."""
        self._open |= set(message_ids)

    def count(self) -> int:
        """How many were replied to since the last call; a node that is gone has not replied."""
        if not self._open:
            return 0
        replies: list[Any] = list(self._grid.pull_messages(set(self._open)))
        self._open -= {reply.metadata.reply_to_message_id for reply in replies}
        return sum(not reply.has_error() for reply in replies)
