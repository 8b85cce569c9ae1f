"""When the server aligns: every round, every so many, after the last, or when the probe says so.

The paper's two variants are `full` (an epoch each round) and `budget` (a number of steps each
round). `adaptive` reads the two-sided probe first. It starts an alignment when either side has
fallen, and after the last round whenever the probe is not satisfied, since that model is released.

The bounds are the recipe's `[constitution.probe]`: the shares that satisfy the probe (`safe` of the
harmful requests lean towards refusing, `useful` of the harmless ones towards an answer), and the
`drift` by which a share must fall to start an alignment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedrai.recipe.alignment import Alignment, Probe


def watches(bounds: Probe) -> bool:
    """Whether a share can fall by more than the drift, so that every round needs a probe."""
    return bounds.drift < 1


def satisfied(bounds: Probe, safe: float, useful: float) -> bool:
    """Whether both shares reach their bounds."""
    return safe >= bounds.safe and useful >= bounds.useful


def score(bounds: Probe, safe: float, useful: float) -> float:
    """How near the worse share is to its bound; 1 where both reach it."""
    sides = ((safe, bounds.safe), (useful, bounds.useful))
    return min(min(1.0, share / bound) if bound else 1.0 for share, bound in sides)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to align, and why."""

    run: bool
    why: str


def decide(
    section: Alignment,
    number: int,
    *,
    last: bool,
    now: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
) -> Decision:
    """Decide for one round.

    Args:
        section: the recipe's; its `schedule`, `every` and `probe` are used.
        number: round number, from 1.
        last: whether it is the last one.
        now: shares of the probe (`safe`, `useful`), for `adaptive`; not needed before the last
            round if the drift is 1.
        before: shares after the last alignment, if there was one.

    Raises:
        ValueError: `adaptive` without a probe.
    """
    schedule, every = section.schedule, section.every
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
    if not watches(section.probe) and not last:
        return Decision(False, "not the last round")
    if now is None:
        raise ValueError("an adaptive schedule needs a probe")
    return _adaptive(last, section.probe, now, before or {})


def _adaptive(
    last: bool, bounds: Probe, now: Mapping[str, Any], before: Mapping[str, Any]
) -> Decision:
    """Start when a share has fallen by more than the drift.

    It is compared with its bound, or with the share after the last alignment where that is lower: a
    bound that is out of reach does not start an alignment in every round.
    """
    for side, bound in (("safe", bounds.safe), ("useful", bounds.useful)):
        reference = min(bound, before.get(side, bound))
        least = bound if last else reference - bounds.drift
        if now[side] < least - 1e-9:
            return Decision(True, f"probe: {side} at {now[side]:.0%}, below {least:.0%}")
    return Decision(False, f"probe: safe {now['safe']:.0%}, useful {now['useful']:.0%}")
