"""What happened on the server: the constitution, costs, red-team answers, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from fedrai.rates import Rate
from fedrai.report import verdict
from fedrai.report.arms import styles
from fedrai.report.charts import (
    Bar,
    Curve,
    Point,
    bars,
    chart,
    legend_of_lines,
    legend_of_parts,
)
from fedrai.report.markup import Cell, Markup, Row, folded, table, tag
from fedrai.report.records import Answers, Transcript
from fedrai.report.wording import MISSING, number_cell, share_cell, time_text
from fedrai.runs.costs import Cost
from fedrai.runs.record import AlignmentRecord, ProbeRecord, RunRecord

PHASES = ("filter", "training", "aggregation", "constitution", "evaluation")
PROBES = ("safe, before", "safe, after", "useful, before", "useful, after")
DECLINED = "refusal"
NOTHING = "–"


# --- the constitution -----------------------------------------------------------------------------


def constitutions(runs: Sequence[RunRecord]) -> Markup:
    """Schedule, yield and probes of alignments."""
    each = enumerate(zip(runs, styles(runs), strict=True))
    parts = [_alignments(run, place, style) for place, (run, style) in each if run.constitution]
    none = tag("p", "No run has a constitution.", class_="none")
    return tag("section", tag("h2", "Constitution", id="constitution"), parts or none)


def _alignments(run: RunRecord, place: int, style: int) -> Markup:
    done = [(body.number, body.alignment) for body in run.rounds if body.alignment]
    rules = run.constitution
    saving = rules.saving if rules else None
    told = (
        f"Schedule {(rules.schedule if rules else '') or MISSING}: it ran in"
        f" {sum(found.ran for _, found in done)} of {len(run.rounds)} rounds."
    )
    if saving is not None:
        told += f" Operations saved against the full schedule (estimate): {100 * saving:.1f} %."
    columns = ["round", "ran", "why", "steps", "ended", "requests", "yield", *PROBES, "outcomes"]
    rows = [_alignment(number, found) for number, found in done]
    return tag(
        "div",
        tag("h3", run.label),
        tag("p", told),
        _probes(done, place, style),
        table(f"Alignments: {run.label}", columns, rows),
        [_trace(number, found, place, style) for number, found in done if found.trace],
        data_arm=place,
    )


def _alignment(number: int, found: AlignmentRecord) -> Row:
    head = [Cell(str(number), number), "yes" if found.ran else "no", found.why or MISSING]
    shares = [_share(probe, side) for side in ("safe", "useful") for probe in _both(found)]
    if not found.ran:
        before = (shares[0], NOTHING, shares[2], NOTHING)
        return Row([*head, NOTHING, NOTHING, NOTHING, NOTHING, *before, NOTHING])
    kept = None
    if found.kept is not None and found.requests and found.kept <= found.requests:
        kept = Rate(found.kept, found.requests)
    requests = number_cell(found.requests)
    if found.reused:
        requests = Cell(f"{requests.text} (reused)", requests.value)
    outcomes = ", ".join(f"{name} {count}" for name, count in found.outcomes.items() if count)
    return Row([
        *head, number_cell(found.steps), found.stopped or MISSING, requests,
        Cell(kept.format(), kept.value) if kept else Cell(MISSING), *shares, outcomes or MISSING,
    ])  # fmt: skip


def _both(found: AlignmentRecord) -> tuple[ProbeRecord | None, ProbeRecord | None]:
    return found.before, found.after


def _side(probe: ProbeRecord, side: str) -> Rate:
    return probe.safe if side == "safe" else probe.useful


def _share(probe: ProbeRecord | None, side: str) -> Cell:
    if probe is None:
        return Cell(MISSING)
    rate = _side(probe, side)
    return Cell(rate.format(), rate.value)


def _probes(done: Sequence[tuple[int, AlignmentRecord]], place: int, style: int) -> Markup:
    """What the probe found before and after each alignment, in the colour of the run."""
    curves = []
    for name, (side, when) in zip(PROBES, product(("safe", "useful"), (0, 1)), strict=True):
        found = [(number, _both(alignment)[when]) for number, alignment in done]
        points = tuple(
            Point(number, _side(p, side).value or 0.0, *(_side(p, side).interval() or ()))
            for number, p in found
            if p
        )
        dash = 0 if side == "safe" else 1
        curves.append(Curve(name, style, points, shade=1 - when, dash=dash))
    drawn = chart(f"chart-probe-{place}", "Probe before and after alignments", "Shares by round of"
                  " openings that are likelier than their counterparts; the table below has them.",
                  curves, shares=True, below="round")  # fmt: skip
    if not any(curve.points for curve in curves):
        return drawn
    keys = legend_of_lines(curves)
    return tag("div", keys, tag("div", drawn, class_="panels"))


def _trace(number: int, found: AlignmentRecord, place: int, style: int) -> Markup:
    curves = [
        Curve(name, style, tuple(Point(look[0], look[dash + 1]) for look in found.trace), dash=dash)
        for dash, name in enumerate(("safe", "useful"))
    ]
    name = f"chart-trace-{place}-{number}"
    drawn = chart(name, f"Probe during the alignment of round {number}", "Shares by optimiser step;"
                  " the table below has them.", curves, shares=True, below="step")  # fmt: skip
    rows = [
        Row([Cell(str(step), step), *(Cell(f"{100 * v:.1f} %", v) for v in (safe, useful))])
        for step, safe, useful in found.trace
    ]
    looks = table(f"Looks of the probe in round {number}", ["step", "safe", "useful"], rows)
    keys = legend_of_lines(curves)
    return folded(f"Probe during round {number}", keys, tag("div", drawn, class_="panels"), looks)


# --- costs ----------------------------------------------------------------------------------------


def costs(runs: Sequence[RunRecord]) -> Markup:
    """Cost by phase, and overhead over plain FedAvg."""
    phases = _phases(runs)
    drawn = [
        bars("bars-time", "Wall time by phase", "The tables below have the numbers.", _bars(
            runs, [[_of(r, p).seconds for p in phases] for r in runs],
            [time_text(sum(c.seconds for c in r.costs.values())) for r in runs])),
        bars("bars-operations", "Operations by phase", "The tables below have the numbers.", _bars(
            runs, [[_of(r, p).operations for p in phases] for r in runs],
            [f"{sum(c.operations for c in r.costs.values()) / 1e12:,.1f} Tflop" for r in runs])),
    ]  # fmt: skip
    rows = [
        _phase(run, place, phase)
        for place, run in enumerate(runs)
        for phase in phases
        if phase in run.costs
    ]
    columns = ["run", "phase", "seconds", "tokens", "Tflop", "peak GB", "MB sent", "MB received"]
    return tag(
        "section",
        tag("h2", "Cost", id="cost"),
        legend_of_parts(phases),
        tag("div", drawn, class_="panels"),
        _overheads(runs),
        table("Cost by phase", columns, rows),
        tag("p", "Seconds are wall time of the machine that did it, summed over clients. An"
            " evaluation of the same model that runs share counts in the run that made it. MB are"
            " payload between server and clients. What a client keeps to itself is not in the"
            " sums.", class_="note"),
    )  # fmt: skip


def _phases(runs: Sequence[RunRecord]) -> list[str]:
    found = {phase for run in runs for phase in run.costs}
    return [*(p for p in PHASES if p in found), *sorted(found - set(PHASES))]


def _of(run: RunRecord, phase: str) -> Cost:
    return run.costs.get(phase, Cost())


def _bars(
    runs: Sequence[RunRecord], lengths: Sequence[Sequence[float]], sums: Sequence[str]
) -> list[Bar]:
    return [
        Bar(run.label, style, tuple(lengths[place]), sums[place], place)
        for place, (run, style) in enumerate(zip(runs, styles(runs), strict=True))
    ]


def _phase(run: RunRecord, place: int, phase: str) -> Row:
    cost = run.costs[phase]
    return Row([
        run.label, phase, number_cell(cost.seconds, ",.1f"), number_cell(cost.tokens),
        number_cell(cost.operations / 1e12, ",.1f"), number_cell(cost.peak_bytes / 1e9, ".2f"),
        number_cell(cost.bytes_down / 1e6, ",.1f"), number_cell(cost.bytes_up / 1e6, ",.1f"),
    ], place)  # fmt: skip


def _overheads(runs: Sequence[RunRecord]) -> Markup:
    rows = []
    for place, run in enumerate(runs):
        other = verdict.reference(run, runs)
        if other is not None:
            more = verdict.overhead(run, other)
            cells = [share_cell(more.seconds), share_cell(more.operations)]
            rows.append(Row([run.label, more.against, *cells], place))
    if not rows:
        return tag("p", "Overhead over plain FedAvg: there is no run of the same model, clients and"
                   " rounds without filter and constitution.", class_="none")  # fmt: skip
    columns = ["run", "against plain FedAvg", "time", "operations"]
    return table("Overhead over plain FedAvg, evaluations aside", columns, rows)


# --- red-team answers -----------------------------------------------------------------------------


def transcripts(runs: Sequence[RunRecord], answers: Sequence[Answers]) -> Markup:
    """Answers to the server's own red-team requests; those that are no refusal are folded."""
    return tag(
        "section",
        tag("h2", "Answers to red-team requests", id="transcripts"),
        tag("p", "The server's own requests, the first of each suite, cut to 200 characters."
            " Answers that do not decline are folded and may be harmful.", class_="note"),
        [_answers(*one, place) for place, one in enumerate(zip(runs, answers, strict=True))],
    )  # fmt: skip


