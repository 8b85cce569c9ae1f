"""`fedrai report`: one HTML file that shows runs."""

from __future__ import annotations

from pathlib import Path

import click

from fedrai.cli.options import FILE, PATH


@click.command("report")
@click.argument("folders", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("--out", type=FILE,
    help="HTML file to write (default: report.html in RUN, or here for several).")  # fmt: skip
@click.option("--transcripts", default=0, metavar="N", type=click.IntRange(0),
    help="Show N answers to red-team requests of each suite and run.")  # fmt: skip
@click.option("--open", "launch", is_flag=True, help="Open it in the browser.")
def report(folders: tuple[Path, ...], out: Path | None, transcripts: int, launch: bool) -> None:
    """Write one HTML file that shows runs, to read offline.

    RUN: a run folder, several, or the folder of `fedrai compare`.
    """
    from fedrai.report import build

    default = folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
    written = build(folders, out or default, transcripts=transcripts)
    click.echo(f"report: {written}")
    if launch:
        click.launch(str(written))
