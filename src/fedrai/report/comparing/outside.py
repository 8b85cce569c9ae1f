"""Macro means over the outside sets: an arm's over its seeds, and one arm less another.

Their intervals are those of a bootstrap over seeds, sets and items (`evaluation/macro.py`). Arms
are paired by set, seed and item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap

from fedrai.evaluation.bootstrap import Shares
from fedrai.evaluation.macro import MacroMean, macro_difference, macro_mean
from fedrai.report.comparing.figure import Figure, ranged
from fedrai.report.comparing.reading import EvaluationOutcomes, Outcomes
from fedrai.report.measures import OUTSIDE
from fedrai.runs.record import MacroRate

Arms = tuple[EvaluationOutcomes, EvaluationOutcomes]


def outside_measures(evaluation: EvaluationOutcomes) -> set[str]:
    """The macro means that an evaluation recorded."""
    outside = evaluation.evaluation.outside
    return {f"{OUTSIDE}{name}" for name in (outside.means if outside else ())}


def outside_figures(evaluations: Sequence[EvaluationOutcomes]) -> dict[str, Figure]:
    """The macro means of an arm, by measure, over those of its seeds that have them."""
    names = sorted({name for one in evaluations for name in outside_measures(one)})
    return {name: _figure(name, evaluations) for name in names}


def _figure(name: str, evaluations: Sequence[EvaluationOutcomes]) -> Figure:
    recorded = [mean for one in evaluations if (mean := _recorded(one, name)) is not None]
    unscored = sum(mean.unscored for mean in recorded)
    if len(recorded) == 1:
        only = recorded[0]
        return Figure(only.value, only.low, only.high, "bootstrap", 1, only.items, unscored)
    tables = [one.outside[name] for one in evaluations if name in one.outside]
    estimate = macro_mean(_by_set(tables)) if len(tables) == len(recorded) else None
    if estimate is None:  # answers that do not add up to the figures
        return ranged([mean.value for mean in recorded], unscored)
    return _estimated(estimate, unscored)


def _recorded(one: EvaluationOutcomes, name: str) -> MacroRate | None:
    outside = one.evaluation.outside
    return outside.means.get(name.removeprefix(OUTSIDE)) if outside else None


def outside_gap(
    name: str, pairs: Mapping[int, Arms]
) -> tuple[Figure, tuple[int, ...], tuple[float, ...]] | None:
    """The difference in a macro mean over the seeds that both arms have it in; None without."""
    both = {
        seed: (ours.outside[name], theirs.outside[name])
        for seed, (ours, theirs) in pairs.items()
        if name in ours.outside and name in theirs.outside
    }
    if not both:
        return None
    shared = [_shared(*pair) for pair in both.values()]
    ours, theirs = (_by_set([pair[arm] for pair in shared]) for arm in (0, 1))
    estimate = macro_difference(ours, theirs)
    if estimate is None:
        return None
    return _estimated(estimate, sum(starmap(_unscored_pairs, shared))), tuple(both), ()


SetOutcomes = Mapping[str, Outcomes]


def _shared(ours: SetOutcomes, theirs: SetOutcomes) -> tuple[SetOutcomes, SetOutcomes]:
    """Both arms' outcomes on the sets and prompts that both were asked."""
    keys = {name: [p for p in ours[name] if p in theirs[name]] for name in ours if name in theirs}
    first, second = (
        {name: {p: arm[name][p] for p in prompts} for name, prompts in keys.items()}
        for arm in (ours, theirs)
    )
    return first, second


def _unscored_pairs(ours: SetOutcomes, theirs: SetOutcomes) -> int:
    """How many of the prompts that both arms were asked lack a verdict in either."""
    return sum(
        outcome is None or theirs[name][prompt] is None
        for name, outcomes in ours.items()
        for prompt, outcome in outcomes.items()
    )


def _by_set(seeds: Sequence[SetOutcomes]) -> list[list[Shares]]:
    """For each set a table of outcomes by seed and prompt, (S, P); None where not asked."""
    tables: list[list[Shares]] = []
    for name in dict.fromkeys(name for sets in seeds for name in sets):
        prompts = sorted({prompt for sets in seeds for prompt in sets.get(name, {})})
        tables.append([[sets.get(name, {}).get(p) for p in prompts] for sets in seeds])
    return [table for table in tables if table[0]]


def _estimated(mean: MacroMean, unscored: int) -> Figure:
    """A mean as a figure; `unscored` is of what was asked, not of what only another seed was."""
    return Figure(mean.value, mean.low, mean.high, "bootstrap", mean.seeds, mean.items, unscored)
