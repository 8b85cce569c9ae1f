"""The Flower App of the package, for Flower's own launchers: `server_app` and `client_app`.

`fedrai run` and `fedrai node` do not need it: they are their own executors (`engine.py`,
`worker.py`). A plain `flower-supernode --node-config 'config="/path/node.toml"'` starts it in a new
process for every message, and `flwr run` starts it on a SuperLink. The run's configuration has the
recipe and the run folder as paths of the server's machine:

    flwr run . -c 'recipe="/srv/consortium.toml" out="/srv/runs/first"'

With `nodes="/srv/consortium/server/nodes"` in it, and `key="/path/node.key"` in a node's
configuration, nodes prove their names with their keys; otherwise the run says that names are not
verified.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedrai import recipe, runs
from fedrai.deployment import engine
from fedrai.deployment.node import NodeApp
from fedrai.deployment.offer import make_offer
from fedrai.errors import RecipeError
from fedrai.federation import protocol
from fedrai.federation.client import describe
from fedrai.federation.protocol import Reason
from fedrai.federation.run import damage, moved_files, preparation, resuming, rounds
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder

server_app = ServerApp()
client_app = ClientApp()


@server_app.main()  # type: ignore[untyped-decorator]
def _serve(grid: Grid, context: Context) -> None:
    """Start the run that the configuration names, or resume it."""
    out = Path(_path(context, "out"))
    nodes = Path(_path(context, "nodes")) if "nodes" in context.run_config else None
    if (out / "run.json").is_file():
        _resume(grid, damage.open_run(out), nodes)
        return
    settings = recipe.load(Path(_path(context, "recipe")))
    runs.check_free(out)
    prepared = _prepare(settings)
    folder = RunFolder.create(out, recipe.to_toml(settings), prepared.info())
    with folder.lock():
        folder.event("started")
        _execute(grid, prepared, folder, nodes)


def _resume(grid: Grid, folder: RunFolder, nodes: Path | None) -> None:
    """Resume as `fedrai run --resume` does: only if nothing has changed."""
    resuming.check_engine(folder, engine.FlowerEngine.ENGINE)
    with folder.lock():
        damage.repair(folder)
        if folder.is_finished():
            print(f"{folder.path} is finished; there is nothing to resume", flush=True)
            return
        prepared = _prepare(moved_files.settings_of(folder))
        folder.repair()
        resuming.check_unchanged(folder, resuming.info_of(folder, prepared))
        folder.event("resumed", after_round=folder.last_round())
        _execute(grid, prepared, folder, nodes)


def _prepare(settings: Recipe) -> preparation.PreparedRun:
    make_offer(settings, "")  # refuses what nodes cannot run, before anything is loaded
    return rounds.prepare_server(settings)


def _execute(
    grid: Grid, prepared: preparation.PreparedRun, folder: RunFolder, nodes: Path | None
) -> None:
    callbacks = preparation.Callbacks(lambda kind, **_: resuming.update_summary(folder, kind))
    engine.run_on_grid(grid, prepared, folder, callbacks, nodes)


def _path(context: Context, key: str) -> str:
    value = context.run_config.get(key)
    if not isinstance(value, str) or not value.startswith("/"):
        raise RecipeError(f"{key} in the run's configuration must be an absolute path")
    return value


@client_app.query()  # type: ignore[untyped-decorator]
def _query(message: Message, context: Context) -> Message:
    return _answer(message, context)


@client_app.train()  # type: ignore[untyped-decorator]
def _train(message: Message, context: Context) -> Message:
    return _answer(message, context)


def _answer(message: Message, context: Context) -> Message:
    """The answer of this process's node; a refusal if its file cannot be used."""
    try:
        key = str(context.node_config.get("key", ""))
        return _node(str(context.node_config["config"]), key).app(message, context)
    except Exception as error:
        print(f"fedrai: {describe(error)}", flush=True)
        return Message(protocol.pack_reason(Reason.FAILED), reply_to=message)


@lru_cache(maxsize=1)
def _node(file: str, key: str) -> NodeApp:
    return NodeApp(Path(file), key=Path(key) if key else None)
