"""Preference tuning on clients, by round: losses, reward margins and accuracies."""

from __future__ import annotations

from collections.abc import Sequence

from fedrai.report.arms import styled
from fedrai.report.charts import Chart, Curve, Point
from fedrai.report.tables import MISSING, Cell, Table, TableRow, count_cell, row
from fedrai.runs.record import PreferenceRecord, RunRecord

COLUMNS = ("loss, first step", "loss, last step", "reward margin", "reward accuracy")


def charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """The share of pairs that clients' models rank rightly, by round; none without such tuning."""
    curves = [
        Curve(run.label, style, tuple(_points(run)), place) for place, run, style in styled(runs)
    ]
    if not any(curve.points for curve in curves):
        return []
    description = (
        "Share of the clients' pairs with a reward margin above 0, by round; 0.5 is chance."
    )
    return [Chart("chart-preference", "Reward accuracy on clients", description, curves)]


def _points(run: RunRecord) -> list[Point]:
    tuned = [(one.number, one.preference) for one in run.rounds if one.preference]
    return [Point(n, tuning.accuracy) for n, tuning in tuned if tuning.accuracy is not None]


def table(runs: Sequence[RunRecord]) -> Table | None:
    """The figures of each round and client; None without preference tuning."""
    rows = [line for place, run in enumerate(runs) for line in _rows(run, place)]
    columns = ["run", "round", "client", "pairs", *COLUMNS]
    return Table("Preference tuning by round and client", columns, rows) if rows else None


def _rows(run: RunRecord, place: int) -> list[TableRow]:
    rows = []
    for one in run.rounds:
        if one.preference is None:
            continue
        for client, numbers in one.clients.items():
            if "reward-margin" in numbers:
                own = PreferenceRecord.of_client(numbers)
                pairs = Cell(f"{numbers.get('pairs', 0):,.0f}", numbers.get("pairs"))
                cells = [Cell(client), pairs, *_figures(own)]
                rows.append(row(run.label, count_cell(one.number), *cells, arm=place))
        total = Cell("weighted mean", css="sum")
        mean = _figures(one.preference)
        rows.append(row(run.label, count_cell(one.number), total, Cell(""), *mean, arm=place))
    return rows


def _figures(record: PreferenceRecord) -> list[Cell]:
    values = record.loss_first, record.loss_last, record.margin, record.accuracy
    return [Cell(MISSING) if value is None else Cell(f"{value:.3f}", value) for value in values]
