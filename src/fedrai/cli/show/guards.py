"""What `fedrai scan` and `fedrai guard` print: names, counts and figures only.

A figure that is not defined is "no data".
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from fedrai.cli.show.tables import print_table
from fedrai.progress import duration
from fedrai.rates import Rate, rate_from_json

if TYPE_CHECKING:
    from fedrai.evaluation.detection import Confusion, Detection
    from fedrai.filter.guard_evaluation import GuardEvaluation
    from fedrai.filter.scan import ScanResult
    from fedrai.filter.scanned_pairs import PairScan
    from fedrai.guards.calibrated import CalibrationFile
    from fedrai.guards.training.outcome import GuardTrainingOutcome

MANY_ALARMS = 0.25  # of the safe rows
MOST_COLUMNS = 8  # in one line
LONGEST_TABLE = 40  # rows; the JSON has them all

Table = tuple[list[str], list[list[str]]]
"""Names of the columns, and the cells of each row, safe from rich's markup."""


def show_scan(result: ScanResult, threshold: str) -> None:
    """Print a scan; `threshold` as the user named it."""
    if len(result.by_category) > 1:
        print_table(*shares("category", result.by_category))
    print_table(*shares("source", result.by_source))
    if any(name != "other" for name in result.found):
        print_table(*hazards(result))
    rate = result.unsafe
    click.echo(f"{rate.successes:,} of {rate.scored:,} rows are unsafe: {rate.format()}"
               f"  (95 % Wilson interval)")  # fmt: skip
    for line in (
        pairs_line(result.pairs),
        problems_line(result.unscored),
        f"{plural(result.bad_rows, 'row')} had nothing to judge" if result.bad_rows else "",
        f"guard: {result.guard}, {_from(threshold, result.threshold)}, judged: {result.part}",
    ):
        if line:
            click.echo(line)


def pairs_line(pairs: PairScan | None) -> str:
    """How many answers of preference pairs are unsafe; empty without pairs."""
    if pairs is None:
        return ""
    sides = (
        f"{rate.successes:,} of {rate.scored:,} {name} answers are unsafe: {rate.format()}"
        for name, rate in (("chosen", pairs.chosen), ("rejected", pairs.rejected))
    )
    return (
        f"preference pairs: {'; '.join(sides)}; both in {pairs.both:,};"
        f" {pairs.swappable:,} could be swapped"
    )


def show_training(outcome: GuardTrainingOutcome, out: Path) -> None:
    """Print a training's figures on held-out rows, and what to do next."""
    print_table(
        ["judged", "rows", "F1", "recall", "false positives", "AUPRC"],
        [
            [kind, f"{_rows(d.counts):,}", _percent(d.counts.f1), str(d.counts.recall),
             str(d.counts.false_positive_rate), _percent(d.auprc)]
            for kind, d in outcome.held_out.items()
        ],
        title="held-out rows of the same sources, at the strict threshold",
    )  # fmt: skip
    reached = {name: threshold.to_json() for name, threshold in outcome.reached.items()}
    print_table(*reached_table(outcome.guard.thresholds, reached))
    if outcome.unread:
        click.echo(
            f"{plural(outcome.unread, 'row')} left out: too long, or no token that the tokenizer"
            " knows"
        )
    rows, steps = plural(sum(outcome.rows.values()), "row"), plural(len(outcome.losses), "step")
    click.echo(
        f"trained on {rows}, {steps} in {duration(outcome.seconds)}; on rows of other sources"
        " expect less"
    )
    click.echo(f"guard: {out} (its card: {out / 'README.md'})")
    click.echo(f"next: fedrai guard eval {shlex.quote(str(out))} DATA --label COLUMN")


def show_evaluation(evaluation: GuardEvaluation, threshold: str) -> None:
    """Print an evaluation; `threshold` as the user named it."""
    if len(evaluation.by_category) > 1:
        print_table(*groups("category", evaluation.by_category))
    if len(evaluation.by_source) > 1:
        print_table(*groups("source", evaluation.by_source))
    print_table(*measures(evaluation.overall))
    counts, rate = evaluation.overall.counts, evaluation.rate
    if counts.unscored:
        click.echo(problems_line(evaluation.problems))
        click.echo(fail_closed_line(counts))
    if evaluation.unlabelled:
        click.echo(f"{plural(evaluation.unlabelled, 'row')} without a label left out")
    pace = f"{rate:,.1f} rows a second" if rate else "all verdicts known from before"
    click.echo(
        f"guard: {evaluation.guard}, {_from(threshold, evaluation.overall.threshold)}, "
        f"judged: {evaluation.part}; {pace}"
    )


def show_calibration(file: CalibrationFile, out: Path, guard_spec: str) -> None:
    """Print what a calibration reached, and the command that uses it."""
    print_table(*reached_table(file.thresholds, file.reached))
    unscored = f", {file.unscored:,} more without a probability" if file.unscored else ""
    click.echo(
        f"on {file.rows:,} rows, {file.unsafe_rows:,} of them unsafe{unscored}; on new rows expect"
        " a little less"
    )
    use = shlex.join(["fedrai", "scan", "DATA", "--guard", guard_spec, "--calibration", str(out)])
    click.echo(f"calibration: {out}\n  use it:  {use}")


def alarms_line(file: CalibrationFile) -> str:
    """A warning where a calibration's strict threshold flags many safe rows; empty elsewhere."""
    alarms = rate_from_json(file.reached["strict"]["false_positive_rate"]).value
    if alarms is None or alarms < MANY_ALARMS:
        return ""
    return (
        f"warning: strict flags {_percent(alarms)} of the safe rows, since the guard finds"
        f" {_percent(file.wish['recall'])} of the unsafe ones no other way; take loose, wish for"
        " less (--recall), or train a guard on such rows (fedrai guard train)"
    )


