"""`fedrai node`: a SuperNode and, beside it, one resident process that does its tasks.

Flower 1.41 starts a fresh Python for each message to a node, which imports everything and loads the
base model anew, and it runs there whatever code the run brought along. Here `flower-supernode` runs
with `--isolation process`, and this process takes its tasks over the Runtime API on loopback, by a
secret that only the two know. The model, the rows and the guard's verdicts stay in memory from
round to round, and code from the network is never run. `benchmarks/node_start.py` measures both.

If the SuperNode ends, so does this; if this is killed, the SuperNode ends too (Linux).
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Message
from flwr.common.constant import SubStatus
from flwr.common.serde import context_to_proto
from flwr.supercore.constant import TaskType
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from fedrai import protocol
from fedrai.client import describe
from fedrai.errors import FederationError
from fedrai.protocol import Reason
from fedrai.runtimes.link import Link, acquire, finish, heartbeat, runtime_client
from fedrai.runtimes.node import NodeApp

LOOK = 0.3  # seconds between looks for a task
START = 60.0  # seconds that a SuperNode has for opening its port
END = 10.0  # seconds that it has for ending
DIE_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG


@dataclass(frozen=True, slots=True)
class Connection:
    """How a node reaches its SuperLink.

    Attributes:
        superlink: HOST:PORT.
        root_certificates: PEM file of the authority; None: the system's.
        key: the node's private key; None: the SuperLink asks for none.
        insecure: without TLS.
        port: of the SuperNode's own API, on loopback; 0: any.
    """

    superlink: str
    root_certificates: Path | None = None
    key: Path | None = None
    insecure: bool = False
    port: int = 0


def run_node(file: Path, connection: Connection, say: Callable[[str], None]) -> None:
    """Take part in runs until stopped.

    Args:
        file: the node's `node.toml`.
        connection: the SuperLink.
        say: hears of lines for the operator.

    Raises:
        RecipeError: the file cannot be used.
        FederationError: the SuperNode does not start, or ends.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM.
    """
    node = NodeApp(file, say)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with private_folder() as folder, supernode(connection, folder) as (process, link):
        node.note(f"{node.node.name}: waiting for runs of {connection.superlink}")
        serve(node, link, lambda: process.poll() is None)
    raise FederationError(
        f"the SuperNode ended with code {process.returncode}",
        hint="its last lines say why; `fedrai deploy check` tests the connection",
    )


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can look into; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fedrai-node-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def supernode(connection: Connection, folder: Path) -> Iterator[tuple[Any, Link]]:
    """A SuperNode whose tasks are ours, and the link to it.

    Args:
        connection: the SuperLink.
        folder: private; holds the secret.

    Raises:
        FederationError: it does not start.
    """
    secret = secrets.token_hex(32).encode()
    file = folder / "secret"
    file.touch(mode=0o600)
    file.write_bytes(secret)
    port = connection.port or _free_port()
    process = _start(supernode_command(connection, port, file))
    try:
        _wait_until_open(port, process)
        yield process, Link(f"127.0.0.1:{port}", insecure=True, secret=secret)
    finally:
        _end(process)


def supernode_command(connection: Connection, port: int, secret: Path) -> list[str]:
    """The arguments of the SuperNode.

    Args:
        connection: the SuperLink.
        port: of its own API, on loopback.
        secret: the file that its tasks are acquired with.
    """
    beside = Path(sys.executable).with_name("flower-supernode")
    command = [
        str(beside) if beside.is_file() else "flower-supernode",
        "--superlink", connection.superlink, "--isolation", "process",
        "--superexec-auth-secret-file", str(secret), "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    if connection.insecure:
        command.append("--insecure")
    if connection.root_certificates is not None:
        command += ["--root-certificates", str(connection.root_certificates)]
    if connection.key is not None:
        command += ["--auth-supernode-private-key", str(connection.key)]
    return command


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    try:
        return subprocess.Popen(
            command, env={**os.environ, **quiet}, stdin=subprocess.DEVNULL, preexec_fn=_tied
        )
    except OSError as error:
        raise FederationError(f"cannot start flower-supernode: {error.strerror}") from error


def _tied() -> None:
    """End with the process that started this one, where the system knows how (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise FederationError("the SuperNode did not start", hint="its last lines say why")


def serve(node: NodeApp, link: Link, going: Callable[[], bool]) -> None:
    """Do the tasks of a SuperNode, one after the other.

    Args:
        node: what does them.
        link: the SuperNode's Runtime API.
        going: whether to go on.
    """
    client = runtime_client(link, patience=LOOK)
    try:
        while going():
            found = _acquired(client)
            if found is None:
                time.sleep(LOOK)
            else:
                _do(node, link, found[1])
    finally:
        client.close()


def _acquired(client: Any) -> tuple[Any, str] | None:
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
        raise FederationError(f"the SuperNode gives no tasks away ({code})") from None


def _do(node: NodeApp, link: Link, token: str) -> None:
    """One task; what goes wrong with it is noted, and the next one comes."""
    client = runtime_client(link, token)
    status, context = SubStatus.FAILED, None
    try:
        with heartbeat(client):
            message, context, _run, _fab = pull_task_input(client)
            push_message(client, reply_of(node, message, context), context)
        status = SubStatus.COMPLETED
    except Exception as error:
        node.note(f"a task was lost: {describe(error)}")
    finally:
        finish(client, context_to_proto(context) if context else None, status)
        client.close()


def reply_of(node: NodeApp, message: Message, context: Any) -> Message:
    """What the node's app answers; a message that it has no handler for is refused."""
    try:
        return node.app(message, context)
    except Exception as error:
        node.note(describe(error))
        return Message(protocol.pack_refusal(Reason.BAD_TASK), reply_to=message)
