"""One arm less another, on the same prompts and seeds.

The difference is taken prompt by prompt and seed by seed; its interval is the bootstrap over seeds
and prompts. Beside it stands McNemar's exact p of each seed: seeds are never pooled into one test,
since they share their prompts. Where a prompt was answered several times (local mode), there is no
pair of answers, and so no such test; the difference is then that of the shares of its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedrai.errors import EvaluationError
from fedrai.evaluation.bootstrap import both_sides_difference, seeds_mean
from fedrai.evaluation.statistics import mcnemar, mcnemar_exact
from fedrai.report.comparing.figures import Figure, aligned, estimated, ranged, sides
from fedrai.report.comparing.reading import ComparedRun, EvaluationOutcomes, Outcomes, by_arm
from fedrai.report.measures import BOTH_SIDES, LOSS

REFERENCES = ("harmful", "fedavg")
"""Arms that others are held against, where the user does not say."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What an arm has more, or less, than the reference in one measure.

    Attributes:
        arm: ours.
        against: theirs.
        value: of the axis; empty without one.
        measure: what is measured.
        figure: ours less theirs; its interval, or the range of seeds.
        seeds: that both arms have.
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
        """In words: "higher", "lower", "within noise", "not tested"; of one seed only."""
        low, high = self.figure.low, self.figure.high
        if low is None or high is None or self.figure.kind != "bootstrap":
            return "not tested"
        noise = low <= 0 <= high
        found = "within noise" if noise else "higher" if low > 0 else "lower"
        return found if len(self.seeds) > 1 else f"{found} (one seed)"

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.verdict.startswith("within noise")

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict."""
        return {**asdict(self), "verdict": self.verdict}


def reference_arm(names: Sequence[str], wanted: str = "") -> str:
    """The arm that others are held against: as asked for, or harmful, fedavg, or the first.

    Raises:
        EvaluationError: there is no such arm.
    """
    if wanted and wanted not in names:
        raise EvaluationError(
            f"no arm {wanted!r} to hold the others against", hint=f"arms: {', '.join(names)}"
        )
    return wanted or next((name for name in REFERENCES if name in names), names[0])


def differences(runs: Sequence[ComparedRun], against: str) -> list[Difference]:
    """Every arm less the reference at the same value of the axis, measure by measure."""
    groups = dict(by_arm(runs))
    found = []
    for (value, arm), ours in groups.items():
        theirs = groups.get((value, against), [])
        if arm != against and theirs:
            found += _between(arm, against, value, _pairs(ours, theirs))
    return found


Pair = tuple[EvaluationOutcomes, EvaluationOutcomes]


def _pairs(ours: Sequence[ComparedRun], theirs: Sequence[ComparedRun]) -> dict[int, Pair]:
    """Last evaluations by seed, of the seeds that both have."""
    others = {made.seed: made.after for made in theirs}
    return {
        made.seed: (made.after, other)
        for made in ours
        if made.after is not None and (other := others.get(made.seed)) is not None
    }


def _between(arm: str, against: str, value: str, pairs: dict[int, Pair]) -> list[Difference]:
    found = []
    names = {name for ours, _ in pairs.values() for name in ours.figures.rates}
    scores = {name for ours, _ in pairs.values() for name in ours.figures.scores}
    for measure in sorted(names | scores | {BOTH_SIDES, LOSS}):
        whole = measure == BOTH_SIDES
        made = _both(pairs) if whole else _paired(measure, pairs) or _mean(measure, pairs)
        if made is not None:
            figure, seeds, p = made
            found.append(Difference(arm, against, value, measure, figure, seeds, p))
    return found


Part = tuple[Figure, tuple[int, ...], tuple[float, ...]]


def _paired(name: str, pairs: dict[int, Pair]) -> Part | None:
    """The difference of a rate or score, over the prompts that both arms were asked in a seed."""
    both = {
        seed: (ours.outcomes[name], theirs.outcomes[name])
        for seed, (ours, theirs) in pairs.items()
        if name in ours.outcomes and name in theirs.outcomes
    }
    gaps = [_gaps(*pair) for pair in both.values()]
    found = seeds_mean(aligned(gaps)) if len(both) == len(pairs) and both else None
    if found is None:
        return None
    missing = sum(value is None for gap in gaps for value in gap.values())
    repeated = any(taken.repeated for pair in pairs.values() for taken in pair)
    yes_or_no = all(name in taken.counted for pair in pairs.values() for taken in pair)
    p = map(_p, both.values()) if yes_or_no and not repeated else ()
    return estimated(found, missing), tuple(both), tuple(p)


def _gaps(ours: Outcomes, theirs: Outcomes) -> Outcomes:
    """Ours less theirs by prompt, of the prompts that both were asked; None: not scored in both."""
    return {prompt: _gap(ours[prompt], theirs[prompt]) for prompt in ours if prompt in theirs}


def _gap(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def _p(pair: tuple[Outcomes, Outcomes]) -> float:
    """McNemar's exact p of one seed."""
    ours, theirs = pair
    shared = [prompt for prompt in ours if prompt in theirs]
    first, second = ([_flag(found[prompt]) for prompt in shared] for found in (ours, theirs))
    found = mcnemar(first, second)
    return mcnemar_exact(found.first, found.second)


def _flag(value: float | None) -> bool | None:
    return None if value is None else bool(value)


def _both(pairs: dict[int, Pair]) -> Part | None:
    """The difference of the harmonic mean of both sides; prompts that only one arm was asked go."""
    known = {
        seed: (a, b)
        for seed, (ours, theirs) in pairs.items()
        if (a := sides(ours)) is not None and (b := sides(theirs)) is not None
    }
    if not known:
        return None
    ours, theirs = ((_table(known, arm, 0), _table(known, arm, 1)) for arm in (0, 1))
    found = both_sides_difference(ours, theirs)
    return None if found is None else (estimated(found, 0), tuple(known), ())


def _table(
    known: dict[int, tuple[tuple[Outcomes, Outcomes], tuple[Outcomes, Outcomes]]],
    arm: int,
    side: int,
) -> list[Sequence[float | None]]:
    """One arm's outcomes on one side, by seed, over the prompts of both arms in all seeds."""
    prompts = sorted({p for pair in known.values() for own in pair for p in own[side]})
    return [[pair[arm][side].get(prompt) for prompt in prompts] for pair in known.values()]


def _mean(measure: str, pairs: dict[int, Pair]) -> Part | None:
    """The difference of a figure that is not counted on prompts: its mean and range over seeds."""
    gaps = {
        seed: a - b
        for seed, (ours, theirs) in pairs.items()
        if (a := _value(ours, measure)) is not None and (b := _value(theirs, measure)) is not None
    }
    return (ranged(list(gaps.values())), tuple(gaps), ()) if gaps else None


def _value(taken: EvaluationOutcomes, measure: str) -> float | None:
    if measure == LOSS:
        return taken.figures.loss
    if measure in taken.figures.rates:
        return taken.figures.rates[measure].value
    score = taken.figures.scores.get(measure)
    return None if score is None else score.value
