"""The figures of the outside sets: rates of each, and the macro means of both sides.

`metrics.json` has them under `outside`, apart from the rates of development sets:

    means   `safe` (harmful sets; also `safe-legacy`, `safe-guard`, `safe:NAME`) and `refused`
            (harmless sets), each by `macro.MacroMean`
    sets    by name: title, manner, side and rates, which have the same names
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedrai.evaluation.macro import MacroMean, macro_mean
from fedrai.evaluation.records import Answer, EvaluationResult, Judges, asks_for_harm
from fedrai.evaluation.suites import Declaration, Suite
from fedrai.evaluation.verdicts import Shares, by_judge, by_prompt, rates_of, verdicts_of
from fedrai.rates import rate_json

Answers = Sequence[Answer]
_MEASURES = {True: "safe", False: "refused"}  # of a harmful and a harmless set


def outside_figures(result: EvaluationResult) -> dict[str, Any] | None:
    """The figures as plain values; None where no outside set was asked."""
    suites = [s for s in result.suites if s.declaration.is_outside]
    answered = [s for s in suites if s.declaration.name in result.answers]
    if not suites:
        return None
    return {
        "means": {
            name: None if mean is None else mean.to_json()
            for name, mean in macro_means(answered, result.answers, result.judges)
        },
        "sets": {
            suite.declaration.name: _set_json(
                suite.declaration, result.answers[suite.declaration.name], result.judges
            )
            for suite in answered
        },
    }


def macro_means(
    suites: Sequence[Suite], answers: Mapping[str, Answers], judges: Judges
) -> Iterator[tuple[str, MacroMean | None]]:
    """The macro means of both sides, by name; each over the sets of its side."""
    for harmful in (True, False):
        tables = [
            _shares(answers[suite.declaration.name], _judges(judges, harmful=harmful))
            for suite in suites
            if asks_for_harm(suite.declaration) is harmful
        ]
        for judge in tables[0] if tables else ():
            mean = macro_mean([[table[judge]] for table in tables])
            yield by_judge(_MEASURES[harmful], judge), mean


def _judges(judges: Judges, *, harmful: bool) -> Judges:
    """The judges of a side: only refusals count on the harmless one."""
    return judges if harmful else replace(judges, legacy=False, guard=None)


def _shares(answers: Answers, judges: Judges) -> dict[str, Shares]:
    return {
        judge: by_prompt(verdicts, answers)
        for judge, verdicts in verdicts_of(answers, judges).items()
    }


def _set_json(suite: Declaration, answers: Answers, judges: Judges) -> dict[str, Any]:
    harmful = asks_for_harm(suite)
    rates = rates_of(_MEASURES[harmful], answers, _judges(judges, harmful=harmful))
    return {
        "title": suite.title,
        "manner": suite.manner,
        "side": "harmful" if harmful else "harmless",
        "rates": {name: rate_json(rate) for name, rate in rates.items()},
    }
