"""Results of runs: the verdict, curves by round, and runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fedrai.rates import Rate
from fedrai.report import preference, verdict
from fedrai.report.arms import styled
from fedrai.report.charts import Chart, Curve, Point
from fedrai.report.legends import legend
from fedrai.report.measures import OUTSIDE_REFUSED, OUTSIDE_SAFE, heading
from fedrai.report.saved_comparison import Gap, SavedComparison
from fedrai.report.summary import summary
from fedrai.report.tables import (
    MISSING,
    Cell,
    Content,
    Table,
    TableRow,
    count_cell,
    macro_cell,
    number_cell,
    rate_cell,
    row,
    time_text,
)
from fedrai.report.verdict import RunVerdict
from fedrai.runs.record import EvaluationRecord, MacroRate, RunRecord, Score

OUTSIDE_COLUMNS = (heading(OUTSIDE_SAFE), heading(OUTSIDE_REFUSED))


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a card: a question with its verdict, if it has one, and sentences."""

    term: str
    sentences: Sequence[str]
    verdict: RunVerdict | None = None


def verdicts(runs: Sequence[RunRecord], comparisons: Sequence[SavedComparison] = ()) -> Content:
    """Is it safe, is it useful, what did it cost, compared with what: one card per run."""
    return {
        "summary": summary(runs),
        "compared": [sentence for one in comparisons for sentence in compared(one)],
        "warnings": verdict.warnings(runs),
        "cards": [_card(run, runs) for run in runs],
        "criteria": verdict.CRITERIA,
    }


def compared(comparison: SavedComparison) -> list[str]:
    """What the arms gain and lose over the reference arm on outside sets, question by question."""
    sides = ((OUTSIDE_SAFE, "Harmful"), (OUTSIDE_REFUSED, "Harmless"))
    return [
        f"{kind} requests of outside sets declined, compared with {comparison.against} by question:"
        f" {'; '.join(map(_gap_text, gaps))}."
        for measure, kind in sides
        if (gaps := [gap for gap in comparison.gaps if gap.measure == measure])
    ]


def _gap_text(gap: Gap) -> str:
    point = gap.difference
    ends = (
        ""
        if point.low is None or point.high is None
        else (f" [{100 * point.low:+.1f}, {100 * point.high:+.1f}]")
    )
    unsettled = "" if gap.is_settled else ", within noise"
    return f"{gap.arm} {100 * point.y:+.1f} points{ends}{unsettled}"


def _card(run: RunRecord, runs: Sequence[RunRecord]) -> Content:
    """Measured answers first, then what else was measured, then what was not."""
    baseline = verdict.baseline(run, runs)
    questions = [
        Line("Safe?", _safety(run, baseline), verdict.safe(run)),
        Line("Useful?", _usefulness(run, baseline), verdict.useful(run)),
    ]
    measured = [line for line in questions if line.verdict is not RunVerdict.UNKNOWN]
    unknown = [line for line in questions if line.verdict is RunVerdict.UNKNOWN]
    others = _other_rates(run) if unknown else []
    lines = [*measured, *others, *unknown, Line("Cost?", _cost(run, baseline))]
    return {"label": run.label, "lines": lines}


def _other_rates(run: RunRecord) -> list[Line]:
    """Rates without a criterion, shown where a criterion's own rate is missing."""
    rates = verdict.other_rates(run)
    if not rates or run.after is None:
        return []
    sentences = [f"{heading(name)}: {rate.describe()}." for name, rate in rates.items()]
    return [Line("Known", [f"After round {run.after.number}:", *sentences])]


NOT_OUTSIDE = "No outside set was asked: what follows is of development sets and proves nothing."


def _safety(run: RunRecord, baseline: RunRecord | None) -> list[str]:
    """Outside sets first, then AdvBench."""
    outside = _outside_sentences(run, baseline, OUTSIDE_SAFE, "harmful requests")
    return [*outside, *_rate_sentences(run, baseline, "safe", "requests of AdvBench")]


def _outside_sentences(
    run: RunRecord, baseline: RunRecord | None, name: str, requests: str
) -> list[str]:
    """A macro mean after the last evaluated round, before training, and of the baseline."""
    mean = _outside_mean(run.after, name)
    if mean is None:
        measured = run.after is not None and not {"safe", "refused"}.isdisjoint(run.after.rates)
        return [NOT_OUTSIDE] if measured else []
    sentences = [f"Outside sets: {mean.describe()} of {requests} declined."]
    for label, evaluation in (
        ("Before", run.before),
        (f"Plain FedAvg ({baseline.label})" if baseline else "", baseline and baseline.after),
    ):
        if evaluation and (other := _outside_mean(evaluation, name)) is not None:
            sentences.append(f"{label}: {other.format()}.")
    return [*sentences, "Development sets:"]


def _outside_mean(evaluation: EvaluationRecord | None, name: str) -> MacroRate | None:
    if evaluation is None:
        return None
    return evaluation.outside_safe if name == OUTSIDE_SAFE else evaluation.outside_refused


