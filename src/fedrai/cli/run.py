"""`fedrai run`: start a run or resume one, in this process or on a deployment."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedrai.cli.options import PATH, as_record, json_option, override_option, resume_options
from fedrai.cli.output import print_json, with_resume_hint

if TYPE_CHECKING:
    from fedrai.federation.run.running import Engine
    from fedrai.recipe.sections import Recipe

ENGINES = ("local", "flower", "simulation")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run, and where."""

    recipe_file: Path | None
    out: Path | None
    resume: Path | None
    moved: tuple[str, ...]
    engine: str
    deployment: Path | None
    overrides: tuple[str, ...]

    def check(self) -> None:
        """Refuse options that do not go together."""
        if self.recipe_file is None and self.resume is None:
            raise click.UsageError("give a RECIPE, or --resume FOLDER")
        if self.recipe_file is not None and self.resume is not None:
            raise click.UsageError(
                "give a RECIPE or --resume FOLDER, not both: a run keeps its recipe"
            )
        if self.resume is not None and (self.overrides or self.out):
            raise click.UsageError(
                "--resume takes its recipe and folder from the run; drop -o and --out"
            )
        if (self.engine == "flower") != (self.deployment is not None):
            raise click.UsageError("--engine flower and --deployment FOLDER go together")
        if self.moved and self.resume is None:
            raise click.UsageError("--moved goes with --resume; a new run takes -o KEY=VALUE")

    def resume_command(self, path: Path) -> str:
        """The command that resumes the run."""
        words = ["fedrai", "run", "--resume", str(path)]
        words += ["--engine", self.engine] if self.engine != "local" else []
        words += ["--deployment", str(self.deployment)] if self.deployment is not None else []
        return shlex.join([*words, *(word for pair in self.moved for word in ("--moved", pair))])


@click.command("run")
@as_record(
    "options", RunOptions,
    click.argument("recipe_file", metavar="[RECIPE]", required=False, type=PATH),
    click.option("--out", type=PATH, help="Run folder (default: runs/NAME)."),
    resume_options("a run"),
    click.option("--engine", type=click.Choice(ENGINES), default="local", show_default=True,
        help="Where the clients are: in this process, on a deployment's nodes, or in Flower's"
        " simulation."),
    click.option("--deployment", type=PATH, metavar="FOLDER",
        help="For --engine flower: the server's folder, made by `fedrai deploy init`."),
    override_option(),
)  # fmt: skip
@json_option
def run_command(options: RunOptions, as_json: bool) -> None:
    """Train a federation as RECIPE says, or resume a run."""
    options.check()
    from fedrai import recipe

    file = options.recipe_file
    settings = recipe.load(file, options.overrides) if file is not None else None
    path = options.resume or options.out or Path("runs") / (settings.name if settings else "run")
    with_resume_hint(
        lambda: _start(settings, path, options),
        options.resume_command(path),
        (path / "run.json").is_file,
    )
    _show_run(path, as_json)


def _start(settings: Recipe | None, path: Path, options: RunOptions) -> None:
    from fedrai.cli.show.display import Display
    from fedrai.federation.run import running
    from fedrai.federation.run.moved_files import parse

    engine = _engine(options.engine, options.deployment)
    with Display() as display:
        if settings is None:
            places = parse(options.moved)
            running.resume(path, engine=engine, places=places, observer=display)
        else:
            running.run(settings, path, engine=engine, observer=display)


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

    server = settings.read(folder)
    return FlowerEngine(
        link_to(str(server.address), server.root_certificate, server.insecure, server.secret),
        None if server.insecure else server.folder / "nodes",
    )


def _show_run(path: Path, as_json: bool) -> None:
    from fedrai.runs import RunFolder
    from fedrai.runs.record import summarise

    summary = summarise(RunFolder.open(path))
    if as_json:
        print_json(summary.to_json())
        return
    from fedrai.cli.show.summary import ends, filter_note, rows_notes
    from fedrai.cli.show.tables import print_comparison, print_suites

    print_comparison([(f"after round {summary.rounds}", summary)])
    print_suites(ends(summary))
    for line in ([filter_note(summary)] if summary.filter else []) + rows_notes(summary):
        click.echo(line)
    click.echo(
        f"run: {path}\n  talk to it:  fedrai chat {path}\n  release it:  fedrai release {path}"
    )
