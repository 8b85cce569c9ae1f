"""What a client sends with a lossy codec, and what it keeps of it: error feedback.

A client sends q = codec(y - x + e), where x is the adapter that it received, y the one that it
trained and e what its earlier messages lost; then e := y - x + e - q. So nothing is lost for good:
the sum of all messages and the last e is the sum of all changes (arXiv 1901.09847). Client and
server both go on from x + q.

There is one file for each round, written before the reply is sent. A round that is repeated after a
kill begins with the file of an earlier round, as it did at first, and so sends the same bytes. A
client that was not sampled for some rounds adds what its last message lost; if the file is lost or
its message was not aggregated, that change is lost with it, as an update is that comes too late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import ArrayRecord

from fedrai.federation import variates
from fedrai.federation.arrays import added, pack_adapter, shapes_of, unpack_adapter
from fedrai.federation.codecs import PLAIN, Codec
from fedrai.federation.protocol import Task
from fedrai.model import AdapterState

FolderOf = Callable[[str], Path]


@dataclass(frozen=True, slots=True)
class Uplink:
    """How the clients of an app write and read adapters.

    Attributes:
        up: of what is sent.
        down: of what is received.
        residuals: the folder of what a client's messages lost; None: they keep nothing.
    """

    up: Codec = PLAIN
    down: Codec = PLAIN
    residuals: FolderOf | None = None

    def pack(
        self, client: str, task: Task, adapter: AdapterState
    ) -> tuple[AdapterState, ArrayRecord | None]:
        """What the server will have of a trained adapter, and the arrays of the message.

        Args:
            client: its name.
            task: the round's.
            adapter: what it trained, all of it.

        Returns:
            The adapter itself and None, where it is sent as it is.

        Raises:
            OSError: what the message lost cannot be kept.
        """
        if not self.up.is_lossy:
            return adapter, None
        sent, start, before = task.part.sent(adapter), task.part.sent(task.adapter), {}
        if self.residuals is not None:
            before = residual(self.residuals(client), task.round, task.adapter)
        missing = task.part.sent(before)
        change = {n: sent[n] - start[n] + missing.get(n, 0.0) for n in sorted(sent)}
        arrays = pack_adapter(change, self.up)
        if not all(bool(torch.isfinite(part).all()) for part in change.values()):
            return adapter, arrays  # the server refuses it
        received = unpack_adapter(arrays, shapes_of(change), self.up)
        if self.residuals is not None:
            lost = {name: change[name] - received[name] for name in received}
            keep(self.residuals(client), task.round, task.part.filled(lost, before))
        return task.part.filled(added(start, received), task.adapter), arrays


def residual(folder: Path, number: int, like: AdapterState) -> AdapterState:
    """What a client's messages before a round lost, with the shapes of `like`."""
    earlier = max((n for n in variates.numbers(folder) if n < number), default=0)
    shapes = shapes_of(like)
    return variates.read(folder, earlier, shapes) or variates.zeros(shapes)


def keep(folder: Path, number: int, lost: AdapterState) -> None:
    """Keep what a client's messages have lost after a round."""
    earlier = [n for n in variates.numbers(folder) if n < number]
    variates.write(folder, number, max(earlier, default=0), lost)
