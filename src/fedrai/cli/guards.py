"""The command line of guards: `fedrai scan` and `fedrai guard`. No logic, no heavy import."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from fedrai.cli.reading import reading_of, reading_options

if TYPE_CHECKING:
    from fedrai.filter.guard_evaluation import DataSpec
    from fedrai.guards.base import Guard, Part
    from fedrai.guards.cache import VerdictCache
    from fedrai.guards.rows import Rows

Command = TypeVar("Command", bound=Callable[..., Any])

ROLES = ("messages", "prompt", "response", "text", "category")
OTHER_COPIES = (".parquet", ".gz", ".tsv", ".xlsx", ".arrow", ".txt")
FILE = click.Path(path_type=Path, dir_okay=False)

_DATA = click.argument("specs", metavar="DATA...", nargs=-1)
_COLUMN = click.option("--column", "columns", multiple=True, metavar="ROLE=NAME",
    help=f"Name of a column, e.g. prompt=question; roles: {', '.join(ROLES)}.")  # fmt: skip
_SPLIT = click.option("--split", default="train", show_default=True, help="Of hub datasets.")
_WHERE = click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Only such rows.")
_JUDGE = click.option("--judge", "part", default="pair", show_default=True,
    type=click.Choice(["prompt", "response", "pair"]),
    help="What the guard reads: the request, the answer, or both.")  # fmt: skip
_THRESHOLD = click.option("--threshold", default="strict", show_default=True,
    metavar="NAME|NUMBER", help="Unsafe from here: strict, loose, or a probability.")  # fmt: skip
_CALIBRATION = click.option("--calibration", type=FILE, metavar="FILE",
    help="Made by `fedrai guard calibrate`.")  # fmt: skip
_CACHE = click.option("--cache/--no-cache", "keep", default=True, show_default=True,
    help="Keep verdicts (salted hashes, no text), so that a second run goes on.")  # fmt: skip
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
_LABELS = (
    click.option("--label", "labels", multiple=True, metavar="COLUMN[,COLUMN]",
        help="Label columns (unsafe/safe, true/false, 1/0, a score); unsafe if any says so."),
    click.option("--label-cut", "cut", default=0.5, show_default=True,
        type=click.FloatRange(0, 1), help="A score is unsafe from here."),
    click.option("--unsafe-when", multiple=True, metavar="COLUMN=VALUE",
        help="Rows with this value are unsafe, e.g. is_safe=false."),
    click.option("--unsafe", "unsafe", multiple=True, metavar="DATA",
        help="A dataset of which every row is unsafe."),
    click.option("--safe", "safe", multiple=True, metavar="DATA",
        help="A dataset of which every row is safe, e.g. fedrai:ordinary-held-out."),
)  # fmt: skip


def _with(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command("scan")
@_DATA
@click.option(
    "--guard", "guard_spec", required=True, metavar="GUARD", help="See `fedrai guard list`."
)
@_with(_THRESHOLD, _JUDGE, _CALIBRATION)
@click.option("--out", type=FILE, metavar="FILE", help="Write a filtered copy, as JSONL or CSV.")
@click.option("--mode", default="drop", show_default=True,
    type=click.Choice(["drop", "replace", "flag"]),
    help="The copy: leave unsafe rows out, put refusals in, or add columns.")  # fmt: skip
@click.option("--strict", is_flag=True, help="End with an error if a row cannot be read.")
@_with(_COLUMN, _WHERE, _SPLIT, reading_options, _CACHE, _JSON)
def scan(
    guard_spec: str,
    threshold: str,
    part: Part,
    calibration: Path | None,
    out: Path | None,
    mode: Any,
    strict: bool,
    keep: bool,
    as_json: bool,
    **data: Any,
) -> None:
    """Judge datasets and count their unsafe rows; on request, write a copy without them.

    DATA: a file (JSONL, JSON, CSV, TSV, also gzipped; Parquet), a hub dataset or fedrai:NAME.
    """
    from fedrai.cli.show.guards import GuardProgress, plural, show_scan
    from fedrai.filter import guard_evaluation as work
    from fedrai.filter import scan as scanning

    mode_from = click.get_current_context().get_parameter_source("mode")
    if out is None and mode_from is not ParameterSource.DEFAULT:
        raise click.UsageError(f"--mode {mode} is for a copy; name its file with --out")
    source = _data_spec(**data)
    if out is not None and out.resolve() in [Path(spec).resolve() for spec in source.specs]:
        raise click.UsageError(f"--out {out} is one of the datasets; name another file")
    if out is not None and out.exists():
        raise click.UsageError(f"--out {out} is there already; name another file")
    if out is not None and out.suffix.lower() in OTHER_COPIES:
        raise click.UsageError(f"--out {out}: copies are JSON Lines (.jsonl) or CSV (.csv)")
    rows = _read(source, strict)
    guard = _open(guard_spec, calibration, part)
    number = work.threshold_of(guard, threshold)
    with _stoppable(keep), GuardProgress(guard.name) as watch:
        result = scanning.scan(rows.rows, guard, part=part, threshold=number,
                               cache=_cache(keep), on_progress=watch)  # fmt: skip
    copied = scanning.write_copy(rows.rows, result.findings, out, mode) if out is not None else None
    if as_json:
        body = result.to_json() | {"unreadable": len(rows.bad_rows)}
        body["not_judged"] = rows.not_judged()
        copy = None if copied is None else {"path": str(out), "mode": mode, "written":
            copied.written, "dropped": copied.dropped, "replaced": copied.replaced,
            "unreadable": len(rows.bad_rows)}  # fmt: skip
        click.echo(json.dumps(body | {"copy": copy}, indent=2))
        return
    show_scan(result, threshold)
    if copied is not None:
        replaced = f", {copied.replaced:,} replaced" if mode == "replace" else ""
        lost = len(rows.bad_rows)
        unread = f"; without {plural(lost, 'row')} that could not be read" if lost else ""
        click.echo(
            f"copy: {out} ({copied.written:,} rows, {copied.dropped:,} dropped{replaced}{unread})"
        )


@click.group("guard")
def guard() -> None:
    """Guards: what there is, how well they find unsafe rows, and fitting them to your own."""


@guard.command("list")
@_JSON
def guard_list(as_json: bool) -> None:
    """List the guards that have a name."""
    from dataclasses import asdict

    from fedrai.guards.loading import available_guards

    entries = available_guards()
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    from fedrai.cli.show.display import print_table

    print_table(
        ["name", "kind", "what", "licence", "here"],
        [[e.name, e.kind, e.what, e.licence, "yes" if e.ready else "no"] for e in entries],
        words=5,
    )


@guard.command("eval")
@click.argument("guard_spec", metavar="GUARD")
@_DATA
@_with(*_LABELS, _THRESHOLD, _JUDGE, _CALIBRATION, _COLUMN, _WHERE, _SPLIT,
       reading_options, _CACHE, _JSON)  # fmt: skip
def guard_eval(
    guard_spec: str,
    threshold: str,
    part: Part,
    calibration: Path | None,
    keep: bool,
    as_json: bool,
    **data: Any,
) -> None:
    """Measure how well GUARD finds the unsafe rows of labelled DATA.

    DATA: a file (JSONL, JSON, CSV, TSV, also gzipped; Parquet), a hub dataset or fedrai:NAME.
    """
    from fedrai.cli.show.guards import GuardProgress, show_evaluation
    from fedrai.filter import guard_evaluation as work

    rows = _labelled(_data_spec(**data))
    guard = _open(guard_spec, calibration, part)
    number = work.threshold_of(guard, threshold)
    with _stoppable(keep), GuardProgress(guard.name) as watch:
        found = work.evaluate(
            rows, guard, part=part, threshold=number, cache=_cache(keep), on_progress=watch
        )
    if as_json:
        click.echo(json.dumps(found.to_json() | {"not_judged": rows.not_judged()}, indent=2))
    else:
        show_evaluation(found, threshold)


@guard.command("calibrate")
@click.argument("guard_spec", metavar="GUARD")
@_DATA
@_with(*_LABELS)
@click.option("--recall", default=0.9, show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="The strict threshold finds at least this part of the unsafe rows.")  # fmt: skip
@click.option("--fpr", default=0.02, show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="The loose threshold flags at most this part of the safe rows.")  # fmt: skip
@click.option("--out", required=True, type=FILE, metavar="FILE", help="Calibration file to write.")
@_with(_JUDGE, _COLUMN, _WHERE, _SPLIT, reading_options, _CACHE, _JSON)
def guard_calibrate(
    guard_spec: str,
    recall: float,
    fpr: float,
    out: Path,
    part: Part,
    keep: bool,
    as_json: bool,
    **data: Any,
) -> None:
    """Fit GUARD's probabilities and thresholds to labelled DATA that it was not trained on.

    DATA: a file (JSONL, JSON, CSV, TSV, also gzipped; Parquet), a hub dataset or fedrai:NAME.
    """
    from dataclasses import asdict

    from fedrai.cli.show.guards import GuardProgress, alarms_line, show_calibration
    from fedrai.filter import guard_evaluation as work
    from fedrai.guards import calibrated

    rows = _labelled(_data_spec(**data))
    guard = _open(guard_spec)
    with _stoppable(keep), GuardProgress(guard.name) as watch:
        file = work.calibrate_on(
            rows, guard, part=part, recall=recall, fpr=fpr, cache=_cache(keep), on_progress=watch
        )
    calibrated.write(file, out)
    if as_json:
        click.echo(json.dumps(asdict(file), indent=2))
    else:
        show_calibration(file, out, guard_spec)
    if line := alarms_line(file):
        click.secho(line, fg="yellow", err=True)


@guard.command("train")
@click.argument("recipe_file", metavar="RECIPE", type=FILE)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("-o", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a key.")
def guard_train(recipe_file: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Train a guard on your own labelled rows, as RECIPE (TOML) says; see docs/guards.md."""
    from fedrai import recipe
    from fedrai.cli.show.guards import GuardProgress, show_training
    from fedrai.filter import guard_evaluation as work

    settings = recipe.load_training(recipe_file, overrides)
    with (
        _stoppable(True, "stopped; nothing was written"),
        GuardProgress("training", done="steps") as steps,
        GuardProgress("the new guard") as judged,
    ):
        done = work.train(settings, out, steps, judged)
    show_training(done, out)


