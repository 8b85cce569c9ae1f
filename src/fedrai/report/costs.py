"""What runs cost by phase, and in excess of plain FedAvg."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedrai.report import verdict
from fedrai.report.arms import styled
from fedrai.report.charts import Bar, BarChart
from fedrai.report.legends import legend_of_parts
from fedrai.report.tables import Content, Table, TableRow, number_cell, percent_cell, row, time_text
from fedrai.runs.costs import Cost
from fedrai.runs.record import RunRecord, shared_rounds_text

PHASES = ("filter", "training", "aggregation", "defence", "constitution", "evaluation")


def costs(runs: Sequence[RunRecord]) -> Content:
    """Cost by phase, and overhead over plain FedAvg."""
    phases = _phases(runs)
    description = "The tables below have the numbers."
    charts = [
        BarChart("bars-time", "Wall time by phase", description,
                 _bars(runs, lambda cost: cost.seconds, time_text)),
        BarChart("bars-operations", "Operations by phase", description,
                 _bars(runs, lambda cost: cost.operations, lambda n: f"{n / 1e12:,.1f} Tflop")),
    ]  # fmt: skip
    rows = [
        _phase(run, place, phase)
        for place, run in enumerate(runs)
        for phase in phases
        if phase in run.costs
    ]
    columns = ["run", "phase", "seconds", "tokens", "Tflop", "peak GB", "MB sent", "MB received"]
    return {
        "legend": legend_of_parts(phases),
        "charts": charts,
        "overheads": _overheads(runs),
        "shared": _shared(runs),
        "phases": Table("Cost by phase", columns, rows),
    }


def _phases(runs: Sequence[RunRecord]) -> list[str]:
    recorded = {phase for run in runs for phase in run.costs}
    return [*(p for p in PHASES if p in recorded), *sorted(recorded - set(PHASES))]


def _bars(
    runs: Sequence[RunRecord], amount: Callable[[Cost], float], text: Callable[[float], str]
) -> list[Bar]:
    """One bar per run, with a part for each phase."""
    phases = _phases(runs)
    bars = []
    for place, run, style in styled(runs):
        parts = tuple(amount(run.costs.get(phase, Cost())) for phase in phases)
        bars.append(Bar(run.label, style, parts, text(sum(parts)), place))
    return bars


def _phase(run: RunRecord, place: int, phase: str) -> TableRow:
    cost = run.costs[phase]
    return row(
        run.label, phase, number_cell(cost.seconds, ",.1f"), number_cell(cost.tokens),
        number_cell(cost.operations / 1e12, ",.1f"), number_cell(cost.peak_bytes / 1e9, ".2f"),
        number_cell(cost.bytes_down / 1e6, ",.1f"), number_cell(cost.bytes_up / 1e6, ",.1f"),
        arm=place,
    )  # fmt: skip


def _shared(runs: Sequence[RunRecord]) -> str:
    """Which rounds were trained once for several runs; empty if none were."""
    texts = [(run.label, shared_rounds_text(run.shared_rounds)) for run in runs]
    return "; ".join(f"{label}: {text}" for label, text in texts if text)


def _overheads(runs: Sequence[RunRecord]) -> Table:
    rows = []
    for place, run in enumerate(runs):
        baseline = verdict.baseline(run, runs)
        if baseline is not None:
            overhead = verdict.overhead(run, baseline)
            cells = [percent_cell(overhead.seconds), percent_cell(overhead.operations)]
            rows.append(row(run.label, baseline.label, *cells, arm=place))
    columns = ["run", "against plain FedAvg", "time", "operations"]
    return Table("Overhead over plain FedAvg, evaluations aside", columns, rows)
