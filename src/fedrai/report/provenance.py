"""What each run comes from; hashes say whether two come from the same."""

from __future__ import annotations

from collections.abc import Sequence

from fedrai.report.tables import MISSING, Cell, Table, number_cell, row
from fedrai.runs.record import RunRecord, shared_rounds_text, skipped_rows_text


def provenance(runs: Sequence[RunRecord]) -> Table:
    """One column per run: hashes, versions, machine, and its sizes."""
    names = list(dict.fromkeys(name for run in runs for name in run.provenance))
    sizes = [_sizes(run) for run in runs]
    rows = [row(name, *(_code(run.provenance.get(name)) for run in runs)) for name in names]
    rows += [row(name, *(texts[name] for texts in sizes)) for name in sizes[0]]
    return Table("What each run comes from", ["", *(run.label for run in runs)], rows)


def _code(value: str | None) -> Cell:
    return Cell(MISSING) if value is None else Cell(value, code=True)


def _sizes(run: RunRecord) -> dict[str, str]:
    shared = shared_rounds_text(run.shared_rounds)
    return {
        "rounds done": f"{len(run.rounds)} of {number_cell(run.planned_rounds).text}",
        "rounds that another run trained": shared or "none",
        "clients": number_cell(run.clients).text,
        "rows trained on": number_cell(run.rows).text,
        "rows not usable": skipped_rows_text(run.bad_rows, run.bad_rows_unreported),
    }
