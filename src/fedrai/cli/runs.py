"""`fedrai runs`: list runs with their key figures."""

from __future__ import annotations

from pathlib import Path

import click

from fedrai.cli.options import PATH, json_option
from fedrai.cli.output import print_json, warn
from fedrai.errors import FedRAIError


@click.command("runs")
@click.argument("folder", default="runs", type=PATH)
@json_option
def runs_command(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER with their key figures."""
    from fedrai.runs import find_runs
    from fedrai.runs.record import summarise

    summaries, damaged = {}, False
    for run in find_runs(folder):
        try:
            summaries[str(run.path)] = summarise(run)
        except FedRAIError as error:  # one damaged run hides no other
            damaged = True
            warn(f"not listed: {error.message}")
    if as_json:
        print_json({path: summary.to_json() for path, summary in summaries.items()})
    elif summaries:
        from fedrai.cli.show.summary import LIST_COLUMNS, LIST_WORDS, list_row
        from fedrai.cli.show.tables import print_table, print_unproven

        rows = [[path, *list_row(summary)] for path, summary in summaries.items()]
        print_table(LIST_COLUMNS, rows, words=LIST_WORDS)
        print_unproven(list(summaries.values()))
    elif not damaged:
        click.echo(f"no runs in {folder}; start one with: fedrai run quickstart")
