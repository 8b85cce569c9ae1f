"""A run in Flower's own simulation: `fedrai run --engine simulation`, clients in Ray's processes.

The round loop and the handlers are those of all engines. Flower distributes the clients over
actors, each of which loads the model and the data once. On one small machine the local engine,
which shares one model, is faster and needs less memory. Ray is an optional extra.

Flower 1.42 deprecates `run_simulation` in favour of `flwr run`, which starts a SuperLink and runs
an app from a folder. There is no other public call for apps of this process; the notice is hidden.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedrai import assets
from fedrai.errors import DependencyError
from fedrai.federation import client, protocol
from fedrai.federation.client import respond
from fedrai.federation.clients import Clients, LateReplies
from fedrai.federation.run import local, moved_files, preparation, rounds
from fedrai.federation.run.roster import Roster
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder

FOLDER = "FEDRAI_SIMULATION"  # environment variable with the run folder, for the actors
QUIET = {  # Ray's processes print on this terminal
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}
app = ClientApp()


@dataclass(frozen=True, slots=True)
class SimulationEngine:
    """Runs in Flower's simulation; the same calls as `federation.run.local`."""

    ENGINE: ClassVar[str] = "simulation"

    def prepare(
        self, settings: Recipe, progress: assets.Progress | None, loaded: LanguageModel | None,
        tell: Any,
    ) -> preparation.PreparedRun:  # fmt: skip
        """Prepare as the local engine does, for the server and the filter's record.

        Raises:
            DependencyError: Ray is missing.
            FedRAIError: something cannot be used.
        """
        if importlib.util.find_spec("ray") is None:
            raise DependencyError(
                "--engine simulation needs Ray",
                hint='pip install "fedrai[simulation]", or use --engine local',
            )
        return replace(local.prepare(settings, progress, loaded, tell), engine=self.ENGINE)

    def execute(
        self, prepared: preparation.PreparedRun, run: RunFolder, callbacks: preparation.Callbacks
    ) -> None:
        """Run the rounds that the run folder does not hold yet.

        Raises:
            FederationError: a round has too few usable updates.
            KeyboardInterrupt: raised by a watcher; the folder can be resumed.
        """
        from flwr.simulation import run_simulation

        failed: list[BaseException] = []
        server = ServerApp()

        @server.main()  # type: ignore[untyped-decorator]
        def _serve(grid: Grid, context: Context) -> None:
            try:  # Flower runs this in a thread and hides its errors
                _rounds(grid, prepared, run, callbacks)
            except BaseException as error:
                failed.append(error)

        with _environment(run.path), _without_notice():
            run_simulation(server, app, num_supernodes=prepared.clients)
        if failed:
            raise failed[0]


def _rounds(
    grid: Grid, prepared: preparation.PreparedRun, run: RunFolder, callbacks: preparation.Callbacks
) -> None:
    roster = Roster(grid, rounds.recorder(run, callbacks), 0)
    nodes = roster.wait(prepared.clients, prepared.clients)
    rounds.execute(prepared, run, callbacks, Clients(grid, lambda _: nodes, late=LateReplies(grid)))


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Set the environment that the actors inherit within the block: the run folder and `QUIET`.

    Afterwards it is restored, with PYTHONPATH, which Flower changes.
    """
    before = dict(os.environ)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ[FOLDER] = str(folder.resolve())
    try:
        yield
    finally:
        for name in (FOLDER, *QUIET, "PYTHONPATH"):
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})


@contextmanager
def _without_notice() -> Iterator[None]:
    """Hide Flower's notice that `run_simulation` is deprecated within the block."""

    def other(record: logging.LogRecord) -> bool:
        return not ("DEPRECATED" in str(record.msg) and "run_simulation" in record.getMessage())

    logger = logging.getLogger("flwr")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


@dataclass(frozen=True, slots=True)
class Actor:
    """What one of Ray's processes holds.

    Attributes:
        handlers: the local engine's ClientApp.
        names: names of all clients, sorted.
        site: the clients' rows and logs.
    """

    handlers: ClientApp
    names: tuple[str, ...]
    site: client.Site

    def named(self, context: Context) -> Context:
        """The context with the name of the client that Flower's partition id stands for."""
        name = self.names[int(context.node_config["partition-id"])]
        return Context(
            context.run_id, context.node_id, {"client": name}, context.state, context.run_config
        )


@lru_cache(maxsize=1)
def _actor(folder: str) -> Actor:
    run = RunFolder(Path(folder))
    prepared = local.prepare(moved_files.settings_of(run))
    site = local.site(prepared, run, preparation.Callbacks())
    handlers = local.client_app(prepared, run, preparation.Callbacks())
    return Actor(handlers, tuple(sorted(prepared.rows)), site)


@app.query()  # type: ignore[untyped-decorator]
def _query(message: Message, context: Context) -> Message:
    actor = _actor(os.environ[FOLDER])
    name = str(actor.named(context).node_config["client"])
    return respond(
        message,
        lambda: protocol.pack_name(message.content, name),
        lambda line: actor.site.log(name, line),
    )


@app.train()  # type: ignore[untyped-decorator]
def _train(message: Message, context: Context) -> Message:
    actor = _actor(os.environ[FOLDER])
    return actor.handlers(message, actor.named(context))
