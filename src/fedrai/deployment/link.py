"""Flower's HTTP APIs, as a ServerApp or ClientApp that is its own executor speaks them.

Flower starts a fresh process for every task and runs in it the code that the run brought along.
FedRAI's processes take their tasks themselves, as `flower-superexec` would, and do them with the
code that is installed: models stay loaded, and nobody's code travels. Flower's own clients are
used, but not its reaction to a lost task, which is to interrupt the whole process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fedrai.errors import FederationError
from fedrai.federation.flower_internals import (
    AcquireTaskRequest,
    PushTaskOutputRequest,
    RetryInvoker,
    RuntimeHttpClient,
    RuntimeTokenHttpInterceptor,
    SendTaskHeartbeatRequest,
    SuperExecAuthHttpInterceptor,
    exponential,
    set_retry_policy,
    version_interceptors,
)

ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})  # what the secret signs
BEAT = 10.0  # seconds between signs of life; Flower gives a task up after a minute without one
LONGEST_WAIT = 120.0  # seconds that a request is repeated while the other side does not answer
PASSING = (502, 503, 504)  # answers of a server that will be back


@dataclass(frozen=True, slots=True)
class Link:
    """Where a Flower API is.

    Attributes:
        address: HOST:PORT.
        root_certificate: PEM of the authority; None: the system's.
        insecure: without TLS.
        secret: that tasks are acquired with; None: the other side asks for none.
    """

    address: str
    root_certificate: bytes | None = None
    insecure: bool = False
    secret: bytes | None = None


def link_to(address: str, root: Path | None, insecure: bool, secret: Path | None) -> Link:
    """A link, with its files read.

    Raises:
        FederationError: a file cannot be read.
    """
    try:
        certificate = root.read_bytes() if root is not None and not insecure else None
        key = secret.read_bytes() if secret is not None else None
    except OSError as error:
        raise FederationError(
            f"cannot read {error.filename}: {error.strerror}",
            hint="`fedrai deploy check` looks at a deployment's files",
        ) from error
    return Link(address, certificate, insecure, key)


def _always() -> bool:
    return True


def runtime_client(
    link: Link,
    token: str = "",
    patience: float = LONGEST_WAIT,
    going: Callable[[], bool] = _always,
) -> Any:
    """A client of the Runtime API.

    Args:
        link: where it is.
        token: of a task; empty: to acquire one.
        patience: seconds that requests are repeated while nobody answers.
        going: whether the other side can still answer; if not, nothing is repeated.
    """
    signed = version_interceptors()
    if token:
        signed.append(RuntimeTokenHttpInterceptor(token))
    elif link.secret is not None:
        signed.append(
            SuperExecAuthHttpInterceptor(master_secret=link.secret, protected_methods=ACQUIRE)
        )
    return RuntimeHttpClient.from_server_address(
        server_address=link.address,
        insecure=link.insecure,
        root_certificates=link.root_certificate,
        interceptors=signed,
        retry_invoker=patient(patience, going),
    )


def patient(longest: float = LONGEST_WAIT, going: Callable[[], bool] = _always) -> Any:
    """Repeats requests while the other side does not answer but still may, and only then."""
    return RetryInvoker(
        lambda: exponential(max_delay=5),
        (httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=longest,
        should_giveup=lambda error: _final(error) or not going(),
    )


def _final(error: Exception) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in PASSING


def acquire(client: Any, kind: str) -> tuple[Any, str] | None:
    """Claim the oldest waiting task of a kind; gives the task and its token."""
    found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
    return (found.task, found.token) if found.HasField("task") and found.token else None


def finish(client: Any, context: Any, status: str, details: str = "") -> None:
    """Report that a task is over, once: nobody may be there to hear it.

    Args:
        client: with the task's token.
        context: the task's context as a message, or None.
        status: Flower's word for how it ended.
        details: a fixed text; never that of an exception.
    """
    set_retry_policy(client, None)
    with suppress(httpx.HTTPError, FederationError):
        client.PushTaskOutput(
            PushTaskOutputRequest(context=context, sub_status=status, details=details)
        )


@contextmanager
def heartbeat(client: Any, lost: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within the block a task shows that it is alive.

    Args:
        client: with the task's token.
        lost: hears once if the task is not known any more.
    """
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(httpx.TransportError):
                if not _alive(client):
                    lost()
                    return

    thread = threading.Thread(target=beat, name="fedrai-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1.0)


def _alive(client: Any) -> bool:
    try:
        return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
    except httpx.HTTPStatusError as error:
        return error.response.status_code in PASSING
    except FederationError:  # it was started again, with another Flower
        return False


def wait_for(found: Callable[[], Any], seconds: float, pause: float) -> Any:
    """Call until something is found, or for so many seconds; gives what was found, or None."""
    until = time.monotonic() + seconds
    while (result := found()) is None and time.monotonic() < until:
        time.sleep(pause)
    return result
