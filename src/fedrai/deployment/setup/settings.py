"""Settings of a consortium, and `deployment.toml`, which says how a machine reaches the server.

The server's folder and every node's folder have one. Its paths are relative, so that the folder can
be copied to its machine unchanged.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrai.errors import DeploymentError
from fedrai.recipe.toml_files import read_toml

FILE = "deployment.toml"
SECRET = "superexec.secret"
"""In the server's folder: the secret with which a ServerApp gets its task from the SuperLink."""
EVERYWHERE = "0.0.0.0"
DEFAULT_PORT = 8000
"""Flower's default for a SuperLink; all of its APIs share this port."""
OFF: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Environment that turns features off (names from Flower 1.42's source)."""
_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_KEYS = {"role": str, "address": str, "root_certificate": str, "insecure": bool, "listen": str,
         "secret": str}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port.

    Attributes:
        host: a name or an IP address, without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One machine's side of a deployment.

    Attributes:
        folder: that holds its `deployment.toml`.
        role: `server` or `node`.
        address: the SuperLink's address; in the server's folder that on loopback.
        root_certificate: the CA's certificate; None with `insecure`.
        insecure: unencrypted connections, and any node may join.
        listen: for the server: the address that the SuperLink binds to.
        secret: for the server: the file with the secret of its ServerApps.
    """

    folder: Path
    role: str
    address: Address
    root_certificate: Path | None
    insecure: bool
    listen: str = EVERYWHERE
    secret: Path | None = None


@dataclass(frozen=True, slots=True)
class Consortium:
    """The settings that a consortium's folder is created from.

    Attributes:
        name: the consortium's name, also that of the folder.
        server: where nodes reach the SuperLink.
        nodes: names, in the order in which they were added.
        days: validity of a new server certificate.
        insecure: no TLS and no node authentication.
        base_models: written into each node's policy; empty: any.
    """

    name: str
    server: Address
    nodes: tuple[str, ...]
    days: int = 365
    insecure: bool = False
    base_models: tuple[str, ...] = ()


def parse_address(text: str, default_port: int | None = None) -> Address:
    """`HOST`, `HOST:PORT`, `[IPV6]:PORT` or a bare IPv6 address.

    Args:
        text: what the user wrote.
        default_port: used when the text has no port; None: a port is required.

    Raises:
        DeploymentError: it is none of these.
    """
    host, port = _split(text)
    if not port and default_port is not None:
        port = str(default_port)
    if not _is_host(host) or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise DeploymentError(
            f"{text!r} is not HOST:PORT", hint="for example fl.example.org:8000 or 10.0.0.5:8000"
        )
    return Address(host, int(port))


def read(folder: Path) -> Deployment:
    """Read the `deployment.toml` of a server's or node's folder.

    Raises:
        DeploymentError: the file is missing or invalid.
    """
    file = folder / FILE
    try:
        table = read_toml(file)
    except OSError as error:
        raise DeploymentError(
            f"cannot read {file}: {error.strerror}",
            hint="expected the folder `server`, or one in `nodes/`, of `fedrai deploy init`",
        ) from error
    except ValueError as error:
        raise DeploymentError(f"{file} is not valid TOML: {error}") from error
    _check(file, table)
    root = table.get("root_certificate", "")
    return Deployment(
        folder.resolve(),
        table["role"],
        parse_address(table["address"]),
        folder.resolve() / root if root else None,
        table.get("insecure", False),
        table.get("listen", EVERYWHERE),
        folder.resolve() / (table.get("secret") or SECRET) if table["role"] == "server" else None,
    )


def write(deployment: Deployment) -> str:
    """The text of a `deployment.toml`."""
    root, server = deployment.root_certificate, deployment.role == "server"
    lines = [
        "# Created by `fedrai deploy init`. Paths are relative to this folder.",
        f'role = "{deployment.role}"',
        f'address = "{deployment.address}"  # the SuperLink'
        + (", from this machine" if server else ""),
        f'root_certificate = "{root.name if root else ""}"'
        + ("  # the consortium's CA" if root else ""),
        f"insecure = {str(deployment.insecure).lower()}"
        + ("  # unencrypted connections; any node may join" if deployment.insecure else ""),
    ]
    if server:
        lines += [
            f'listen = "{deployment.listen}"  # where the SuperLink accepts connections',
            f'secret = "{SECRET}"  # with which a ServerApp gets its task',
        ]
    return "\n".join(lines) + "\n"


def _check(file: Path, table: dict[str, Any]) -> None:
    for key, value in table.items():
        if key not in _KEYS:
            raise DeploymentError(
                f"{file}: unknown key {key!r}", hint=f"known keys: {', '.join(_KEYS)}"
            )
        if type(value) is not _KEYS[key]:
            raise DeploymentError(f"{file}: {key} must be {_KEYS[key].__name__}")
    if table.get("role") not in ("server", "node") or "address" not in table:
        raise DeploymentError(f'{file} needs role = "server" or "node", and address')
    if not table.get("insecure", False) and not table.get("root_certificate"):
        raise DeploymentError(
            f"{file} needs root_certificate", hint="or insecure = true, for unencrypted connections"
        )


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        return (host if closed else ""), rest.removeprefix(":")
    if text.count(":") > 1:  # a bare IPv6 address
        return text, ""
    host, _, port = text.partition(":")
    return host, port


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST.fullmatch(host) is not None
    return True