def measures(detection: Detection) -> Table:
    """All figures of one detection, a row each."""
    counts = detection.counts
    ends = counts.f1_interval()
    flagged, unsafe, safe = counts.tp + counts.fp, counts.tp + counts.fn, counts.fp + counts.tn
    rows = [
        ["F1", _percent(counts.f1), _interval(ends), ""],
        _rate_row("recall", counts.recall, f"{counts.tp:,} of {unsafe:,} unsafe"),
        _rate_row("false positives", counts.false_positive_rate, f"{counts.fp:,} of {safe:,} safe"),
        _rate_row("precision", counts.precision, f"{counts.tp:,} of {flagged:,} flagged"),
        ["AUPRC", _percent(detection.auprc), "", "over all thresholds"],
        ["AUROC", _percent(detection.auroc), "", "over all thresholds"],
        ["calibration error", _percent(detection.calibration_error), "", "ECE, 10 bins"],
        ["Brier score", _number(detection.brier), "", ""],
    ]
    return ["", "value", "95 % interval", "rows"], rows


def groups(title: str, detections: Mapping[str, Detection]) -> Table:
    """Detections by source or category, most rows first; unscored rows only if there are any."""
    ordered = sorted(detections.items(), key=lambda item: -_rows(item[1].counts))
    rows = [[_name(name), *_cells(detection.counts)] for name, detection in ordered[:LONGEST_TABLE]]
    columns = [title, "rows", "unsafe", "recall", "false positives", "unscored"]
    last = len(columns) if any(detection.counts.unscored for _, detection in ordered) else -1
    return columns[:last], _more([row[:last] for row in rows], detections)


def shares(title: str, rates: Mapping[str, Rate]) -> Table:
    """Shares of unsafe rows by source or category, in their order."""
    rows = [
        [_name(name), f"{r.scored + r.unscored:,}", f"{r.successes:,}", r.format(),
         f"{r.unscored:,}"]
        for name, r in list(rates.items())[:LONGEST_TABLE]
    ]  # fmt: skip
    return [title, "rows", "unsafe", "share", "unscored"], _more(rows, rates)


def hazards(result: ScanResult) -> Table:
    """Unsafe rows of a scan by the guard's category."""
    rows = [[name, f"{count:,}"] for name, count in result.found.items()]
    return ["found by the guard", "unsafe"], sorted(rows, key=lambda row: -_count(row[1]))


def fail_closed_line(counts: Confusion) -> str:
    """The rates with unscored rows flagged, as the filter acts."""
    flagged = counts.fail_closed()
    return (
        f"with the unscored rows flagged, as the filter does: F1 {_percent(flagged.f1)}, recall "
        f"{_percent(flagged.recall.value)}, false positives "
        f"{_percent(flagged.false_positive_rate.value)}"
    )


def problems_line(problems: Mapping[str, int]) -> str:
    """What kept rows from being scored; empty if nothing did."""
    kinds = ", ".join(f"{count:,} {name}" for name, count in problems.items() if count)
    total = sum(problems.values())
    return f"{plural(total, 'row')} without a probability ({kinds})" if total else ""


def not_judged_line(columns: Mapping[str, int]) -> str:
    """Columns with text that no guard reads; empty if there are none."""
    if not columns:
        return ""
    parts = [f"{name} ({plural(rows, 'row')})" for name, rows in columns.items()]
    if len(parts) > MOST_COLUMNS:
        parts[MOST_COLUMNS:] = [f"and {len(parts) - MOST_COLUMNS} more columns (--json)"]
    return (
        f"text that is not judged: {', '.join(parts)};"
        " name what is with --column (response=NAME, text=NAME)"
    )


def reached_table(thresholds: Mapping[str, float], reached: Mapping[str, Any]) -> Table:
    """The thresholds of a calibration and what they reached on its rows."""
    rows = [
        [name, f"{value:.6g}", rate_from_json(reached[name]["recall"]).format(),
         rate_from_json(reached[name]["false_positive_rate"]).format()]
        for name, value in thresholds.items()
    ]  # fmt: skip
    return ["threshold", "from", "recall", "false positives"], rows


def plural(count: int, noun: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _rate_row(name: str, rate: Rate, of: str) -> list[str]:
    return [name, _percent(rate.value), _interval(rate.interval()), of]


def _cells(counts: Confusion) -> list[str]:
    unsafe = counts.tp + counts.fn + counts.unscored_unsafe
    return [
        f"{_rows(counts):,}",
        f"{unsafe:,}",
        _or_dash(counts.recall),
        _or_dash(counts.false_positive_rate),
        f"{counts.unscored:,}",
    ]


def _rows(counts: Confusion) -> int:
    return counts.tp + counts.fp + counts.tn + counts.fn + counts.unscored


def _or_dash(rate: Rate) -> str:
    """The rate; a dash where no row of that kind is there, so that nothing is missing."""
    return rate.format() if rate.scored or rate.unscored else "-"


def _more(rows: list[list[str]], groups: Mapping[str, Any]) -> list[list[str]]:
    rest = len(groups) - len(rows)
    blank = [""] * (len(rows[0]) - 1) if rows else []
    return [*rows, [f"and {rest:,} more (--json)", *blank]] if rest else rows


def _name(name: str) -> str:
    return escape(name) or "(none)"


def _percent(value: float | None) -> str:
    return "no data" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "no data" if value is None else f"{value:.4f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


def _count(cell: str) -> int:
    return int(cell.replace(",", ""))


def _from(name: str, value: float) -> str:
    try:
        float(name)
    except ValueError:
        return f"threshold {name} ({value:.4g})"
    return f"threshold {value:g}"
