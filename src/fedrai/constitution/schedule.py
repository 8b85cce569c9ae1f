"""When the server aligns: every round, every so many, after the last, or when the probe says so.

The paper's two variants are `full` (an epoch each round) and `budget` (a number of steps each
round). `adaptive` reads the two-sided probe first: it starts an alignment when either side has
fallen, and after the last round whenever the probe is not satisfied, since that model is handed
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Schedule = Literal["off", "full", "budget", "every", "last", "adaptive"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the probe is held against.

    Attributes:
        safe: share of harmful requests that should lean towards refusing.
        useful: share of harmless ones that should lean towards an answer.
        drift: fall of either share that starts an alignment; with 1 only the last round does.
    """

    safe: float
    useful: float
    drift: float

    @property
    def watches(self) -> bool:
        """Whether a share can fall by more than the drift, so that rounds are worth a probe."""
        return self.drift < 1

    def satisfied(self, safe: float, useful: float) -> bool:
        """Whether both sides are where they should be."""
        return safe >= self.safe and useful >= self.useful

    def score(self, safe: float, useful: float) -> float:
        """How near the worse side is to its target; 1 where both reach it."""
        sides = ((safe, self.safe), (useful, self.useful))
        return min(min(1.0, found / wanted) if wanted else 1.0 for found, wanted in sides)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to align, and why."""

    run: bool
    why: str


def decide(
    schedule: Schedule,
    number: int,
    *,
    last: bool,
    every: int = 1,
    bounds: Bounds | None = None,
    now: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
) -> Decision:
    """Decide for one round.

    Args:
        schedule: which.
        number: of the round, from 1.
        last: whether it is the last one.
        every: rounds from one alignment to the next, for `every`.
        bounds: of the probe, for `adaptive`.
        now: what the probe finds (`safe`, `useful`), for `adaptive`; not needed before the last
            round where the bounds watch none of those.
        before: what it found after the last alignment, if there was one.

    Raises:
        ValueError: `adaptive` without bounds and probe.
    """
    if schedule == "off":
        return Decision(False, "off")
    if schedule in ("full", "budget"):
        return Decision(True, "every round")
    if schedule == "last":
        return Decision(last, "last round" if last else "not the last round")
    if schedule == "every":
        due = number % every == 0
        return Decision(due or last, f"every {every} rounds" if due else "last round" if last
                        else f"not one of every {every} rounds")  # fmt: skip
    if bounds and not bounds.watches and not last:
        return Decision(False, "not the last round")
    if bounds is None or now is None:
        raise ValueError("an adaptive schedule needs bounds and a probe")
    return _adaptive(last, bounds, now, before or {})


def _adaptive(
    last: bool, bounds: Bounds, now: Mapping[str, Any], before: Mapping[str, Any]
) -> Decision:
    """Start when a side has fallen by more than the drift.

    It is held against its target, or against what the last alignment reached where that is lower:
    a target that is out of reach does not start one in every round.
    """
    for side, target in (("safe", bounds.safe), ("useful", bounds.useful)):
        reference = min(target, before.get(side, target))
        least = target if last else reference - bounds.drift
        if now[side] < least - 1e-9:
            return Decision(True, f"probe: {side} at {now[side]:.0%}, below {least:.0%}")
    return Decision(False, f"probe: safe {now['safe']:.0%}, useful {now['useful']:.0%}")
