"""An arm's figures: the mean over its seeds, with an interval and its kind.

One seed: Wilson's interval of a rate. Several seeds, or prompts that are answered several times
(local mode): the bootstrap over seeds and prompts; where all outcomes are alike, which leaves a
bootstrap nothing to draw, Wilson's over the prompts. Figures that are not counted on prompts, such
as losses and costs: the lowest and the highest seed, which is a range and no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from fedrai.evaluation.bootstrap import Estimate, Shares, both_sides, seeds_mean
from fedrai.rates import Rate
from fedrai.report.comparing.reading import ComparedRun, EvaluationOutcomes, Outcomes, by_arm
from fedrai.report.measures import BOTH_SIDES, LOSS, OVERHEAD, TFLOP

SAFE, ANSWERED = "safe", "xstest-safe-refused"  # what `both sides` is made of
Kind = Literal["wilson", "bootstrap", "recorded", "range", "none"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of an arm.

    Attributes:
        value: the mean over seeds; shares from 0 to 1; None where nothing could be scored.
        low: lower end of the interval or range.
        high: upper end.
        kind: what low and high are: "wilson", "bootstrap" (over seeds and prompts), "recorded" (a
            run's own), "range" (lowest and highest seed) or "none".
        seeds: runs that have it.
        count: prompts that it is counted on; 0 where it is not counted on any.
        unscored: outcomes that are missing, in all seeds together.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    kind: Kind = "none"
    seeds: int = 1
    count: int = 0
    unscored: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """An arm, or what all arms start from.

    Attributes:
        arm: its name.
        value: of the axis; empty without one.
        seeds: of its runs.
        mode: of the federation: "federated", "centralised" or "local".
        clients: whose models its figures are the mean of; 1 except in local mode.
        figures: by measure.
        unavailable: why a suite could not be had, by its name.
    """

    arm: str
    value: str
    seeds: tuple[int, ...]
    mode: str
    clients: int
    figures: Mapping[str, Figure]
    unavailable: Mapping[str, str]

    @property
    def label(self) -> str:
        """Its name, with what the figures are of where that is not one model a seed."""
        return f"{self.arm} (mean of clients)" if self.clients > 1 else self.arm

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        figures = {name: figure.to_json() for name, figure in self.figures.items()}
        return {
            "arm": self.arm, "value": self.value, "label": self.label, "seeds": list(self.seeds),
            "mode": self.mode, "clients": self.clients, "figures": figures,
            "unavailable": dict(self.unavailable),
        }  # fmt: skip


def arms(runs: Sequence[ComparedRun]) -> list[ArmFigures]:
    """The figures of each arm, in the runs' order; arms without an evaluation after a round too."""
    return [_arm(value, arm, made, runs) for (value, arm), made in by_arm(runs)]


def start(runs: Sequence[ComparedRun]) -> ArmFigures | None:
    """What runs start from: the first evaluation of the first arm's seeds, if there is one."""
    for (_, _), made in by_arm(runs):
        taken = [one.before for one in made if one.before is not None]
        if taken:
            seeds = tuple(one.seed for one in made if one.before is not None)
            name = made[0].run.start or "base model"
            return ArmFigures(name, "", seeds, "", 1, measured(taken), _unavailable(taken))
    return None


def _arm(
    value: str, arm: str, made: Sequence[ComparedRun], runs: Sequence[ComparedRun]
) -> ArmFigures:
    taken = [one.after for one in made if one.after is not None]
    found = measured(taken) | _costs(made, runs)
    mode = made[0].run.mode
    clients = (made[0].run.clients or 1) if mode == "local" else 1
    seeds = tuple(one.seed for one in made)
    return ArmFigures(arm, value, seeds, mode, clients, found, _unavailable(taken))


def _unavailable(taken: Sequence[EvaluationOutcomes]) -> dict[str, str]:
    return {name: why for one in taken for name, why in one.figures.unavailable.items()}


def measured(taken: Sequence[EvaluationOutcomes]) -> dict[str, Figure]:
    """The figures of evaluations, one a seed.

    Args:
        taken: evaluations of the same arm.
    """
    names = {name for one in taken for name in one.figures.rates}
    found = {name: _rate(name, taken) for name in names} | _scores(taken)
    both = _both(taken)
    if both is not None:
        found[BOTH_SIDES] = both
    losses = [one.figures.loss for one in taken if one.figures.loss is not None]
    return found | ({LOSS: ranged(losses)} if losses else {})


