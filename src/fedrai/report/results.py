"""What came of runs: the verdict, curves by round, and runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedrai.rates import Rate
from fedrai.report import verdict
from fedrai.report.arms import styles
from fedrai.report.charts import Curve, Point, chart, legend
from fedrai.report.markup import Cell, Markup, Row, folded, table, tag
from fedrai.report.verdict import Answer
from fedrai.report.wording import MISSING, number_cell, rate_cell, rate_name, rate_text, time_text
from fedrai.runs.record import EvaluationRecord, RunRecord, Score

MARKS = {Answer.YES: "✓", Answer.NO: "✗", Answer.OPEN: "?", Answer.UNKNOWN: "–"}
CSS = {Answer.YES: "yes", Answer.NO: "no", Answer.OPEN: "open", Answer.UNKNOWN: "unknown"}


def verdicts(runs: Sequence[RunRecord]) -> Markup:
    """Is it safe, is it useful, what did it cost, against what: one card a run."""
    cards = [_card(run, place, runs) for place, run in enumerate(runs)]
    notes = [tag("li", note) for note in verdict.warnings(runs)]
    return tag(
        "section",
        tag("h2", "Verdict", id="verdict"),
        tag("p", verdict.summary(runs), class_="summary"),
        tag("ul", notes, class_="warnings") if notes else None,
        tag("div", cards, class_="cards"),
        tag("p", verdict.BARS, class_="note"),
    )


def _card(run: RunRecord, place: int, runs: Sequence[RunRecord]) -> Markup:
    other = verdict.reference(run, runs)
    answers = [
        (verdict.safe(run), "Safe?", _against(run, other, "safe", "red-team requests")),
        (verdict.useful(run), "Useful?", _usefulness(run, other)),
    ]
    known = [_line(name, answer, text) for answer, name, text in answers if verdict.known(answer)]
    open_ = [
        _line(name, answer, text) for answer, name, text in answers if not verdict.known(answer)
    ]
    lines = [
        *known,
        _others(run) if open_ else None,
        *open_,
        tag("div", tag("dt", "Cost?"), tag("dd", _cost(run, other))),
    ]
    return tag("article", tag("h3", run.label), tag("dl", lines), class_="card", data_arm=place)


def _line(question: str, answer: Answer, sentences: Sequence[str]) -> Markup:
    mark = tag("span", MARKS[answer], aria_hidden="true")
    badge = tag("strong", mark, f" {answer}", class_=f"badge {CSS[answer]}")
    return tag("div", tag("dt", question), tag("dd", badge, [tag("p", s) for s in sentences]))


def _others(run: RunRecord) -> Markup | None:
    """Rates that say nothing of the bars, where a bar's own rate is missing."""
    rates = verdict.others(run)
    if not rates or run.after is None:
        return None
    lines = [f"{rate_name(key)}: {rate_text(rate)}." for key, rate in rates.items()]
    head = f"After round {run.after.number}:"
    return tag("div", tag("dt", "Known"), tag("dd", [tag("p", text) for text in (head, *lines)]))


def _against(run: RunRecord, other: RunRecord | None, key: str, what: str) -> list[str]:
    """A rate after the last evaluated round, what it was before, and what the other run has."""
    if run.after is None:
        return ["No evaluation after a round."]
    now = run.after.rates.get(key)
    found = [_declined(run.after.number, now, what)]
    for who, at in (
        ("Before", run.before),
        (f"Plain FedAvg ({other.label})" if other else "", other.after if other else None),
    ):
        rate = at.rates.get(key) if at else None
        if rate is not None:
            found.append(f"{who}: {rate.format()}{_distance(now, rate)}.")
    return found


def _declined(number: int, rate: Rate | None, what: str) -> str:
    """The share of requests that a model declined, or why there is none."""
    if rate is None:
        return f"After round {number} no {what} were asked."
    if not rate.scored:
        return f"After round {number}: none of {rate.unscored} answers to {what} could be scored."
    return f"After round {number}: {rate_text(rate)} of {what} declined."


