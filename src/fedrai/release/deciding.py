"""The decision: the last round that meets the bars, or why none does.

Rounds are judged from the last one back. Each has its share of the error, so that the probability
that a round below a bar is released is that of `[release] error` over all rounds together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.recipe.sections import Release
from fedrai.release.asking import Ask
from fedrai.release.bars import Bar, Evidence, Standing, is_open, judge
from fedrai.release.outcomes import SetOutcomes, recorded
from fedrai.runs import RunFolder
from fedrai.runs.record import RunRecord


@dataclass(frozen=True, slots=True)
class Judged:
    """One round and its bars.

    Attributes:
        number: the round.
        bars: every bar.
        sets: what the bars of safety and over-refusal were judged on.
        error: the round's share of the error.
    """

    number: int
    bars: tuple[Bar, ...]
    sets: tuple[SetOutcomes, ...]
    error: float

    @property
    def passes(self) -> bool:
        """Whether nothing stands in the way of a release."""
        return not any(bar.stops for bar in self.bars)

    @property
    def reasons(self) -> str:
        """Why it is not released, in one line: the bars that it misses, else those not settled."""
        missed = [bar for bar in self.bars if bar.standing is Standing.MISSED]
        return "; ".join(bar.reason for bar in missed or self.bars if bar.stops)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decides about a run.

    Attributes:
        judged: the rounds that were judged, the last one first.
    """

    judged: tuple[Judged, ...]

    @property
    def released(self) -> Judged | None:
        """The round that is released; None: none is."""
        return self.judged[-1] if self.judged and self.judged[-1].passes else None

    @property
    def is_rollback(self) -> bool:
        """Whether it is an earlier round than the last."""
        return self.released is not None and len(self.judged) > 1

    @property
    def line(self) -> str:
        """The decision in one line."""
        first = self.judged[0]
        if self.released is None:
            return f"not released: round {first.number}: {first.reasons}"
        if self.is_rollback:
            return (
                f"released round {self.released.number}, NOT the last: round {first.number}:"
                f" {first.reasons}"
            )
        return f"released round {first.number}: every required bar is met"


def decide(
    folder: RunFolder, run: RunRecord, settings: Release, ask: Ask | None, seed: int
) -> Decision:
    """Judge the rounds of a run that were evaluated, from the last one back.

    Args:
        folder: the run.
        run: its record.
        settings: the bars.
        ask: asks more items; None: the run's own are all there is.
        seed: for the order of the recorded items.
    """
    rounds = [one for one in reversed(run.evaluations) if one.number > 0]
    judged: list[Judged] = []
    for evaluation in rounds:
        error = settings.error / len(rounds)
        start = Evidence(run, evaluation.number, recorded(folder, evaluation, seed), error)
        judged.append(_settle(start, settings, ask))
        if judged[-1].passes:
            break
    return Decision(tuple(judged))


def _settle(evidence: Evidence, settings: Release, ask: Ask | None) -> Judged:
    """Judge a round, with more items until its bars are settled or the budget is spent."""
    while True:
        bars = judge(evidence, settings)
        size = min((len(one.verdicts) for one in evidence.sets), default=0)
        if ask is None or not is_open(bars) or size >= settings.budget:
            break
        sets = ask(evidence.number, evidence.sets, min(size + settings.batch, settings.budget))
        if _total(sets) == _total(evidence.sets):
            break
        evidence = Evidence(evidence.run, evidence.number, sets, evidence.error)
        if min(len(one.verdicts) for one in sets) == size:  # the smallest set has no more items
            bars = judge(evidence, settings)
            break
    return Judged(evidence.number, bars, tuple(evidence.sets), evidence.error)


def _total(sets: Sequence[SetOutcomes]) -> int:
    return sum(len(one.verdicts) for one in sets)
