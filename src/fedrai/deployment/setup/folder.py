"""A consortium's folder: laid out once, then copied part by part to the machines.

    FOLDER/
      README.md            the commands for everyone, in order
      consortium.toml      what the folder was made from; `add-node` and `renew` read it
      ca/                  the CA's key: stays with whoever runs `fedrai deploy`
      server/              goes to the server's machine
      nodes/NAME/          goes to the machine of NAME, and to nobody else

Folders are 0700, private keys 0600, and nothing is written over. A node's folder holds its own
private key and the CA's certificate; the server's holds the public keys of the nodes.
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
from fedrai.deployment.setup.consortium import Consortium
from fedrai.deployment.setup.settings import Address, Deployment
from fedrai.errors import DeploymentError
from fedrai.recipe.node import NAME_PATTERN
from fedrai.recipe.toml_files import read_toml
from fedrai.runs.files import write_bytes, writing

RECORD = "consortium.toml"
RESERVED = ("server", "ca")


def init(folder: Path, consortium: Consortium) -> tuple[Path, ...]:
    """Make a consortium's folder, whole or not at all.

    Args:
        folder: must not exist, or be empty.
        consortium: what it is made from.

    Returns:
        The folders to hand out: the server's, then each node's.

    Raises:
        DeploymentError: there is something in `folder`, it cannot be written, or a name cannot be
            used.
    """
    _check(consortium)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DeploymentError(
            f"{folder} is there already; nothing was written over",
            hint=f"choose another folder, or add a node: fedrai deploy add-node {folder} NAME",
        )
    with writing(folder, DeploymentError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _fill(made, consortium)
            made.replace(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return (folder / "server", *(folder / "nodes" / name for name in consortium.nodes))


def relative_models(consortium: Consortium) -> tuple[str, ...]:
    """Base models that are paths which every node looks for below its own folder."""
    return tuple(
        name
        for name in consortium.base_models
        if assets.parse(name).scheme == "path" and not Path(name).expanduser().is_absolute()
    )


def add_node(folder: Path, name: str) -> Path:
    """Make the folder of one more node; the server must register it then.

    Returns:
        The node's folder.

    Raises:
        DeploymentError: there is such a node already, the name cannot be used, or the folder is
            not a consortium's.
    """
    consortium = read(folder)
    same = next((node for node in consortium.nodes if node.lower() == name.lower()), None)
    if same is not None:
        raise DeploymentError(
            f"the node {same} is there already; nothing was written over",
            hint=f"its folder is {folder / 'nodes' / same}; give a new node another name",
        )
    grown = replace(consortium, nodes=(*consortium.nodes, name))
    _check(grown)
    target = folder / "nodes" / name
    if target.exists():
        raise DeploymentError(f"{target} is there already; nothing was written over")
    with writing(target, DeploymentError):
        _node(folder, grown, name)
        write_bytes(folder / RECORD, texts.record(grown).encode(), mode=0o600)
    return target


def renew(folder: Path, days: int) -> Path:
    """Make a new server certificate with the consortium's CA; nodes need nothing new.

    Returns:
        The certificate's file.

    Raises:
        DeploymentError: the folder has no CA, or it has ended.
    """
    consortium = read(folder)
    if consortium.insecure:
        raise DeploymentError(f"{folder} has no certificates: it was made with --insecure")
    try:
        ca = Issued((folder / "ca/ca.pem").read_bytes(), (folder / "ca/ca.key").read_bytes())
        issued = certificates.make_server(ca, _names(consortium), days=days)
        write_bytes(folder / "server/server.key", issued.key, mode=0o600)
        write_bytes(folder / "server/server.pem", issued.certificate, mode=0o600)
    except OSError as error:
        raise DeploymentError(f"cannot renew in {folder}: {error.strerror}") from error
    return folder / "server/server.pem"


def read(folder: Path) -> Consortium:
    """What a consortium's folder was made from.

    Raises:
        DeploymentError: it is no such folder.
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
            hint=f"make one: fedrai deploy init {folder} --server HOST --node NAME",
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise DeploymentError(f"{folder / RECORD} cannot be read") from error


def _check(consortium: Consortium) -> None:
    if consortium.server.host in ("0.0.0.0", "::"):
        raise DeploymentError(
            f"{consortium.server.host} is every address of a machine; nodes need one",
            hint="name the server as the nodes reach it: --server fl.example.org",
        )
    if consortium.days < 1:
        raise DeploymentError(f"{consortium.days} days of validity; expected 1 or more")
    seen: set[str] = set()
    for name in consortium.nodes:
        if not re.fullmatch(NAME_PATTERN, name) or name.lower() in RESERVED:
            raise DeploymentError(
                f"{name!r} cannot be a node's name",
                hint="letters, digits, '.', '_' and '-', beginning with a letter or digit",
            )
        if name.lower() in seen:
            raise DeploymentError(f"there are two nodes {name!r}")
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
    """Names of the server's certificate; loopback too, since its own processes use that."""
    return tuple(dict.fromkeys((consortium.server.host, *certificates.LOOPBACK)))


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o700)
    path.chmod(0o700)
    return path


def _file(path: Path, content: str | bytes) -> None:
    """Write a new file, 0600 from its first byte; the folder's other readers are its owner's."""
    data = content.encode() if isinstance(content, str) else content
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