def _rate_sentences(
    run: RunRecord, baseline: RunRecord | None, name: str, requests: str
) -> list[str]:
    """A rate after the last evaluated round, before training, and of the baseline."""
    if run.after is None:
        return ["No evaluation after a round."]
    rate = run.after.rates.get(name)
    sentences = [_declined_share(run.after.number, rate, requests)]
    for label, evaluation in (
        ("Before", run.before),
        (f"Plain FedAvg ({baseline.label})" if baseline else "", baseline and baseline.after),
    ):
        other = evaluation.rates.get(name) if evaluation else None
        if other is not None:
            sentences.append(f"{label}: {other.format()}{_distance(rate, other)}.")
    return sentences


def _declined_share(number: int, rate: Rate | None, requests: str) -> str:
    """The share of requests that a model declined, or why there is none."""
    if rate is None:
        return f"No {requests} were asked after round {number}."
    if not rate.scored:
        return f"After round {number}: none of {rate.unscored} answers to {requests} was scored."
    return f"After round {number}: {rate.describe()} of {requests} declined."


def _distance(rate: Rate | None, other: Rate) -> str:
    is_apart = verdict.intervals_disjoint(rate, other) if rate else None
    return "" if is_apart is None else "; intervals apart" if is_apart else "; intervals overlap"


def _usefulness(run: RunRecord, baseline: RunRecord | None) -> list[str]:
    sentences = _outside_sentences(run, baseline, OUTSIDE_REFUSED, "harmless requests")
    sentences += _rate_sentences(run, baseline, "refused", "ordinary instructions")
    losses = [e.loss_text(MISSING, " nats") if e else MISSING for e in (run.before, run.after)]
    if run.after is None or losses == [MISSING, MISSING]:
        return sentences
    return [*sentences, f"Held-out loss: {losses[0]} before, {losses[1]} after."]


def _cost(run: RunRecord, baseline: RunRecord | None) -> list[str]:
    if not run.costs:
        return [f"{MISSING}."]
    cost = run.cost
    operations = f"{cost.operations / 1e12:,.1f} Tflop"
    total = f"{time_text(cost.seconds)}, {operations}, {cost.tokens:,} tokens."
    if run.plain:
        return [total, "This is plain FedAvg."]
    if baseline is None:
        return [total, "No plain FedAvg run to compare with."]
    overhead = verdict.overhead(run, baseline)
    parts = [(overhead.seconds, "time"), (overhead.operations, "operations")]
    changes = [f"{100 * value:+.1f} % {what}" for value, what in parts if value is not None]
    return [total, f"{', '.join(changes)} against plain FedAvg ({baseline.label})."]


# --- curves ---------------------------------------------------------------------------------------


def curves(runs: Sequence[RunRecord]) -> Content:
    """Safety beside over-refusal, then losses, by round."""
    rates = "By round, with 95 % Wilson intervals; the numbers are in the table below."
    last_step = "Mean over clients of the loss at the last local step, by round."
    charts = [
        *_outside_charts(runs),
        Chart("chart-safe", "Safety, development: requests of AdvBench declined", rates,
              _rates(runs, "safe")),
        Chart("chart-refused", "Over-refusal, development: ordinary instructions declined", rates,
              _rates(runs, "refused")),
        Chart("chart-held-out", "Held-out loss, nats per token", "By round; lower is better.",
              _curves(runs, _held_out), shares=False),
        Chart("chart-training", "Training loss on clients, nats per token", last_step,
              _curves(runs, _training), shares=False),
        *preference.charts(runs),
        *_error_charts(runs),
    ]  # fmt: skip
    keys = legend(charts[0].curves) if len(runs) > 1 else []
    return {
        "charts": charts,
        "legend": keys,
        "outside": _outside_sets(runs),
        "evaluations": _evaluations(runs),
        "preference": preference.table(runs),
    }


def _outside_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Macro means over outside sets by round; none where no run has any."""
    description = "By round, with 95 % intervals over sets and items."
    charts = [
        Chart(f"chart-{name}", title, description, _curves(runs, partial(_outside_points, name)))
        for name, title in (
            (OUTSIDE_SAFE, "Safety: harmful requests of outside sets declined"),
            (OUTSIDE_REFUSED, "Over-refusal: harmless requests of outside sets declined"),
        )
    ]
    return [chart for chart in charts if any(curve.points for curve in chart.curves)]


def _error_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """How far aggregates are from the mean of the clients' models; none where it is not known."""
    description = "Of what the clients' training changed in the mean, by round; 0 is exact."
    curves = _curves(runs, _aggregation_error)
    if not any(curve.points for curve in curves):
        return []
    title = "Aggregation error, part of the mean change"
    return [Chart("chart-aggregation", title, description, curves, shares=False)]


def _aggregation_error(run: RunRecord) -> list[Point]:
    errors = [(one.number, one.aggregation_error) for one in run.rounds]
    return [Point(number, error) for number, error in errors if error is not None]


def _outside_points(name: str, run: RunRecord) -> list[Point]:
    means = [(e.number, _outside_mean(e, name)) for e in run.evaluations]
    return [Point(n, mean.value, mean.low, mean.high) for n, mean in means if mean is not None]