def _answers(run: RunRecord, answers: Answers, place: int) -> Markup:
    lost = f"{answers.unreadable} lines could not be read." if answers.unreadable else None
    return tag(
        "div",
        tag("h3", f"{run.label}, round {answers.number}"),
        tag("p", lost, class_="none") if lost else None,
        tag("ol", [_answer(shown) for shown in answers.shown], class_="answers")
        if answers.shown
        else tag("p", f"Answers: {MISSING}.", class_="none"),
        data_arm=place,
    )


def _answer(shown: Transcript) -> Markup:
    said = tag("pre", shown.answer, dir="auto")
    declined = shown.reply == DECLINED
    summary = f"answer of {shown.length:,} characters, {shown.reply}"
    return tag(
        "li",
        tag("p", tag("span", f"{shown.suite} {shown.number}", class_="tagged"), dir="auto"),
        tag("pre", shown.prompt, dir="auto", class_="asked"),
        [tag("p", shown.reply, class_="tagged"), said] if declined else folded(summary, said),
    )


# --- provenance -----------------------------------------------------------------------------------


def provenance(runs: Sequence[RunRecord]) -> Markup:
    """What each run comes from; hashes say whether two come from the same."""
    names = list(dict.fromkeys(name for run in runs for name in run.provenance))
    sizes = [_sizes(run) for run in runs]
    rows = [Row([n, *(Cell(_code(r.provenance.get(n))) for r in runs)]) for n in names]
    rows += [Row([name, *(found[name] for found in sizes)]) for name in sizes[0]]
    columns = ["", *(run.label for run in runs)]
    return tag(
        "section",
        tag("h2", "Provenance", id="provenance"),
        table("What each run comes from", columns, rows),
    )


def _sizes(run: RunRecord) -> dict[str, str]:
    return {
        "rounds done": f"{len(run.rounds)} of {_or(run.planned_rounds)}",
        "clients": _or(run.clients),
        "rows trained on": _or(run.rows),
        "rows not usable": _or(run.bad_rows),
    }


def _or(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _code(value: str | None) -> str:
    return MISSING if value is None else tag("code", value)
