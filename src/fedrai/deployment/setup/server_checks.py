"""The checks of a server's folder: certificate, keys, port, disk."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from fedrai.assets import format_bytes
from fedrai.deployment.setup import certificates, machine, settings
from fedrai.deployment.setup.checks import Check, attempt, private, read_bytes, validity, versions
from fedrai.deployment.setup.settings import Deployment
from fedrai.errors import DeploymentError


def checks_of_server(here: Deployment) -> Iterator[Check]:
    """All checks of a server's folder, in the order in which an operator fixes problems."""
    yield from versions()
    if here.insecure:
        yield Check("TLS", "warning", "off: unencrypted connections, and any node may join",
                    "only for trials on one machine")  # fmt: skip
    else:
        yield from _certificate(here)
        yield _nodes(here)
    yield private("secret", here.secret or here.folder / settings.SECRET)
    yield _port(here)
    yield _disk(here)


def _certificate(here: Deployment) -> Iterator[Check]:
    file, key = here.folder / "server.pem", here.folder / "server.key"
    root = here.root_certificate or here.folder / "ca.pem"
    yield private("server key", key)
    yield attempt("certificate", lambda: validity("certificate", _read(file)))
    yield attempt("CA", lambda: validity("CA", _read(root)))
    yield attempt("chain", lambda: _chain(file, key, root))


def _read(file: Path) -> certificates.Certificate:
    pem = read_bytes(file)
    try:
        return certificates.read_certificate(pem)
    except DeploymentError as error:
        raise DeploymentError(f"{file.name}: {error.message}", hint=error.hint) from error


def _chain(file: Path, key: Path, root: Path) -> Check:
    certificate = read_bytes(file)
    advice = "whoever runs the consortium: fedrai deploy renew FOLDER; then copy both files"
    if not certificates.is_key_of(certificate, read_bytes(key)):
        return Check("chain", "failed", "server.key does not match server.pem", advice)
    if not certificates.signed_by(certificate, read_bytes(root)):
        return Check("chain", "failed", f"{root.name} did not sign server.pem", advice)
    names = certificates.read_certificate(certificate).names
    if not set(names) & {"127.0.0.1", "localhost"}:
        return Check("chain", "failed", "server.pem is not valid for loopback, which the server's "
                     "own processes use", advice)  # fmt: skip
    return Check("chain", "ok", f"valid for {', '.join(names)}")


def _nodes(here: Deployment) -> Check:
    keys = sorted((here.folder / "nodes").glob("*.pub"))
    if not keys:
        return Check("nodes", "warning", "no public key in nodes/", "fedrai deploy add-node")
    return Check("nodes", "ok", f"{len(keys)} public keys: {', '.join(k.stem for k in keys)}")


def _port(here: Deployment) -> Check:
    port = here.address.port
    family = socket.AF_INET6 if ":" in here.listen else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((here.listen, port))
    except OSError as error:
        return Check("port", "warning" if _listens(port) else "failed",
                     f"{here.listen}:{port}: {error.strerror}",
                     "if the server is not running, stop the program that uses the port, or choose "
                     "another port")  # fmt: skip
    return Check("port", "ok", f"{here.listen}:{port} is free")


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 2):
            return True
    except OSError:
        return False


def _disk(here: Deployment) -> Check:
    free = machine.free_disk(here.folder)
    finding = f"{format_bytes(free)} free"
    if free < machine.SPARE_DISK:
        return Check("disk", "warning", finding, "free disk space; messages and runs are kept here")
    return Check("disk", "ok", finding)
