"""All that FedRAI uses of Flower beyond its public modules; nothing else imports from there.

Flower's public modules are `PUBLIC`. Everything else may change with any release, so it is listed
here with its users, and `tests/federation/test_flower_internals.py` tests every line against the
installed Flower: after a release it lists what broke, and what that breaks here.

    from fedrai.federation.flower_internals import HttpGrid

imports `flwr.superlink.grid` then, and not before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fedrai.errors import DependencyError, FederationError

if TYPE_CHECKING:
    from starlette.middleware import Middleware

VERSIONS = ">=1.42,<1.43"
"""Supported versions of Flower, as in the package's requirements."""
PUBLIC = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation")


@dataclass(frozen=True, slots=True)
class Internal:
    """A name in one of Flower's internal modules.

    Attributes:
        module: the module.
        users: its users in this package, as MODULE.NAME.
    """

    module: str
    users: tuple[str, ...]


CLIENT_APP = "flwr.supernode.runtime.run_clientapp"
RUNTIME_PB, CONTROL_PB = "flwr.proto.runtime_pb2", "flwr.proto.control_pb2"
INTERCEPTORS = "flwr.supercore.interceptors"
INTERNALS: Mapping[str, Internal] = {
    # the Runtime API, where ServerApps and ClientApps get their tasks
    "RuntimeHttpClient": Internal("flwr.supercore.runtime", ("deployment.link.runtime_client",)),
    "RuntimeTokenHttpInterceptor": Internal(INTERCEPTORS, ("deployment.link.runtime_client",)),
    "SuperExecAuthHttpInterceptor": Internal(INTERCEPTORS, ("deployment.link.runtime_client",)),
    "RetryInvoker": Internal("flwr.supercore.retry", ("deployment.link.retries",)),
    "exponential": Internal("flwr.supercore.retry", ("deployment.link.retries",)),
    "AcquireTaskRequest": Internal(RUNTIME_PB, ("deployment.link.acquire",)),
    "PushTaskOutputRequest": Internal(RUNTIME_PB, ("deployment.link.finish",)),
    "SendTaskHeartbeatRequest": Internal(RUNTIME_PB, ("deployment.link._alive",)),
    "PullTaskInputRequest": Internal(RUNTIME_PB, ("deployment.engine._grid",)),
    "TaskType": Internal(
        "flwr.supercore.constant", ("deployment.engine._own_task", "deployment.worker._next_task")
    ),
    "SubStatus": Internal(
        "flwr.common.constant", ("deployment.engine.server_app", "deployment.worker._do")
    ),
    # a node's task
    "pull_task_input": Internal(CLIENT_APP, ("deployment.worker._task_input",)),
    "push_message": Internal(CLIENT_APP, ("deployment.worker._do",)),
    "context_to_proto": Internal("flwr.common.serde", ("deployment.worker._do",)),
    # the Control API, where runs are started and nodes registered
    "ControlHttpClient": Internal(
        "flwr.supercore.control.control_http_client",
        ("deployment.engine.control_client", "deployment.registering.register"),
    ),
    "StartRunRequest": Internal(CONTROL_PB, ("deployment.engine._start",)),
    "StopRunRequest": Internal(CONTROL_PB, ("deployment.engine._start_run",)),
    "RegisterNodeRequest": Internal(CONTROL_PB, ("deployment.registering._register",)),
    "build_fab_from_files": Internal("flwr.cli.build", ("federation.flower_internals.bundle",)),
    "Fab": Internal("flwr.supercore.fab", ("deployment.engine._start",)),
    "fab_to_proto": Internal("flwr.common.serde", ("deployment.engine._start",)),
    # what the server's side of a run reaches the nodes with
    "HttpGrid": Internal("flwr.superlink.grid", ("deployment.careful_grid.CarefulGrid",)),
    "run_from_proto": Internal("flwr.common.serde", ("deployment.engine._grid",)),
    "TaskIdentity": Internal(
        "flwr.supercore.task_identity", ("federation.flower_internals.set_task_identity",)
    ),
    # versions and errors
    "RuntimeVersionHttpInterceptor": Internal(
        INTERCEPTORS, ("federation.flower_internals.version_interceptors",)
    ),
    "FlowerError": Internal(
        "flwr.supercore.error",
        ("federation.flower_internals.SameFlower", "deployment.registering._register"),
    ),
    "ApiErrorCode": Internal(
        "flwr.supercore.error",
        ("federation.flower_internals.SameFlower", "deployment.registering._register"),
    ),
    # the SuperLink, in this process
    "flower_superlink": Internal(
        "flwr.superlink.cli.flower_superlink", ("deployment.superlink.main",)
    ),
}


def __getattr__(name: str) -> Any:
    if name in INTERNALS:
        return internal(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def internal(name: str, table: Mapping[str, Internal] = INTERNALS) -> Any:
    """Import a name of Flower.

    Args:
        name: its name in Flower.
        table: that lists it.

    Raises:
        DependencyError: this Flower does not have it.
    """
    which = table[name]
    try:
        return getattr(import_module(which.module), name)
    except (ImportError, AttributeError) as error:
        raise DependencyError(
            f"flwr {version('flwr')} has no {which.module}.{name} ({error}), which"
            f" {', '.join(which.users)} of fedrai needs",
            hint=f"pip install 'flwr{VERSIONS}'",
        ) from error


# --- other internals than names -------------------------------------------------------------------


class SameFlower:
    """Interceptor that reports another version of Flower on the other side as an error.

    Flower's own interceptor ends the process, from any thread.
    """

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        """Pass a request on.

        Raises:
            FederationError: the other side refuses this version of Flower.
        """
        error_of, codes = internal("FlowerError").from_json, internal("ApiErrorCode")
        response = call_next(context)
        error = error_of(response.text) if response.is_error else None
        if error is not None and error.code == codes.RUNTIME_VERSION_INCOMPATIBLE:
            raise FederationError(
                f"{response.request.url.netloc.decode()} runs another version of Flower than this"
                f" process, which has {version('flwr')}",
                hint="after an upgrade restart the SuperLink: `fedrai deploy start`",
            )
        return response


def version_interceptors() -> list[Any]:
    """The first interceptors of our clients: each side states its version of Flower."""
    return [internal("RuntimeVersionHttpInterceptor")(component_name="fedrai"), SameFlower()]


def set_retry_policy(caller: Any, retry: Any) -> None:
    """Set how a client or Grid of Flower's repeats requests; None: not at all."""
    caller._retry_invoker = retry


def set_task_identity(task: int, run: int, node: int) -> None:
    """Set the task of this process; Flower puts these numbers into new messages."""
    identity = internal("TaskIdentity")
    identity.task_id, identity.run_id, identity.node_id = task, run, node


def set_message_id(message: Any, id_: str) -> None:
    """Give a message its id, as a SuperLink does."""
    message.metadata.__dict__["_message_id"] = id_


def bundle(files: Mapping[str, bytes]) -> bytes:
    """An app bundle of these files by their paths."""
    build = internal("build_fab_from_files")
    with warnings.catch_warnings():  # Flower uses a deprecated name of pathspec
        warnings.simplefilter("ignore", DeprecationWarning)
        return bytes(build(dict(files))[0])


def install_middleware(middleware: Callable[[], tuple[Middleware, ...]]) -> None:
    """Put middleware in front of every SuperLink that this process creates."""
    import_module("flwr.superlink.extensions").get_middleware = middleware  # type: ignore[attr-defined]
