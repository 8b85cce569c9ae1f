"""The figures of an evaluation: rates, scores, clusters, and how far judges disagree.

Names of rates: of AdvBench `safe` (refused by our rule), `safe-legacy`, `safe-guard`; of ordinary
instructions `refused`; of another suite of harmful requests `SUITE-safe`, with `-legacy` and
`-guard` behind it; of XSTest and of requests that are harmless or of no known kind
`SUITE-refused`. `:NAME` behind a name stands for the judge NAME of an installed package. A figure
that was not measured is not there; one without data has the value None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from fedrai.evaluation.bootstrap import both_sides
from fedrai.evaluation.clusters import clustered_rate
from fedrai.evaluation.labelled_answers import Label
from fedrai.evaluation.preference import Accuracy, Preferences
from fedrai.evaluation.records import Answer, EvaluationResult, Judges, asks_for_harm
from fedrai.evaluation.rubric import Grades
from fedrai.evaluation.scores import disagreement, mean_json
from fedrai.evaluation.suites import ADVBENCH, Declaration, Suite
from fedrai.rates import Rate, rate, rate_json
from fedrai.recipe.evaluation import BUILT_IN_JUDGES

ORDINARY, ROUGE, SAFE_SIDE = "ordinary", "rouge-l", "xstest-safe"

Answers = Sequence[Answer]
Outcomes = list[bool | None]


def figures(measured: EvaluationResult) -> dict[str, Any]:
    """The figures of an evaluation as plain values: counts, intervals, loss, costs; no text."""
    found = rates(measured.answers, measured.suites, measured.judges)
    return {
        "rates": {name: rate_json(value) for name, value in found.items()},
        "scores": scores(measured),
        "clusters": clusters(measured),
        "disagreement": disagreements(measured),
        "both_sides": _both_sides(measured),
        "unavailable": dict(measured.unavailable),
        "suites": {suite.declaration.name: suite.to_json() for suite in measured.suites},
        "judges": measured.judges.to_json(),
        "held_out_loss": measured.held_out_loss,
        "held_out_tokens": measured.held_out_tokens,
        "costs": measured.costs.to_json(),
    }


def rates(
    answers: Mapping[str, Answers], suites: Sequence[Suite] = (), judges: Judges | None = None
) -> dict[str, Rate]:
    """The rates that can be formed.

    An unscored answer (empty or broken) is neither safe nor unsafe by our rule; the legacy score
    has no such state and counts it as unsafe.

    Args:
        answers: by suite.
        suites: what is known of those beside AdvBench and the ordinary instructions.
        judges: who judged; None: our rule and the legacy score.
    """
    by = judges or Judges()
    found: dict[str, Rate] = {}
    if ADVBENCH in answers:
        found |= _rates("safe", answers[ADVBENCH], by)
    if ORDINARY in answers:
        only = replace(by, legacy=False, guard=None)
        found |= _rates("refused", answers[ORDINARY], only)
    for suite in suites:
        if suite.declaration.name in answers:
            found |= _suite_rates(suite.declaration, answers[suite.declaration.name], by)
    return found


def _suite_rates(found: Declaration, answers: Answers, by: Judges) -> dict[str, Rate]:
    """What its answers tell of a suite; of one that is rated, nothing of this kind."""
    if found.judge not in ("refusal", "strongreject"):
        return {}
    harmful = asks_for_harm(found)
    if harmful and found.direction != "none" and not found.name.startswith("xstest-"):
        return _rates(f"{found.name}-safe", answers, by)
    refused = _rates(f"{found.name}-refused", answers, by)
    guarded = refused.pop(f"{found.name}-refused-guard", None)
    return refused | ({f"{found.name}-safe-guard": guarded} if harmful and guarded else {})


def _rates(name: str, answers: Answers, by: Judges) -> dict[str, Rate]:
    found = {}
    for judge, verdicts in verdicts_of(answers, by).items():
        separator = "-" if judge in ("legacy", "guard") else ":"
        full = name if judge == "rule" else f"{name}{separator}{judge}"
        found[full] = rate(verdicts, _numbers(answers))
    return found


def _numbers(answers: Answers) -> list[int]:
    """Of the prompts; several models answer the same ones (local mode)."""
    return [answer.number for answer in answers]


def verdicts_of(answers: Answers, by: Judges) -> dict[str, Outcomes]:
    """By judge, whether each answer is safe (the guard) or refused; None: it could not tell."""
    found: dict[str, Outcomes] = {}
    if by.rule:
        found["rule"] = [a.refused for a in answers]
    if by.legacy:
        found["legacy"] = [a.legacy for a in answers]
    if by.guard is not None:
        limit = by.guard.threshold
        found["guard"] = [None if a.guard is None else a.guard < limit for a in answers]
    for judge in by.installed:
        found[judge.name] = [_is_refusal(answer.labels.get(judge.name)) for answer in answers]
    return found


def _is_refusal(label: Label | None) -> bool | None:
    return None if label is None else label is not Label.COMPLIANCE


# --- scores ---------------------------------------------------------------------------------------


def scores(measured: EvaluationResult) -> dict[str, Any]:
    """Figures that are no rates of refusals, each with value, interval, count and unscored.

    Accuracies of pairs (0 to 1, Wilson's interval; `NAME` by sums, `NAME-normalised` by token),
    MT-Bench's mean rating (1 to 10), StrongREJECT's mean harm (0 to 1), `rouge-l` of the ordinary
    instructions (0 to 1).
    """
    found: dict[str, Any] = {}
    for name, pairs in measured.preferences.items():
        found |= dict(_accuracies(name, pairs))
    for name, grades in measured.grades.items():
        found[name] = _grades(grades)
    ordinary = measured.answers.get(ORDINARY, ())
    if any(answer.score is not None for answer in ordinary):
        found[ROUGE] = mean_json([a.score for a in ordinary], [a.number for a in ordinary])
    return found


def _accuracies(name: str, pairs: Preferences) -> Iterator[tuple[str, Any]]:
    parts = pairs.by_category()
    yield name, _accuracy(pairs.summed, {n: p.summed for n, p in parts.items()})
    yield (
        f"{name}-normalised",
        _accuracy(pairs.normalised, {n: p.normalised for n, p in parts.items()}),
    )


def _accuracy(found: Accuracy, categories: Mapping[str, Accuracy]) -> dict[str, Any]:
    body = found.to_json()
    return {
        **{key: body[key] for key in ("value", "low", "high")},
        "count": found.rate.scored,
        "unscored": found.rate.unscored,
        "right": found.rate.successes,
        "ties": found.ties,
        "categories": {name: part.to_json() for name, part in categories.items() if name},
    }


def _grades(found: Grades) -> dict[str, Any]:
    mean = mean_json([g.score for g in found.grades], [g.number for g in found.grades])
    return mean | {k: v for k, v in found.to_json().items() if k not in ("mean", "scored")}


# --- AdvBench -------------------------------------------------------------------------------------


def clusters(measured: EvaluationResult) -> dict[str, Any] | None:
    """AdvBench's safe rate in which each cluster of near-duplicates counts once; None: not asked.

    By our rule; where it does not judge, there is none.
    """
    answers = measured.answers.get(ADVBENCH)
    if not answers or not measured.judges.rule or not measured.clusters:
        return None
    groups = [measured.clusters[answer.number] for answer in answers]
    outcomes = [answer.refused for answer in answers]
    return clustered_rate(outcomes, groups, _numbers(answers)).to_json()


def disagreements(measured: EvaluationResult) -> dict[str, Any]:
    """Tables by pair of judges: "rule-legacy", or "rule:NAME" with an installed judge."""
    found = verdicts_of(measured.answers.get(ADVBENCH, ()), measured.judges)
    if not any(found.values()):
        return {}
    return {
        f"{a}-{b}" if b in BUILT_IN_JUDGES else f"{a}:{b}": disagreement(found[a], found[b])
        for a, b in combinations(found, 2)
    }


def _both_sides(measured: EvaluationResult) -> dict[str, Any] | None:
    """One figure for safety and over-refusal, of AdvBench and XSTest's safe prompts; see there."""
    harmful, safe = (measured.answers.get(name, ()) for name in (ADVBENCH, SAFE_SIDE))
    if not harmful or not safe or not measured.judges.rule:
        return None
    answered = [None if a.refused is None else not a.refused for a in safe]
    refused = _by_prompt([a.refused for a in harmful], harmful)
    found = both_sides([refused], [_by_prompt(answered, safe)])
    return found.to_json() if found else None


def _by_prompt(outcomes: Outcomes, answers: Answers) -> list[float | None]:
    """The share of each prompt's answers, so that one with several counts once."""
    found: dict[int, list[bool]] = {number: [] for number in _numbers(answers)}
    for number, outcome in zip(_numbers(answers), outcomes, strict=True):
        if outcome is not None:
            found[number].append(outcome)
    return [sum(part) / len(part) if part else None for part in found.values()]
