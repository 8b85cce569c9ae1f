"""What the constitution did in each run: schedule, yield, mining, and the probe by round."""

from __future__ import annotations

from collections.abc import Sequence

from fedrai.rates import Rate
from fedrai.report.arms import styled
from fedrai.report.charts import Chart, Curve, Point
from fedrai.report.legends import legend_of_lines
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
from fedrai.runs.record import AlignmentRecord, ConstitutionRecord, RunRecord

PROBES = ("safe, before", "safe, after", "useful, before", "useful, after")
MINED = ("round", "side", "failed before", "unsafe by the guard", "taken", "filled up with others")
FAILURES = {"harmful": "harmful, not declined", "harmless": "harmless, declined"}
NOTHING = "–"


def constitutions(runs: Sequence[RunRecord]) -> dict[str, list[Content]]:
    """Schedule, yield and probes of the runs with a constitution."""
    return {
        "runs": [
            _content(run, run.constitution, place, style)
            for place, run, style in styled(runs)
            if run.constitution
        ]
    }


def _content(run: RunRecord, constitution: ConstitutionRecord, place: int, style: int) -> Content:
    alignments = {one.number: one.alignment for one in run.rounds if one.alignment}
    columns = ["round", "ran", "why", "steps", "ended", "requests", "yield", *PROBES, "outcomes"]
    rows = [_row(number, alignment) for number, alignment in alignments.items()]
    traces = {n: one for n, one in alignments.items() if one.trace}
    return {
        "place": place,
        "label": run.label,
        "summary": _summary(run, constitution, sum(one.ran for one in alignments.values())),
        "probe": _probe(alignments, place, style),
        "alignments": Table(f"Alignments: {run.label}", columns, rows),
        "mining": _mining(run.label, alignments),
        "traces": [_trace(n, one, f"chart-trace-{place}-{n}", style) for n, one in traces.items()],
    }


def _mining(label: str, alignments: dict[int, AlignmentRecord]) -> Table | None:
    """What mining found before each alignment; None if no alignment mined."""
    rows = [
        row(
            count_cell(number), FAILURES.get(side, side), _share(mined.failed),
            count_cell(mined.unsafe) if side == "harmful" else NOTHING,
            count_cell(mined.taken), count_cell(mined.filled),
        )
        for number, one in alignments.items()
        for side, mined in one.mining.items()
    ]  # fmt: skip
    return Table(f"Requests that the model failed: {label}", list(MINED), rows) if rows else None


def _summary(run: RunRecord, constitution: ConstitutionRecord, ran: int) -> str:
    schedule = constitution.schedule or MISSING
    text = f"Schedule {schedule}: it ran in {ran} of {len(run.rounds)} rounds."
    if constitution.saving is None:
        return text
    saving = f"{100 * constitution.saving:.1f} %"
    return f"{text} Operations saved against the full schedule (estimate): {saving}."


def _row(number: int, alignment: AlignmentRecord) -> TableRow:
    start = [count_cell(number), "yes" if alignment.ran else "no", alignment.why or MISSING]
    shares = [_share(rate) for rate in _rates(alignment)]
    if not alignment.ran:
        skipped = (shares[0], NOTHING, shares[2], NOTHING)
        return row(*start, NOTHING, NOTHING, NOTHING, NOTHING, *skipped, NOTHING)
    requests = number_cell(alignment.requests)
    if alignment.reused:
        requests = Cell(f"{requests.text} (reused)", requests.value)
    outcomes = ", ".join(f"{name} {count}" for name, count in alignment.outcomes.items() if count)
    return row(
        *start, number_cell(alignment.steps), alignment.stopped or MISSING, requests,
        _share(_yield(alignment)), *shares, outcomes or MISSING,
    )  # fmt: skip


def _yield(alignment: AlignmentRecord) -> Rate | None:
    """The share of requests whose revision passed all checks."""
    kept, requests = alignment.kept, alignment.requests
    return Rate(kept, requests) if kept is not None and requests and kept <= requests else None


def _share(rate: Rate | None) -> Cell:
    return Cell(MISSING) if rate is None else Cell(rate.format(), rate.value)


# --- the probe ------------------------------------------------------------------------------------


def _rates(alignment: AlignmentRecord) -> list[Rate | None]:
    """The probe's rates in the order of `PROBES`."""
    probes = (alignment.before, alignment.after)
    return [*(p.safe if p else None for p in probes), *(p.useful if p else None for p in probes)]


def _probe(alignments: dict[int, AlignmentRecord], place: int, style: int) -> Content:
    """The probe before and after each alignment, in the colour of the run."""
    curves = []
    for number, name in enumerate(PROBES):
        rates = [(n, _rates(alignment)[number]) for n, alignment in alignments.items()]
        points = tuple(
            Point(n, rate.value or 0.0, *(rate.interval() or ())) for n, rate in rates if rate
        )
        curves.append(Curve(name, style, points, shade=1 - number % 2, dash=number // 2))
    chart = Chart(
        f"chart-probe-{place}", "Probe before and after alignments",
        "Shares by round of openings that are likelier than their counterparts; the table below"
        " has them.", curves,
    )  # fmt: skip
    return {"chart": chart, "legend": legend_of_lines(curves) if chart.svg else []}


def _trace(number: int, alignment: AlignmentRecord, name: str, style: int) -> Content:
    """The probe during one alignment."""
    curves = [
        Curve(side, style, tuple(Point(at[0], at[n + 1]) for at in alignment.trace), dash=n)
        for n, side in enumerate(("safe", "useful"))
    ]
    chart = Chart(
        name, f"Probe during the alignment of round {number}",
        "Shares by optimiser step; the table below has them.", curves, "step",
    )  # fmt: skip
    rows = [
        row(count_cell(step), *(Cell(f"{100 * share:.1f} %", share) for share in (safe, useful)))
        for step, safe, useful in alignment.trace
    ]
    table = Table(f"Probe by step in round {number}", ["step", "safe", "useful"], rows)
    title = f"Probe during round {number}"
    return {"title": title, "chart": chart, "legend": legend_of_lines(curves), "table": table}
