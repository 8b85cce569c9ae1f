"""What happened on clients, as counts and norms: removals by category, updates, who was set aside.

Never text: a ledger has none, and nothing here reads data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from fedrai.report.arms import styles
from fedrai.report.charts import Curve, Point, chart
from fedrai.report.markup import Cell, Markup, Row, folded, table, tag
from fedrai.report.wording import MISSING, number_cell
from fedrai.runs.record import FilterCounts, RunRecord

STANDS_OUT = 3.0
"""How many times the median of its round makes an update's norm stand out."""


def filters(runs: Sequence[RunRecord]) -> Markup:
    """What the safety filter removed, by client and category."""
    parts = [_filter(run, place) for place, run in enumerate(runs)]
    return tag(
        "section",
        tag("h2", "Safety filter", id="filter"),
        tag("p", "Counts of rows that clients' filters found unsafe, by hazard category. A row's"
            " text never leaves its client.", class_="note"),
        parts,
    )  # fmt: skip


def _filter(run: RunRecord, place: int) -> Markup:
    found = run.screening
    head = tag("h3", run.label)
    if found.mode == "off" or found.skipped:
        why = f"NO SAFETY FILTER: {found.skipped}." if found.skipped else "No filter."
        return tag("div", head, tag("p", why), data_arm=place)
    threshold = MISSING if found.threshold is None else f"{found.threshold:.3f}"
    guard = f"Mode {found.mode}, guard {found.guard or MISSING}, threshold {threshold}."
    return tag(
        "div",
        head,
        tag("p", guard),
        tag("p", _total(found.total)),
        _truth(run),
        tag("p", "Counts are those that clients sent, with noise where the recipe adds it.")
        if found.reported
        else None,
        _by_client(run),
        data_arm=place,
    )


def _total(total: FilterCounts | None) -> str:
    if total is None:
        return f"Total: {MISSING}."
    return (
        f"{total.unsafe} of {total.rows} rows unsafe, {total.dropped} dropped, {total.replaced}"
        f" answers replaced, {total.unscored} not scored."
    )


def _truth(run: RunRecord) -> Markup | None:
    found = run.screening.confusion
    names = ("harmful_kept", "harmful_in", "benign_removed", "benign_in")
    if not all(name in found for name in names):
        return None
    left, harmful, lost, benign = (found[name] for name in names)
    return tag(
        "p",
        f"By the data's own labels: {left} of {harmful} harmful rows left, {lost} of {benign}"
        " harmless ones lost.",
    )


def _by_client(run: RunRecord) -> Markup:
    clients = run.screening.clients
    if not clients:
        return tag("p", f"By client: {MISSING}.", class_="none")
    every = [*clients.values(), *([run.screening.total] if run.screening.total else [])]
    used = _used(every)
    top = max((r.categories.get(n, 0) for r in clients.values() for n in used), default=0)
    columns = ["client", "rows", "unsafe", "dropped", "replaced", "not scored", *used]
    rows = [Row([name, *_counts(found, used, top)]) for name, found in clients.items()]
    if run.screening.total:
        rows.append(Row([Cell("all clients", css="sum"), *_counts(run.screening.total, used, 0)]))
    return table(f"Unsafe rows by client and category: {run.label}", columns, rows)


def _used(found: Sequence[FilterCounts]) -> list[str]:
    """Categories that some row is in, the most frequent first."""
    sums = sum((Counter(removed.categories) for removed in found), Counter[str]())
    return [name for name, count in sums.most_common() if count]


def _counts(found: FilterCounts, used: Sequence[str], top: int) -> list[Cell]:
    sizes = (found.rows, found.unsafe, found.dropped, found.replaced, found.unscored)
    by_category = [found.categories.get(name, 0) for name in used]
    return [*(Cell(f"{n:,}", n) for n in sizes), *(_shaded(n, top) for n in by_category)]


def _shaded(count: int, top: int) -> Cell:
    """A count, the darker the nearer it is to the largest one."""
    level = -(-4 * count // top) if top else 0
    return Cell(f"{count:,}", count, f"heat{level}" if level else "")


# --- updates --------------------------------------------------------------------------------------


def updates(runs: Sequence[RunRecord]) -> Markup:
    """Norms of clients' updates, and who was set aside."""
    parts = [
        _updates(run, place, style)
        for place, (run, style) in enumerate(zip(runs, styles(runs), strict=True))
    ]
    note = (
        "The norm of what a client's training changed in the adapter, measured by the server (in"
        " runs of earlier versions: as the client stated it). An update stands out when its norm is"
        f" more than {STANDS_OUT:g} times its round's median."
    )
    return tag(
        "section",
        tag("h2", "Clients' updates", id="updates"),
        tag("p", note, class_="note"),
        tag("div", parts, class_="panels"),
    )


def _updates(run: RunRecord, place: int, style: int) -> Markup:
    aside = [
        Row([Cell(str(body.number), body.number), name, why])
        for body in run.rounds
        for name, why in sorted(body.set_aside.items())
    ]
    return tag(
        "div",
        tag("h3", run.label),
        _norms(run, place, style),
        table(f"Set aside: {run.label}", ["round", "client", "reason"], aside) if aside else None,
        data_arm=place,
    )


def _norms(run: RunRecord, place: int, style: int) -> Markup:
    if not any(body.update_norms for body in run.rounds):
        return tag("p", f"Norms of updates: {MISSING}.", class_="none")
    points = tuple(Point(r.number, norm) for r in run.rounds for norm in r.update_norms.values())
    drawn = chart(f"chart-norms-{place}", f"Norms of updates: {run.label}", "One mark a client and"
                  " round; the table below has each client's.",
                  [Curve(run.label, style, points, joined=False)],
                  shares=False, below="round")  # fmt: skip
    return tag("div", drawn, folded("By client", _norm_table(run)))


def _norm_table(run: RunRecord) -> Markup:
    found: dict[str, list[tuple[float, float]]] = {}
    for body in run.rounds:
        middle = median(body.update_norms.values()) if body.update_norms else 0.0
        for name, norm in body.update_norms.items():
            found.setdefault(name, []).append((norm, norm / middle if middle else 1.0))
    columns = ["client", "rounds", "lowest", "median", "highest", "most of its round's median"]
    rows = [Row([name, *_norm_cells(found[name])]) for name in sorted(found)]
    return table(f"Norms of updates by client: {run.label}", columns, rows)


def _norm_cells(seen: Sequence[tuple[float, float]]) -> list[Cell]:
    norms = [norm for norm, _ in seen]
    most = max(times for _, times in seen)
    out = most > STANDS_OUT
    return [
        number_cell(len(seen)),
        *(number_cell(value, ".3f") for value in (min(norms), median(norms), max(norms))),
        Cell(f"{most:.2f} times{', stands out' if out else ''}", most, "stands-out" if out else ""),
    ]
