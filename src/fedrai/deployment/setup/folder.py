"""A consortium's folder: created once, then copied part by part to the machines.

    FOLDER/
      README.md            the commands for everyone, in order
      consortium.toml      the consortium's settings; `add-node` and `renew` read it
      ca/                  the CA's key: stays with whoever runs `fedrai deploy`
      server/              goes to the server's machine
      nodes/NAME/          goes to the machine of NAME only

Folders have mode 0700 and files 0600; existing files are not overwritten. A node's folder holds its
own private key and the CA's certificate; the server's holds the public keys of the nodes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from fedrai import assets
from fedrai.deployment.setup import certificates, settings, texts, units
from fedrai.deployment.setup.certificates import Issued
from fedrai.deployment.setup.settings import Address, Consortium, Deployment
from fedrai.errors import DeploymentError
from fedrai.recipe.node import NAME_PATTERN
from fedrai.recipe.toml_files import read_toml
from fedrai.runs.files import write_bytes, writing

RECORD = "consortium.toml"
RESERVED = ("server", "ca")


def init(folder: Path, consortium: Consortium) -> tuple[Path, ...]:
    """Create a consortium's folder, whole or not at all.

    Args:
        folder: must not exist, or be empty.
        consortium: its settings.

    Returns:
        The folders to distribute: the server's, then each node's.

    Raises:
        DeploymentError: `folder` is not empty or cannot be written, or a name is invalid.
    """
    _check(consortium)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DeploymentError(
            f"{folder} already exists; nothing was changed",
            hint=f"choose another folder, or add a node: fedrai deploy add-node {folder} NAME",
        )
    with writing(folder, DeploymentError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _fill(new, consortium)
            new.replace(folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    return (folder / "server", *(folder / "nodes" / name for name in consortium.nodes))


def relative_models(consortium: Consortium) -> tuple[str, ...]:
    """Base models that are relative paths, which each node resolves from its own folder."""
    return tuple(
        name
        for name in consortium.base_models
        if assets.parse(name).scheme == "path" and not Path(name).expanduser().is_absolute()
    )


def add_node(folder: Path, name: str) -> Path:
    """Create the folder of another node, which the server must register.

    Returns:
        The node's folder.

    Raises:
        DeploymentError: the node already exists, its name is invalid, or the folder is not a
            consortium's.
    """
    consortium = read(folder)
    same = next((node for node in consortium.nodes if node.lower() == name.lower()), None)
    if same is not None:
        raise DeploymentError(
            f"the node {same} already exists; nothing was changed",
            hint=f"its folder is {folder / 'nodes' / same}; give a new node another name",
        )
    extended = replace(consortium, nodes=(*consortium.nodes, name))
    _check(extended)
    target = folder / "nodes" / name
    if target.exists():
        raise DeploymentError(f"{target} already exists; nothing was changed")
    with writing(target, DeploymentError):
        _node(folder, extended, name)
        write_bytes(folder / RECORD, texts.record(extended).encode(), mode=0o600)
    return target


def renew(folder: Path, days: int) -> Path:
    """Issue a new server certificate with the consortium's CA; the nodes do not change.

    Returns:
        The certificate's file.

    Raises:
        DeploymentError: the folder has no CA, or it has expired.
    """
    consortium = read(folder)
    if consortium.insecure:
        raise DeploymentError(f"{folder} has no certificates: it was created with --insecure")
    try:
        ca = Issued((folder / "ca/ca.pem").read_bytes(), (folder / "ca/ca.key").read_bytes())
        issued = certificates.make_server(ca, _names(consortium), days=days)
        write_bytes(folder / "server/server.key", issued.key, mode=0o600)
        write_bytes(folder / "server/server.pem", issued.certificate, mode=0o600)
    except OSError as error:
        raise DeploymentError(f"cannot renew in {folder}: {error.strerror}") from error
    return folder / "server/server.pem"


def read(folder: Path) -> Consortium:
    """The settings of a consortium, from its folder.

    Raises:
        DeploymentError: it is not a consortium's folder.
    """
    try:
        table = read_toml(folder / RECORD)
        return Consortium(
            str(table["name"]),
            settings.parse_address(table["server"]),
            tuple(map(str, table["nodes"])),
            int(table["days"]),
            bool(table["insecure"]),
            tuple(map(str, table["base_models"])),
        )
    except OSError as error:
        raise DeploymentError(
            f"{folder} is not a consortium's folder: no {RECORD}",
            hint=f"create one: fedrai deploy init {folder} --server HOST --node NAME",
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise DeploymentError(f"{folder / RECORD} cannot be read") from error


def _check(consortium: Consortium) -> None:
    if consortium.server.host in ("0.0.0.0", "::"):
        raise DeploymentError(
            f"{consortium.server.host} is all addresses of a machine; nodes need one of them",
            hint="give the address that the nodes use: --server fl.example.org",
        )
    if consortium.days < 1:
        raise DeploymentError(f"validity must be 1 day or more, got {consortium.days}")
    seen: set[str] = set()
    for name in consortium.nodes:
        if not re.fullmatch(NAME_PATTERN, name) or name.lower() in RESERVED:
            raise DeploymentError(
                f"{name!r} is not a valid node name",
                hint="use letters, digits, '.', '_' and '-'; start with a letter or digit",
            )
        if name.lower() in seen:
            raise DeploymentError(f"the node name {name!r} is given twice")
        seen.add(name.lower())


def _fill(folder: Path, consortium: Consortium) -> None:
    folder.chmod(0o700)
    _folder(folder / "nodes")
    _server(folder, consortium)
    for name in consortium.nodes:
        _node(folder, consortium, name)
    _file(folder / RECORD, texts.record(consortium))
    _file(folder / "README.md", texts.readme(consortium))


def _server(folder: Path, consortium: Consortium) -> None:
    server = _folder(folder / "server")
    _folder(server / "nodes")
    if not consortium.insecure:
        ca = certificates.make_ca(consortium.name)
        issued = certificates.make_server(ca, _names(consortium), days=consortium.days)
        _file(_folder(folder / "ca") / "ca.key", ca.key)
        _file(folder / "ca/ca.pem", ca.certificate)
        _file(server / "ca.pem", ca.certificate)
        _file(server / "server.key", issued.key)
        _file(server / "server.pem", issued.certificate)
    here = Deployment(
        server,
        "server",
        Address("127.0.0.1", consortium.server.port),
        None if consortium.insecure else server / "ca.pem",
        consortium.insecure,
    )
    _file(server / settings.SECRET, secrets.token_hex(32))
    _file(server / settings.FILE, settings.write(here))
    _file(server / "fedrai-superlink.service", units.service(here, consortium.name))
    _file(server / "compose.yaml", units.compose(here, "superlink"))
    _file(server / "README.md", texts.server_readme(consortium))


def _node(folder: Path, consortium: Consortium, name: str) -> None:
    node = _folder(folder / "nodes" / name)
    if not consortium.insecure:
        private, public = certificates.make_node_key()
        _file(node / "node.key", private)
        _file(node / "ca.pem", (folder / "ca/ca.pem").read_bytes())
        _file(folder / "server/nodes" / f"{name}.pub", public)
    here = Deployment(
        node,
        "node",
        consortium.server,
        None if consortium.insecure else node / "ca.pem",
        consortium.insecure,
    )
    _file(node / settings.FILE, settings.write(here))
    _file(node / "node.toml", texts.node_toml(name, consortium.base_models))
    _file(node / "fedrai-supernode.service", units.service(here, consortium.name))
    _file(node / "compose.yaml", units.compose(here, "supernode"))
    _file(node / "README.md", texts.node_readme(name, consortium))


def _names(consortium: Consortium) -> tuple[str, ...]:
    """Names in the server's certificate, with loopback, which its own processes use."""
    return tuple(dict.fromkeys((consortium.server.host, *certificates.LOOPBACK)))


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o700)
    path.chmod(0o700)
    return path


def _file(path: Path, content: str | bytes) -> None:
    """Write a new file that only its owner can read, from the first byte on."""
    data = content.encode() if isinstance(content, str) else content
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
