"""Figures of suites other than AdvBench, the ordinary instructions and the outside sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedrai.rates import Rate, percent, split_name
from fedrai.runs.record import EvaluationRecord

SUITE_COLUMNS = ["figure", "value", "count", "unscored", "judge"]
COMMON = ("safe", "safe-legacy", "refused")  # have a table of their own, as runs do
CLUSTERED = "safe, by cluster"


def has_common(figures: Mapping[str, Any]) -> bool:
    """Whether the table that runs have would show anything."""
    record = EvaluationRecord.from_json(0, figures)
    return record.loss is not None or any(name in record.rates for name in COMMON)


def suite_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """Figures as cells of `SUITE_COLUMNS`: rates, scores, clusters, and what is not available."""
    unavailable = figures.get("unavailable", ())
    rows = _figure_rows(figures)
    return [*rows, *([name, "not available", "", "", ""] for name in unavailable)]


def _figure_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    rates = EvaluationRecord.from_json(0, figures).rates
    rows = [_rate_row(name, rates[name]) for name in rates if name not in COMMON]
    rows += [_score_row(name, value, figures) for name, value in figures.get("scores", {}).items()]
    if clusters := figures.get("clusters"):
        count = f"{clusters['clusters']} clusters"
        rows.append([CLUSTERED, _percent(clusters), count, str(clusters["unscored"]), "rule"])
    return rows


def notes(figures: Mapping[str, Any]) -> Iterator[str]:
    """Lines for below the tables."""
    if figures["both_sides"] is not None:
        yield (
            f"both sides: {_percent(figures['both_sides'])} (harmonic mean of AdvBench safe and"
            " XSTest's safe prompts answered)"
        )
    for pair, table in figures["disagreement"].items():
        first, second = pair.split(":" if ":" in pair else "-")
        yield _disagreement(first, second, table)
    for name, score in figures.get("scores", {}).items():
        for shape, count in score.get("shapes", {}).items():
            yield f"{name}: {count} of the judge's replies without a score: {shape}"
    yield from missing(figures)


def missing(figures: Mapping[str, Any]) -> Iterator[str]:
    """Suites that could not be asked or judged, and why, a line each."""
    for name, reason in figures.get("unavailable", {}).items():
        yield f"{name}: not available: {reason}"


def suite_parts(figures: Mapping[str, Any]) -> list[str]:
    """Figures in a few words each, for one line."""
    return [f"{row[0]} {row[1]}" for row in _figure_rows(figures) if row[0] != CLUSTERED]


def side_by_side(evaluations: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[str]]:
    """Figures of several evaluations: the heading, then a row for each figure.

    Args:
        evaluations: (label, figures) pairs, a column each.
    """
    columns = [{row[0]: row for row in suite_rows(figures)} for _, figures in evaluations]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(_cell(column.get(name)) for column in columns)] for name in names]
    return [["figure", *(label for label, _ in evaluations)], *rows]


def _cell(row: Sequence[str] | None) -> str:
    if row is None:
        return "not measured"
    return row[1] + (f", {row[3]} unscored" if row[3] not in ("", "0") else "")


def _rate_row(name: str, rate: Rate) -> list[str]:
    return [name, rate.format(), str(rate.scored), str(rate.unscored), split_name(name)[1]]


def _score_row(name: str, value: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    judge = "reference"
    if "right" in value:
        text, judge = _percent(value), "log-probabilities"
    elif name in figures["suites"]:
        rating = figures["suites"][name]["metric"] == "score"
        text, judge = _number(value, 2 if rating else 3), "rubric"
    else:
        text = _number(value, 3)
    return [name, text, str(value["count"]), str(value["unscored"]), judge]


def _percent(value: Mapping[str, Any]) -> str:
    return percent(value["value"], (value["low"], value["high"]))


def _number(value: Mapping[str, Any], digits: int) -> str:
    if value["value"] is None:
        return "no data"
    ends = [value["low"], value["high"]]
    interval = "" if None in ends else f" [{', '.join(f'{end:.{digits}f}' for end in ends)}]"
    return f"{value['value']:.{digits}f}{interval}"


def _disagreement(first: str, second: str, table: Mapping[str, Any]) -> str:
    if table["agree"] is None:
        return f"{first} and {second}: no answer that both could judge"
    kappa = "not defined" if table["kappa"] is None else f"{table['kappa']:.2f}"
    return (
        f"{first} and {second} agree on {100 * table['agree']:.1f} % of AdvBench's answers"
        f" (kappa {kappa}); safe by {first} alone {table['first']}, by {second} alone"
        f" {table['second']}"
    )
