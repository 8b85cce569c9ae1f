"""From the scores of a round to one calibrated number a client.

1. Each score is held against the round's *reference half*, the clients with the lowest scores:
   z = (score - median of the half) / max(range of the half, the score's floor). With up to half of
   the round malicious the reference stays honest, as long as the score ranks them higher.
2. The honest tail of the score turns z into p, the part of honest clients that reach it. Tails are
   tables measured on honest clients alone (`honest.toml`); beyond the last entry they fall
   exponentially.
3. Of several scores the smallest p counts, times their number (Bonferroni). The result is the
   `suspicion`: a client is suspicious where it is at most the false alarm rate.

With fewer than four clients a relative score says nothing ("not known"). A score that is absolute
has a second table, for its plain number, and the larger p of the two counts: a client must look
worse than the others, and bad in itself. Where the reference half is itself bad by the absolute
table, the absolute p alone counts: most of the round is malicious then.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fedrai.federation.vetting.scores import Score, Values, reference

FEWEST = 4
"""Clients of a round from which relative scores count."""
SMALLEST = 1e-9
"""The smallest p."""


@dataclass(frozen=True, slots=True)
class Tail:
    """How often honest clients reach a number.

    Attributes:
        values: numbers, rising.
        shares: part of honest clients that reach each of them, falling, above 0.
    """

    values: tuple[float, ...]
    shares: tuple[float, ...]

    def share(self, value: float) -> float:
        """Part of honest clients that reach a number; between entries the logarithm is linear."""
        if value <= self.values[0]:
            return 1.0
        logs = [math.log(share) for share in self.shares]
        at = next((i for i, v in enumerate(self.values) if v >= value), len(self.values) - 1)
        low, high = self.values[at - 1], self.values[at]
        slope = (logs[at] - logs[at - 1]) / (high - low)
        return max(SMALLEST, math.exp(logs[at - 1] + slope * (value - low)))


@dataclass(frozen=True, slots=True)
class Honest:
    """What honest clients have of one score.

    Attributes:
        floor: range of a reference half below which it counts as this.
        relative: tail of z; None: the score is not held against other clients.
        absolute: tail of the plain number; None: it has no meaning alone.
    """

    floor: float
    relative: Tail | None
    absolute: Tail | None = None


UNKNOWN = Honest(1e-9, Tail((0.0, 3.0, 10.0), (1.0, 0.1, 0.01)))
"""For scores of installed packages, which have no table: a guess on the safe side."""


@cache
def shipped() -> Mapping[str, Honest]:
    """The tables of `honest.toml`, by score."""
    body = tomllib.loads((files("fedrai.federation.vetting") / "honest.toml").read_text("utf-8"))
    return {name: _honest(table) for name, table in body["scores"].items()}


def _honest(table: Mapping[str, object]) -> Honest:
    tails = {kind: _tail(table[kind]) for kind in ("relative", "absolute") if kind in table}
    return Honest(float(str(table["floor"])), tails.get("relative"), tails.get("absolute"))


def _tail(rows: object) -> Tail:
    pairs = [(float(value), float(share)) for value, share in rows]  # type: ignore[attr-defined]
    return Tail(tuple(v for v, _ in pairs), tuple(s for _, s in pairs))


def relative(values: Values, floor: float) -> dict[str, float]:
    """Z of each client; see the module."""
    middle, spread = reference(list(values.values()))
    return {name: (value - middle) / max(spread, floor) for name, value in values.items()}


def shares(score: Score, values: Values, honest: Honest) -> dict[str, float | None]:
    """P of each client by one score; None: not known."""
    alone = honest.absolute if score.is_absolute else None
    absolute = {name: alone.share(v) for name, v in values.items()} if alone else {}
    if len(values) < FEWEST or honest.relative is None:
        return {name: absolute.get(name) for name in values}
    z = relative(values, honest.floor)
    compared = {name: honest.relative.share(z[name]) for name in values}
    if alone is None:
        return dict(compared)
    if alone.share(reference(list(values.values()))[0]) <= BAD_HALF:
        return dict(absolute)
    return {name: max(compared[name], absolute[name]) for name in values}


BAD_HALF = 0.02
"""Absolute p of the reference half's median at which the round counts as mostly malicious."""


def suspicion(by_score: Mapping[str, float | None], count: int = 0) -> float | None:
    """One p from those of several scores; None where none is known.

    Args:
        by_score: p of one client by score.
        count: number of all scores, if these are only some; 0: these are all.
    """
    known = [share for share in by_score.values() if share is not None]
    return min(1.0, min(known) * (count or len(known))) if known else None
