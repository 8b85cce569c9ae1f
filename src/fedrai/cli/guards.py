"""`fedrai guard`: list guards, measure them, calibrate them, train one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedrai.cli.guard_options import (
    DataOptions,
    GuardOptions,
    data_options,
    guard_argument,
    guard_options,
    label_options,
    read_labelled,
    threshold_options,
)
from fedrai.cli.options import FILE, PATH, json_option, override_option
from fedrai.cli.output import print_json, warn

if TYPE_CHECKING:
    from fedrai.data import ReadOptions


@click.group("guard")
def guard() -> None:
    """Guards: list them, measure how well they find unsafe rows, fit them to your own rows."""


@guard.command("list")
@json_option
def guard_list(as_json: bool) -> None:
    """List the guards that have a name."""
    from fedrai.guards.loading import available_guards

    entries = available_guards()
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    from fedrai.cli.show.tables import print_table

    print_table(
        ["name", "kind", "what", "licence", "here"],
        [[e.name, e.kind, e.what, e.licence, "yes" if e.ready else "no"] for e in entries],
        words=5,
    )


@guard.command("eval")
@guard_options(guard_argument, threshold_options)
@data_options(label_options)
@json_option
def guard_eval(
    options: GuardOptions, data: DataOptions, read_options: ReadOptions, as_json: bool
) -> None:
    """Measure how well GUARD finds the unsafe rows of labelled DATA.

    DATA: a file (JSONL, JSON, CSV, TSV, also gzipped; Parquet), a hub dataset or fedrai:NAME.
    """
    from fedrai.filter.guard_evaluation import evaluate, threshold_of

    rows = read_labelled(data.spec(read_options))
    judge = options.open()
    threshold = threshold_of(judge, options.threshold)
    with options.judging(judge) as on_progress:
        evaluation = evaluate(
            rows, judge, part=options.part, threshold=threshold, cache=options.cache(),
            on_progress=on_progress,
        )  # fmt: skip
    if as_json:
        print_json(evaluation.to_json() | {"not_judged": rows.not_judged()})
        return
    from fedrai.cli.show.guards import show_evaluation

    show_evaluation(evaluation, options.threshold)


@guard.command("calibrate")
@guard_options(guard_argument)
@data_options(label_options)
@click.option("--recall", default=0.9, show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="The strict threshold finds at least this share of the unsafe rows.")  # fmt: skip
@click.option("--fpr", default=0.02, show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="The loose threshold flags at most this share of the safe rows.")  # fmt: skip
@click.option("--out", required=True, type=FILE, metavar="FILE", help="Calibration file to write.")
@json_option
def guard_calibrate(
    options: GuardOptions,
    data: DataOptions,
    read_options: ReadOptions,
    recall: float,
    fpr: float,
    out: Path,
    as_json: bool,
) -> None:
    """Fit GUARD's probabilities and thresholds to labelled DATA that it was not trained on.

    DATA: a file (JSONL, JSON, CSV, TSV, also gzipped; Parquet), a hub dataset or fedrai:NAME.
    """
    from fedrai.cli.show.guards import alarms_line, show_calibration
    from fedrai.filter.guard_evaluation import calibrate_on
    from fedrai.guards import calibrated

    rows = read_labelled(data.spec(read_options))
    judge = options.open()
    with options.judging(judge) as on_progress:
        targets = calibrated.TargetRates(recall, fpr)
        file = calibrate_on(
            rows, judge, part=options.part, targets=targets, cache=options.cache(),
            on_progress=on_progress,
        )  # fmt: skip
    calibrated.write(file, out)
    if as_json:
        print_json(asdict(file))
    else:
        show_calibration(file, out, options.spec)
    if line := alarms_line(file):
        warn(line)


@guard.command("train")
@click.argument("recipe_file", metavar="RECIPE", type=FILE)
@click.option("--out", required=True, type=PATH, help="Folder to write.")
@override_option("rank=16")
def guard_train(recipe_file: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Train a guard on your own labelled rows, as RECIPE (TOML) says; see docs/guards.md."""
    from fedrai import recipe
    from fedrai.cli.show.guards import show_training
    from fedrai.cli.show.live import GuardProgress
    from fedrai.filter.guard_evaluation import train

    settings = recipe.load_training(recipe_file, overrides)
    try:
        with (
            GuardProgress("training", unit="steps") as on_step,
            GuardProgress("the new guard") as on_judged,
        ):
            outcome = train(settings, out, on_step, on_judged)
    except KeyboardInterrupt:
        click.echo("stopped; nothing was written", err=True)
        raise
    show_training(outcome, out)
