"""A check of a folder, and the checks that nodes' and servers' folders share.

Each check is one line. Rows are counted and never shown.
"""

from __future__ import annotations

import os
import platform
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet

from fedrai import __version__
from fedrai.deployment.setup import probing
from fedrai.deployment.setup.certificates import Certificate
from fedrai.deployment.setup.settings import Address, Deployment
from fedrai.errors import DeploymentError, FedRAIError
from fedrai.federation.flower_internals import VERSIONS

State = Literal["ok", "warning", "failed", "not tried"]
FLOWER = SpecifierSet(VERSIONS)
DAYS_WARNED = 30
"""A certificate that expires within so many days is a warning."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line.

    Attributes:
        name: what was checked.
        state: `not tried` is neither good nor bad.
        found: the finding, in a few words.
        advice: what to do; empty: nothing.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def attempt(name: str, call: Callable[[], Check], advice: str = "") -> Check:
    """Run a check; an error becomes its finding."""
    try:
        return call()
    except FedRAIError as error:
        return Check(name, "failed", error.message, error.hint or advice)


def read_bytes(file: Path) -> bytes:
    """A file's bytes.

    Raises:
        DeploymentError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise DeploymentError(f"{file.name}: {error.strerror}") from error


def versions() -> Iterator[Check]:
    """The version of FedRAI, and whether that of Flower is supported."""
    yield Check("FedRAI", "ok", f"{__version__} (Python {platform.python_version()})")
    try:
        installed = version("flwr")
    except PackageNotFoundError:
        installed = "none"
    if installed != "none" and FLOWER.contains(installed, prereleases=True):
        yield Check("Flower", "ok", installed)
    else:
        yield Check(
            "Flower", "failed", f"{installed}, expected {FLOWER}", f"pip install 'flwr{FLOWER}'"
        )


def private(name: str, path: Path) -> Check:
    """Whether a private file exists and only its owner can read it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        path.read_bytes()
    except OSError as error:
        return Check(
            name, "failed", f"{path.name}: {error.strerror}", "ask whoever created the folder"
        )
    if mode & 0o077:
        return Check(
            name, "failed", f"other users can read it (mode {mode:o})", f"chmod 600 {path}"
        )
    if path.stat().st_uid != os.getuid():
        return Check(name, "warning", "is owned by another user", "run this as its owner")
    return Check(name, "ok", f"only its owner can read it (mode {mode:o})")


def validity(name: str, certificate: Certificate, now: datetime | None = None) -> Check:
    """A certificate's validity against this machine's clock."""
    now = now or datetime.now(UTC)
    left, ends = certificate.days_left(now), f"{certificate.ends:%Y-%m-%d}"
    if now < certificate.begins:
        begins = f"{certificate.begins:%Y-%m-%d %H:%M} UTC"
        return Check(name, "failed", f"not valid before {begins}", "check this machine's clock")
    advice = "whoever runs the consortium: fedrai deploy renew FOLDER"
    if left <= 0:
        return Check(name, "failed", f"expired {ends}", advice)
    if left < DAYS_WARNED:
        return Check(name, "warning", f"expires {ends}, in {left:.0f} days", advice)
    return Check(name, "ok", f"valid until {ends}, {left:.0f} days")


def reach(here: Deployment, address: Address) -> Iterator[Check]:
    """TCP, TLS, the certificate and the clock, as far as the connection gets."""
    try:
        connection = probing.connect(address)
    except DeploymentError as error:
        yield Check("server", "failed", error.message, error.hint)
        return
    with connection:
        yield Check("server", "ok", f"{address} accepts connections")
        yield from _connected(connection, here, address)


def _connected(connection: socket.socket, here: Deployment, address: Address) -> Iterator[Check]:
    try:
        if here.root_certificate is None:
            yield Check(
                "TLS",
                "warning",
                "off: unencrypted connections",
                "only for trials on one machine",
            )
            yield from _health(connection, address)
            return
        with probing.handshake(connection, address, here.root_certificate) as secure:
            yield Check("TLS", "ok", f"{secure.version()}, a certificate of the consortium's CA")
            yield from _health(secure, address)
    except DeploymentError as error:
        yield Check("TLS", "failed", error.message, error.hint)


def _health(connection: socket.socket, address: Address) -> Iterator[Check]:
    try:
        health = probing.ask(connection, address)
    except DeploymentError as error:
        yield Check("SuperLink", "failed", error.message, error.hint)
        return
    if health.certificate is not None:
        yield validity("certificate", health.certificate)
    if health.status == 200:
        yield Check("SuperLink", "ok", "answers")
    else:
        yield Check("SuperLink", "failed", f"HTTP {health.status} for /health", "not a SuperLink?")
    yield clock(health.clock)


def clock(offset: probing.Clock | None) -> Check:
    """This machine's clock against the limits that a SuperLink sets for signed requests."""
    if offset is None:
        return Check("clock", "not tried", "the server's reply has no date",
                     "compare the clocks by hand; this one may be at most 5 s ahead")  # fmt: skip
    error, side = offset.uncertain, "ahead of" if offset.ahead >= 0 else "behind"
    finding = f"{abs(offset.ahead):.1f} s {side} the server's, to within {error:.1f} s"
    advice = "synchronise both clocks with NTP; the server refuses requests from its future"
    if offset.ahead - error >= probing.AHEAD or offset.ahead + error <= -probing.BEHIND:
        return Check("clock", "failed", finding, advice)
    if offset.ahead + error >= probing.AHEAD or offset.ahead - error <= -probing.BEHIND / 2:
        return Check("clock", "warning", finding, advice)
    return Check("clock", "ok", finding)
