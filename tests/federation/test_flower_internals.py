"""What the package leans on in Flower's private modules, held against the Flower installed.

A failure here names what a release of Flower changed, and what of ours uses it; mend that first, in
`fedrai.federation.flower_internals`, and the failures elsewhere go with it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.serverapp import strategy

import flower_parts
from fedrai.deployment.setup.settings import OFF
from fedrai.deployment.supernode import REASONS, Connection, supernode_command
from fedrai.errors import DependencyError
from fedrai.federation import flower_internals
from fedrai.federation.aggregation import MOMENTS, VECTOR
from fedrai.federation.flower_internals import INTERNALS, PUBLIC, internal
from fedrai.federation.run import simulation

ROOT = Path(__file__).parents[2]
PACKAGE = "fedrai."


def flower(name: str) -> Any:
    """A part of Flower by its name in one of the two tables."""
    return internal(name, INTERNALS if name in INTERNALS else flower_parts.INTERNALS)


def source_of(module: str) -> str:
    return inspect.getsource(importlib.import_module(module))


# --- every use that is more than a name -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Use:
    """Something that Flower must do.

    Attributes:
        what: in words.
        users: what of ours needs it.
        holds: True if it still does; False or an error if not.
    """

    what: str
    users: str
    holds: Callable[[], object]


def call(name: str, users: str, *arguments: Any, **named: Any) -> Use:
    """A function or class of Flower's takes these arguments."""

    def holds() -> bool:
        inspect.signature(flower(name)).bind(*arguments, **named)
        return True

    words = [repr(a) for a in arguments] + [f"{key}=" for key in named]
    return Use(f"{name}({', '.join(words)})", users, holds)


def fields(name: str, users: str, *wanted: str) -> Use:
    """A message of Flower's has these fields."""
    found = lambda: set(wanted) <= set(flower(name).DESCRIPTOR.fields_by_name)  # noqa: E731
    return Use(f"{name} with {', '.join(wanted)}", users, found)


def answer(name: str, method: str, users: str, *wanted: str) -> Use:
    """A client of Flower's has a method, whose answer has these fields."""

    def holds() -> bool:
        module = importlib.import_module(flower_internals.RUNTIME_PB)
        if name == "ControlHttpClient":
            module = importlib.import_module(flower_internals.CONTROL_PB)
        made = getattr(module, f"{method}Response").DESCRIPTOR.fields_by_name
        return callable(getattr(flower(name), method)) and set(wanted) <= set(made)

    return Use(f"{name}.{method} with {', '.join(wanted) or 'any answer'}", users, holds)


def options(users: str, *words: str) -> Use:
    """flower-supernode takes these arguments (flower-superlink: tests/deploy)."""

    def holds() -> bool:
        flower("_parse_args_run_supernode")().parse_args(list(words))
        return True

    return Use(f"flower-supernode {' '.join(words)}", users, holds)


def holding(what: str, users: str) -> Callable[[Callable[[], object]], Use]:
    """Makes a function a use."""
    return lambda holds: Use(what, users, holds)


SUPERNODE = supernode_command(Connection("a:1", Path("ca.pem"), Path("k")), 9094, Path("s"))[1:]
CLIENT = {
    "server_address": "a:1", "insecure": True, "root_certificates": None, "interceptors": [],
    "retry_invoker": None,
}  # fmt: skip


@holding("RetryInvoker repeats what is no final error, and stops at one", "deployment.link.retries")
def repeats() -> bool:
    tries: list[int] = []

    def send() -> int:
        tries.append(1)
        raise OSError if len(tries) < 3 else ValueError

    retry = flower("RetryInvoker")(
        lambda: flower("exponential")(max_delay=0.0), (OSError, ValueError), max_tries=None,
        max_time=10.0, should_giveup=lambda error: isinstance(error, ValueError),
    )  # fmt: skip
    with pytest.raises(ValueError):  # noqa: PT011
        retry.invoke(send)
    return len(tries) == 3


@holding("clients and HttpGrid keep their RetryInvoker as _retry_invoker", "set_retry_policy")
def retries() -> bool:
    clients = [flower(f"{kind}HttpClient").from_server_address(**CLIENT)
               for kind in ("Runtime", "Control")]  # fmt: skip
    grid = flower("HttpGrid")("a:1", True, None, token="t")
    return all("_retry_invoker" in vars(thing) for thing in (*clients, grid))


@holding(
    "HttpGrid.pull_messages asks for one id as for many", "deployment.careful_grid.CarefulGrid"
)
def pulls() -> bool:
    asked: list[list[str]] = []

    class Runtime:
        def PullMessages(self, request: Any) -> Any:
            asked.append(list(request.message_ids))
            return flower("PullAppMessagesResponse")()

    grid = flower("HttpGrid")("a:1", True, None, token="t")
    grid.set_run(flower("Run").create_empty(7))
    grid._client = Runtime()
    return list(grid.pull_messages(["m"])) == [] and asked == [["m"]] and grid.run.run_id == 7


