"""The command line of `fedrai export`. No logic, no heavy import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("export")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder (default: RUN-adapter).")
@click.option("--merged", is_flag=True, help="The whole model with the adapter merged in.")
@click.option("--round", "number", type=int, help="Round of the run (default: the last).")
@click.option("--client", default="", help="Whose adapter, for runs in local mode.")
@click.option("--licence", default="", metavar="ID",
    help="For the card, e.g. apache-2.0 (default: the base model's, if known).")  # fmt: skip
@click.option("--base", default="", metavar="MODEL",
    help="Base model of the run or adapter, if it lies elsewhere now.")  # fmt: skip
@click.option("--with-base", is_flag=True,
    help="Copy the base model along, into base/ beside the adapter, for use offline.")  # fmt: skip
def export(run_folder: Path, out: Path | None, **chosen: Any) -> None:
    """Write the adapter of a run, or `fedrai:aligned`, as a PEFT folder; or the merged model.

    With it goes README.md, a model card for the hub: figures, costs and warnings from the run.
    """
    from fedrai.release.export import ExportOptions
    from fedrai.release.export import export as write_export

    options = ExportOptions(**chosen)
    if options.merged and options.with_base:
        raise click.UsageError("give --merged or --with-base: a merged model is whole by itself")
    kind = "merged" if options.merged else "adapter"
    named = run_folder if run_folder.name not in ("", "..") else run_folder.resolve()
    named = named.with_name(named.name.removeprefix("fedrai:"))
    target = out or named.with_name(f"{named.name}-{kind}")
    write_export(run_folder, target, options)
    click.echo(f"{kind}: {target}")
