"""Flower's Grid over HTTP, for replies that cannot be trusted to be well formed.

Flower 1.42 keeps from a SuperLink what is no object of its kinds, but not one whose inside is
wrong: such an object raises in the middle of `HttpGrid.pull_messages`, which has by then taken all
other replies that were ready, too. One node could so stop a run, and lose the updates of others.
Here every reply is pulled by itself, and one that cannot be read becomes an empty reply of the node
that was asked.
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
    """A Grid that gives an empty reply in place of one that Flower cannot read."""

    def __init__(self, *address: Any, token: str) -> None:
        super().__init__(*address, token=token)
        self._asked: dict[str, int] = {}  # node by message id

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; returns their ids in order."""
        sent = list(messages)
        ids = list(super().push_messages(sent))
        self._asked |= {i: m.metadata.dst_node_id for i, m in zip(ids, sent, strict=False) if i}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there.

        Raises:
            httpx.HTTPError: the SuperLink does not answer, or refuses.
        """
        return [reply for id_ in message_ids for reply in self._pulled(id_)]

    def _pulled(self, id_: str) -> list[Message]:
        try:
            return list(super().pull_messages([id_]))
        except httpx.HTTPError:
            raise
        except Exception:  # whatever a hostile object makes Flower raise
            return [_unreadable(self.run.run_id, id_, self._asked[id_])]


def _unreadable(run: int, asked: str, node: int) -> Message:
    metadata = Metadata(run, "", node, SUPERLINK, asked, "", time.time(), 60.0, MessageType.TRAIN)
    return Message(RecordDict(), metadata=metadata)
