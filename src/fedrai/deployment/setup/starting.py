"""The command and environment that start a server's or node's folder.

The processes are Flower's SuperLink and SuperNode, started by `fedrai.deployment.superlink` and
`fedrai node`. All of them run without Flower's telemetry, its update check and the installation of
dependencies at run time. Only the owner can read the files that they create.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from fedrai.deployment.setup import settings
from fedrai.deployment.setup.certificates import LOOPBACK
from fedrai.deployment.setup.settings import OFF, Deployment
from fedrai.errors import DeploymentError


@dataclass(frozen=True, slots=True)
class Start:
    """A process to start.

    Attributes:
        command: program and arguments.
        environment: variables that are added to the caller's.
        folder: working folder.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path

    def line(self) -> str:
        """The command as a line for a shell."""
        variables = [f"{key}={shlex.quote(value)}" for key, value in self.environment.items()]
        words = " ".join([*variables, shlex.join(self.command)])
        return f"cd {shlex.quote(str(self.folder))} && {words}"


def command_of(folder: Path) -> Start:
    """The process of a server's or node's folder: a SuperLink, or a SuperNode.

    Raises:
        DeploymentError: the folder has no valid `deployment.toml`.
    """
    here = settings.read(folder)
    command = _superlink(here) if here.role == "server" else _supernode(here)
    return Start(command, _environment(here), here.folder)


def run(start: Start) -> NoReturn:
    """Replace this process by it."""
    os.umask(0o077)
    os.chdir(start.folder)
    os.execvpe(start.command[0], start.command, {**os.environ, **start.environment})


def register(folder: Path) -> dict[str, bool]:
    """Register the nodes' public keys with the SuperLink of a server's folder, which must run.

    Returns:
        By node, whether it is new to the SuperLink.

    Raises:
        DeploymentError: it is not a server's folder, or the SuperLink refused a key.
    """
    here = settings.read(folder)
    if here.role != "server" or here.root_certificate is None:
        raise DeploymentError(
            f"{folder} has no nodes to register",
            hint="expected the folder `server`; with --insecure nodes need no registration",
        )
    os.environ.update(OFF)
    from fedrai.deployment import registering

    try:
        files = sorted((here.folder / "nodes").glob("*.pub"))
        keys = {file.stem: file.read_bytes() for file in files}
        root = here.root_certificate.read_bytes()
    except OSError as error:
        raise DeploymentError(f"cannot read {error.filename}: {error.strerror}") from error
    return registering.register(str(here.address), root, keys)


def _superlink(here: Deployment) -> tuple[str, ...]:
    tls = (
        "--ssl-ca-certfile", "ca.pem", "--ssl-certfile", "server.pem",
        "--ssl-keyfile", "server.key", "--enable-supernode-auth",
    )  # fmt: skip
    return (
        sys.executable, "-m", "fedrai.deployment.superlink",
        *(("--insecure",) if here.insecure else tls),
        "--host", here.listen, "--port", str(here.address.port),
        "--isolation", "process", "--superexec-auth-secret-file", str(here.secret),
        "--database", "state.db", "--disable-runtime-dependency-installation",
        "--log-file", "superlink.log",
    )  # fmt: skip


def _supernode(here: Deployment) -> tuple[str, ...]:
    root = str(here.root_certificate)
    tls = ("--root-certificates", root, "--key", "node.key")
    return (
        _program("fedrai"), "node", "node.toml",
        "--superlink", str(here.address),
        *(("--insecure",) if here.insecure else tls),
    )  # fmt: skip


def _environment(here: Deployment) -> dict[str, str]:
    """Flower's programs are found on the path, and its processes connect over loopback."""
    beside = str(Path(sys.executable).parent)
    direct = [name for name in (os.environ.get("NO_PROXY", ""), *LOOPBACK) if name]
    return {
        **OFF,
        "FLWR_HOME": str(here.folder / "flower"),
        "NO_PROXY": ",".join(direct),
        "PATH": f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else name
