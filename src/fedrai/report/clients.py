"""What clients hold and what happened there, as counts and norms.

Rows by source, removals by category, updates, who was set aside.

Never text: ledgers hold none, and nothing here reads data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from fedrai.report.arms import styled
from fedrai.report.charts import Chart, Curve, Point
from fedrai.report.tables import (
    MISSING,
    Cell,
    Content,
    Table,
    TableRow,
    count_cell,
    number_cell,
    row,
)
from fedrai.runs.record import FilterCounts, RoundRecord, RunRecord

STANDS_OUT = 3.0
"""An update stands out when its norm is more than this many times the median of its round."""


def holdings(runs: Sequence[RunRecord]) -> list[Content]:
    """The rows of each run by client and source; nothing where no run recorded them."""
    return [
        {"label": run.label, "place": place, "table": _holdings(run)}
        for place, run in enumerate(runs)
        if run.held_rows
    ]


def _holdings(run: RunRecord) -> Table:
    sources = list(dict.fromkeys(name for held in run.held_rows.values() for name in held))
    rows = [
        row(client, *_held_cells(held, run.trained_rows.get(client, {}), sources))
        for client, held in run.held_rows.items()
    ]
    held, trained = (
        sum(map(Counter, counts.values()), Counter[str]())
        for counts in (run.held_rows, run.trained_rows)
    )
    rows.append(row(Cell("all clients", css="sum"), *_held_cells(held, trained, sources)))
    return Table(f"Rows by client and source: {run.label}", ["client", *sources, "rows"], rows)


def _held_cells(
    held: Mapping[str, int], trained: Mapping[str, int], sources: Sequence[str]
) -> list[Cell]:
    """Rows of each source and of all; below, how many of them the filter left."""
    pairs = [(held.get(name, 0), trained.get(name, 0)) for name in sources]
    pairs.append((sum(held.values()), sum(trained.values())))
    return [
        Cell(f"{rows:,}", rows, detail="" if left == rows else f"{left:,} left")
        for rows, left in pairs
    ]


def filters(runs: Sequence[RunRecord]) -> list[Content]:
    """What the safety filter of each run removed, by client and category."""
    return [
        {"label": run.label, "sentences": _sentences(run), "table": _by_client(run)} for run in runs
    ]


def _sentences(run: RunRecord) -> list[str]:
    screening = run.screening
    if screening.skipped:
        return [f"NO SAFETY FILTER: {screening.skipped}."]
    if screening.mode == "off":
        return ["No filter."]
    threshold = MISSING if screening.threshold is None else f"{screening.threshold:.3f}"
    sentences = [
        f"Mode {screening.mode}, guard {screening.guard or MISSING}, threshold {threshold}.",
        _total(screening.total),
        *_by_labels(run),
    ]
    if screening.reported:
        sentences.append("The counts are as clients sent them, with noise if the recipe adds it.")
    return sentences


def _total(total: FilterCounts | None) -> str:
    if total is None:
        return f"Total: {MISSING}."
    swapped = "" if total.swapped is None else f", {total.swapped} pairs swapped"
    return (
        f"{total.unsafe} of {total.rows} rows unsafe, {total.dropped} dropped, {total.replaced}"
        f" answers replaced{swapped}, {total.unscored} not scored."
    )


def _by_labels(run: RunRecord) -> list[str]:
    """How many rows the filter missed or removed wrongly, where the data has labels."""
    counts = run.screening.confusion
    if not {"harmful_kept", "harmful_in", "benign_removed", "benign_in"} <= counts.keys():
        return []
    return [
        f"By the data's own labels: {counts['harmful_kept']} of {counts['harmful_in']} harmful rows"
        f" left, {counts['benign_removed']} of {counts['benign_in']} harmless ones lost."
    ]


def _by_client(run: RunRecord) -> Table | None:
    """Unsafe rows by client and category; None for a run without a filter."""
    clients, total = run.screening.clients, run.screening.total
    if run.screening.skipped or run.screening.mode == "off":
        return None
    categories = _categories([*clients.values(), *([total] if total else [])])
    largest = max(
        (counts.categories.get(name, 0) for counts in clients.values() for name in categories),
        default=0,
    )
    rows = [row(name, *_counts(c, categories, largest)) for name, c in clients.items()]
    if clients and total:
        rows.append(row(Cell("all clients", css="sum"), *_counts(total, categories, 0)))
    columns = ["client", "rows", "unsafe", "dropped", "replaced", "not scored", *categories]
    return Table(f"Unsafe rows by client and category: {run.label}", columns, rows)


def _categories(counts: Sequence[FilterCounts]) -> list[str]:
    """Categories with a row, the most frequent first."""
    sums = sum((Counter(one.categories) for one in counts), Counter[str]())
    return [name for name, count in sums.most_common() if count]


def _counts(counts: FilterCounts, categories: Sequence[str], largest: int) -> list[Cell]:
    sizes = (counts.rows, counts.unsafe, counts.dropped, counts.replaced, counts.unscored)
    by_category = [counts.categories.get(name, 0) for name in categories]
    return [*map(number_cell, sizes), *(_shaded_cell(count, largest) for count in by_category)]


def _shaded_cell(count: int, largest: int) -> Cell:
    """A count, shaded darker the nearer it is to the largest one."""
    level = -(-4 * count // largest) if largest else 0
    return Cell(f"{count:,}", count, f"heat{level}" if level else "")


# --- updates --------------------------------------------------------------------------------------


def updates(runs: Sequence[RunRecord]) -> list[Content]:
    """Norms of clients' updates, and who was set aside."""
    return [_updates(run, place, style) for place, run, style in styled(runs)]


def _updates(run: RunRecord, place: int, style: int) -> Content:
    points = tuple(Point(r.number, norm) for r in run.rounds for norm in r.update_norms.values())
    chart = Chart(
        f"chart-norms-{place}", f"Norms of updates: {run.label}",
        "One mark per client and round; the table below has each client's.",
        [Curve(run.label, style, points, joined=False)], shares=False,
    )  # fmt: skip
    set_aside = [
        row(count_cell(one.number), client, reason)
        for one in run.rounds
        for client, reason in sorted(one.set_aside.items())
    ]
    return {
        "label": run.label,
        "chart": chart,
        "by_client": _by_client_norms(run),
        "set_aside": Table(f"Set aside: {run.label}", ["round", "client", "reason"], set_aside),
    }


def _by_client_norms(run: RunRecord) -> Table:
    norms: dict[str, list[tuple[float, float]]] = {}
    for one in run.rounds:
        for client, norm in one.update_norms.items():
            norms.setdefault(client, []).append((norm, _times_median(norm, one)))
    columns = ["client", "rounds", "lowest", "median", "highest", "most of its round's median"]
    rows = [_norm_row(client, norms[client]) for client in sorted(norms)]
    return Table(f"Norms of updates by client: {run.label}", columns, rows)


def _times_median(norm: float, one: RoundRecord) -> float:
    """How many times the median of its round a norm is."""
    middle = median(one.update_norms.values())
    return norm / middle if middle else 1.0


def _norm_row(client: str, norms: Sequence[tuple[float, float]]) -> TableRow:
    values = [norm for norm, _ in norms]
    most = max(times for _, times in norms)
    stands_out = most > STANDS_OUT
    text = f"{most:.2f} times{', stands out' if stands_out else ''}"
    return row(
        client,
        number_cell(len(norms)),
        *(number_cell(value, ".3f") for value in (min(values), median(values), max(values))),
        Cell(text, most, "stands-out" if stands_out else ""),
    )
