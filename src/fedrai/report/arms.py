"""Arms over their seeds: safety against over-refusal, and the tables of `fedrai compare`.

What `fedrai compare` wrote beside the runs is shown as it stands there. Without that there is the
picture alone, a point an arm: Wilson's intervals for one seed, for several the mean without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from fedrai.report.charts import COLOURS, SHARES, START, Axis, Curve, Point, axis, chart, legend
from fedrai.report.markup import Markup, Row, folded, table, tag
from fedrai.report.records import ArmPoint, Compared
from fedrai.report.wording import rate_name
from fedrai.runs import RunFolder
from fedrai.runs.record import EvaluationRecord, RunRecord
from fedrai.runs.record.values import as_number, part, word

FILE = "comparison.json"
TITLE = "Safety against over-refusal"
SAFE = "safe"
OVER = ("xstest-safe-refused", "refused")
"""Measures of over-refusal; the first that every arm has is drawn."""
ACROSS = Axis(SHARES.low, 1.05, SHARES.ticks, percent=True)  # room for the last tick's label


# --- reading --------------------------------------------------------------------------------------


def read_comparisons(paths: Iterable[Path]) -> list[Compared]:
    """What `fedrai compare` left in folders; those without it are passed over.

    Raises:
        RunError: a file is damaged.
    """
    there = [path for path in dict.fromkeys(paths) if (path / FILE).is_file()]
    return [compared_of(RunFolder(path).read_json(FILE)) for path in there]


def arms_in(path: Path) -> Sequence[str]:
    """Names of the arms that `fedrai compare` left word of in a folder, in the recipe's order.

    Raises:
        RunError: a file is damaged.
    """
    body: Any = RunFolder(path).read_json(FILE) if (path / FILE).is_file() else {}
    arms = _list(body.get("arms")) if isinstance(body, Mapping) else []
    return list(dict.fromkeys(word(arm, "arm") for arm in arms if isinstance(arm, Mapping)))


def compared_of(body: Any) -> Compared:
    """A comparison from what its file holds, as far as that can be read."""
    known = body if isinstance(body, Mapping) else {}
    arms = [arm for arm in _list(known.get("arms")) if isinstance(arm, Mapping)]
    first = known.get("start")
    before = [_point(first, start=True)] if isinstance(first, Mapping) else []
    columns, rows = _cells(known.get("table"))
    gap_columns, gap_rows = _cells(known.get("differences_table"))
    return Compared(
        axis=word(known, "axis"),
        against=word(known, "against"),
        points=(*before, *map(_point, arms)),
        columns=columns,
        rows=rows,
        gap_columns=gap_columns,
        gap_rows=gap_rows,
        notes=tuple(str(note) for note in _list(known.get("notes"))),
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _cells(body: object) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Headings and rows of a table; rows of another length are left out."""
    known = body if isinstance(body, Mapping) else {}
    columns = tuple(str(cell) for cell in _list(known.get("columns")))
    rows = [tuple(str(cell) for cell in _list(row)) for row in _list(known.get("rows"))]
    return columns, tuple(row for row in rows if len(row) == len(columns))


def _point(arm: Mapping[str, Any], start: bool = False) -> ArmPoint:
    figures = part(arm, "figures")
    found = {str(name): _ends(part(figures, str(name))) for name in figures}
    known = {name: ends for name, ends in found.items() if ends is not None}
    name = word(arm, "arm")
    return ArmPoint(word(arm, "label") or name, word(arm, "value"), known, "" if start else name)


def _ends(figure: Mapping[str, Any]) -> Point | None:
    value = as_number(figure.get("value"))
    ends = (as_number(figure.get(end)) for end in ("low", "high"))
    return None if value is None else Point(0.0, value, *ends)


def of_runs(runs: Sequence[RunRecord]) -> list[ArmPoint]:
    """A point an arm from the runs themselves, after what the first of them starts from."""
    found: dict[str, list[EvaluationRecord]] = {}
    for run in runs:
        if run.after is not None:
            found.setdefault(run.arm, []).append(run.after)
    first = next((run for run in runs if run.before is not None), None)
    before = [_mean(first.start or "base model", [first.before])] if first and first.before else []
    return [*before, *(_mean(arm, seeds, arm) for arm, seeds in found.items())]


def _mean(label: str, seeds: Sequence[EvaluationRecord], arm: str = "") -> ArmPoint:
    found = {}
    for name in (SAFE, *OVER):
        rates = [e.rates[name] for e in seeds if name in e.rates and e.rates[name].scored]
        if rates:
            ends = rates[0].interval() if len(rates) == 1 else None
            value = fmean(rate.value or 0.0 for rate in rates)
            found[name] = Point(0.0, value, *(ends or (None, None)))
    return ArmPoint(label, "", found, arm)


# --- showing --------------------------------------------------------------------------------------


def shown(runs: Sequence[RunRecord], comparisons: Sequence[Compared]) -> bool:
    """Whether there is something to show: a comparison, or several runs."""
    return bool(comparisons) or len(runs) > 1


def arms(runs: Sequence[RunRecord], comparisons: Sequence[Compared]) -> Markup:
    """The section of arms."""
    if comparisons:
        parts = [_comparison(found, place, runs) for place, found in enumerate(comparisons)]
    else:
        note = "A point an arm; bars are Wilson's 95 % intervals where an arm has one seed."
        parts = [_frontier("frontier", of_runs(runs), runs), tag("p", note, class_="note")]
    return tag("section", tag("h2", "Arms", id="over-seeds"), parts)