@holding(
    "a new message gets its numbers from TaskIdentity",
    "federation.flower_internals.set_task_identity",
)
def numbers() -> bool:
    flower_internals.set_task_identity(3, 5, 9)
    metadata = Message(RecordDict(), 11, "train").metadata
    return (metadata.run_id, metadata.src_node_id, metadata.dst_node_id) == (5, 9, 11)


@holding(
    "a message's id is _message_id of its metadata", "federation.flower_internals.set_message_id"
)
def ids() -> bool:
    message = Message(RecordDict(), 11, "train")
    flower_internals.set_message_id(message, "m7")
    return message.metadata.message_id == "m7"


@holding("a SuperLink takes its middleware from extensions.get_middleware", "install_middleware")
def middleware() -> bool:
    from starlette.middleware import Middleware

    own = importlib.import_module("flwr.superlink.extensions").get_middleware
    marked = type("Marked", (), {"__init__": lambda self, app: None})
    flower_internals.install_middleware(lambda: (Middleware(marked),))
    try:
        return flower("create_app")().user_middleware[0].cls is marked
    finally:
        flower_internals.install_middleware(lambda: own())


@holding(
    "strategies keep their state and settings where Aggregator looks", "aggregation.Aggregator"
)
def state() -> bool:
    averaging, adaptive, momentum = strategy.FedAvg(), strategy.FedAdam(), strategy.FedAvgM()
    wanted = {"weighted_by_key", "arrayrecord_key"}
    return (
        wanted <= set(vars(averaging))
        and {*MOMENTS, "current_arrays"} <= set(vars(adaptive))
        and {VECTOR, "current_arrays"} <= set(vars(momentum))
    )


@holding("API errors are JSON with code and detail", "deployment.registering._register")
def errors() -> bool:
    error = flower("FlowerError").from_json('{"code": 23, "detail": "x"}')
    return bool(error.code == flower("ApiErrorCode").PUBLIC_KEY_ALREADY_IN_USE)


@holding("an unknown key's code is 2004, printed as [code: 2004]", "deployment.supernode.REASONS")
def code() -> bool:
    printed = "[code: {flower_error.code}]" in source_of("flwr.supernode.fleet_http_connection")
    number = int(flower("ApiErrorCode").FLEET_NODE_ACTIVATION_FAILED)
    return printed and f"[code: {number}]" in REASONS


@holding(
    "what the secret signs is called /flwr.proto.Runtime/AcquireTask", "deployment.link.ACQUIRE"
)
def acquiring() -> bool:
    from fedrai.deployment.link import ACQUIRE

    return all(f'"{name}"' in source_of("flwr.supercore.runtime.runtime_http_client")
               for name in ACQUIRE)  # fmt: skip


@holding(
    "run_simulation says that it is DEPRECATED, and takes apps",
    "federation.run.simulation.SimulationEngine",
)
def simulating() -> bool:
    from flwr.simulation import run_simulation

    inspect.signature(run_simulation).bind(None, simulation.app, num_supernodes=2)
    return "DEPRECATED" in source_of("flwr.supercore.logger")


@holding(f"Flower reads {', '.join(name for name in OFF if 'FLWR' in name)}", "settings.OFF")
def switches() -> bool:
    read = {
        "FLWR_TELEMETRY_ENABLED": "flwr.supercore.telemetry",
        "FLWR_DISABLE_UPDATE_CHECK": "flwr.supercore.update_check",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "flwr.superlink.cli.flower_superlink",
        "FLWR_HOME": "flwr.supercore.utils",
    }
    return {name for name in OFF if "FLWR" in name} < set(read) and all(
        name in source_of(module) for name, module in read.items()
    )


@holding("a SuperNode prints its SuperNode ID", "tests/helpers/flower_cluster.py")
def printed_id() -> bool:
    return "SuperNode ID" in source_of("flwr.supernode.start_client_internal")