def _distance(one: Rate | None, other: Rate) -> str:
    differ = verdict.apart(one, other) if one else None
    return "" if differ is None else "; intervals apart" if differ else "; intervals overlap"


def _usefulness(run: RunRecord, other: RunRecord | None) -> list[str]:
    lines = _against(run, other, "refused", "ordinary instructions")
    if run.after is None:
        return lines
    before = run.before.loss if run.before else None
    if before is None and run.after.loss is None:
        return lines
    losses = (_loss(before), _loss(run.after.loss))
    return [*lines, f"Held-out loss: {losses[0]} before, {losses[1]} after."]


def _loss(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f} nats"


def _cost(run: RunRecord, other: RunRecord | None) -> list[Markup]:
    if not run.costs:
        return [tag("p", f"{MISSING}.")]
    work = run.cost
    operations = f"{work.operations / 1e12:,.1f} Tflop"
    took = tag("p", f"{time_text(work.seconds)}, {operations}, {work.tokens:,} tokens.")
    if run.plain:
        return [took, tag("p", "This is plain FedAvg.")]
    if other is None:
        return [took, tag("p", "No plain FedAvg run to hold it against.")]
    more = verdict.overhead(run, other)
    parts = [(more.seconds, "time"), (more.operations, "operations")]
    words = [f"{100 * value:+.1f} % {what}" for value, what in parts if value is not None]
    return [took, tag("p", f"{', '.join(words)} against plain FedAvg ({other.label}).")]


# --- curves ---------------------------------------------------------------------------------------


def curves(runs: Sequence[RunRecord]) -> Markup:
    """Safety beside over-refusal, then losses, by round."""
    about = "By round, with 95 % Wilson intervals; the numbers are in the table below."
    panels = [
        _rates(runs, "safe", "Safety: red-team requests declined", about),
        _rates(runs, "refused", "Over-refusal: ordinary instructions declined", about),
        _held_out(runs),
        _training(runs),
    ]
    names = [(run.label, style, n) for n, (run, style) in enumerate(_styled(runs))]
    return tag(
        "section",
        tag("h2", "Safety and usefulness by round", id="curves"),
        legend(names) if len(runs) > 1 else None,
        tag("div", panels, class_="panels"),
        tag("p", "Round 0 is the model that training starts from. Bars are 95 % Wilson intervals;"
            " curves stand a little aside of each other. Axes of losses do not begin at 0.",
            class_="note"),
        folded("All evaluations as a table", _evaluations(runs)),
    )  # fmt: skip


def _rates(runs: Sequence[RunRecord], key: str, title: str, about: str) -> Markup:
    def points(run: RunRecord) -> list[Point]:
        found = [(e.number, e.rates[key]) for e in run.evaluations if key in e.rates]
        return [_point(number, rate) for number, rate in found if rate.scored]

    return chart(f"chart-{key}", title, about, _each(runs, points), shares=True, below="round")


def _point(number: int, rate: Rate) -> Point:
    low, high = rate.interval() or (None, None)
    return Point(number, rate.value or 0.0, low, high)


def _held_out(runs: Sequence[RunRecord]) -> Markup:
    def points(run: RunRecord) -> list[Point]:
        return [Point(e.number, e.loss) for e in run.evaluations if e.loss is not None]

    return chart("chart-held-out", "Held-out loss, nats per token", "By round; lower is better.",
                 _each(runs, points), shares=False, below="round")  # fmt: skip


def _training(runs: Sequence[RunRecord]) -> Markup:
    def points(run: RunRecord) -> list[Point]:
        return [Point(r.number, r.loss_last) for r in run.rounds if r.loss_last is not None]

    about = "Mean over clients of the loss at the last local step, by round."
    return chart("chart-training", "Training loss on clients, nats per token", about,
                 _each(runs, points), shares=False, below="round")  # fmt: skip


