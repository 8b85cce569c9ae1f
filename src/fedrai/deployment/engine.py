"""A run on a SuperLink and its SuperNodes: `fedrai run --engine flower`, on the server's machine.

The command starts a run over Flower's Control API and is that run's ServerApp itself: it acquires
the task (with the secret of `flower-superlink --isolation process`), and the round loop reaches the
nodes through Flower's Grid. So run folder, display, Ctrl-C and resuming work as with the local
engine. The app bundle that Flower requires contains a name and no code.

If the command is killed, Flower gives its run up after a minute; `fedrai run --resume` starts a new
one from the run folder, on the same deployment. Replies to the old run are lost.
"""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import httpx
from flwr.serverapp import Grid

from fedrai import __version__, assets
from fedrai.deployment.careful_grid import CarefulGrid
from fedrai.deployment.link import (
    Link,
    acquire,
    finish,
    heartbeat,
    retries,
    runtime_client,
    wait_for,
)
from fedrai.deployment.offer import make_offer
from fedrai.errors import FederationError
from fedrai.federation.clients import Clients, LateReplies
from fedrai.federation.flower_internals import (
    ControlHttpClient,
    Fab,
    PullTaskInputRequest,
    StartRunRequest,
    StopRunRequest,
    SubStatus,
    TaskType,
    bundle,
    fab_to_proto,
    run_from_proto,
    set_retry_policy,
    set_task_identity,
    version_interceptors,
)
from fedrai.federation.privacy.ledger import Releases
from fedrai.federation.run import preparation, private, rounds
from fedrai.federation.run.proof import keys_in
from fedrai.federation.run.roster import Roster
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder

TRIES = 5  # runs to start until one's task is ours, if Flower has its own executor
CLAIM = 5.0  # seconds until a new run's task appears
APP = f"""\
[project]
name = "fedrai-run"
version = "{__version__}"
description = "A FedRAI run; its code is the installed fedrai package."
license = {{ text = "Apache-2.0" }}
dependencies = []
[tool.flwr.app]
publisher = "fedrai"
[tool.flwr.app.components]
serverapp = "fedrai.deployment.app:server_app"
clientapp = "fedrai.deployment.app:client_app"
"""


@dataclass(frozen=True, slots=True)
class FlowerEngine:
    """Runs on a deployment; the same calls as `federation.run.local`.

    Attributes:
        link: the SuperLink.
        nodes: the folder of the nodes' public keys, `NAME.pub`; None: names are not verified.
    """

    link: Link
    nodes: Path | None = None
    ENGINE: ClassVar[str] = "flower"

    def prepare(
        self, recipe: Recipe, progress: assets.Progress | None, loaded: LanguageModel | None, _: Any
    ) -> preparation.PreparedRun:
        """Load and check what the server needs; the rows stay on the nodes.

        Raises:
            RecipeError: nodes cannot run the recipe.
            FedRAIError: something cannot be used.
        """
        make_offer(recipe, "")
        return rounds.prepare_server(recipe, progress, loaded)

    def execute(
        self, prepared: preparation.PreparedRun, run: RunFolder, callbacks: preparation.Callbacks
    ) -> None:
        """Run the rounds that the run folder does not hold yet.

        Raises:
            FederationError: the SuperLink does not answer or stops the run, too few nodes are
                present, or a round has too few usable updates.
        """
        with server_app(self.link) as grid:
            run_on_grid(grid, prepared, run, callbacks, self.nodes)


def run_on_grid(
    grid: Grid,
    prepared: preparation.PreparedRun,
    run: RunFolder,
    callbacks: preparation.Callbacks,
    nodes: Path | None = None,
) -> None:
    """Run the rounds through a Grid whose clients are on other machines.

    Args:
        grid: reaches the nodes.
        prepared: what the server needs.
        run: the run folder.
        callbacks: told of everything.
        nodes: the folder of the nodes' public keys; None: names are not verified.

    Raises:
        FederationError: too few nodes are present, or a round has too few usable updates.
    """
    recipe = prepared.recipe
    emit = rounds.recorder(run, callbacks)
    if nodes is None:
        emit("names-unproven")
    key_of = None if nodes is None else keys_in(nodes)
    roster = Roster(grid, emit, recipe.federation.round_timeout, key_of)
    roster.wait(recipe.federation.clients, recipe.federation.min_clients)
    rounds.execute(
        prepared,
        run,
        callbacks,
        Clients(
            grid=grid,
            nodes=lambda _: roster.present(recipe.federation.min_clients),
            offer=make_offer(
                recipe, prepared.model.fingerprint, _identity(run), _multiplier(prepared, run)
            ),
            late=LateReplies(grid),
        ),
    )


