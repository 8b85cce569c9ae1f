"""Arms over their seeds: safety against over-refusal, and the tables of `fedrai compare`.

A comparison that `fedrai compare` wrote beside the runs is shown as it was written. Without one
there is only the picture, with one point per arm: Wilson's interval for one seed, and for several
seeds their mean without an interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from statistics import fmean

from fedrai.report.charts import COLOURS, START, Chart, Curve, Point
from fedrai.report.legends import legend
from fedrai.report.measures import OUTSIDE_REFUSED, OUTSIDE_SAFE, heading
from fedrai.report.saved_comparison import ArmPoint, SavedComparison
from fedrai.report.scales import SHARES, Scale, scale_for
from fedrai.report.tables import Content
from fedrai.runs.record import EvaluationRecord, MacroRate, RunRecord
from fedrai.runs.record.values import as_number

TITLE = "Safety against over-refusal"
SAFE = "safe"
OVER_REFUSAL = ("xstest-safe-refused", "refused")
SIDES = ((OUTSIDE_SAFE, OUTSIDE_REFUSED), *((SAFE, name) for name in OVER_REFUSAL))
"""Measures of safety and over-refusal; the first pair that every arm has is drawn."""
OVER_REFUSAL_SCALE = Scale(SHARES.low, 1.05, SHARES.ticks, percent=True)  # room for the last label


def arms(runs: Sequence[RunRecord], comparisons: Sequence[SavedComparison]) -> list[Content]:
    """What the page shows of each comparison, or of the runs without one; empty for one run."""
    if comparisons:
        return [_comparison(saved, number, runs) for number, saved in enumerate(comparisons)]
    if len(runs) < 2:
        return []
    curves, over_refusal = frontier(points_of(runs), arm_styles(runs))
    note = "One point per arm; bars are 95 % intervals, drawn where an arm has one seed."
    charts = [_frontier("frontier", curves, over_refusal)]
    return [{"charts": charts, "legend": legend(curves), "notes": [note], "saved": None}]


def _comparison(saved: SavedComparison, number: int, runs: Sequence[RunRecord]) -> Content:
    if saved.axis:
        measured = any(OUTSIDE_SAFE in point.figures for point in saved.points)
        curves = _axis_curves(saved, OUTSIDE_SAFE if measured else SAFE, arm_styles(runs))
        charts = _axis_charts(saved, number, arm_styles(runs))
    else:
        curves, over_refusal = frontier(saved.points, arm_styles(runs))
        charts = [_frontier(f"frontier-{number}", curves, over_refusal)]
    return {"charts": charts, "legend": legend(curves), "notes": saved.notes, "saved": saved}


# --- safety against over-refusal ------------------------------------------------------------------


def points_of(runs: Sequence[RunRecord]) -> list[ArmPoint]:
    """One point per arm from the runs themselves, after what the first of them starts from."""
    seeds: dict[str, list[EvaluationRecord]] = {}
    for run in runs:
        if run.after is not None:
            seeds.setdefault(run.arm, []).append(run.after)
    first = next((run for run in runs if run.before is not None), None)
    start = [_mean(first.start or "base model", [first.before])] if first and first.before else []
    return [*start, *(_mean(arm, evaluations, arm) for arm, evaluations in seeds.items())]


def _mean(label: str, seeds: Sequence[EvaluationRecord], arm: str = "") -> ArmPoint:
    figures = {}
    for name in (OUTSIDE_SAFE, OUTSIDE_REFUSED):
        means = [mean for e in seeds if (mean := _outside(e, name)) is not None]
        if means:
            macro = (means[0].low, means[0].high) if len(means) == 1 else (None, None)
            figures[name] = Point(0.0, fmean(mean.value for mean in means), *macro)
    for name in (SAFE, *OVER_REFUSAL):
        rates = [e.rates[name] for e in seeds if name in e.rates and e.rates[name].scored]
        if rates:
            ends = rates[0].interval() if len(rates) == 1 else None
            value = fmean(rate.value or 0.0 for rate in rates)
            figures[name] = Point(0.0, value, *(ends or (None, None)))
    return ArmPoint(label, "", figures, arm)


def _outside(evaluation: EvaluationRecord, name: str) -> MacroRate | None:
    is_safety = name == OUTSIDE_SAFE
    return evaluation.outside_safe if is_safety else evaluation.outside_refused


def frontier(
    points: Sequence[ArmPoint], existing: Mapping[str, int] | None = None
) -> tuple[list[Curve], str]:
    """A curve of one point for each arm, and the measure of over-refusal on its other axis.

    There is no curve unless all arms share a measure of over-refusal.

    Args:
        points: the arms, and what they start from.
        existing: styles of arms that are also drawn elsewhere.
    """
    evaluated = [arm for arm in points if not arm.figures.keys().isdisjoint((OUTSIDE_SAFE, SAFE))]
    safe, over_refusal = next(
        (
            pair
            for pair in SIDES
            if evaluated and all(set(pair) <= a.figures.keys() for a in evaluated)
        ),
        ("", ""),
    )
    styles = _styles_of([_name(arm) for arm in points if arm.arm], existing or {})
    curves = []
    for arm in evaluated if over_refusal else []:
        y, x = arm.figures[safe], arm.figures[over_refusal]
        spot = Point(x.y, y.y, y.low, y.high, x.low, x.high)
        label = f"{arm.label}, {arm.value}" if arm.value else arm.label
        curves.append(Curve(label, styles[_name(arm)] if arm.arm else START, (spot,)))
    return curves, over_refusal


def safety_beside(over_refusal: str) -> str:
    """The measure of safety that is drawn against a measure of over-refusal."""
    return next((safe for safe, other in SIDES if other == over_refusal), SAFE)


def _name(arm: ArmPoint) -> str:
    return f"{arm.arm} {arm.value}".strip()


def _frontier(name: str, curves: Sequence[Curve], over_refusal: str) -> Chart:
    description = (
        "One point per arm with its intervals on both axes; the upper left is best. The numbers"
        " are in the tables."
    )
    return Chart(
        f"chart-{name}", TITLE, description, curves, heading(over_refusal),
        x_scale=OVER_REFUSAL_SCALE,
    )  # fmt: skip


# --- along an axis --------------------------------------------------------------------------------


def _axis_charts(saved: SavedComparison, number: int, existing: Mapping[str, int]) -> list[Chart]:
    """Safety and over-refusal of each arm along the axis."""
    titles = {OUTSIDE_SAFE: "Safety: harmful requests of outside sets declined"}
    titles |= {OUTSIDE_REFUSED: "Over-refusal: harmless requests of outside sets declined"}
    titles |= {SAFE: "Safety, development: requests of AdvBench declined"}
    titles |= {name: f"Over-refusal: {heading(name)}" for name in OVER_REFUSAL}
    charts = []
    for measure, title in titles.items():
        curves = _axis_curves(saved, measure, existing)
        xs = [point.x for curve in curves for point in curve.points]
        if any(measure in arm.figures for arm in saved.points):
            charts.append(Chart(
                f"chart-axis-{number}-{measure}", title,
                f"By {saved.axis}; the numbers are in the table below.", curves, saved.axis,
                x_scale=scale_for(xs) if xs else None,
            ))  # fmt: skip
    return charts


def _axis_curves(saved: SavedComparison, measure: str, existing: Mapping[str, int]) -> list[Curve]:
    labels = {arm.arm: arm.label for arm in saved.points if arm.value}
    curves = []
    for arm, style in _styles_of(list(labels), existing).items():
        points = [
            (_number(one.value), one.figures[measure])
            for one in saved.points
            if one.label == labels[arm] and measure in one.figures
        ]
        placed = tuple(Point(x, p.y, p.low, p.high) for x, p in points if x is not None)
        curves.append(Curve(labels[arm], style, placed))
    return curves


def _number(text: str) -> float | None:
    try:
        return as_number(float(text))
    except ValueError:
        return None


# --- styles ---------------------------------------------------------------------------------------


def _styles_of(names: Sequence[str], existing: Mapping[str, int]) -> dict[str, int]:
    """A style for each name: the existing one, else the next unused one."""
    unused = (n for n in count() if n not in existing.values())
    return {
        name: existing[name] if name in existing else next(unused) for name in dict.fromkeys(names)
    }


def arm_styles(runs: Sequence[RunRecord]) -> dict[str, int]:
    """The style of each arm: that of its first run."""
    return {run.arm: style for _, run, style in reversed(styled(runs))}


def styled(runs: Sequence[RunRecord]) -> list[tuple[int, RunRecord, int]]:
    """Runs with their position and style."""
    return [(place, *pair) for place, pair in enumerate(zip(runs, styles(runs), strict=True))]


def styles(runs: Sequence[RunRecord]) -> list[int]:
    """Each run's number of colour, marker and dash: one colour an arm where arms have seeds.

    Seeds of an arm differ in their dash. Where every arm has one run, runs are numbered.
    """
    names = list(dict.fromkeys(run.arm for run in runs))
    if len(names) == len(runs):
        return list(range(len(runs)))
    numbers = {name: count() for name in names}
    return [names.index(run.arm) % COLOURS + COLOURS * next(numbers[run.arm]) for run in runs]
