"""`fedrai scan`: judge datasets with a guard, and write a copy without their unsafe rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from fedrai.cli.guard_options import (
    DataOptions,
    GuardOptions,
    data_options,
    guard_options,
    read,
    threshold_options,
)
from fedrai.cli.options import FILE, as_record, json_option
from fedrai.cli.output import print_json

if TYPE_CHECKING:
    from fedrai.data import ReadOptions
    from fedrai.filter.scan import CopyCounts
    from fedrai.guards.rows import Rows

OTHER_FORMATS = (".parquet", ".gz", ".tsv", ".xlsx", ".arrow", ".txt")


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """The filtered copy."""

    out: Path | None
    mode: Literal["drop", "replace", "flag", "swap"]

    def check(self, specs: tuple[str, ...]) -> None:
        """Refuse a copy that would overwrite something, and options without a copy."""
        mode_from = click.get_current_context().get_parameter_source("mode")
        out = self.out
        if out is None:
            if mode_from is not ParameterSource.DEFAULT:
                raise click.UsageError(
                    f"--mode {self.mode} is for a copy; name its file with --out"
                )
            return
        if out.resolve() in [Path(spec).resolve() for spec in specs]:
            raise click.UsageError(f"--out {out} is one of the datasets; name another file")
        if out.exists():
            raise click.UsageError(f"--out {out} already exists; name another file")
        if out.suffix.lower() in OTHER_FORMATS:
            raise click.UsageError(f"--out {out}: copies are JSON Lines (.jsonl) or CSV (.csv)")


@click.command("scan")
@data_options()
@guard_options(
    click.option(
        "--guard", "spec", required=True, metavar="GUARD", help="See `fedrai guard list`."
    ),
    threshold_options,
)
@as_record(
    "copy", CopyOptions,
    click.option("--out", type=FILE, metavar="FILE",
        help="Write a filtered copy, as JSONL or CSV."),
    click.option("--mode", default="drop", show_default=True,
        type=click.Choice(["drop", "replace", "flag", "swap"]),
        help="The copy: drop unsafe rows, replace their answers by refusals, add columns, or swap"
        " the answers of preference pairs if only the chosen one is unsafe."),
)  # fmt: skip
@click.option("--strict", is_flag=True, help="End with an error if a row cannot be read.")
@json_option
def scan(
    data: DataOptions,
    read_options: ReadOptions,
    options: GuardOptions,
    copy: CopyOptions,
    strict: bool,
    as_json: bool,
) -> None:
    """Judge datasets and count their unsafe rows; on request, write a copy without them.

    Of preference pairs (prompt, chosen, rejected) both answers are judged and counted; a pair is
    unsafe if its chosen answer is.

    DATA: a file (JSONL, JSON, CSV, TSV, also gzipped; Parquet), a hub dataset or fedrai:NAME.
    """
    from fedrai.filter import scan as scanning
    from fedrai.filter.guard_evaluation import threshold_of

    spec = replace(data.spec(read_options), pairs=True)
    copy.check(spec.specs)
    rows = read(spec, strict=strict)
    guard = options.open()
    threshold = threshold_of(guard, options.threshold)
    with options.judging(guard) as on_progress:
        result = scanning.scan(
            rows.rows, guard, part=options.part, threshold=threshold, cache=options.cache(),
            on_progress=on_progress,
        )  # fmt: skip
    counts = None
    if copy.out is not None:
        counts = scanning.write_copy(
            rows.rows, result.findings, copy.out, copy.mode, rejected=result.rejected
        )
    if as_json:
        summary = {"unreadable": len(rows.bad_rows), "not_judged": rows.not_judged()}
        print_json(result.to_json() | summary | {"copy": _copy_json(copy, counts, rows)})
        return
    from fedrai.cli.show.guards import show_scan

    show_scan(result, options.threshold)
    if counts is not None:
        click.echo(_copy_line(copy, counts, rows))


def _copy_json(
    copy: CopyOptions, counts: CopyCounts | None, rows: Rows
) -> dict[str, object] | None:
    if counts is None:
        return None
    return {
        "path": str(copy.out),
        "mode": copy.mode,
        "written": counts.written,
        "dropped": counts.dropped,
        "replaced": counts.replaced,
        "unreadable": len(rows.bad_rows),
    }


def _copy_line(copy: CopyOptions, counts: CopyCounts, rows: Rows) -> str:
    from fedrai.cli.show.guards import plural

    words = {"replace": "replaced", "swap": "swapped"}
    replaced = f", {counts.replaced:,} {words[copy.mode]}" if copy.mode in words else ""
    lost = len(rows.bad_rows)
    unread = f"; without {plural(lost, 'row')} that could not be read" if lost else ""
    return (
        f"copy: {copy.out} ({counts.written:,} rows, {counts.dropped:,} dropped{replaced}{unread})"
    )
