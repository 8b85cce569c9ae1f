"""An arm's figures: the mean over its seeds, with an interval and its kind.

- A rate of one seed has Wilson's interval.
- Several seeds, or prompts that are answered several times (local mode), have the bootstrap over
  seeds and prompts; where all outcomes are alike the bootstrap has nothing to draw, and the
  interval is Wilson's over the prompts.
- Figures that are not counted on prompts, such as losses and costs, have the range of their seeds
  and no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedrai.evaluation.bootstrap import Estimate, Shares, both_sides, seeds_mean
from fedrai.rates import Rate
from fedrai.report.comparing.figure import Figure, Kind, ranged
from fedrai.report.comparing.outside import outside_figures
from fedrai.report.comparing.reading import ComparedRun, EvaluationOutcomes, Outcomes, by_arm
from fedrai.report.measures import BOTH_SIDES, LOSS, MEGABYTES, OVERHEAD, SECONDS, TFLOP
from fedrai.report.verdict import overhead, plain_run
from fedrai.runs.record import RunRecord

SAFE, ANSWERED = "safe", "xstest-safe-refused"  # what `both sides` is made of


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """An arm, or what all arms start from.

    Attributes:
        arm: its name.
        value: value on the axis; empty without one.
        seeds: seeds of its runs.
        mode: the federation's mode: "federated", "centralised" or "local".
        clients: number of models that its figures are the mean of; 1 except in local mode.
        figures: figures by measure.
        unavailable: reasons why suites are missing, by suite.
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
        """Its name, and in local mode that its figures are a mean of clients."""
        return f"{self.arm} (mean of clients)" if self.clients > 1 else self.arm

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return {**asdict(self), "label": self.label}


def arms(runs: Sequence[ComparedRun]) -> list[ArmFigures]:
    """The figures of each arm, in the runs' order; also of arms that were not evaluated."""
    return [_arm(value, arm, seeds, runs) for (value, arm), seeds in by_arm(runs)]


def start(runs: Sequence[ComparedRun]) -> ArmFigures | None:
    """What runs start from: the first evaluation of the first arm's seeds, if there is one."""
    for _, seeds in by_arm(runs):
        evaluations = {run.seed: run.before for run in seeds if run.before is not None}
        if evaluations:
            first = list(evaluations.values())
            name = seeds[0].run.start or "base model"
            return ArmFigures(
                name, "", tuple(evaluations), "", 1, measured(first), _unavailable(first)
            )
    return None


def _arm(
    value: str, arm: str, seeds: Sequence[ComparedRun], runs: Sequence[ComparedRun]
) -> ArmFigures:
    evaluations = [run.after for run in seeds if run.after is not None]
    mode = seeds[0].run.mode
    return ArmFigures(
        arm,
        value,
        tuple(run.seed for run in seeds),
        mode,
        (seeds[0].run.clients or 1) if mode == "local" else 1,
        measured(evaluations) | _costs(seeds, runs),
        _unavailable(evaluations),
    )


def _unavailable(evaluations: Sequence[EvaluationOutcomes]) -> dict[str, str]:
    return {n: reason for e in evaluations for n, reason in e.evaluation.unavailable.items()}


def measured(evaluations: Sequence[EvaluationOutcomes]) -> dict[str, Figure]:
    """The figures of an arm's evaluations, one per seed."""
    rates = {name for e in evaluations for name in e.evaluation.rates}
    scores = {name for e in evaluations for name in e.evaluation.scores}
    figures = outside_figures(evaluations)
    figures |= {name: _rate(name, evaluations) for name in sorted(rates)}
    figures |= {
        name: _score(name, [e for e in evaluations if name in e.evaluation.scores])
        for name in sorted(scores)
    }
    others = {BOTH_SIDES: _both(evaluations), LOSS: _loss(evaluations)}
    return figures | {name: figure for name, figure in others.items() if figure is not None}


def _rate(name: str, evaluations: Sequence[EvaluationOutcomes]) -> Figure:
    having = [e for e in evaluations if name in e.evaluation.rates]
    unscored = sum(e.evaluation.rates[name].unscored for e in having)
    scored = [e for e in having if e.evaluation.rates[name].scored]
    rates = [e.evaluation.rates[name] for e in scored]
    if not rates:
        return Figure(None, seeds=0, unscored=unscored)
    if len(rates) == 1 and not scored[0].repeated:
        return _wilson(rates[0], unscored)
    estimate = _seeds_mean(name, scored)
    if estimate is None:  # answers that do not add up to the figures
        return ranged([rate.value or 0.0 for rate in rates], unscored)
    if estimate.value in (0, 1):  # resamples are all alike, which is no certainty
        pooled = Rate(round(estimate.value * estimate.prompts), estimate.prompts)
        return _wilson(pooled, unscored, len(rates))
    return estimated(estimate, unscored)


