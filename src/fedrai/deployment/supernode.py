"""`flower-supernode` as a child process: its start, its output, and the reason why it ended.

Its lines go to this process's standard error. The last ones are kept, to report in one line why it
did not start or why it ended.
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
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedrai.deployment.link import Link
from fedrai.errors import FederationError

START_TIMEOUT = 60.0  # seconds for a SuperNode to open its port
STOP_TIMEOUT = 5.0  # seconds for it to end
DIE_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG
OUTPUT_TIMEOUT = 2.0  # seconds to wait for its last lines
KEPT_LINES = 50  # lines that are kept for an error
REASONS = {  # by a part of its output: the error and the hint
    "[code: 2004]": (
        "the SuperLink does not know this node's key",
        "the server's operator registers it: `fedrai deploy register`",
    ),
    "CERTIFICATE_VERIFY_FAILED": (
        "the SuperLink's certificate is not valid for this node's root certificate",
        "check that ca.pem is this consortium's; `fedrai deploy check` has details",
    ),
}


@dataclass(frozen=True, slots=True)
class Connection:
    """How a node reaches its SuperLink.

    Attributes:
        superlink: its address, HOST:PORT.
        root_certificates: PEM file of the CA; None: the system's.
        key: the node's private key; None: the SuperLink asks for none.
        insecure: connect without TLS.
        port: port of the SuperNode's own API, on loopback; 0: any free one.
    """

    superlink: str
    root_certificates: Path | None = None
    key: Path | None = None
    insecure: bool = False
    port: int = 0


@dataclass(frozen=True, slots=True)
class Supernode:
    """A SuperNode's process.

    Attributes:
        process: the process, whose output is a pipe.
        lines: the last lines of its output.
        output_ended: set when there is no more output.
    """

    process: subprocess.Popen[bytes]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    output_ended: threading.Event = field(default_factory=threading.Event)

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def listen(self) -> None:
        """Print and keep its lines until it ends."""
        for line in self.process.stdout or ():
            text = line.decode(errors="replace")
            self.lines.append(text)
            with suppress(OSError):  # a full disk; unread output would halt the SuperNode
                sys.stderr.write(text)
        self.output_ended.set()

    def failure(self) -> FederationError:
        """Why it ended or did not start, as far as its output tells."""
        self.output_ended.wait(OUTPUT_TIMEOUT)
        output = "".join(self.lines)
        for sign, (message, hint) in REASONS.items():
            if sign in output:
                return FederationError(message, hint=hint)
        code = self.process.poll()
        ended = "did not open its port" if code is None else f"ended with code {code}"
        return FederationError(
            f"the SuperNode {ended}",
            hint="see its last lines; `fedrai deploy check` tests the connection",
        )


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can read, deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fedrai-node-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def supernode(connection: Connection, folder: Path) -> Iterator[tuple[Supernode, Link]]:
    """Start a SuperNode whose tasks this process executes; yield the SuperNode and a link to it.

    Args:
        connection: the SuperLink.
        folder: a private folder for the secret.

    Raises:
        FederationError: it does not start.
    """
    secret = secrets.token_hex(32).encode()
    file = folder / "secret"
    file.touch(mode=0o600)
    file.write_bytes(secret)
    port = connection.port or _free_port()
    node = Supernode(_start(supernode_command(connection, port, file)))
    threading.Thread(target=node.listen, name="fedrai-supernode", daemon=True).start()
    try:
        _wait_until_open(port, node)
        yield node, Link(f"127.0.0.1:{port}", insecure=True, secret=secret)
    finally:
        _end(node.process)


def supernode_command(connection: Connection, port: int, secret: Path) -> list[str]:
    """The command line of the SuperNode.

    Args:
        connection: the SuperLink.
        port: port of its own API, on loopback.
        secret: file with the secret for acquiring its tasks.
    """
    installed = Path(sys.executable).with_name("flower-supernode")
    command = [
        str(installed) if installed.is_file() else "flower-supernode",
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
            command, env={**os.environ, **quiet}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent,
        )  # fmt: skip
    except OSError as error:
        raise FederationError(f"cannot start flower-supernode: {error.strerror}") from error


def _end_with_parent() -> None:
    """End when the parent process ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_open(port: int, node: Supernode) -> None:
    until = time.monotonic() + START_TIMEOUT
    while time.monotonic() < until and node.is_running():
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise node.failure()
