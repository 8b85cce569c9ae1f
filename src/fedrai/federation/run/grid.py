"""A Flower Grid inside this process: no ports, no Ray, one base model for all clients.

`push_messages` queues messages; each `pull_messages` runs the ClientApp for one of them and returns
its reply, so the server receives replies one by one as over a network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedrai.federation.flower_internals import set_message_id, set_task_identity

RUN_ID = 1
CLIENT_FAILED = 1  # Flower's code for an app that raised; it has no text on purpose


class LocalGrid(Grid):  # type: ignore[misc]
    """Runs a ClientApp for every message, one after the other.

    Args:
        app: the ClientApp.
        clients: node id by client name; a client's context holds its name as `client`.
    """

    def __init__(self, app: ClientApp, clients: Mapping[str, int]) -> None:
        set_task_identity(1, RUN_ID, 1)
        self._app = app
        self._contexts = {node: _context(node, name) for name, node in clients.items()}
        self._queue: deque[Message] = deque()
        self._count = 0

    def set_run(self, run: object) -> None:
        """Nothing to set: there is one run."""

    @property
    def run(self) -> object:
        """Flower has no record of it."""
        return None

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a client."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The node ids of all clients."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; returns their ids in order."""
        ids = []
        for message in messages:
            self._count += 1
            set_message_id(message, str(self._count))
            self._queue.append(message)
            ids.append(str(self._count))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the next queued message among `message_ids` and return its reply."""
        ids = set(message_ids)
        for message in list(self._queue):
            if message.metadata.message_id in ids:
                self._queue.remove(message)
                return [self._handle(message)]
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run all messages and return all replies; `timeout` has no meaning in one process."""
        ids = list(self.push_messages(messages))
        return [reply for _ in ids for reply in self.pull_messages(ids)]

    def _handle(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._app(message, context)
        except Exception:  # a ClientApp that raises, as Flower's own client runtime reports it
            return Message(Error(CLIENT_FAILED, "client-app-raised"), reply_to=message)


def _context(node: int, name: str) -> Context:
    return Context(
        run_id=RUN_ID,
        node_id=node,
        node_config={"client": name},
        state=RecordDict(),
        run_config={},
    )
