"""One arm less another, on the same prompts and seeds.

The difference is formed prompt by prompt and seed by seed; its interval is the bootstrap over seeds
and prompts. McNemar's exact p is given for each seed: seeds share their prompts, so they are never
pooled into one test. Where a prompt was answered several times (local mode) there are no pairs of
answers, and so no such test; the difference is then that of the shares of its answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from fedrai.errors import EvaluationError
from fedrai.evaluation.bootstrap import both_sides_difference, seeds_mean
from fedrai.evaluation.statistics import mcnemar, mcnemar_exact
from fedrai.report.comparing.figures import Figure, aligned, estimated, ranged, sides
from fedrai.report.comparing.reading import ComparedRun, EvaluationOutcomes, Outcomes, by_arm
from fedrai.report.measures import BOTH_SIDES, LOSS

REFERENCES = ("harmful", "fedavg")
"""Arms that others are compared with by default."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between an arm and the reference arm in one measure.

    Attributes:
        arm: name of the arm.
        against: name of the reference arm.
        value: value on the axis; empty without one.
        measure: what is measured.
        figure: the arm's minus the reference arm's; its interval, or the range of seeds.
        seeds: shared by both arms.
        p: McNemar's exact two-sided p value of each of these seeds; empty without pairs of answers.
    """

    arm: str
    against: str
    value: str
    measure: str
    figure: Figure
    seeds: tuple[int, ...]
    p: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """In words: "higher", "lower", "within noise" or "not tested", and if of one seed only."""
        low, high = self.figure.low, self.figure.high
        if low is None or high is None or self.figure.kind != "bootstrap":
            return "not tested"
        verdict = "within noise" if low <= 0 <= high else "higher" if low > 0 else "lower"
        return verdict if len(self.seeds) > 1 else f"{verdict} (one seed)"

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.verdict.startswith("within noise")

    @property
    def prompts_to_settle(self) -> int | None:
        """About how many prompts would settle a difference of this size, if this many do not.

        The interval narrows with the root of their number. None: it is settled, it is none, or
        seeds differ, which more prompts do not settle.
        """
        figure = self.figure
        if not self.within_noise or len(self.seeds) > 1 or not figure.value or not figure.count:
            return None
        nearer = figure.low if figure.value > 0 else figure.high
        times = abs(figure.value - (nearer or 0.0)) / abs(figure.value)
        return ceil(round(figure.count * times**2, 6))

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict."""
        return {**asdict(self), "verdict": self.verdict}


def reference_arm(names: Sequence[str], requested: str = "") -> str:
    """The arm to compare the others with: the requested one, or harmful, fedavg, or the first.

    Raises:
        EvaluationError: there is no such arm.
    """
    if requested and requested not in names:
        raise EvaluationError(
            f"no arm {requested!r} to compare the others with", hint=f"arms: {', '.join(names)}"
        )
    return requested or next((name for name in REFERENCES if name in names), names[0])


def differences(runs: Sequence[ComparedRun], against: str) -> list[Difference]:
    """Every arm less the reference at the same value of the axis, measure by measure."""
    groups = dict(by_arm(runs))
    return [
        difference
        for (value, arm), ours in groups.items()
        if arm != against
        for difference in _differences(
            (arm, against, value), _pairs(ours, groups.get((value, against), []))
        )
    ]


Pairs = Mapping[int, tuple[EvaluationOutcomes, EvaluationOutcomes]]
"""Last evaluations of both arms, by seed."""


def _pairs(ours: Sequence[ComparedRun], theirs: Sequence[ComparedRun]) -> Pairs:
    """Last evaluations of the seeds that both arms have."""
    others = {run.seed: run.after for run in theirs}
    return {
        run.seed: (run.after, other)
        for run in ours
        if run.after is not None and (other := others.get(run.seed)) is not None
    }


def _differences(names: tuple[str, str, str], pairs: Pairs) -> list[Difference]:
    measures = {BOTH_SIDES, LOSS}
    for ours, _ in pairs.values():
        measures |= {*ours.evaluation.rates, *ours.evaluation.scores}
    results = []
    for measure in sorted(measures):
        gap = _both(pairs) if measure == BOTH_SIDES else _gap(measure, pairs)
        if gap is not None:
            results.append(Difference(*names, measure, *gap))
    return results


