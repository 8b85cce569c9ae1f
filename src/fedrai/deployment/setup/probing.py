"""What can be told of a server over the network: reachable, its certificate, its clock.

TCP, then a TLS handshake that trusts the consortium's CA only, then one `GET /health`, which a
SuperLink answers with a `Date` header (RFC 9110, section 6.6.1; whole seconds). Nothing of the node
is sent. No proxy is used.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from fedrai.deployment.setup import certificates
from fedrai.deployment.setup.settings import Address
from fedrai.errors import DeploymentError

TIMEOUT = 10.0
"""Seconds for each of the steps."""

AHEAD, BEHIND = 5.0, 305.0
"""Flower 1.42 takes requests signed less than so many seconds in the server's future or past."""

DATE_LAGS = 2.0
"""Seconds that a `Date` may be behind its server's clock."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The node's clock against the server's.

    Attributes:
        ahead: seconds that this machine is ahead of the server; negative: behind.
        uncertain: the true figure is within this many seconds of it.
    """

    ahead: float
    uncertain: float


@dataclass(frozen=True, slots=True)
class Health:
    """What the server showed.

    Attributes:
        certificate: of the TLS handshake; None without TLS.
        clock: None: the answer had no date.
        status: HTTP status of `/health`.
    """

    certificate: certificates.Described | None
    clock: Clock | None
    status: int


def connect(address: Address, timeout: float = TIMEOUT) -> socket.socket:
    """Open a TCP connection.

    Raises:
        DeploymentError: what stood in the way.
    """
    try:
        return socket.create_connection((address.host, address.port), timeout)
    except socket.gaierror as error:
        raise DeploymentError(
            f"{address.host} has no address here", hint="check the name, or the machine's DNS"
        ) from error
    except ConnectionRefusedError as error:
        raise DeploymentError(
            f"nothing listens at {address}", hint="is the server started? is the port right?"
        ) from error
    except TimeoutError as error:
        raise DeploymentError(
            f"{address} does not answer within {timeout:g} s",
            hint="a firewall on the way? the port must be open on the server",
        ) from error
    except OSError as error:
        raise DeploymentError(f"{address} cannot be reached: {error.strerror}") from error


def handshake(plain: socket.socket, address: Address, root_certificate: Path) -> ssl.SSLSocket:
    """A TLS handshake on a connection, which trusts this CA only and checks the host's name.

    Raises:
        DeploymentError: what was wrong with the server's certificate, or that it speaks no TLS.
    """
    try:
        context = ssl.create_default_context(cafile=str(root_certificate))
    except (OSError, ssl.SSLError) as error:
        raise DeploymentError(f"{root_certificate} is not a CA certificate") from error
    try:
        return context.wrap_socket(plain, server_hostname=address.host)
    except ssl.SSLCertVerificationError as error:
        raise _not_trusted(error, address) from error
    except TimeoutError as error:
        raise DeploymentError(
            f"{address} takes connections but does not answer in TLS",
            hint="another program on that port, or a server that hangs",
        ) from error
    except (OSError, ssl.SSLError) as error:
        raise DeploymentError(
            f"{address} does not speak TLS",
            hint="another program on that port, or a SuperLink with --insecure",
        ) from error


def ask(
    connection: socket.socket,
    address: Address,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Health:
    """`GET /health`, and the clock by its `Date`.

    Args:
        connection: TCP or TLS.
        address: of the server.
        now: this machine's clock.

    Raises:
        DeploymentError: the answer is not HTTP, or there is none.
    """
    began, started = now(), time.monotonic()
    request = f"GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    try:
        connection.sendall(request.encode("ascii"))
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
    except TimeoutError as error:
        raise DeploymentError(f"{address} does not answer a request") from error
    except (OSError, http.client.HTTPException) as error:
        raise DeploymentError(f"{address} does not answer in HTTP; not a SuperLink?") from error
    took = time.monotonic() - started
    certificate = None
    if isinstance(connection, ssl.SSLSocket):
        raw = connection.getpeercert(binary_form=True) or b""
        certificate = certificates.describe(ssl.DER_cert_to_PEM_cert(raw).encode("ascii"))
    return Health(certificate, clock(answer.getheader("Date"), began, took), answer.status)


def clock(date: str | None, began: datetime, took: float) -> Clock | None:
    """This machine's clock against a server's `Date`.

    The server wrote whole seconds, and uvicorn, which a SuperLink runs on, renews the header once a
    second: its clock was between `date` and two seconds later, at some moment of the exchange,
    while this machine's went from `began` to `began + took`.

    Args:
        date: value of the header; None: there was none.
        began: this machine's clock when the request went out.
        took: seconds until the answer.

    Returns:
        None when there is no date that can be read.
    """
    try:
        server = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    if server.tzinfo is None:
        server = server.replace(tzinfo=UTC)
    ahead = (began - server).total_seconds() + took / 2 - DATE_LAGS / 2
    return Clock(ahead, (took + DATE_LAGS) / 2)


def _not_trusted(error: ssl.SSLCertVerificationError, address: Address) -> DeploymentError:
    """What OpenSSL found, in words (codes of X509_STORE_CTX_get_error(3))."""
    reasons = {
        9: ("is not valid yet", "compare the clocks of both machines"),
        10: ("has ended", "the server's operator: fedrai deploy renew; or compare the clocks"),
        62: ("is for another name", "name the server as its certificate does, or make a new one"),
        64: ("is for another address", "name the server as its certificate does"),
    }
    untrusted = ("was not signed by this CA", "is it the right server? is ca.pem the consortium's?")
    what, hint = reasons.get(error.verify_code, untrusted)
    return DeploymentError(f"the certificate of {address} {what}", hint=hint)