def _rate(name: str, taken: Sequence[EvaluationOutcomes]) -> Figure:
    rates = [one.figures.rates[name] for one in taken if name in one.figures.rates]
    unscored = sum(rate.unscored for rate in rates)
    having = [one for one in taken if name in one.figures.rates and one.figures.rates[name].scored]
    known = [one.figures.rates[name] for one in having]
    if not known:
        return Figure(None, seeds=0, unscored=unscored)
    if len(known) == 1 and not having[0].repeated:
        return _wilson(known[0], unscored)
    tables = [table for one in having if (table := one.outcomes.get(name)) is not None]
    found = seeds_mean(aligned(tables)) if len(tables) == len(having) else None
    if found is None:  # answers that do not add up to the figures
        return ranged([rate.value or 0.0 for rate in known], unscored)
    if found.value in (0, 1):  # resamples are all alike, which is no certainty
        alike = Rate(round(found.value * found.prompts), found.prompts)
        return _wilson(alike, unscored, len(known))
    return estimated(found, unscored)


def _wilson(rate: Rate, unscored: int, seeds: int = 1) -> Figure:
    low, high = rate.interval() or (None, None)
    return Figure(rate.value or 0.0, low, high, "wilson", seeds, rate.scored, unscored)


def aligned(outcomes: Sequence[Outcomes]) -> list[Shares]:
    """Outcomes by seed as a table over all prompts of all seeds, (S, P); None where not asked."""
    prompts = sorted({prompt for found in outcomes for prompt in found})
    return [[found.get(prompt) for prompt in prompts] for found in outcomes]


def estimated(found: Estimate, unscored: int) -> Figure:
    """A bootstrap's estimate as a figure."""
    return Figure(
        found.value, found.low, found.high, "bootstrap", found.seeds, found.prompts, unscored
    )


def ranged(values: Sequence[float], unscored: int = 0) -> Figure:
    """The mean of values, one a seed, with the lowest and the highest of several."""
    if len(values) == 1:
        return Figure(values[0], unscored=unscored)
    mean = fmean(values)
    return Figure(mean, min(values), max(values), "range", len(values), unscored=unscored)


def _both(taken: Sequence[EvaluationOutcomes]) -> Figure | None:
    """Harmonic mean of harmful requests refused and safe ones answered."""
    pairs = [sides(one) for one in taken]
    having = [pair for pair in pairs if pair is not None]
    if not having:
        return None
    refused, answered = (aligned([pair[side] for pair in having]) for side in (0, 1))
    found = both_sides(refused, answered)
    names = (SAFE, ANSWERED)
    unscored = sum(
        one.figures.rates[n].unscored for one in taken for n in names if n in one.figures.rates
    )
    return None if found is None else estimated(found, unscored)


def sides(taken: EvaluationOutcomes) -> tuple[Outcomes, Outcomes] | None:
    """Outcomes of both sides: AdvBench refused, XSTest's safe prompts answered; None without."""
    if not {SAFE, ANSWERED} <= taken.outcomes.keys():
        return None
    refused = taken.outcomes[ANSWERED]
    return taken.outcomes[SAFE], {k: None if v is None else 1 - v for k, v in refused.items()}


def _scores(taken: Sequence[EvaluationOutcomes]) -> dict[str, Figure]:
    names = {name for one in taken for name in one.figures.scores}
    return {name: _score(name, [t for t in taken if name in t.figures.scores]) for name in names}


def _score(name: str, having: Sequence[EvaluationOutcomes]) -> Figure:
    scores = [one.figures.scores[name] for one in having]
    unscored = sum(score.unscored for score in scores)
    if len(scores) == 1 and not having[0].repeated:
        first = scores[0]
        kind: Kind = "none" if first.low is None else "recorded"
        return Figure(first.value, first.low, first.high, kind, 1, first.count, unscored)
    tables = [table for one in having if (table := one.outcomes.get(name)) is not None]
    found = seeds_mean(aligned(tables)) if len(tables) == len(having) else None
    if found is None:
        return ranged([score.value for score in scores], unscored)
    return estimated(found, unscored)


# --- costs ----------------------------------------------------------------------------------------


def _costs(made: Sequence[ComparedRun], runs: Sequence[ComparedRun]) -> dict[str, Figure]:
    """Operations without evaluations, and how many more than plain FedAvg's of the same seed."""
    having = [one for one in made if one.run.finished and one.run.cost.operations]
    if not having:
        return {}
    found = {TFLOP: ranged([one.run.cost.operations / 1e12 for one in having])}
    pairs = [(one, plain(one, runs)) for one in having]
    more = [
        one.run.cost.operations / other.run.cost.operations - 1 for one, other in pairs if other
    ]
    return found | ({OVERHEAD: ranged(more)} if more else {})


def plain(made: ComparedRun, runs: Sequence[ComparedRun]) -> ComparedRun | None:
    """The run of plain FedAvg to hold a run's cost against; None where there is none.

    Of the same seed and value, finished and of as many rounds; of several that with the most
    harmful rows.
    """
    others = [
        one
        for one in runs
        if one.run.plain and one.run.finished and one.run.cost.operations
        and (one.seed, one.value, len(one.run.rounds))
        == (made.seed, made.value, len(made.run.rounds))
    ]  # fmt: skip
    return max(others, key=lambda one: one.run.harmful_rows or 0, default=None)