Gap = tuple[Figure, tuple[int, ...], tuple[float, ...]]
"""A difference, the seeds it is of, and the p of each."""


def _gap(measure: str, pairs: Pairs) -> Gap | None:
    """The difference prompt by prompt; of the arms' figures where that is not possible."""
    return _by_prompt(measure, pairs) or _of_figures(measure, pairs)


def _by_prompt(name: str, pairs: Pairs) -> Gap | None:
    """The difference of a rate or score, over the prompts that both arms were asked in a seed."""
    outcomes = {
        seed: (ours.outcomes[name], theirs.outcomes[name])
        for seed, (ours, theirs) in pairs.items()
        if name in ours.outcomes and name in theirs.outcomes
    }
    gaps = [_less(*pair) for pair in outcomes.values()]
    estimate = seeds_mean(aligned(gaps)) if gaps and len(gaps) == len(pairs) else None
    if estimate is None:
        return None
    unscored = sum(value is None for gap in gaps for value in gap.values())
    arms = [arm for pair in pairs.values() for arm in pair]
    has_test = all(name in arm.binary and not arm.repeated for arm in arms)
    p = tuple(map(_p, outcomes.values())) if has_test else ()
    return estimated(estimate, unscored), tuple(outcomes), p


def _less(ours: Outcomes, theirs: Outcomes) -> Outcomes:
    """Ours less theirs by prompt, for prompts of both; None: not scored in both."""
    both = [(prompt, ours[prompt], theirs[prompt]) for prompt in ours if prompt in theirs]
    return {prompt: None if a is None or b is None else a - b for prompt, a, b in both}


def _p(pair: tuple[Outcomes, Outcomes]) -> float:
    """McNemar's exact p of one seed."""
    ours, theirs = pair
    shared = [prompt for prompt in ours if prompt in theirs]
    flags = [[_flag(arm[prompt]) for prompt in shared] for arm in (ours, theirs)]
    discordant = mcnemar(*flags)
    return mcnemar_exact(discordant.first, discordant.second)


def _flag(value: float | None) -> bool | None:
    return None if value is None else bool(value)


Sides = tuple[Outcomes, Outcomes]


def _both(pairs: Pairs) -> Gap | None:
    """The difference of the harmonic mean of both sides; prompts of only one arm are left out."""
    by_seed = {
        seed: (a, b)
        for seed, (ours, theirs) in pairs.items()
        if (a := sides(ours)) is not None and (b := sides(theirs)) is not None
    }
    if not by_seed:
        return None
    ours, theirs = ((_table(by_seed, arm, 0), _table(by_seed, arm, 1)) for arm in (0, 1))
    estimate = both_sides_difference(ours, theirs)
    return None if estimate is None else (estimated(estimate, 0), tuple(by_seed), ())


def _table(
    by_seed: Mapping[int, tuple[Sides, Sides]], arm: int, side: int
) -> list[Sequence[float | None]]:
    """One arm's outcomes on one side, by seed, over the prompts of both arms in all seeds."""
    prompts = sorted({p for pair in by_seed.values() for own in pair for p in own[side]})
    return [[pair[arm][side].get(prompt) for prompt in prompts] for pair in by_seed.values()]


def _of_figures(measure: str, pairs: Pairs) -> Gap | None:
    """The difference of a figure that is not counted on prompts: its mean and range over seeds."""
    gaps = {
        seed: a - b
        for seed, (ours, theirs) in pairs.items()
        if (a := _value(ours, measure)) is not None and (b := _value(theirs, measure)) is not None
    }
    return (ranged(list(gaps.values())), tuple(gaps), ()) if gaps else None


def _value(outcomes: EvaluationOutcomes, measure: str) -> float | None:
    evaluation = outcomes.evaluation
    if measure == LOSS:
        return evaluation.loss
    if measure in evaluation.rates:
        return evaluation.rates[measure].value
    score = evaluation.scores.get(measure)
    return None if score is None else score.value
