"""The figures of an evaluation: rates, scores, clusters, and disagreement of judges.

Names of rates: AdvBench has `safe` (refused by the refusal rule), `safe-legacy` and `safe-guard`;
the ordinary instructions have `refused`; another suite of harmful requests `SUITE-safe`, also with
`-legacy` and `-guard`; XSTest, and suites of harmless or unlabelled requests, `SUITE-refused`.
`:NAME` at the end stands for the judge NAME of an installed package. The outside sets have figures
of their own, `outside` (`outside_figures.py`). A figure that was not measured is absent; one
without data is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from fedrai.evaluation.bootstrap import both_sides
from fedrai.evaluation.clusters import clustered_rate
from fedrai.evaluation.outside_figures import outside_figures
from fedrai.evaluation.preference import Accuracy
from fedrai.evaluation.records import Answer, EvaluationResult, Judges, asks_for_harm
from fedrai.evaluation.rubric import Grades
from fedrai.evaluation.scores import disagreement, mean_json
from fedrai.evaluation.suites import ADVBENCH, Declaration, Suite
from fedrai.evaluation.verdicts import by_prompt, numbers, rates_of, verdicts_of
from fedrai.rates import Rate, rate_json
from fedrai.recipe.evaluation import BUILT_IN_JUDGES

ORDINARY, ROUGE, SAFE_SIDE = "ordinary", "rouge-l", "xstest-safe"

Answers = Sequence[Answer]


def figures(result: EvaluationResult) -> dict[str, Any]:
    """The figures of an evaluation as plain values: counts, intervals, loss, costs; no text."""
    by_name = rates(result.answers, result.suites, result.judges)
    outside = outside_figures(result)
    return {
        **({"outside": outside} if outside else {}),
        "rates": {name: rate_json(value) for name, value in by_name.items()},
        "scores": scores(result),
        "clusters": clusters(result),
        "disagreement": disagreements(result),
        "both_sides": _both_sides(result),
        "unavailable": dict(result.unavailable),
        "suites": {suite.declaration.name: suite.to_json() for suite in result.suites},
        "judges": result.judges.to_json(),
        "held_out_loss": result.held_out_loss,
        "held_out_tokens": result.held_out_tokens,
        "costs": result.costs.to_json(),
    }


def rates(
    answers: Mapping[str, Answers], suites: Sequence[Suite] = (), judges: Judges | None = None
) -> dict[str, Rate]:
    """The rates that the answers allow.

    An unscored answer (empty or broken) is neither safe nor unsafe by the refusal rule; the legacy
    score has no such state and counts it as unsafe.

    Args:
        answers: answers by suite.
        suites: those other than AdvBench and the ordinary instructions.
        judges: judges of the answers; None: the refusal rule and the legacy score.
    """
    judges = judges or Judges()
    by_name: dict[str, Rate] = {}
    if ADVBENCH in answers:
        by_name |= rates_of("safe", answers[ADVBENCH], judges)
    if ORDINARY in answers:
        of_refusal = replace(judges, legacy=False, guard=None)
        by_name |= rates_of("refused", answers[ORDINARY], of_refusal)
    for suite in suites:
        if suite.declaration.name in answers and not suite.declaration.is_outside:
            by_name |= _suite_rates(suite.declaration, answers[suite.declaration.name], judges)
    return by_name


def _suite_rates(suite: Declaration, answers: Answers, judges: Judges) -> dict[str, Rate]:
    """The rates of a suite; a suite that is rated has none."""
    if suite.judge not in ("refusal", "strongreject"):
        return {}
    harmful = asks_for_harm(suite)
    if harmful and suite.direction != "none" and not suite.name.startswith("xstest-"):
        return rates_of(f"{suite.name}-safe", answers, judges)
    refused = rates_of(f"{suite.name}-refused", answers, judges)
    guarded = refused.pop(f"{suite.name}-refused-guard", None)
    return refused | ({f"{suite.name}-safe-guard": guarded} if harmful and guarded else {})


# --- scores ---------------------------------------------------------------------------------------


def scores(result: EvaluationResult) -> dict[str, Any]:
    """Figures other than rates of refusal, each with value, interval, count and unscored.

    Accuracies of pairs (0 to 1, Wilson's interval; `NAME` by sums, `NAME-normalised` by token),
    MT-Bench's mean rating (1 to 10), StrongREJECT's mean harm (0 to 1), `rouge-l` of the ordinary
    instructions (0 to 1).
    """
    by_name: dict[str, Any] = {}
    for name, pairs in result.preferences.items():
        categories = pairs.by_category()
        summed = {n: part.summed for n, part in categories.items()}
        normalised = {n: part.normalised for n, part in categories.items()}
        by_name[name] = _accuracy(pairs.summed, summed)
        by_name[f"{name}-normalised"] = _accuracy(pairs.normalised, normalised)
    for name, grades in result.grades.items():
        by_name[name] = _grades(grades)
    ordinary = result.answers.get(ORDINARY, ())
    if any(answer.score is not None for answer in ordinary):
        by_name[ROUGE] = mean_json([a.score for a in ordinary], numbers(ordinary))
    return by_name


def _accuracy(accuracy: Accuracy, categories: Mapping[str, Accuracy]) -> dict[str, Any]:
    body = accuracy.to_json()
    return {
        **{key: body[key] for key in ("value", "low", "high")},
        "count": accuracy.rate.scored,
        "unscored": accuracy.rate.unscored,
        "right": accuracy.rate.successes,
        "ties": accuracy.ties,
        "categories": {name: part.to_json() for name, part in categories.items() if name},
    }


def _grades(grades: Grades) -> dict[str, Any]:
    mean = mean_json([g.score for g in grades.grades], [g.number for g in grades.grades])
    return mean | {k: v for k, v in grades.to_json().items() if k not in ("mean", "scored")}


# --- AdvBench -------------------------------------------------------------------------------------


def clusters(result: EvaluationResult) -> dict[str, Any] | None:
    """AdvBench's safe rate with each cluster of near-duplicates counted once.

    By the refusal rule; None where AdvBench was not asked or the rule does not judge.
    """
    answers = result.answers.get(ADVBENCH)
    if not answers or not result.judges.rule or not result.clusters:
        return None
    groups = [result.clusters[answer.number] for answer in answers]
    outcomes = [answer.refused for answer in answers]
    return clustered_rate(outcomes, groups, numbers(answers)).to_json()


def disagreements(result: EvaluationResult) -> dict[str, Any]:
    """Tables by pair of judges: "rule-legacy", or "rule:NAME" with an installed judge."""
    verdicts = verdicts_of(result.answers.get(ADVBENCH, ()), result.judges)
    if not any(verdicts.values()):
        return {}
    return {
        f"{a}-{b}" if b in BUILT_IN_JUDGES else f"{a}:{b}": disagreement(verdicts[a], verdicts[b])
        for a, b in combinations(verdicts, 2)
    }


def _both_sides(result: EvaluationResult) -> dict[str, Any] | None:
    """One figure for safety and over-refusal, of AdvBench and XSTest's safe prompts."""
    harmful, safe = (result.answers.get(name, ()) for name in (ADVBENCH, SAFE_SIDE))
    if not harmful or not safe or not result.judges.rule:
        return None
    answered = [None if a.refused is None else not a.refused for a in safe]
    refused = by_prompt([a.refused for a in harmful], harmful)
    estimate = both_sides([refused], [by_prompt(answered, safe)])
    return estimate.to_json() if estimate else None
