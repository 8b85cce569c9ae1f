"""Tables on stdout."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import click
from rich.box import HEAVY_HEAD, MARKDOWN
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from fedrai.cli.show.suites import missing, side_by_side
from fedrai.cli.show.summary import ALIGNED_COLUMNS, ALIGNED_NOTE, alignments, comparison
from fedrai.runs.record import Summary
from fedrai.runs.record.evaluations import COLUMNS, NOT_OUTSIDE, has_outside


def print_table(
    columns: list[str],
    rows: list[list[str]],
    title: str = "",
    *,
    words: int = 1,
    framed: bool = True,
) -> None:
    """A table on stdout, as wide as it needs when stdout is no terminal and COLUMNS is not set.

    Nothing is cut: where the width is too small for the longest words, each row becomes a few lines
    of its own.

    Args:
        columns: headings.
        rows: rows with the same number of cells each.
        title: shown above the table.
        words: how many columns at the left are words; the others are numbers.
        framed: with lines around; without, a table that Markdown knows too.
    """
    console = Console(highlight=False)
    table = Table(title=title or None, title_justify="left", box=HEAVY_HEAD if framed else MARKDOWN)
    for number, column in enumerate(columns):
        first = max((cell_len(row[0]) for row in rows), default=0) if number == 0 else None
        justify: Literal["left", "right"] = "left" if number < words else "right"
        table.add_column(column, justify=justify, overflow="fold", min_width=first)
    for row in rows:
        table.add_row(*map(escape, row))
    needed = Measurement.get(console, console.options.update(max_width=10_000), table)
    if not (console.is_terminal or os.environ.get("COLUMNS", "").isdigit()):
        console = Console(highlight=False, width=max(160, needed.maximum))
    elif needed.minimum > console.width:
        _print_rows(console, columns, rows, title)
        return
    console.print(table)


def _print_rows(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str
) -> None:
    """Rows one below the other: the first cell, then a line for each of the others."""
    lines = [title] if title else []
    for first, *others in rows:
        lines.append(first)
        lines += [f"  {name}: {cell}" for name, cell in zip(columns[1:], others, strict=True)]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def print_comparison(runs: Sequence[tuple[str, Summary]]) -> None:
    """Runs side by side on stdout: rates and loss, then what constitutions did, if there are any.

    Args:
        runs: (label, summary) pairs.
    """
    print_table(["", *COLUMNS], comparison(runs))
    print_unproven([summary for _, summary in runs])
    print_alignments(runs)


def print_unproven(runs: Sequence[Summary]) -> None:
    """A line on stdout if a run was evaluated, but asked no outside set."""
    last = [run.evaluations[max(run.evaluations)] for run in runs if run.evaluations]
    if not all(map(has_outside, last)):
        click.echo(NOT_OUTSIDE)


def print_suites(evaluations: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """What suites beside the common ones measured, on stdout, and why some could not.

    Args:
        evaluations: (label, figures) pairs.
    """
    columns, *rows = side_by_side(evaluations)
    if rows:
        print_table(columns, rows)
    for line in dict.fromkeys(line for _, found in evaluations for line in missing(found)):
        click.echo(line)


def print_alignments(runs: Sequence[tuple[str, Summary]]) -> None:
    """What constitutions did, on stdout; nothing where no run has one.

    Args:
        runs: (label, summary) pairs.
    """
    if rows := alignments(runs):
        print_table(["", *ALIGNED_COLUMNS], rows)
        click.echo(ALIGNED_NOTE)
