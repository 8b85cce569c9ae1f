"""Options of `fedrai scan` and `fedrai guard`: the rows to judge, and the guard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedrai.cli.options import FILE, Decorator, as_record, reading_options, together
from fedrai.cli.output import warn

if TYPE_CHECKING:
    from fedrai.data import ReadOptions
    from fedrai.filter.guard_evaluation import DataSpec
    from fedrai.guards.base import Guard, OnProgress, Part
    from fedrai.guards.cache import VerdictCache
    from fedrai.guards.rows import Rows

ROLES = ("messages", "prompt", "response", "text", "category")


# --- rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Datasets, their columns, and where their labels are."""

    specs: tuple[str, ...]
    columns: tuple[str, ...]
    where: tuple[str, ...]
    split: str
    labels: tuple[str, ...] = ()
    cut: float = 0.5
    unsafe_when: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    safe: tuple[str, ...] = ()

    def spec(self, options: ReadOptions) -> DataSpec:
        """The datasets, checked."""
        from fedrai.filter.guard_evaluation import DataSpec
        from fedrai.guards.labels import Labels
        from fedrai.guards.rows import ColumnNames

        if not (self.specs or self.unsafe or self.safe):
            raise click.UsageError("give DATA: a file, a hub dataset or fedrai:NAME")
        roles = dict(_pairs(self.columns, "--column"))
        if unknown := set(roles) - set(ROLES):
            raise click.UsageError(f"--column {min(unknown)}=...: roles are {', '.join(ROLES)}")
        names = tuple(name for text in self.labels for name in text.split(","))
        return DataSpec(
            self.specs,
            self.unsafe,
            self.safe,
            ColumnNames(**roles),
            Labels(names, tuple(_pairs(self.unsafe_when, "--unsafe-when")), self.cut),
            self.split,
            dict(_pairs(self.where, "--where")),
            options,
        )


def _pairs(texts: Sequence[str], option: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise click.UsageError(f"{option} takes NAME=VALUE, got {text!r}")
        yield name, value


label_options = together(
    click.option("--label", "labels", multiple=True, metavar="COLUMN[,COLUMN]",
        help="Label columns (unsafe/safe, true/false, 1/0, a score); unsafe if any of them is."),
    click.option("--label-cut", "cut", default=0.5, show_default=True,
        type=click.FloatRange(0, 1), help="Lowest score of an unsafe row."),
    click.option("--unsafe-when", multiple=True, metavar="COLUMN=VALUE",
        help="Rows with this value are unsafe, e.g. is_safe=false."),
    click.option("--unsafe", multiple=True, metavar="DATA",
        help="A dataset of which every row is unsafe."),
    click.option("--safe", multiple=True, metavar="DATA",
        help="A dataset of which every row is safe, e.g. fedrai:ordinary-held-out."),
)  # fmt: skip


def data_options(*labels: Decorator) -> Decorator:
    """DATA and its options; they reach the command as `data` and `read_options`."""
    return together(
        as_record(
            "data", DataOptions,
            click.argument("specs", metavar="DATA...", nargs=-1),
            *labels,
            click.option("--column", "columns", multiple=True, metavar="ROLE=NAME",
                help=f"Name of a column, e.g. prompt=question; roles: {', '.join(ROLES)}."),
            click.option("--where", multiple=True, metavar="COLUMN=VALUE",
                help="Only rows with this value."),
            click.option("--split", default="train", show_default=True, help="Of hub datasets."),
        ),
        reading_options,
    )  # fmt: skip


def read(data: DataSpec, *, strict: bool = False) -> Rows:
    """Read all rows; warn of rows that cannot be read and of text that is not judged.

    Raises:
        DataError: a dataset cannot be read; with `strict`, a row.
    """
    from fedrai.cli.show.guards import not_judged_line, plural
    from fedrai.data import encoding_hint
    from fedrai.errors import DataError
    from fedrai.filter.guard_evaluation import read_rows

    rows = read_rows(data)
    for bad in rows.bad_rows[:3]:
        warn(f"{bad.origin}: {bad.problem}")
    unreadable = f"{plural(len(rows.bad_rows), 'row')} could not be read"
    if rows.bad_rows:
        warn(unreadable)
    if hint := encoding_hint(rows.bad_rows):
        warn(hint)
    if rows.bad_rows and strict:
        raise DataError(
            f"{unreadable}; nothing was judged or written",
            hint="fix them, or drop --strict to scan without them",
        )
    if line := not_judged_line(rows.not_judged()):
        click.echo(line, err=True)
    return rows


def read_labelled(data: DataSpec) -> Rows:
    """Read all rows, and check before a guard is loaded that they have labels of both kinds."""
    from fedrai.filter.guard_evaluation import labelled_rows

    rows = read(data)
    labelled_rows(rows)
    return rows


# --- the guard ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """The guard, what it reads, and from which probability a row is unsafe."""

    spec: str
    part: Part
    keep: bool
    threshold: str = "strict"
    calibration: Path | None = None

    def open(self) -> Guard:
        """Open the guard; warn of what its owner should know."""
        from fedrai.filter.guard_evaluation import open_guard
        from fedrai.guards.base import caution_of

        guard = open_guard(self.spec, self.calibration, self.part)
        if caution := caution_of(guard):
            warn(caution)
        return guard

    def cache(self) -> VerdictCache | None:
        """The verdicts of earlier commands; None with --no-cache."""
        from fedrai.filter.guard_evaluation import open_cache

        return open_cache(self.keep, warn)

    @contextmanager
    def judging(self, guard: Guard) -> Iterator[OnProgress]:
        """Show progress within the block; on Ctrl-C say how to resume."""
        from fedrai.cli.show.live import GuardProgress

        try:
            with GuardProgress(guard.name) as on_progress:
                yield on_progress
        except KeyboardInterrupt:
            if self.keep:
                click.echo("stopped; give the same command again to resume", err=True)
            raise


threshold_options = together(
    click.option("--threshold", default="strict", show_default=True, metavar="NAME|NUMBER",
        help="Lowest probability of an unsafe row: strict, loose, or a number."),
    click.option("--calibration", type=FILE, metavar="FILE",
        help="A file of `fedrai guard calibrate`."),
)  # fmt: skip


def guard_options(spec: Decorator, *threshold: Decorator) -> Decorator:
    """The guard, named by an argument or option `spec`, and its options."""
    return as_record(
        "options", GuardOptions, spec, *threshold,
        click.option("--judge", "part", default="pair", show_default=True,
            type=click.Choice(["prompt", "response", "pair"]),
            help="What the guard reads: the request, the answer, or both."),
        click.option("--cache/--no-cache", "keep", default=True, show_default=True,
            help="Cache verdicts (salted hashes, no text), so that a stopped command resumes."),
    )  # fmt: skip


guard_argument = click.argument("spec", metavar="GUARD")
