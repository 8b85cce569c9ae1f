"""`fedrai node`: a SuperNode and one resident process that does its tasks.

Flower 1.42 starts a new Python process for each message to a node, which imports everything, loads
the base model again and runs whatever code the run contains. Here `flower-supernode` runs with
`--isolation process`, and this process gets its tasks over the Runtime API on loopback, with a
secret that only the two know. The model, the rows and the guard's verdicts stay in memory between
rounds, and code from the network is never run. `benchmarks/node_start.py` measures both.

If the SuperNode ends, so does this process; if this is killed, the SuperNode ends too (Linux).
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

POLL = 0.3  # seconds between looks for a task
NEWER = 3.0  # seconds between looks for a newer task while parts of a message are missing
Task = tuple[Any, str]  # with its token


def run_node(file: Path, connection: Connection, write: Callable[[str], None]) -> None:
    """Take part in runs until stopped.

    Args:
        file: the node's `node.toml`.
        connection: the SuperLink.
        write: prints lines for the operator.

    Raises:
        RecipeError: the file cannot be used.
        FederationError: the key cannot be used, or the SuperNode does not start or ends.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM.
    """
    node = NodeApp(file, write, connection.key)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with private_folder() as folder, supernode(connection, folder) as (process, link):
        node.note(f"{node.node.name}: waiting for runs of {connection.superlink}")
        serve(node, link, process.is_running)
        raise process.failure()


def serve(node: NodeApp, link: Link, is_running: Callable[[], bool]) -> None:
    """Do the tasks of a SuperNode, one after the other.

    Args:
        node: does them.
        link: the SuperNode's Runtime API.
        is_running: whether the SuperNode has not ended.
    """
    client = runtime_client(link, patience=POLL, is_running=is_running)
    task: Task | None = None
    try:
        while is_running():
            task = task or _next_task(client)
            if task is None:
                time.sleep(POLL)
            else:
                task = _do(node, link, task[1], is_running, lambda: _next_task(client))
    finally:
        client.close()


def _next_task(client: Any) -> Task | None:
    """The next task; None while there is none or the SuperNode does not answer.

    Raises:
        FederationError: the SuperNode refuses.
    """
    try:
        return acquire(client, TaskType.CLIENT_APP)
    except httpx.TransportError:
        return None
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code in PASSING:
            return None
        raise FederationError(f"the SuperNode refuses to give tasks ({code})") from None


def _do(
    node: NodeApp,
    link: Link,
    token: str,
    is_running: Callable[[], bool],
    newer: Callable[[], Task | None],
) -> Task | None:
    """Do one task; its failure is logged and stops nothing.

    Returns:
        The newer task for which it was given up, if any.
    """
    client = runtime_client(link, token, is_running=is_running)
    status, context, later = SubStatus.FAILED, None, None
    try:
        with heartbeat(client):
            task_input, later = _task_input(client, newer)
            if task_input is None:
                node.note("a task was lost: its run ended while the message was received")
            else:
                message, context, _run, _fab = task_input
                push_message(client, reply_of(node, message, context), context)
                status = SubStatus.COMPLETED
    except Exception as error:
        node.note(f"a task was lost: {describe(error)}")
    finally:
        finish(client, context_to_proto(context) if context else None, status)
        client.close()
    return later


def _task_input(client: Any, newer: Callable[[], Task | None]) -> tuple[Any, Task | None]:
    """The result of `pull_task_input`, or the newer task that shows that there will be none.

    If a run ends while a SuperNode of Flower 1.42 receives its message, the task stays, but the
    rest of the message never arrives; Flower would wait for it for up to two hours. A SuperNode
    asks for a message only when the last one is complete, so a newer task means that this is lost.
    """
    result: Future[Any] = Future()

    def pull() -> None:
        try:
            result.set_result(pull_task_input(client))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=pull, name="fedrai-message", daemon=True).start()
    while not wait([result], timeout=NEWER).done:
        if (later := newer()) is not None:
            return None, later
    return result.result(), None


def reply_of(node: NodeApp, message: Message, context: Any) -> Message:
    """The answer of the node's app; a message without a handler is refused."""
    try:
        return node.app(message, context)
    except Exception as error:
        node.note(describe(error))
        return Message(protocol.pack_reason(Reason.BAD_TASK), reply_to=message)