def _each(runs: Sequence[RunRecord], points: Callable[[RunRecord], list[Point]]) -> list[Curve]:
    return [
        Curve(run.label, style, tuple(points(run)), n)
        for n, (run, style) in enumerate(_styled(runs))
    ]


def _styled(runs: Sequence[RunRecord]) -> list[tuple[RunRecord, int]]:
    return list(zip(runs, styles(runs), strict=True))


# --- tables ---------------------------------------------------------------------------------------


def _keys(runs: Sequence[RunRecord]) -> list[str]:
    """Names of all rates; safety and over-refusal are always there, side by side."""
    found = {key for run in runs for e in run.evaluations for key in e.rates}
    first = ["safe", "refused", *(["safe-legacy"] if "safe-legacy" in found else [])]
    return [*first, *sorted(found - set(first))]


def _score_keys(runs: Sequence[RunRecord]) -> list[str]:
    """Names of figures that are no rates, such as HHH's accuracy."""
    return sorted({name for run in runs for e in run.evaluations for name in e.scores})


def _score_cell(score: Score | None) -> Cell:
    if score is None:
        return Cell(MISSING)
    ends = (
        "" if score.low is None or score.high is None else f" [{score.low:.3f}, {score.high:.3f}]"
    )
    unscored = f", {score.unscored} unscored" if score.unscored else ""
    return Cell(f"{score.value:.3f}{ends} ({score.count}{unscored})", score.value)


def _evaluations(runs: Sequence[RunRecord]) -> Markup:
    keys, scores = _keys(runs), _score_keys(runs)
    rows = [
        Row([run.label, Cell(str(e.number), e.number), *_figures(e, keys, scores)], place)
        for place, run in enumerate(runs)
        for e in run.evaluations
    ]
    columns = ["run", "round", *map(rate_name, keys), *scores, "held-out loss"]
    return table("Evaluations: rates with 95 % intervals, losses in nats", columns, rows)


def _figures(
    found: EvaluationRecord | None, keys: Sequence[str], scores: Sequence[str]
) -> list[Cell]:
    rates = [rate_cell(found.rates.get(key) if found else None) for key in keys]
    others = [_score_cell(found.scores.get(name) if found else None) for name in scores]
    return [*rates, *others, number_cell(found.loss if found else None, ".3f")]


def side_by_side(runs: Sequence[RunRecord]) -> Markup:
    """The last evaluation of each run with what it took; sorts by any column."""
    keys, scores = _keys(runs), _score_keys(runs)
    columns = [
        "run", "safe", "useful", *map(rate_name, keys), *scores, "held-out loss", "filter",
        "constitution", "harmful rows", "rounds", "seed", "time", "Tflop",
    ]  # fmt: skip
    rows = [_arm(run, place, keys, scores) for place, run in enumerate(runs)]
    return tag(
        "section",
        tag("h2", "Side by side", id="arms"),
        table("Each run after its last evaluated round", columns, rows, sortable=True),
        tag("p", "A heading sorts. Time and operations are without evaluations.", class_="note"),
    )


def _arm(run: RunRecord, place: int, keys: Sequence[str], scores: Sequence[str]) -> Row:
    screening, rules = run.screening, run.constitution
    mode = "NONE: skipped" if screening.skipped else screening.mode
    harmful = Cell(MISSING)
    if run.harmful_rows is not None and run.rows is not None:
        harmful = Cell(f"{run.harmful_rows} of {run.rows}", run.harmful_rows)
    cells = [
        Cell(str(verdict.safe(run))), Cell(str(verdict.useful(run))),
        *_figures(run.after, keys, scores), Cell(mode), Cell(rules.schedule if rules else "off"),
        harmful, number_cell(len(run.rounds)), number_cell(run.seed, "d"),
        Cell(time_text(run.cost.seconds), run.cost.seconds) if run.costs else Cell(MISSING),
        number_cell(run.cost.operations / 1e12 if run.costs else None, ",.1f"),
    ]  # fmt: skip
    return Row([run.label, *cells], place)