def _seeds_mean(name: str, evaluations: Sequence[EvaluationOutcomes]) -> Estimate | None:
    """The mean over seeds by the bootstrap; None unless all have outcomes prompt by prompt."""
    tables = [e.outcomes[name] for e in evaluations if name in e.outcomes]
    return seeds_mean(aligned(tables)) if len(tables) == len(evaluations) else None


def _wilson(rate: Rate, unscored: int, seeds: int = 1) -> Figure:
    low, high = rate.interval() or (None, None)
    return Figure(rate.value or 0.0, low, high, "wilson", seeds, rate.scored, unscored)


def aligned(outcomes: Sequence[Outcomes]) -> list[Shares]:
    """Outcomes by seed as a table over all prompts of all seeds, (S, P); None where not asked."""
    prompts = sorted({prompt for by_prompt in outcomes for prompt in by_prompt})
    return [[by_prompt.get(prompt) for prompt in prompts] for by_prompt in outcomes]


def estimated(estimate: Estimate, unscored: int) -> Figure:
    """A bootstrap's estimate as a figure."""
    return Figure(
        estimate.value, estimate.low, estimate.high, "bootstrap", estimate.seeds, estimate.prompts,
        unscored,
    )  # fmt: skip


def _both(evaluations: Sequence[EvaluationOutcomes]) -> Figure | None:
    """Harmonic mean of harmful requests refused and safe ones answered."""
    pairs = [pair for e in evaluations if (pair := sides(e)) is not None]
    if not pairs:
        return None
    refused, answered = (aligned([pair[side] for pair in pairs]) for side in (0, 1))
    estimate = both_sides(refused, answered)
    unscored = sum(
        e.evaluation.rates[name].unscored
        for e in evaluations
        for name in (SAFE, ANSWERED)
        if name in e.evaluation.rates
    )
    return None if estimate is None else estimated(estimate, unscored)


def sides(outcomes: EvaluationOutcomes) -> tuple[Outcomes, Outcomes] | None:
    """Outcomes of both sides: AdvBench refused, XSTest's safe prompts answered; None without."""
    if not {SAFE, ANSWERED} <= outcomes.outcomes.keys():
        return None
    refused = outcomes.outcomes[ANSWERED]
    return outcomes.outcomes[SAFE], {k: None if v is None else 1 - v for k, v in refused.items()}


def _score(name: str, evaluations: Sequence[EvaluationOutcomes]) -> Figure:
    scores = [e.evaluation.scores[name] for e in evaluations]
    unscored = sum(score.unscored for score in scores)
    if len(scores) == 1 and not evaluations[0].repeated:
        first = scores[0]
        kind: Kind = "none" if first.low is None else "recorded"
        return Figure(first.value, first.low, first.high, kind, 1, first.count, unscored)
    estimate = _seeds_mean(name, evaluations)
    if estimate is None:
        return ranged([score.value for score in scores], unscored)
    return estimated(estimate, unscored)


def _loss(evaluations: Sequence[EvaluationOutcomes]) -> Figure | None:
    """The held-out loss; without a value where that of a seed is not a number."""
    losses = [e.evaluation.loss for e in evaluations if e.evaluation.loss is not None]
    if any(e.evaluation.loss_is_nan for e in evaluations):
        return Figure(None, seeds=len(losses))
    return ranged(losses) if losses else None


# --- costs ----------------------------------------------------------------------------------------


def _costs(seeds: Sequence[ComparedRun], runs: Sequence[ComparedRun]) -> dict[str, Figure]:
    """Costs without evaluations: operations, how many more than plain FedAvg's, messages, time."""
    finished = [one for one in seeds if one.run.finished and one.run.cost.operations]
    if not finished:
        return {}
    costs = [one.run.cost for one in finished]
    figures = {
        TFLOP: ranged([cost.operations / 1e12 for cost in costs]),
        MEGABYTES: ranged([(cost.bytes_down + cost.bytes_up) / 1e6 for cost in costs]),
        SECONDS: ranged([cost.seconds for cost in costs]),
    }
    overheads = [
        operations
        for one in finished
        if (plain := plain_run(one.run, _same_setting(one, runs))) is not None
        and (operations := overhead(one.run, plain).operations) is not None
    ]
    return figures | ({OVERHEAD: ranged(overheads)} if overheads else {})


def _same_setting(run: ComparedRun, runs: Sequence[ComparedRun]) -> list[RunRecord]:
    """The finished runs of the same seed and value."""
    setting = run.seed, run.value
    return [
        one.run
        for one in runs
        if (one.seed, one.value) == setting and one.run.finished and one.run.cost.operations
    ]