# --- what the commands share ----------------------------------------------------------------------


def _data_spec(
    specs: tuple[str, ...],
    columns: tuple[str, ...],
    where: tuple[str, ...],
    split: str,
    labels: tuple[str, ...] = (),
    cut: float = 0.5,
    unsafe_when: tuple[str, ...] = (),
    unsafe: tuple[str, ...] = (),
    safe: tuple[str, ...] = (),
    **reading: Any,
) -> DataSpec:
    """The datasets of a command."""
    from fedrai.filter.guard_evaluation import DataSpec
    from fedrai.guards.labels import Labels
    from fedrai.guards.rows import ColumnNames

    if not (specs or unsafe or safe):
        raise click.UsageError("give DATA: a file, a hub dataset or fedrai:NAME")
    roles = dict(_pair(text, "--column") for text in columns)
    if unknown := set(roles) - set(ROLES):
        raise click.UsageError(f"--column {min(unknown)}=...: roles are {', '.join(ROLES)}")
    return DataSpec(
        specs,
        unsafe,
        safe,
        ColumnNames(**roles),
        Labels(
            tuple(name for text in labels for name in text.split(",")),
            tuple(_pair(text, "--unsafe-when") for text in unsafe_when),
            cut,
        ),
        split,
        dict(_pair(text, "--where") for text in where),
        reading_of(**reading),
    )


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise click.UsageError(f"{option} takes NAME=VALUE, got {text!r}")
    return name, value


