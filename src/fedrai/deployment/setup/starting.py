"""With which command and environment a server's or node's folder is started.

Flower's SuperLink and SuperNode do the work, started by `fedrai.deployment.superlink` and `fedrai
node`. Off in all of them: Flower's telemetry, its update check and the installation of an app's
dependencies at run time. Files that a process makes are readable by its owner only.
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
        environment: variables that are set on top of the caller's.
        folder: working folder.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path

    def line(self) -> str:
        """As a shell would take it."""
        sets = [f"{key}={shlex.quote(value)}" for key, value in self.environment.items()]
        words = " ".join([*sets, shlex.join(self.command)])
        return f"cd {shlex.quote(str(self.folder))} && {words}"


def command_of(folder: Path) -> Start:
    """The process of a server's or node's folder: a SuperLink, or a SuperNode.

    Raises:
        DeploymentError: the folder is neither.
    """
    here = settings.read(folder)
    command = _superlink(here) if here.role == "server" else _supernode(here)
    return Start(command, _environment(here), here.folder)


def run(start: Start) -> NoReturn:
    """Become that process."""
    os.umask(0o077)
    os.chdir(start.folder)
    os.execvpe(start.command[0], start.command, {**os.environ, **start.environment})


def register(folder: Path) -> dict[str, bool]:
    """Make the nodes' public keys known to the SuperLink that runs from a server's folder.

    Returns:
        By node, whether it is new to the SuperLink.

    Raises:
        DeploymentError: it is no server's folder, or the SuperLink did not take a key.
    """
    here = settings.read(folder)
    if here.role != "server" or here.root_certificate is None:
        raise DeploymentError(
            f"{folder} has no nodes to register",
            hint="name the folder `server`; with --insecure nodes need no registration",
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
    """Flower finds its own programs on the path, and its processes each other on loopback."""
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
