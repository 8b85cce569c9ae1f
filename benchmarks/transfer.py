"""An adapter's way to a node and back: one flat array against an array for each of its tensors.

    python benchmarks/transfer.py [PAIRS]

A SuperLink and a SuperNode run on loopback, without TLS; the node sends back what it gets, new
values each time. 420 arrays and 20 MB, as SmolLM2-135M's adapter of rank 16. Counted is the whole
round trip; up to three seconds of it are the SuperNode's pause between looks for messages.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict

from common import report
from fedrai.deployment.engine import server_app
from fedrai.deployment.link import Link, acquire, finish, heartbeat, runtime_client
from fedrai.deployment.supernode import Connection, private_folder, supernode
from fedrai.federation import protocol
from fedrai.federation.flower_internals import TaskType, pull_task_input, push_message
from node_start import process, superlink

ARRAYS, WEIGHTS = 420, 5_000_000


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[str, list[float]] = {"flat": [], "by name": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with superlink(folder / "flower") as link, echo(link, folder), server_app(link) as grid:
            node = first_node(grid)
            trip(grid, node, content_of("flat", 0))
            for number in range(1, pairs + 1):
                for form, ways in found.items():
                    ways.append(trip(grid, node, content_of(form, number)))
    report("round trip, one flat array", found["flat"], f"{ARRAYS} arrays", found["by name"], "s")


def content_of(form: str, seed: int) -> RecordDict:
    """A random adapter, flat or by name."""
    values = torch.Generator().manual_seed(seed)
    size = WEIGHTS // ARRAYS
    adapter = {f"layer.{n:03d}": torch.randn(size, generator=values) for n in range(ARRAYS)}
    if form == "flat":
        return RecordDict({"adapter": protocol.pack_adapter(adapter)})
    arrays = {name: Array(tensor.numpy()) for name, tensor in adapter.items()}
    return RecordDict({"adapter": ArrayRecord(arrays)})


def first_node(grid: Any) -> int:
    """The node, as soon as it is there."""
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    return int(nodes[0])


def trip(grid: Any, node: int, content: RecordDict) -> float:
    """Seconds from sending a message to having its reply."""
    begin = time.perf_counter()
    (id_,) = grid.push_messages([Message(content, node, "train")])
    while not list(grid.pull_messages([id_])):
        time.sleep(0.2)
    return time.perf_counter() - begin


@contextmanager
def echo(link: Link, folder: Path) -> Iterator[None]:
    """A node that sends back what it gets, as a process of its own."""
    command = [sys.executable, __file__, "--node", link.address]
    with process(command, folder / "node.log"):
        yield


def serve(address: str) -> None:
    """Do the tasks of a SuperNode: give all values back, each a bit larger."""
    with private_folder() as folder:
        connection = Connection(address, insecure=True)
        with supernode(connection, folder) as (found, link):
            waiting = runtime_client(link, patience=0.1, is_running=found.is_running)
            while found.is_running():
                task = acquire(waiting, TaskType.CLIENT_APP)
                if task is None:
                    time.sleep(0.1)
                else:
                    give_back(link, task[1])


def give_back(link: Link, token: str) -> None:
    """One task: all values go back, each a bit larger."""
    client = runtime_client(link, token)
    with heartbeat(client):
        message, context, _, _ = pull_task_input(client)
        record = message.content.array_records["adapter"]
        arrays = {name: Array(array.numpy() + np.float32(1)) for name, array in record.items()}
        reply = Message(RecordDict({"adapter": ArrayRecord(arrays)}), reply_to=message)
        push_message(client, reply, context)
    finish(client, None, "completed")
    client.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--node"]:
        serve(sys.argv[2])
    else:
        main()
