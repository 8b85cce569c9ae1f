"""`fedrai node`: a SuperNode and, beside it, one resident process that does its tasks.

Flower 1.42 starts a fresh Python for each message to a node, which imports everything and loads the
base model anew, and it runs there whatever code the run brought along. Here `flower-supernode` runs
with `--isolation process`, and this process takes its tasks over the Runtime API on loopback, by a
secret that only the two know. The model, the rows and the guard's verdicts stay in memory from
round to round, and code from the network is never run. `benchmarks/node_start.py` measures both.

If the SuperNode ends, so does this; if this is killed, the SuperNode ends too (Linux).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Message

from fedrai.deployment.link import PASSING, Link, acquire, finish, heartbeat, runtime_client
from fedrai.deployment.node import NodeApp
from fedrai.deployment.supernode import Connection, private_folder, supernode
from fedrai.errors import FederationError
from fedrai.federation import protocol
from fedrai.federation.client import describe
from fedrai.federation.flower_internals import (
    SubStatus,
    TaskType,
    context_to_proto,
    pull_task_input,
    push_message,
)
from fedrai.federation.protocol import Reason

LOOK = 0.3  # seconds between looks for a task
MISSING = 3.0  # seconds between looks for a newer task while parts of a message are missing
Task = tuple[Any, str]  # and its token


def run_node(file: Path, connection: Connection, say: Callable[[str], None]) -> None:
    """Take part in runs until stopped.

    Args:
        file: the node's `node.toml`.
        connection: the SuperLink.
        say: hears of lines for the operator.

    Raises:
        RecipeError: the file cannot be used.
        FederationError: the key cannot be used, or the SuperNode does not start, or ends.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM.
    """
    node = NodeApp(file, say, connection.key)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with private_folder() as folder, supernode(connection, folder) as (found, link):
        node.note(f"{node.node.name}: waiting for runs of {connection.superlink}")
        serve(node, link, found.going)
        raise found.why()


def serve(node: NodeApp, link: Link, going: Callable[[], bool]) -> None:
    """Do the tasks of a SuperNode, one after the other.

    Args:
        node: what does them.
        link: the SuperNode's Runtime API.
        going: whether to go on.
    """
    client = runtime_client(link, patience=LOOK, going=going)
    found: Task | None = None
    try:
        while going():
            found = found or _acquired(client)
            if found is None:
                time.sleep(LOOK)
            else:
                found = _do(node, link, found[1], going, lambda: _acquired(client))
    finally:
        client.close()


def _acquired(client: Any) -> Task | None:
    """The next task; None while there is none, or while the SuperNode does not answer.

    Raises:
        FederationError: it refuses.
    """
    try:
        return acquire(client, TaskType.CLIENT_APP)
    except httpx.TransportError:
        return None
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code in PASSING:
            return None
        raise FederationError(f"the SuperNode gives no tasks away ({code})") from None


def _do(
    node: NodeApp,
    link: Link,
    token: str,
    going: Callable[[], bool],
    newer: Callable[[], Task | None],
) -> Task | None:
    """One task; what goes wrong with it is noted, and the next one comes.

    Returns:
        The newer task that it was given up for, if there is one.
    """
    client = runtime_client(link, token, going=going)
    status, context, later = SubStatus.FAILED, None, None
    try:
        with heartbeat(client):
            pulled, later = _pulled(client, newer)
            if pulled is None:
                node.note("a task was lost: its run ended while the message came")
            else:
                message, context, _run, _fab = pulled
                push_message(client, reply_of(node, message, context), context)
                status = SubStatus.COMPLETED
    except Exception as error:
        node.note(f"a task was lost: {describe(error)}")
    finally:
        finish(client, context_to_proto(context) if context else None, status)
        client.close()
    return later


def _pulled(client: Any, newer: Callable[[], Task | None]) -> tuple[Any, Task | None]:
    """What `pull_task_input` gives, or the newer task that shows that it never will.

    Where a run ends while a SuperNode of Flower 1.42 receives its message, the task stays and the
    rest of the message never comes; Flower would wait for it for up to two hours. A SuperNode asks
    for a message only when the last one is there, so a newer task tells that this one is lost.
    """
    found: Future[Any] = Future()

    def pull() -> None:
        try:
            found.set_result(pull_task_input(client))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=pull, name="fedrai-message", daemon=True).start()
    while not wait([found], timeout=MISSING).done:
        if (later := newer()) is not None:
            return None, later
    return found.result(), None


def reply_of(node: NodeApp, message: Message, context: Any) -> Message:
    """What the node's app answers; a message that it has no handler for is refused."""
    try:
        return node.app(message, context)
    except Exception as error:
        node.note(describe(error))
        return Message(protocol.pack_refusal(Reason.BAD_TASK), reply_to=message)
