"""The command line of `fedrai report`. No logic, no heavy import."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument(
    "folders", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
    help="HTML file to write (default: report.html in RUN, or here for several).")  # fmt: skip
@click.option("--transcripts", default=0, metavar="N", type=click.IntRange(0),
    help="Show N answers to red-team requests of each suite and run.")  # fmt: skip
@click.option("--open", "opened", is_flag=True, help="Open it in the browser.")
def report(folders: tuple[Path, ...], out: Path | None, transcripts: int, opened: bool) -> None:
    """Write one HTML file that shows runs, to read offline.

    RUN: a run folder, several, or the folder of `fedrai compare`.
    """
    from fedrai.report import build

    default = folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
    written = build(folders, out or default, transcripts=transcripts)
    click.echo(f"report: {written}")
    if opened:
        click.launch(str(written))