def _comparison(found: Compared, place: int, runs: Sequence[RunRecord]) -> Markup:
    gaps = table(f"Differences from {found.against}", found.gap_columns,
                 [Row(row) for row in found.gap_rows]) if found.gap_rows else None  # fmt: skip
    return tag(
        "div",
        _along(found, place, runs)
        if found.axis
        else _frontier(f"frontier-{place}", found.points, runs),
        table("Arms: means over seeds", found.columns, [Row(row) for row in found.rows])
        if found.rows
        else None,
        [tag("p", note, class_="note") for note in found.notes],
        folded(f"Each arm against {found.against}, prompt by prompt", gaps) if gaps else None,
    )


def _frontier(name: str, points: Sequence[ArmPoint], runs: Sequence[RunRecord]) -> Markup:
    """Safety over over-refusal, a point an arm; the upper left is where to be."""
    curves, across = spots(points, numbers(runs))
    if not curves:
        return tag("p", f"{TITLE}: not recorded.", class_="none")
    about = "A point an arm with its intervals on both axes; the upper left is best. The numbers"
    drawn = chart(
        f"chart-{name}", TITLE, f"{about} are in the tables.", curves,
        shares=True, below=rate_name(across), across=ACROSS,
    )  # fmt: skip
    return tag("div", _legend(curves), drawn)


def spots(
    points: Sequence[ArmPoint], known: Mapping[str, int] | None = None
) -> tuple[list[Curve], str]:
    """A curve of one point for each arm, and the measure of over-refusal that it lies along.

    Without one that all arms have, there is no curve.

    Args:
        points: the arms, and what they start from.
        known: styles of arms that are drawn elsewhere too.
    """
    having = [arm for arm in points if SAFE in arm.figures]
    across = next((n for n in OVER if having and all(n in arm.figures for arm in having)), "")
    each = _numbered([f"{arm.arm} {arm.value}".strip() for arm in points if arm.arm], known or {})
    curves = []
    for arm in having if across else []:
        style = each[f"{arm.arm} {arm.value}".strip()] if arm.arm else START
        up, along = arm.figures[SAFE], arm.figures[across]
        spot = Point(along.y, up.y, up.low, up.high, along.low, along.high)
        label = f"{arm.label}, {arm.value}" if arm.value else arm.label
        curves.append(Curve(label, style, (spot,)))
    return curves, across


def _legend(curves: Sequence[Curve]) -> Markup:
    return legend([(curve.label, curve.style, None) for curve in curves])


def _along(found: Compared, place: int, runs: Sequence[RunRecord]) -> Markup:
    """Safety and over-refusal of each arm along the axis."""
    labels = {arm.arm: arm.label for arm in found.points if arm.value}
    each = {labels[arm]: style for arm, style in _numbered(list(labels), numbers(runs)).items()}
    panels = [
        _panel(found, name, title, each, f"axis-{place}-{name}")
        for name, title in (
            (SAFE, "Safety: red-team requests declined"),
            *((over, f"Over-refusal: {rate_name(over)}") for over in OVER),
        )
        if any(name in arm.figures for arm in found.points)
    ]
    return tag(
        "div",
        legend([(*entry, None) for entry in each.items()]),
        tag("div", panels, class_="panels"),
    )


def _panel(found: Compared, name: str, title: str, each: Mapping[str, int], place: str) -> Markup:
    curves = []
    for label, style in each.items():
        own = [arm for arm in found.points if arm.label == label and name in arm.figures]
        spots = [(_number(arm.value), arm.figures[name]) for arm in own]
        points = tuple(Point(x, p.y, p.low, p.high) for x, p in spots if x is not None)
        curves.append(Curve(label, style, points))
    values = [point.x for curve in curves for point in curve.points]
    across = axis(values) if values else None
    return chart(f"chart-{place}", title, f"By {found.axis}; the numbers are in the table below.",
                 curves, shares=True, below=found.axis, across=across)  # fmt: skip


def _number(text: str) -> float | None:
    try:
        return as_number(float(text))
    except ValueError:
        return None


def _numbered(names: Sequence[str], known: Mapping[str, int]) -> dict[str, int]:
    """A style for each name: the known one, else the next that no other has."""
    found: dict[str, int] = {}
    free = (n for n in count() if n not in known.values())
    for name in dict.fromkeys(names):
        found[name] = known[name] if name in known else next(free)
    return found


def numbers(runs: Sequence[RunRecord]) -> dict[str, int]:
    """The style of each arm: the one that its first run has."""
    found: dict[str, int] = {}
    for run, style in zip(runs, styles(runs), strict=True):
        found.setdefault(run.arm, style)
    return found


def styles(runs: Sequence[RunRecord]) -> list[int]:
    """Each run's number of colour, marker and dash: one colour an arm where arms have seeds.

    Seeds of an arm differ in their dash. Where no arm has a second run, runs are numbered.
    """
    names = list(dict.fromkeys(run.arm for run in runs))
    if len(names) == len(runs):
        return list(range(len(runs)))
    seen = dict.fromkeys(names, -1)
    found = []
    for run in runs:
        seen[run.arm] += 1
        found.append(names.index(run.arm) % COLOURS + COLOURS * seen[run.arm])
    return found