def _multiplier(prepared: preparation.PreparedRun, run: RunFolder) -> float:
    """The noise multiplier of a run; 0: it has no noise."""
    if not prepared.recipe.privacy.active:
        return 0.0
    return private.multiplier_of(prepared, Releases(run.path / private.RELEASES))


def _identity(run: RunFolder) -> str:
    """Names a run among all, and stays when it is resumed."""
    return f"{run.info['recipe_hash']} {run.info['created']}"


@contextmanager
def server_app(link: Link) -> Iterator[Grid]:
    """Start a run on a SuperLink and act as its ServerApp within the block.

    Raises:
        FederationError: the SuperLink cannot be reached, does not give the run's task to this
            process, or stops the run.
    """
    with reachable(link):
        token = _start_run(link)
        client = runtime_client(link, token)
        grid = _grid(link, client, token)
        status, lost = SubStatus.FAILED, threading.Event()
        try:
            with heartbeat(client, partial(_interrupt, lost)):
                yield grid
            status = SubStatus.COMPLETED
        except KeyboardInterrupt:
            status = SubStatus.STOPPED
            if lost.is_set():
                raise _stopped_error(link) from None
            raise
        finally:
            finish(client, None, status)
            grid.close()
            client.close()


def _interrupt(lost: threading.Event) -> None:
    """Stop the round loop, which may be waiting, from the heartbeat's thread."""
    lost.set()
    signal.raise_signal(signal.SIGINT)


def _stopped_error(link: Link) -> FederationError:
    return FederationError(
        f"the SuperLink at {link.address} no longer knows the run",
        hint="it was stopped there, or the SuperLink lost its state; resume it with --resume",
    )


@contextmanager
def reachable(link: Link) -> Iterator[None]:
    """Turn connection errors within the block into errors with advice.

    Raises:
        FederationError: the SuperLink does not answer, or refuses.
    """
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise FederationError(
            f"the SuperLink at {link.address} refuses ({error.response.status_code})",
            hint="run this on the SuperLink's machine, with this deployment's secret",
        ) from None
    except httpx.TransportError as error:
        raise FederationError(
            f"cannot reach the SuperLink at {link.address} ({type(error).__name__})",
            hint="is it running, with this root certificate? see `fedrai deploy check`",
        ) from None


def _start_run(link: Link) -> str:
    """Start a run and acquire its task; return the task's token."""
    control, runtime = control_client(link), runtime_client(link)
    try:
        for _ in range(TRIES):
            run_id = _start(control)
            if token := wait_for(partial(_own_task, link, runtime, run_id), CLAIM, 0.1):
                return str(token)
            control.StopRun(StopRunRequest(run_id=run_id))
    finally:
        control.close()
        runtime.close()
    raise FederationError(
        f"the SuperLink at {link.address} gives its tasks to another process",
        hint="start it with --isolation process and this deployment's secret",
    )


def _own_task(link: Link, client: Any, run_id: int) -> str | None:
    """The token of our run's task; a task of another run is ended."""
    acquired = acquire(client, TaskType.SERVER_APP)
    if acquired is None:
        return None
    task, token = acquired
    if task.run_id == run_id:
        return str(token)
    other = runtime_client(link, token)
    finish(other, None, SubStatus.FAILED, "not started by FedRAI")
    other.close()
    return None


def _start(control: Any) -> int:
    content = bundle({"pyproject.toml": APP.encode()})
    fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
    return int(control.StartRun(StartRunRequest(fab=fab_to_proto(fab))).run_id)


def control_client(link: Link) -> Any:
    """A client of the Control API, which starts runs and registers nodes."""
    return ControlHttpClient.from_server_address(
        server_address=link.address,
        insecure=link.insecure,
        root_certificates=link.root_certificate,
        interceptors=version_interceptors(),
        retry_invoker=retries(10.0),
    )


def _grid(link: Link, client: Any, token: str) -> Any:
    """Flower's Grid for the task, which repeats requests as our clients do."""
    task = client.PullTaskInput(PullTaskInputRequest())
    set_task_identity(task.task_id, task.run.run_id, task.context.node_id)
    grid = CarefulGrid(link.address, link.insecure, link.root_certificate, token=token)
    set_retry_policy(grid, retries())
    grid.set_run(run_from_proto(task.run))
    return grid
