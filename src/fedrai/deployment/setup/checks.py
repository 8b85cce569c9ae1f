"""One check of a folder, and those that a node's and a server's folder share.

Each check is one line. Nothing of a row is shown: rows are counted.
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
from fedrai.deployment.setup import certificates, probing
from fedrai.deployment.setup.settings import Address, Deployment
from fedrai.errors import DeploymentError, FedRAIError
from fedrai.federation.flower_internals import VERSIONS

State = Literal["ok", "warning", "failed", "not tried"]
FLOWER = SpecifierSet(VERSIONS)
DAYS_WARNED = 30
"""Days before a certificate ends from which it is a warning."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line.

    Attributes:
        name: what was looked at.
        state: `not tried` is neither good nor bad.
        found: what was found, in a few words.
        advice: what to do; empty when nothing.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def attempt(name: str, call: Callable[[], Check], advice: str = "") -> Check:
    """A check whose errors are what it found."""
    try:
        return call()
    except FedRAIError as error:
        return Check(name, "failed", error.message, error.hint or advice)


def content(file: Path) -> bytes:
    """A file's bytes.

    Raises:
        DeploymentError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise DeploymentError(f"{file.name}: {error.strerror}") from error


def versions() -> Iterator[Check]:
    """FedRAI, and whether the Flower that is installed is the one meant."""
    yield Check("FedRAI", "ok", f"{__version__} (Python {platform.python_version()})")
    try:
        found = version("flwr")
    except PackageNotFoundError:
        found = "none"
    if found != "none" and FLOWER.contains(found, prereleases=True):
        yield Check("Flower", "ok", found)
    else:
        yield Check(
            "Flower", "failed", f"{found}, expected {FLOWER}", f"pip install 'flwr{FLOWER}'"
        )


def private(name: str, path: Path) -> Check:
    """Whether a private file is there, readable, and readable by its owner only."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        path.read_bytes()
    except OSError as error:
        return Check(name, "failed", f"{path.name}: {error.strerror}", "ask who made the folder")
    if mode & 0o077:
        return Check(name, "failed", f"others may read it (mode {mode:o})", f"chmod 600 {path}")
    if path.stat().st_uid != os.getuid():
        return Check(name, "warning", "belongs to another account", "run this as its owner")
    return Check(name, "ok", f"readable by its owner only (mode {mode:o})")


def validity(name: str, found: certificates.Described, now: datetime | None = None) -> Check:
    """A certificate's validity against this machine's clock."""
    now = now or datetime.now(UTC)
    left, ends = found.days_left(now), f"{found.ends:%Y-%m-%d}"
    if now < found.begins:
        begins = f"{found.begins:%Y-%m-%d %H:%M} UTC"
        return Check(name, "failed", f"not valid before {begins}", "is this machine's clock right?")
    advice = "the consortium: fedrai deploy renew FOLDER"
    if left <= 0:
        return Check(name, "failed", f"ended {ends}", advice)
    if left < DAYS_WARNED:
        return Check(name, "warning", f"ends {ends}, in {left:.0f} days", advice)
    return Check(name, "ok", f"valid until {ends}, {left:.0f} days")


def reach(here: Deployment, address: Address) -> Iterator[Check]:
    """TCP, TLS, the certificate and the clock, as far as each goes."""
    try:
        connection = probing.connect(address)
    except DeploymentError as error:
        yield Check("server", "failed", error.message, error.hint)
        return
    with connection:
        yield Check("server", "ok", f"{address} takes connections")
        yield from _over(connection, here, address)


def _over(connection: socket.socket, here: Deployment, address: Address) -> Iterator[Check]:
    try:
        if here.root_certificate is None:
            yield Check(
                "TLS", "warning", "off: plain connections", "only for trials on one machine"
            )
            yield from _asked(connection, address)
            return
        with probing.handshake(connection, address, here.root_certificate) as secure:
            yield Check("TLS", "ok", f"{secure.version()}, a certificate of the consortium's CA")
            yield from _asked(secure, address)
    except DeploymentError as error:
        yield Check("TLS", "failed", error.message, error.hint)


def _asked(connection: socket.socket, address: Address) -> Iterator[Check]:
    try:
        probed = probing.ask(connection, address)
    except DeploymentError as error:
        yield Check("SuperLink", "failed", error.message, error.hint)
        return
    if probed.certificate is not None:
        yield validity("certificate", probed.certificate)
    if probed.status == 200:
        yield Check("SuperLink", "ok", "answers")
    else:
        yield Check("SuperLink", "failed", f"HTTP {probed.status} for /health", "not a SuperLink?")
    yield clock(probed.clock)


def clock(found: probing.Clock | None) -> Check:
    """This machine's clock against the server's, by what a SuperLink accepts in signed requests."""
    if found is None:
        return Check("clock", "not tried", "the server's answer has no date",
                     "compare the clocks by hand; the server allows 5 s ahead")  # fmt: skip
    sure, side = found.uncertain, "ahead of" if found.ahead >= 0 else "behind"
    said = f"{abs(found.ahead):.1f} s {side} the server's, to within {sure:.1f} s"
    advice = "set both clocks by NTP; the server refuses requests from its future"
    if found.ahead - sure >= probing.AHEAD or found.ahead + sure <= -probing.BEHIND:
        return Check("clock", "failed", said, advice)
    if found.ahead + sure >= probing.AHEAD or found.ahead - sure <= -probing.BEHIND / 2:
        return Check("clock", "warning", said, advice)
    return Check("clock", "ok", said)
