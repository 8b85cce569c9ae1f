"""Two ways to combine guards: a cheap one before an expensive one, and any of several.

Probabilities of two guards are not on one scale, so neither way mixes them as they are. Each guard
is mapped onto the scale of the whole by an increasing function that takes its own thresholds to the
thresholds of the whole: a guard's own decision at "strict" or "loose" is what the whole decides
there. What comes out orders conversations; it is not calibrated until the whole has been
(`calibration`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fedrai.errors import GuardError
from fedrai.guards.base import (
    Conversation,
    Guard,
    OnProgress,
    VerdictBatch,
    caution_of,
    full_name,
    join,
)
from fedrai.guards.kinds.rules import RulesGuard
from fedrai.records import Verdict

STRICT, LOOSE = 0.4, 0.6
"""Thresholds of `AnyOf`, for whatever thresholds its guards have."""


class Cascade:
    """A cheap guard decides the rows it is sure of; an expensive one judges the rest.

    The first guard's probability p decides a row if p < `low` or p > `high`, and is reported as it
    is. Other rows, and those that the first could not score, go to the second guard; its
    probability q is reported as `low + (high - low) * q`, between what the first calls safe and
    what it calls unsafe. The thresholds of the whole are those of the second guard, mapped in the
    same way. So a row that both have seen is unsafe exactly where the second says so, and one that
    the first decided is safe below the band and unsafe above it at every such threshold. With a
    band like 0.1 to 0.9 a threshold of 0.5 means the same before and after.

    A row that the second guard cannot score has no probability, whatever the first gave it:
    unscored rows are for the policy, which drops them by default.

    Args:
        first: the cheap guard.
        second: the expensive guard.
        low: lower end of the band that goes to the second, 0 to 1.
        high: upper end, above `low`.
        name: short name.

    Attributes:
        judged: rows judged so far.
        passed_on: how many of them went to the second guard.
        caution: that the second is never asked, if the first is of rules, which are certain of
            every row (0 or 1) and so have none in the band; empty if all is well.

    Raises:
        GuardError: the band is empty or not within 0 to 1.
    """

    def __init__(
        self, first: Guard, second: Guard, low: float, high: float, *, name: str = ""
    ) -> None:
        if not 0 <= low < high <= 1:
            raise GuardError(
                f"a cascade passes on a band with 0 <= low < high <= 1, got {low} to {high}",
                hint="a band of 0.05 to 0.95 is a cautious start",
            )
        self.first, self.second, self.low, self.high = first, second, low, high
        self.name = name or f"{first.name}+{second.name}"
        self.thresholds = {key: self._map(t) for key, t in second.thresholds.items()}
        self.revision = _hash("cascade", first.revision, second.revision, low, high)
        self.judged = self.passed_on = 0
        self.caution = self._caution()

    def _caution(self) -> str:
        cautions = [caution_of(self.first), caution_of(self.second)]
        if _is_certain(self.first) and self.low > 0 and self.high < 1:
            cautions.append(
                f"in the cascade {self.name} the second guard, {self.second.name}, is never asked:"
                f" the rules of {self.first.name} say 0 or 1 of every row, and neither is in the"
                f' band {self.low:g} to {self.high:g}; kind = "any" asks both, low = 0 leaves to'
                " the second what the rules let pass"
            )
        return "; ".join(filter(None, cautions))

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge conversations; progress counts what is decided, so it stands at 0 for the first.

        Raises:
            GuardError: one of the guards cannot work.
        """
        total = len(conversations)
        cheap = self.first.judge(conversations, lambda _d, _o: on_progress(0, total))
        unsure = [i for i, v in enumerate(cheap.verdicts) if not self._decides(v.probability)]
        decided = total - len(unsure)
        on_progress(decided, total)
        dear = VerdictBatch(())
        if unsure:
            rest = [conversations[i] for i in unsure]
            dear = self.second.judge(rest, lambda done, _o: on_progress(decided + done, total))
        second = dict(zip(unsure, dear.verdicts, strict=True))
        self.judged, self.passed_on = self.judged + total, self.passed_on + len(unsure)
        verdicts = (self._join(v, second.get(i)) for i, v in enumerate(cheap.verdicts))
        return _sum(tuple(verdicts), [cheap, dear])

    def _decides(self, p: float | None) -> bool:
        return p is not None and not self.low <= p <= self.high

    def _map(self, q: float) -> float:
        return min(self.low + (self.high - self.low) * q, self.high) if q <= 1 else q

    def _join(self, first: Verdict, second: Verdict | None) -> Verdict:
        """One verdict; categories are the deciding guard's, or the first's where it names none."""
        if second is None:
            return replace(first, guard=full_name(self))
        if second.probability is None:
            return replace(second, guard=full_name(self))
        categories = second.categories or first.categories
        return Verdict(self._map(second.probability), full_name(self), categories)


