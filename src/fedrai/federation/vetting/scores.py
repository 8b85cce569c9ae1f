"""What a score is: a number for each client of a round, and a reason in words for one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from fedrai.federation.vetting.updates import RoundUpdates

Values = Mapping[str, float]
"""A number for each client; higher is more suspicious."""


def plain_reason(name: str) -> Callable[[RoundUpdates, Values, str], str]:
    """The reason of a score without words of its own: its number beside that of the others."""

    def reason(_updates: RoundUpdates, values: Values, client: str) -> str:
        return f"{name} {values[client]:.2f}, others {others(values, client):.2f}"

    return reason


@dataclass(frozen=True, slots=True)
class Score:
    """One score.

    Attributes:
        name: its name in the recipe.
        measure: gives the number of each client.
        reason: why a client's number is suspicious, in words, without its name.
        is_absolute: whether a number has a meaning without the other clients of the round.
    """

    name: str
    measure: Callable[[RoundUpdates], Values]
    reason: Callable[[RoundUpdates, Values, str], str]
    is_absolute: bool = False


def reference(values: Sequence[float]) -> tuple[float, float]:
    """Median and range of the half with the lowest values, of at least one value."""
    half = sorted(values)[: (len(values) + 1) // 2]
    return median(half), half[-1] - half[0]


def others(values: Values, client: str) -> float:
    """The median of the other clients' numbers; the client's own if there is no other."""
    rest = [value for name, value in sorted(values.items()) if name != client]
    return median(rest or [values[client]])
