"""Flower's Grid over HTTP, for replies that may be malformed.

Flower 1.42 rejects objects of unknown types at the SuperLink, but not those with invalid content.
Such an object raises in the middle of `HttpGrid.pull_messages`, which has by then pulled all other
replies that were ready. So one node could stop a run and lose the updates of others. Here every
reply is pulled by itself, and one that cannot be read becomes an empty reply of its node.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import httpx
from flwr.app import Message, MessageType, Metadata, RecordDict

from fedrai.federation.flower_internals import HttpGrid
from fedrai.federation.protocol import SUPERLINK


class CarefulGrid(HttpGrid):  # type: ignore[misc]
    """A Grid that returns an empty reply for one that Flower cannot read."""

    def __init__(self, *address: Any, token: str) -> None:
        super().__init__(*address, token=token)
        self._nodes: dict[str, int] = {}  # by message id

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; returns their ids in order."""
        sent = list(messages)
        ids = list(super().push_messages(sent))
        self._nodes |= {i: m.metadata.dst_node_id for i, m in zip(ids, sent, strict=False) if i}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have arrived.

        Raises:
            httpx.HTTPError: the SuperLink does not answer, or refuses.
        """
        return [reply for id_ in message_ids for reply in self._pull(id_)]

    def _pull(self, id_: str) -> list[Message]:
        try:
            return list(super().pull_messages([id_]))
        except httpx.HTTPError:
            raise
        except Exception:  # whatever a hostile object makes Flower raise
            return [_empty_reply(self.run.run_id, id_, self._nodes[id_])]


def _empty_reply(run: int, message: str, node: int) -> Message:
    metadata = Metadata(run, "", node, SUPERLINK, message, "", time.time(), 60.0, MessageType.TRAIN)
    return Message(RecordDict(), metadata=metadata)