class AnyOf:
    """Unsafe if any of several guards says so at its own threshold: rules beside a guard.

    The probability is the highest among the guards, each mapped by straight lines that take 0 to 0,
    its "strict" threshold to 0.4, its "loose" one to 0.6 and 1 to 1; a guard whose two thresholds
    are one jumps there. So at "strict" (0.4) and at "loose" (0.6) a row is unsafe exactly if one of
    the guards says so at its own threshold of that name.

    If a guard cannot score a row, the row has no probability, unless another finds it unsafe at
    "loose". A row that a guard is certain of (1 after the mapping) is not shown to the guards
    behind it, so rules stand first.

    Args:
        guards: at least one.
        name: short name.

    Raises:
        GuardError: there is no guard, or one's thresholds are missing or not in order.
    """

    def __init__(self, guards: Sequence[Guard], *, name: str = "") -> None:
        if not guards:
            raise GuardError("any of no guards can find nothing", hint="give at least one guard")
        self.guards = tuple(guards)
        self.name = name or "|".join(guard.name for guard in guards)
        self.thresholds = {"strict": STRICT, "loose": LOOSE}
        self._ends = [_ends(guard) for guard in guards]
        self.revision = _hash("any", *([g.revision, *_ends(g)] for g in guards))
        self.caution = "; ".join(filter(None, map(caution_of, guards)))

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge conversations by one guard after the other.

        Raises:
            GuardError: one of the guards cannot work.
        """
        total, count, batches = len(conversations), len(self.guards), []
        verdicts: list[list[Verdict]] = [[] for _ in conversations]
        for number, guard in enumerate(self.guards):
            rows = [i for i, few in enumerate(verdicts) if all(v.probability != 1 for v in few)]
            if not rows:
                break
            before = number * total + total - len(rows)
            report = partial(_report, on_progress, before, count, total)
            batch = guard.judge([conversations[i] for i in rows], report)
            batches.append(batch)
            for i, verdict in zip(rows, batch.verdicts, strict=True):
                verdicts[i].append(self._map(verdict, number))
        on_progress(total, total)
        return _sum(tuple(join(several, LOOSE) for several in verdicts), batches)

    def _map(self, verdict: Verdict, number: int) -> Verdict:
        if verdict.probability is None:
            return replace(verdict, guard=full_name(self))
        p = _common(verdict.probability, *self._ends[number])
        return replace(verdict, probability=p, guard=full_name(self))


def _report(
    on_progress: OnProgress, before: int, count: int, total: int, done: int, _of: int
) -> None:
    """Report the progress of one of `count` guards as progress of the whole."""
    on_progress((before + done) // count, total)


def _is_certain(guard: Guard) -> bool:
    """Whether a guard says 0 or 1 of every row that it can judge."""
    if isinstance(guard, AnyOf):
        return all(map(_is_certain, guard.guards))
    return isinstance(guard, RulesGuard)


def _ends(guard: Guard) -> tuple[float, float]:
    strict, loose = guard.thresholds.get("strict"), guard.thresholds.get("loose")
    if strict is None or loose is None or not 0 <= strict <= loose:
        raise GuardError(f"guard {guard.name!r} needs thresholds with 0 <= strict <= loose")
    return strict, loose


def _common(p: float, strict: float, loose: float) -> float:
    """A guard's probability on the scale of `AnyOf`; what is below a threshold stays below it."""
    if p >= loose:
        return _line(p, loose, 1.0, LOOSE, 1.0)
    if p >= strict:
        return min(_line(p, strict, loose, STRICT, LOOSE), math.nextafter(LOOSE, 0))
    return min(_line(p, 0.0, strict, 0.0, STRICT), math.nextafter(STRICT, 0))


def _line(p: float, start: float, end: float, low: float, high: float) -> float:
    """The height at p of the line from (start, low) to (end, high); `high` if it has no length."""
    return min(low + (p - start) / (end - start) * (high - low), high) if end > start else high


def _sum(verdicts: tuple[Verdict, ...], parts: Sequence[VerdictBatch]) -> VerdictBatch:
    tokens, operations = sum(p.tokens for p in parts), sum(p.operations for p in parts)
    return VerdictBatch(verdicts, tokens=tokens, operations=operations)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