def _read(data: DataSpec, strict: bool = False) -> Rows:
    """All rows; stderr names those that cannot be read, and what of the others is not judged."""
    from fedrai.cli.show.guards import not_judged_line, plural
    from fedrai.data import encoding_hint
    from fedrai.errors import DataError
    from fedrai.filter.guard_evaluation import read_rows

    rows = read_rows(data)
    for bad in rows.bad_rows[:3]:
        click.secho(f"{bad.origin}: {bad.problem}", fg="yellow", err=True)
    if rows.bad_rows:
        click.secho(f"{plural(len(rows.bad_rows), 'row')} could not be read", fg="yellow", err=True)
    if hint := encoding_hint(rows.bad_rows):
        click.secho(hint, fg="yellow", err=True)
    if rows.bad_rows and strict:
        raise DataError(
            f"{plural(len(rows.bad_rows), 'row')} could not be read; nothing was judged or written",
            hint="mend them, or leave out --strict to scan without them",
        )
    if line := not_judged_line(rows.not_judged()):
        click.echo(line, err=True)
    return rows


def _labelled(data: DataSpec) -> Rows:
    """All rows, with labels of both kinds among them; checked before a guard is loaded."""
    from fedrai.filter.guard_evaluation import labelled_rows

    rows = _read(data)
    labelled_rows(rows)
    return rows


def _open(spec: str, calibration: Path | None = None, part: Part = "pair") -> Guard:
    """A guard; says on stderr what its owner should know of it."""
    from fedrai.filter.guard_evaluation import open_guard
    from fedrai.guards.base import caution_of

    guard = open_guard(spec, calibration, part)
    if caution := caution_of(guard):
        click.secho(caution, fg="yellow", err=True)
    return guard


def _cache(keep: bool) -> VerdictCache | None:
    from fedrai.filter.guard_evaluation import open_cache

    return open_cache(keep, lambda problem: click.secho(problem, fg="yellow", err=True))


@contextmanager
def _stoppable(
    keep: bool, said: str = "stopped; give the same command again to go on"
) -> Iterator[None]:
    """On Ctrl-C, say what is lost."""
    try:
        yield
    except KeyboardInterrupt:
        if keep:
            click.echo(said, err=True)
        raise