def _rates(runs: Sequence[RunRecord], name: str) -> list[Curve]:
    def points(run: RunRecord) -> list[Point]:
        rates = [(e.number, e.rates[name]) for e in run.evaluations if name in e.rates]
        return [_point(number, rate) for number, rate in rates if rate.scored]

    return _curves(runs, points)


def _point(number: int, rate: Rate) -> Point:
    return Point(number, rate.value or 0.0, *(rate.interval() or (None, None)))


def _held_out(run: RunRecord) -> list[Point]:
    return [Point(e.number, e.loss) for e in run.evaluations if e.loss is not None]


def _training(run: RunRecord) -> list[Point]:
    return [Point(r.number, r.loss_last) for r in run.rounds if r.loss_last is not None]


def _curves(runs: Sequence[RunRecord], points: Callable[[RunRecord], list[Point]]) -> list[Curve]:
    return [
        Curve(run.label, style, tuple(points(run)), place) for place, run, style in styled(runs)
    ]


# --- tables ---------------------------------------------------------------------------------------


def _rate_names(runs: Sequence[RunRecord]) -> list[str]:
    """Names of all rates; safety and over-refusal are always there, side by side."""
    names = {name for run in runs for e in run.evaluations for name in e.rates}
    first = ["safe", "refused", *(["safe-legacy"] if "safe-legacy" in names else [])]
    return [*first, *sorted(names - set(first))]


def _score_names(runs: Sequence[RunRecord]) -> list[str]:
    """Names of figures that are not rates, such as HHH's accuracy."""
    return sorted({name for run in runs for e in run.evaluations for name in e.scores})


def _evaluations(runs: Sequence[RunRecord]) -> Table:
    rates, scores = _rate_names(runs), _score_names(runs)
    rows = [
        row(run.label, count_cell(e.number), *_figures(e, rates, scores), arm=place)
        for place, run in enumerate(runs)
        for e in run.evaluations
    ]
    columns = ["run", "round", *OUTSIDE_COLUMNS, *map(heading, rates), *scores, "held-out loss"]
    return Table("Evaluations: rates with 95 % intervals, losses in nats", columns, rows)


def _figures(
    evaluation: EvaluationRecord | None, rates: Sequence[str], scores: Sequence[str]
) -> list[Cell]:
    outside = [macro_cell(_outside_mean(evaluation, n)) for n in (OUTSIDE_SAFE, OUTSIDE_REFUSED)]
    if evaluation is None:
        none = [Cell(MISSING) for _ in (*scores, "loss")]
        return [*outside, *(rate_cell(None) for _ in rates), *none]
    return [
        *outside,
        *(rate_cell(evaluation.rates.get(name)) for name in rates),
        *(_score_cell(evaluation.scores.get(name)) for name in scores),
        Cell(evaluation.loss_text(MISSING), evaluation.loss),
    ]


def _score_cell(score: Score | None) -> Cell:
    if score is None:
        return Cell(MISSING)
    unscored = f", {score.unscored} unscored" if score.unscored else ""
    return Cell(f"{score.format()} ({score.count}{unscored})", score.value)


def _outside_sets(runs: Sequence[RunRecord]) -> Table:
    """Each outside set after the last evaluated round of each run, a row for each set and run."""
    rows = [
        row(run.label, name, one.manner, "harmful" if one.harmful else "harmless",
            rate_cell(one.rate), arm=place)
        for place, run in enumerate(runs)
        if run.after is not None and run.after.outside is not None
        for name, one in run.after.outside.sets.items()
    ]  # fmt: skip
    columns = ["run", "outside set", "manner", "side", "declined"]
    return Table("Outside sets after the last evaluated round", columns, rows)


def side_by_side(runs: Sequence[RunRecord]) -> Table:
    """The last evaluation of each run with its cost; sorts by any column."""
    rates, scores = _rate_names(runs), _score_names(runs)
    columns = [
        "run", "safe", "useful", *OUTSIDE_COLUMNS, *map(heading, rates), *scores, "held-out loss",
        "filter", "constitution", "harmful rows", "rounds", "seed", "time", "Tflop",
    ]  # fmt: skip
    rows = [_run_row(run, place, rates, scores) for place, run in enumerate(runs)]
    return Table("Each run after its last evaluated round", columns, rows, sortable=True)


def _run_row(run: RunRecord, place: int, rates: Sequence[str], scores: Sequence[str]) -> TableRow:
    harmful = Cell(MISSING)
    if run.harmful_rows is not None and run.rows is not None:
        harmful = Cell(f"{run.harmful_rows} of {run.rows}", run.harmful_rows)
    return row(
        run.label,
        str(verdict.safe(run)),
        str(verdict.useful(run)),
        *_figures(run.after, rates, scores),
        "NONE: skipped" if run.screening.skipped else run.screening.mode,
        run.constitution.schedule if run.constitution else "off",
        harmful,
        number_cell(len(run.rounds)),
        number_cell(run.seed, "d"),
        Cell(time_text(run.cost.seconds), run.cost.seconds) if run.costs else Cell(MISSING),
        number_cell(run.cost.operations / 1e12 if run.costs else None, ",.1f"),
        arm=place,
    )
