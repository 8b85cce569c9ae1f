"""Who is there: the names of nodes, which join, leave and come back.

Flower knows nodes by number. Each is asked for its name once. Where the server has the nodes'
public keys, only the owner of the key that is registered for a name can give it (`proof.py`),
whoever is away. Elsewhere the first node to claim a name keeps it for as long as it is there.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedrai.errors import FederationError
from fedrai.federation import protocol
from fedrai.federation.run.proof import KeyOf, proves

ASK = 60.0  # seconds that a node has for telling its name
NEWCOMERS = 10.0  # seconds that a round waits, once, for a node that has not told its name yet
LOOK = 0.5  # seconds between looks
Emit = Callable[..., None]


@dataclass(frozen=True, slots=True)
class _Question:
    """What a node was asked: until when its answer is waited for, and what it must sign."""

    node: int
    until: float
    nonce: bytes


class Roster:
    """The nodes of a deployment by the names of their clients.

    Args:
        grid: reaches the nodes.
        emit: hears of nodes that come, leave, or claim a name that is not theirs.
        patience: seconds to wait for nodes; 0: for ever.
        key_of: the key that is registered for a name; None: nodes' words are taken.
    """

    def __init__(
        self, grid: Grid, emit: Emit, patience: float, key_of: KeyOf | None = None
    ) -> None:
        self._grid, self._emit, self._patience, self._key_of = grid, emit, patience, key_of
        self._names: dict[int, str] = {}  # of all nodes that ever told theirs
        self._asked: dict[str, _Question] = {}  # by message id
        self._again: dict[int, float] = {}  # when to ask nodes again whose answer was no good
        self._shown: tuple[str, ...] | None = None
        self._refused: set[tuple[int, str]] = set()
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
        new = {question.node for question in self._asked.values()} - self._waited
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
        owners: dict[
            str, int
        ] = {}  # names that differ in case only would share a file on some disks
        for node, name in self._names.items():  # in the order in which they told it
            if node not in online:
                continue
            if owners.setdefault(name.casefold(), node) == node:
                found[name] = node
            else:
                self._refuse(node, name, "name-is-taken")
        found = dict(sorted(found.items()))
        self._show(found)
        return found

    def _ask(self, online: Collection[int]) -> None:
        now = time.monotonic()
        self._asked = {i: q for i, q in self._asked.items() if q.until > now and q.node in online}
        pending = {question.node for question in self._asked.values()}
        pending |= {node for node, due in self._again.items() if due > now}
        for node in sorted(set(online) - set(self._names) - pending):
            nonce = secrets.token_bytes(protocol.NONCE) if self._key_of is not None else b""
            asked = Message(protocol.pack_question(nonce), node, MessageType.QUERY, ttl=ASK)
            for id_ in self._grid.push_messages([asked]):
                if id_:
                    self._asked[id_] = _Question(node, now + ASK, nonce)

    def _hear(self) -> None:
        replies: Iterable[Message] = (
            self._grid.pull_messages(list(self._asked)) if self._asked else []
        )
        for reply in replies:
            question = self._asked.get(reply.metadata.reply_to_message_id)
            claim = protocol.read_name(reply)
            if question is not None and question.node == reply.metadata.src_node_id:
                self._asked.pop(reply.metadata.reply_to_message_id)
                if claim is not None and self._is_own(question, *claim):
                    self._names[question.node] = claim[0]

    def _is_own(self, question: _Question, name: str, signature: bytes) -> bool:
        """Whether the name is the node's; if not, it is asked again after a while."""
        if self._key_of is None:
            return True
        key = self._key_of(name)
        if key is not None and proves(key, signature, question.nonce, question.node, name):
            return True
        reason = "name-not-registered" if key is None else "name-not-proven"
        self._refuse(question.node, name, reason)
        self._again[question.node] = time.monotonic() + ASK
        return False

    def _refuse(self, node: int, name: str, reason: str) -> None:
        if (node, reason) not in self._refused:
            self._refused.add((node, reason))
            self._emit("node-refused", client=name, node=str(node), reason=reason)

    def _show(self, found: Mapping[str, int]) -> None:
        names = tuple(found)
        if names != self._shown:
            self._shown = names
            self._emit("nodes-present", clients=list(names))
