"""`fedrai export`: write a run's adapter or merged model for use elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from fedrai.cli.options import PATH, ModelOptions, model_options


@click.command("export")
@click.argument("run_folder", metavar="RUN", type=PATH)
@click.option("--out", type=PATH, help="Folder (default: RUN-adapter, or RUN-unreleased-adapter).")
@click.option("--merged", is_flag=True, help="The whole model with the adapter merged in.")
@model_options
@click.option("--licence", default="", metavar="ID",
    help="For the card, e.g. apache-2.0 (default: the base model's, if known).")  # fmt: skip
@click.option("--unreleased", is_flag=True,
    help="Hand out the model of a run that has not passed the gate (fedrai release).")  # fmt: skip
@click.option("--with-base", is_flag=True,
    help="Copy the base model into base/ beside the adapter, for use offline.")  # fmt: skip
def export(
    run_folder: Path,
    out: Path | None,
    merged: bool,
    model: ModelOptions,
    licence: str,
    unreleased: bool,
    with_base: bool,
) -> None:
    """Write the adapter of a run, or `fedrai:aligned`, as a PEFT folder; or the merged model.

    A run's model needs --unreleased, which its card and a file beside it say; `fedrai release`
    hands out one that has passed the gate.

    With it goes README.md, a model card for the hub: figures, costs and warnings from the run.
    """
    from fedrai.release.export import ExportOptions
    from fedrai.release.export import export as write_export

    if merged and with_base:
        raise click.UsageError("give --merged or --with-base: a merged model needs no base model")
    kind = "merged" if merged else "adapter"
    source = run_folder if run_folder.name not in ("", "..") else run_folder.resolve()
    source = source.with_name(source.name.removeprefix("fedrai:"))
    mark = "unreleased-" if unreleased else ""
    folder = out or source.with_name(f"{source.name}-{mark}{kind}")
    options = ExportOptions(
        merged, model.number, model.client, licence, model.base, with_base,
        "unreleased" if unreleased else "",
    )  # fmt: skip
    write_export(run_folder, folder, options)
    click.echo(f"{kind}: {folder}")
