"""The nodes that are present, by name; they join, leave and come back.

Flower identifies nodes by number. The server asks each node for its name once. If it has the nodes'
public keys, only the owner of the key that is registered for a name can claim it (`proof.py`), even
while the owner is offline. Otherwise the first node to claim a name keeps it while it is present.
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

ANSWER = 60.0  # seconds for a node to answer the question for its name
NEWCOMERS = 10.0  # seconds that a round waits, once, for a node that has not answered yet
POLL = 0.5  # seconds between looks
Emit = Callable[..., None]


@dataclass(frozen=True, slots=True)
class _Question:
    """A pending question: its deadline, and the bytes that the node must sign."""

    node: int
    until: float
    nonce: bytes


class Roster:
    """The nodes of a deployment by name.

    Args:
        grid: reaches the nodes.
        emit: told of nodes that join, leave, or claim a name that is not theirs.
        patience: seconds to wait for nodes; 0: no limit.
        key_of: the key that is registered for a name; None: names are not verified.
    """

    def __init__(
        self, grid: Grid, emit: Emit, patience: float, key_of: KeyOf | None = None
    ) -> None:
        self._grid, self._emit, self._patience, self._key_of = grid, emit, patience, key_of
        self._names: dict[int, str] = {}  # of all nodes that ever answered
        self._questions: dict[str, _Question] = {}  # by message id
        self._retry_at: dict[int, float] = {}  # when to ask nodes again whose claim was refused
        self._reported: tuple[str, ...] | None = None
        self._refused: set[tuple[int, str]] = set()
        self._awaited: set[int] = set()  # newcomers that a round has waited for

    def wait(self, expected: int, minimum: int) -> Mapping[str, int]:
        """Wait until a number of nodes is present.

        Args:
            expected: number to wait for.
            minimum: number that is enough when the patience is over.

        Raises:
            FederationError: fewer than `minimum` joined in time.
        """
        until = time.monotonic() + self._patience if self._patience else float("inf")
        while len(nodes := self.look()) < expected and time.monotonic() < until:
            self._emit("waiting-for-nodes", missing=expected - len(nodes))
            time.sleep(POLL)
        if len(nodes) < minimum:
            raise FederationError(
                f"{len(nodes)} nodes are present ({', '.join(nodes) or 'none'}), the recipe needs"
                f" {minimum}",
                hint="`fedrai deploy check` tests a node",
            )
        return nodes

    def present(self, minimum: int) -> Mapping[str, int]:
        """The nodes at the start of a round; waits while they are too few, and once for newcomers.

        Raises:
            FederationError: as `wait`.
        """
        nodes = self.wait(minimum, minimum)
        new = {question.node for question in self._questions.values()} - self._awaited
        self._awaited |= new
        until = time.monotonic() + NEWCOMERS
        while new - set(self._names) and time.monotonic() < until:
            time.sleep(POLL)
            nodes = self.look()
        return nodes

    def look(self) -> dict[str, int]:
        """The nodes that are present and have a name, sorted by name."""
        online = set(self._grid.get_node_ids())
        self._ask(online)
        self._read_answers()
        nodes: dict[str, int] = {}
        owners: dict[str, int] = {}  # names that differ only in case share a file on some disks
        for node, name in self._names.items():  # in the order of their answers
            if node not in online:
                continue
            if owners.setdefault(name.casefold(), node) == node:
                nodes[name] = node
            else:
                self._refuse(node, name, "name-is-taken")
        nodes = dict(sorted(nodes.items()))
        self._report(nodes)
        return nodes

    def _ask(self, online: Collection[int]) -> None:
        now = time.monotonic()
        self._questions = {
            i: q for i, q in self._questions.items() if q.until > now and q.node in online
        }
        pending = {question.node for question in self._questions.values()}
        pending |= {node for node, due in self._retry_at.items() if due > now}
        for node in sorted(set(online) - set(self._names) - pending):
            nonce = secrets.token_bytes(protocol.NONCE) if self._key_of is not None else b""
            question = Message(protocol.pack_question(nonce), node, MessageType.QUERY, ttl=ANSWER)
            for id_ in self._grid.push_messages([question]):
                if id_:
                    self._questions[id_] = _Question(node, now + ANSWER, nonce)

    def _read_answers(self) -> None:
        ids = list(self._questions)
        replies: Iterable[Message] = self._grid.pull_messages(ids) if ids else []
        for reply in replies:
            question = self._questions.get(reply.metadata.reply_to_message_id)
            claim = protocol.read_name(reply)
            if question is not None and question.node == reply.metadata.src_node_id:
                self._questions.pop(reply.metadata.reply_to_message_id)
                if claim is not None and self._is_own(question, *claim):
                    self._names[question.node] = claim[0]

    def _is_own(self, question: _Question, name: str, signature: bytes) -> bool:
        """Whether the name is the node's own; if not, the node is asked again after a while."""
        if self._key_of is None:
            return True
        key = self._key_of(name)
        if key is not None and proves(key, signature, question.nonce, question.node, name):
            return True
        reason = "name-not-registered" if key is None else "name-not-proven"
        self._refuse(question.node, name, reason)
        self._retry_at[question.node] = time.monotonic() + ANSWER
        return False

    def _refuse(self, node: int, name: str, reason: str) -> None:
        if (node, reason) not in self._refused:
            self._refused.add((node, reason))
            self._emit("node-refused", client=name, node=str(node), reason=reason)

    def _report(self, nodes: Mapping[str, int]) -> None:
        names = tuple(nodes)
        if names != self._reported:
            self._reported = names
            self._emit("nodes-present", clients=list(names))
