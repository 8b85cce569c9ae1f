"""Flower's HTTP APIs, for a ServerApp or ClientApp that is its own executor.

Flower starts a new process for every task and runs in it the code that the run contains. FedRAI's
processes get their tasks themselves, as `flower-superexec` would, and do them with the installed
code: models stay loaded, and no code is sent. Flower's own clients are used, but not their reaction
to a lost task, which is to interrupt the whole process.
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

ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})  # signed with the secret
BEAT = 10.0  # seconds between heartbeats; Flower gives a task up after a minute without one
LONGEST_WAIT = 120.0  # seconds that a request is repeated while the other side does not answer
PASSING = (502, 503, 504)  # status of a server that will be back


@dataclass(frozen=True, slots=True)
class Link:
    """The address of a Flower API.

    Attributes:
        address: HOST:PORT.
        root_certificate: PEM of the CA; None: the system's.
        insecure: connect without TLS.
        secret: secret for acquiring tasks; None: not required.
    """

    address: str
    root_certificate: bytes | None = None
    insecure: bool = False
    secret: bytes | None = None


def link_to(address: str, root: Path | None, insecure: bool, secret: Path | None) -> Link:
    """A link whose files are read.

    Raises:
        FederationError: a file cannot be read.
    """
    try:
        certificate = root.read_bytes() if root is not None and not insecure else None
        key = secret.read_bytes() if secret is not None else None
    except OSError as error:
        raise FederationError(
            f"cannot read {error.filename}: {error.strerror}",
            hint="`fedrai deploy check` checks a deployment's files",
        ) from error
    return Link(address, certificate, insecure, key)


def _always() -> bool:
    return True


def runtime_client(
    link: Link,
    token: str = "",
    patience: float = LONGEST_WAIT,
    is_running: Callable[[], bool] = _always,
) -> Any:
    """A client of the Runtime API.

    Args:
        link: its address.
        token: token of a task; empty: to acquire one.
        patience: seconds for which requests are repeated without an answer.
        is_running: whether the other side can still answer; if not, nothing is repeated.
    """
    interceptors = version_interceptors()
    if token:
        interceptors.append(RuntimeTokenHttpInterceptor(token))
    elif link.secret is not None:
        interceptors.append(
            SuperExecAuthHttpInterceptor(master_secret=link.secret, protected_methods=ACQUIRE)
        )
    return RuntimeHttpClient.from_server_address(
        server_address=link.address,
        insecure=link.insecure,
        root_certificates=link.root_certificate,
        interceptors=interceptors,
        retry_invoker=retries(patience, is_running),
    )


def retries(longest: float = LONGEST_WAIT, is_running: Callable[[], bool] = _always) -> Any:
    """Repeats requests while the other side does not answer but still may."""
    return RetryInvoker(
        lambda: exponential(max_delay=5),
        (httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=longest,
        should_giveup=lambda error: _is_final(error) or not is_running(),
    )


def _is_final(error: Exception) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in PASSING


def acquire(client: Any, kind: str) -> tuple[Any, str] | None:
    """Acquire the oldest waiting task of a kind; return the task and its token."""
    reply = client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
    return (reply.task, reply.token) if reply.HasField("task") and reply.token else None


def finish(client: Any, context: Any, status: str, details: str = "") -> None:
    """Report once that a task is over; the other side may be gone.

    Args:
        client: a client that sends the task's token.
        context: the task's context as a message, or None.
        status: a `SubStatus` of Flower.
        details: a fixed text; never that of an exception.
    """
    set_retry_policy(client, None)
    with suppress(httpx.HTTPError, FederationError):
        client.PushTaskOutput(
            PushTaskOutputRequest(context=context, sub_status=status, details=details)
        )


@contextmanager
def heartbeat(client: Any, lost: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Send a task's heartbeats within the block.

    Args:
        client: a client that sends the task's token.
        lost: called once if the task is no longer known.
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
    except FederationError:  # it was restarted with another Flower
        return False


def wait_for(call: Callable[[], Any], seconds: float, pause: float) -> Any:
    """Call until the result is not None, for so many seconds at most; return the last result."""
    until = time.monotonic() + seconds
    while (result := call()) is None and time.monotonic() < until:
        time.sleep(pause)
    return result
