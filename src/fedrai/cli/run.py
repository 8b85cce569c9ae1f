"""`fedrai run`: start a run, or go on with one, in this process or on a deployment."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fedrai.federation.run.running import Engine
    from fedrai.recipe.sections import Recipe

ENGINES = ("local", "flower", "simulation")


@click.command("run")
@click.argument("recipe_file", metavar="[RECIPE]", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Run folder (default: runs/NAME).")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with a run.")
@click.option(
    "--moved", multiple=True, metavar="OLD=NEW",
    help="With --resume: a file or folder of the recipe lies, unchanged, at NEW now; repeatable.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(ENGINES), default="local", show_default=True,
    help="Where clients are: in this process, on a deployment's nodes, or in Flower's simulation.",
)  # fmt: skip
@click.option(
    "--deployment", type=click.Path(path_type=Path), metavar="FOLDER",
    help="For --engine flower: the server's folder of `fedrai deploy init`.",
)  # fmt: skip
@click.option(
    "-o", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Set a key, e.g. federation.rounds=3.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def run_command(
    recipe_file: Path | None,
    out: Path | None,
    resume: Path | None,
    moved: tuple[str, ...],
    engine: str,
    deployment: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train a federation as RECIPE says, or go on with a run."""
    _check(recipe_file, out, resume, engine, deployment, overrides)
    if moved and resume is None:
        raise click.UsageError("--moved goes with --resume; a new run takes -o KEY=VALUE")
    from fedrai import recipe
    from fedrai.cli.interruption import with_resume_hint

    settings = recipe.load(recipe_file, overrides) if recipe_file is not None else None
    path = resume or out or Path("runs") / (settings.name if settings else "run")
    words = ["fedrai", "run", "--resume", str(path)]
    words += ["--engine", engine] if engine != "local" else []
    words += ["--deployment", str(deployment)] if deployment is not None else []
    words += [word for pair in moved for word in ("--moved", pair)]
    with_resume_hint(
        lambda: _start(settings, path, engine, deployment, moved),
        shlex.join(words),
        (path / "run.json").is_file,
    )
    _show_run(path, as_json)


def _check(
    recipe_file: Path | None,
    out: Path | None,
    resume: Path | None,
    engine: str,
    deployment: Path | None,
    overrides: tuple[str, ...],
) -> None:
    if recipe_file is None and resume is None:
        raise click.UsageError("give a RECIPE, or --resume DIR")
    if recipe_file is not None and resume is not None:
        raise click.UsageError("give a RECIPE or --resume DIR, not both: a run keeps its recipe")
    if resume is not None and (overrides or out):
        raise click.UsageError(
            "--resume takes its recipe and folder from the run; drop -o and --out"
        )
    if (engine == "flower") != (deployment is not None):
        raise click.UsageError("--engine flower and --deployment FOLDER go together")


def _start(
    settings: Recipe | None,
    path: Path,
    engine: str,
    deployment: Path | None,
    moved: tuple[str, ...],
) -> None:
    from fedrai.cli.show.display import Display
    from fedrai.federation.run import running
    from fedrai.federation.run.moved_files import parse

    chosen = _engine(engine, deployment)
    with Display() as display:
        if settings is None:
            places = parse(moved)
            running.resume(path, engine=chosen, places=places, observer=display)
        else:
            running.run(settings, path, engine=chosen, observer=display)


def _engine(name: str, folder: Path | None) -> Engine:
    if name == "simulation":
        from fedrai.federation.run.simulation import SimulationEngine

        return SimulationEngine()
    if folder is None:
        from fedrai.federation.run import local

        return local
    from fedrai.deployment.engine import FlowerEngine
    from fedrai.deployment.link import link_to
    from fedrai.deployment.setup import settings

    here = settings.read(folder)
    return FlowerEngine(
        link_to(str(here.address), here.root_certificate, here.insecure, here.secret),
        None if here.insecure else here.folder / "nodes",
    )


def _show_run(path: Path, as_json: bool) -> None:
    from fedrai.cli.show.summary import ends, filter_note, rows_notes
    from fedrai.runs import RunFolder
    from fedrai.runs.record import summarise

    summary = summarise(RunFolder.open(path))
    if as_json:
        click.echo(json.dumps(summary.to_json(), indent=2))
        return
    from fedrai.cli.show.display import print_comparison, print_suites

    print_comparison([(f"after round {summary.rounds}", summary)])
    print_suites(ends(summary))
    if summary.filter:
        click.echo(filter_note(summary))
    for line in rows_notes(summary):
        click.echo(line)
    click.echo(
        f"run: {path}\n  talk to it:  fedrai chat {path}\n  export it:   fedrai export {path}"
    )
