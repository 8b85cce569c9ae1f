"""What the defences of each run did to the aggregated adapter."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from fedrai.report.tables import Cell, Content, Table, TableRow, number_cell, row
from fedrai.runs.record import DefenceRecord, RunRecord

COLUMNS = [
    "method", "rounds", "moved, median", "moved, most", "layers corrected", "lost to the rank",
]  # fmt: skip


def defences(runs: Sequence[RunRecord]) -> list[Content]:
    """How far each method moved the model; nothing where no run has a defence on the server."""
    return [
        {"label": run.label, "place": place, "table": _table(run)}
        for place, run in enumerate(runs)
        if any(one.defences for one in run.rounds)
    ]


def _table(run: RunRecord) -> Table:
    steps: dict[str, list[DefenceRecord]] = {}
    for one in run.rounds:
        for step in one.defences:
            steps.setdefault(step.method, []).append(step)
    rows = [_row(method, done) for method, done in steps.items()]
    return Table(f"Defences: {run.label}", COLUMNS, rows)


def _row(method: str, steps: Sequence[DefenceRecord]) -> TableRow:
    moved = [step.relative for step in steps if step.relative is not None]
    lost = [step.truncation for step in steps if step.truncation is not None]
    return row(
        method,
        number_cell(len(steps)),
        number_cell(median(moved) if moved else None, ".2f"),
        number_cell(max(moved, default=None), ".2f"),
        _layers(steps),
        Cell(f"{100 * max(lost):.1f} %", max(lost)) if lost else Cell("none"),
    )


def _layers(steps: Sequence[DefenceRecord]) -> Cell:
    """Layers that were corrected in a round, as a median; all, where a method does not choose."""
    counts = [step.layers for step in steps if step.layers is not None]
    if not counts:
        return Cell("all")
    middle = median(counts)
    return Cell(f"{middle:g} of {steps[0].of}", middle)
