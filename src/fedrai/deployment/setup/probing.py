"""Tests of a server over the network: whether it answers, its certificate and its clock.

TCP, then a TLS handshake that trusts only the consortium's CA, then one `GET /health`, which a
SuperLink answers with a `Date` header (RFC 9110, section 6.6.1; whole seconds). Nothing about the
node is sent. No proxy is used.
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
"""Seconds for each step."""

AHEAD, BEHIND = 5.0, 305.0
"""Flower 1.42 accepts requests signed less than so many seconds in its future or past."""

DATE_LAGS = 2.0
"""Seconds that a `Date` header may be behind its server's clock."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The node's clock against the server's.

    Attributes:
        ahead: seconds that this machine is ahead of the server; negative: behind.
        uncertain: the true offset is within this many seconds.
    """

    ahead: float
    uncertain: float


@dataclass(frozen=True, slots=True)
class Health:
    """The server's answer to `GET /health`.

    Attributes:
        certificate: certificate of the TLS handshake; None without TLS.
        clock: None: the answer has no date.
        status: HTTP status of `/health`.
    """

    certificate: certificates.Certificate | None
    clock: Clock | None
    status: int


def connect(address: Address, timeout: float = TIMEOUT) -> socket.socket:
    """Open a TCP connection.

    Raises:
        DeploymentError: the server cannot be reached.
    """
    try:
        return socket.create_connection((address.host, address.port), timeout)
    except socket.gaierror as error:
        raise DeploymentError(
            f"cannot resolve {address.host}", hint="check the name and this machine's DNS"
        ) from error
    except ConnectionRefusedError as error:
        raise DeploymentError(
            f"nothing listens at {address}", hint="start the server, or check the port"
        ) from error
    except TimeoutError as error:
        raise DeploymentError(
            f"{address} does not answer within {timeout:g} s",
            hint="check firewalls; the port must be open on the server",
        ) from error
    except OSError as error:
        raise DeploymentError(f"{address} cannot be reached: {error.strerror}") from error


def handshake(plain: socket.socket, address: Address, root_certificate: Path) -> ssl.SSLSocket:
    """A TLS handshake that trusts only this CA and checks the host's name.

    Raises:
        DeploymentError: the server's certificate is not valid, or it does not speak TLS.
    """
    try:
        context = ssl.create_default_context(cafile=str(root_certificate))
    except (OSError, ssl.SSLError) as error:
        raise DeploymentError(f"{root_certificate} is not a CA certificate") from error
    try:
        return context.wrap_socket(plain, server_hostname=address.host)
    except ssl.SSLCertVerificationError as error:
        raise _trust_error(error, address) from error
    except TimeoutError as error:
        raise DeploymentError(
            f"{address} accepts connections but does not answer in TLS",
            hint="another program uses the port, or the server hangs",
        ) from error
    except (OSError, ssl.SSLError) as error:
        raise DeploymentError(
            f"{address} does not speak TLS",
            hint="another program uses the port, or the SuperLink runs with --insecure",
        ) from error


def ask(
    connection: socket.socket,
    address: Address,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Health:
    """`GET /health`, and the clock by its `Date`.

    Args:
        connection: TCP or TLS.
        address: the server's address.
        now: this machine's clock.

    Raises:
        DeploymentError: the server does not answer in HTTP.
    """
    sent_at, started = now(), time.monotonic()
    request = f"GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    try:
        connection.sendall(request.encode("ascii"))
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
    except TimeoutError as error:
        raise DeploymentError(f"{address} does not answer a request") from error
    except (OSError, http.client.HTTPException) as error:
        raise DeploymentError(f"{address} does not answer in HTTP; not a SuperLink?") from error
    seconds = time.monotonic() - started
    certificate = None
    if isinstance(connection, ssl.SSLSocket):
        raw = connection.getpeercert(binary_form=True) or b""
        certificate = certificates.read_certificate(ssl.DER_cert_to_PEM_cert(raw).encode("ascii"))
    return Health(certificate, clock(answer.getheader("Date"), sent_at, seconds), answer.status)


def clock(date: str | None, sent_at: datetime, seconds: float) -> Clock | None:
    """This machine's clock against a server's `Date`.

    The header has whole seconds, and uvicorn, which serves a SuperLink, renews it once a second. So
    the server's clock was between `date` and two seconds later at some moment of the exchange,
    while this machine's clock went from `sent_at` to `sent_at + seconds`.

    Args:
        date: value of the header; None: there was none.
        sent_at: this machine's clock when the request was sent.
        seconds: until the answer.

    Returns:
        None if the date cannot be read.
    """
    try:
        server = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    if server.tzinfo is None:
        server = server.replace(tzinfo=UTC)
    ahead = (sent_at - server).total_seconds() + seconds / 2 - DATE_LAGS / 2
    return Clock(ahead, (seconds + DATE_LAGS) / 2)


def _trust_error(error: ssl.SSLCertVerificationError, address: Address) -> DeploymentError:
    """OpenSSL's finding in words (codes of X509_STORE_CTX_get_error(3))."""
    reasons = {
        9: ("is not valid yet", "compare the clocks of both machines"),
        10: ("has expired", "the server's operator: fedrai deploy renew; or compare the clocks"),
        62: ("is for another name", "use a name in the certificate, or issue a new one"),
        64: ("is for another address", "use an address in the certificate"),
    }
    untrusted = (
        "was not signed by this CA",
        "check that server and ca.pem belong to the consortium",
    )
    what, hint = reasons.get(error.verify_code, untrusted)
    return DeploymentError(f"the certificate of {address} {what}", hint=hint)
