"""A SuperLink with TLS and node authentication and its nodes, as processes on loopback."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fedrai.deployment.link import Link
from fedrai.deployment.registering import _pem
from fedrai.deployment.setup import certificates as made

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "FEDRAI_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}


def key_files(folder: Path, name: str) -> tuple[Path, bytes]:
    """A node's private key as a file, with NAME.pub beside it, and the public one for Flower."""
    private, line = made.make_node_key()
    file = folder / f"{name}.key"
    file.write_bytes(private)
    file.chmod(0o600)
    file.with_suffix(".pub").write_bytes(line)
    return file, _pem(name, line)


HERE = "127.0.0.1"


def certificates(folder: Path, host: str = HERE) -> None:
    """`ca.pem`, `server.pem` and `server.key` for an address."""
    ca = made.make_ca("test authority")
    server = made.make_server(ca, (host,), days=1)
    (folder / "ca.pem").write_bytes(ca.certificate)
    (folder / "server.pem").write_bytes(server.certificate)
    (folder / "server.key").write_bytes(server.key)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@dataclass
class Cluster:
    """Processes that end with the block that started them."""

    folder: Path
    address: str
    environment: Mapping[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    forks: IO[bytes] | None = None

    @property
    def link(self) -> Link:
        """What the server's operator has."""
        return Link(
            self.address,
            (self.folder / "ca.pem").read_bytes(),
            secret=(self.folder / "superexec.secret").read_bytes(),
        )

    def start(
        self, name: str, command: Sequence[str], stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own; its output goes to a file."""
        with (self.folder / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                command, env={**os.environ, **QUIET, **self.environment}, stdout=out,
                stderr=subprocess.STDOUT, stdin=stdin, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def start_proxy(self, wire: str = "wire") -> str:
        """Put a proxy in front of the SuperLink that keeps all bytes; gives its address.

        Args:
            wire: the folder that it keeps them in.
        """
        (self.folder / wire).mkdir()
        port, script = free_port(), Path(__file__).with_name("recording_proxy.py")
        words = [sys.executable, str(script), str(self.folder), str(port), self.address, wire]
        proxy = f"{HERE}:{port}"
        self._wait_until_open(f"{wire}-proxy", self.start(f"{wire}-proxy", words), proxy)
        return proxy

    def start_superlink(self) -> None:
        """Start the SuperLink, or start it again with the state that it has."""
        process = self.start("superlink", _superlink(self.folder, self.address))
        self._wait_until_open("superlink", process, self.address)

    def _wait_until_open(self, name: str, process: subprocess.Popen[bytes], address: str) -> None:
        host, _, port = address.partition(":")
        until = time.monotonic() + 200  # seconds; three on a machine that is not busy
        while time.monotonic() < until and process.poll() is None:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError(self.said(name))

    def start_fedrai(self, model: Path, name: str, *arguments: str | Path, **more: Any) -> None:
        """`fedrai` with these arguments, in a fork of a process that has loaded `model` once.

        `more` is what else a line of `node_processes.py` may hold.
        """
        if self.forks is None:
            script = str(Path(__file__).with_name("node_processes.py"))
            words = [sys.executable, script, str(model)]
            self.forks = self.start("forks", words, subprocess.PIPE).stdin
        assert self.forks is not None
        for kind in ("pid", "out"):  # of an earlier one
            (self.folder / f"{name}.{kind}").unlink(missing_ok=True)
        call = {
            "argv": [str(word) for word in arguments],
            "out": str(self.folder / f"{name}.out"),
            "pid": str(self.folder / f"{name}.pid"),
            **more,
        }
        self.forks.write(json.dumps(call).encode() + b"\n")
        self.forks.flush()

    def start_node(
        self, model: Path, file: Path, key: Path, address: str = "", **more: Any
    ) -> None:
        """A `fedrai node`, under the name of its folder; `model` is what it will load."""
        self.start_fedrai(
            model, file.parent.name, "node", file, "--superlink", address or self.address,
            "--key", key, "--root-certificates", self.folder / "ca.pem", **more,
        )  # fmt: skip

    def pid(self, name: str) -> int:
        """The process of `start_fedrai`, as soon as there is one."""
        file = self.folder / f"{name}.pid"
        return int(wait_for(lambda: file.is_file() and file.read_text()))

    def supernode(self, name: str) -> int:
        """The process of a node's `flower-supernode`."""
        children = Path(f"/proc/{self.pid(name)}/task/{self.pid(name)}/children")
        return int(children.read_text().split()[0])

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process of `start_fedrai`; when it kills, wait until it has."""
        process = Path(f"/proc/{self.pid(name)}")
        os.kill(self.pid(name), number)
        if number == signal.SIGKILL:
            wait_for(lambda: _is_dead(process))

    def exit_code(self, name: str) -> int:
        """How a process of `start_fedrai` ended; waits for it."""
        return int(wait_for(lambda: self.said(name).partition("\nexit code ")[2]))

    def said(self, name: str) -> str:
        """What a process wrote."""
        file = self.folder / f"{name}.out"
        return file.read_text(errors="replace") if file.is_file() else ""

    def stop(self) -> None:
        """End all processes and their groups."""
        if self.forks is not None:
            self.forks.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes:
                _signal(process, number)
            until = time.monotonic() + 10
            while time.monotonic() < until and any(p.poll() is None for p in self.processes):
                time.sleep(0.05)
        for process in self.processes:
            process.wait()


def wait_for(found: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Look until there is something; gives it."""
    until = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < until, "nothing came in time"
        time.sleep(0.05)
    return result


def _is_dead(process: Path) -> bool:
    """Whether a process and all its threads have ended, and so let go of their files."""
    try:
        status = (process / "status").read_text()
        return "State:\tZ" in status and len(list((process / "task").iterdir())) < 2
    except OSError:
        return True


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


@contextmanager
def cluster(folder: Path, environment: Mapping[str, str], host: str = HERE) -> Iterator[Cluster]:
    """A SuperLink with TLS and node authentication that gives its tasks only to us."""
    folder.mkdir(parents=True)
    certificates(folder, host)
    secret = folder / "superexec.secret"
    secret.write_text(secrets.token_hex(32))
    secret.chmod(0o600)
    address = f"{host}:{free_port()}"
    found = Cluster(folder, address, {**environment, "FLWR_HOME": str(folder / "home")})
    try:
        found.start_superlink()
        yield found
    finally:
        found.stop()


def _superlink(folder: Path, address: str) -> list[str]:
    host, _, port = address.partition(":")
    return [
        sys.executable, "-m", "fedrai.deployment.superlink", "--host", host,
        "--port", port, "--isolation", "process",
        "--superexec-auth-secret-file", str(folder / "superexec.secret"),
        "--ssl-ca-certfile", str(folder / "ca.pem"), "--ssl-certfile", str(folder / "server.pem"),
        "--ssl-keyfile", str(folder / "server.key"), "--enable-supernode-auth",
        "--database", str(folder / "state.db"),
    ]  # fmt: skip


def register(link: Link, public: bytes, name: str) -> int:
    """Make a node's key known to the SuperLink; gives Flower's number of the node."""
    from fedrai.deployment.engine import control_client
    from fedrai.federation.flower_internals import RegisterNodeRequest

    client = control_client(link)
    try:
        return int(client.RegisterNode(RegisterNodeRequest(public_key=public, name=name)).node_id)
    finally:
        client.close()