USES = [
    call("HttpGrid", "deployment.careful_grid.CarefulGrid", "a:1", True, None, token="t"),
    call("RetryInvoker", "deployment.link.retries", None, (), max_tries=None, max_time=1.0,
         should_giveup=None),
    call("exponential", "deployment.link.retries", max_delay=5),
    call("RuntimeTokenHttpInterceptor", "deployment.link.runtime_client", "token"),
    call("RuntimeVersionHttpInterceptor", "version_interceptors", component_name="fedrai"),
    call("SuperExecAuthHttpInterceptor", "deployment.link.runtime_client", master_secret=b"",
         protected_methods=()),
    call("pull_task_input", "deployment.worker._task_input", "client"),
    call("push_message", "deployment.worker._do", "client", "reply", "context"),
    call("context_to_proto", "deployment.worker._do", "context"),
    call("build_fab_from_files", "federation.flower_internals.bundle", {}),
    call("Fab", "deployment.engine._start", "digest", b"content", {}),
    call("fab_to_proto", "deployment.engine._start", "fab"),
    call("run_from_proto", "deployment.engine._grid", "run"),
    call("flower_superlink", "deployment.superlink.main"),
    fields("AcquireTaskRequest", "deployment.link.acquire", "supported_task_types"),
    fields("PushTaskOutputRequest", "deployment.link.finish", "context", "sub_status", "details"),
    fields("StartRunRequest", "deployment.engine._start", "fab"),
    fields("StopRunRequest", "deployment.engine._start_run", "run_id"),
    fields("RegisterNodeRequest", "deployment.registering._register", "public_key", "name"),
    answer("RuntimeHttpClient", "AcquireTask", "deployment.link.acquire", "task", "token"),
    answer("RuntimeHttpClient", "PushTaskOutput", "deployment.link.finish"),
    answer("RuntimeHttpClient", "SendTaskHeartbeat", "deployment.link._alive", "success"),
    answer("RuntimeHttpClient", "PullTaskInput", "deployment.engine._grid",
           "task_id", "run", "context"),
    answer("ControlHttpClient", "StartRun", "deployment.engine._start", "run_id"),
    answer("ControlHttpClient", "StopRun", "deployment.engine._start_run"),
    answer("ControlHttpClient", "RegisterNode", "deployment.registering._register", "node_id"),
    answer("ControlHttpClient", "ListNodes", "benchmarks/cable_cut.py", "nodes_info"),
    options("deployment.supernode.supernode_command", *SUPERNODE),
    options("docs/deployment.md", "--node-config", "x"),
    repeats, retries, pulls, numbers, ids, middleware, state, errors, code, acquiring, simulating,
    switches, printed_id,
]  # fmt: skip


def held(what: str, users: str, holds: Callable[[], object]) -> None:
    """Fails in one line with what broke and whom it breaks."""
    said = "it does not"
    try:
        if holds():
            return
    except SystemExit:
        said = "its arguments are refused"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    pytest.fail(f"flwr {version('flwr')}: {what}: {said}. Used by {users}", pytrace=False)


TABLES = [(name, table) for table in (INTERNALS, flower_parts.INTERNALS) for name in table]


@pytest.mark.parametrize(("name", "table"), TABLES, ids=[name for name, _ in TABLES])
def test_flower_has(name: str, table: Any) -> None:
    which = table[name]
    held(
        f"{which.module}.{name}", ", ".join(which.users), lambda: internal(name, table) is not None
    )


@pytest.mark.parametrize("use", USES, ids=lambda use: use.what)
def test_flower_still_does(use: Use) -> None:
    held(use.what, use.users, use.holds)


# --- what a release that breaks something looks like ----------------------------------------------


@pytest.fixture
def grid_module() -> ModuleType:
    return importlib.import_module("flwr.superlink.grid")


def test_a_name_that_is_gone_is_told_with_its_user(
    grid_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(grid_module, "HttpGrid")
    expected = (
        rf"flwr {version('flwr')}: flwr\.superlink\.grid\.HttpGrid: .*careful_grid\.CarefulGrid"
    )
    with pytest.raises(pytest.fail.Exception, match=expected):
        test_flower_has("HttpGrid", INTERNALS)
    with pytest.raises(DependencyError, match=r"which .*CarefulGrid of fedrai") as error:
        _ = flower_internals.HttpGrid
    assert error.value.hint == f"pip install 'flwr{flower_internals.VERSIONS}'"


def test_an_argument_that_is_gone_is_told_with_its_user(
    grid_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_module, "HttpGrid", lambda address, *, secret: None)
    with pytest.raises(
        pytest.fail.Exception, match=r"HttpGrid\('a:1'.*Used by deployment.careful_grid.CarefulGrid"
    ):
        test_flower_still_does(USES[0])


def test_a_module_that_is_gone_is_told_with_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr.supercore.retry", None)
    for name in ("RetryInvoker", "exponential"):
        with pytest.raises(
            pytest.fail.Exception, match=rf"retry\.{name}.*Used by deployment.link.retries"
        ):
            test_flower_has(name, INTERNALS)


# --- the tables are true, and whole ---------------------------------------------------------------


def code_of(user: str) -> str:
    """The source of what a table names as a user."""
    if "/" in user:
        return (ROOT / user).read_text(encoding="utf-8")
    module, _, name = user.rpartition(".")
    return inspect.getsource(getattr(importlib.import_module(PACKAGE + module), name))


@pytest.mark.parametrize(("name", "table"), TABLES, ids=[name for name, _ in TABLES])
def test_users_use_it(name: str, table: Any) -> None:
    for user in table[name].users:
        assert name in code_of(user), user


def private_imports(file: Path) -> Iterator[str]:
    """Modules of Flower's that a file imports and that are not public."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from (n for n in names if n.split(".")[0] == "flwr" and n not in PUBLIC)


def test_nobody_else_imports_from_flowers_private_modules() -> None:
    own = {ROOT / "tests/deployment/short_heartbeats/sitecustomize.py"}  # runs without the package
    for folder in ("src", "tests", "benchmarks"):
        for file in sorted(set((ROOT / folder).rglob("*.py")) - own):
            assert list(private_imports(file)) == [], file.relative_to(ROOT)


def test_reading_the_table_imports_nothing() -> None:
    import subprocess

    code = (
        "import sys, fedrai.federation.flower_internals\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('flwr', 'torch', 'httpx')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
