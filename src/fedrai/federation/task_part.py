"""The part of the adapter that a task asks for, as whole numbers: see `model.parts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from fedrai.errors import ProtocolError
from fedrai.model.parts import FACTORS, Part, Shapes, rank_of

PART_KEYS = frozenset({"frozen", "rank", "whole"})
"""Keys of a task that ask for a part: all of them, or none."""


def part_numbers(part: Part) -> dict[str, int]:
    """A part as numbers of a task; none for all of the adapter."""
    if part.is_all:
        return {}
    return {"frozen": FACTORS.index(part.frozen), "rank": part.rank, "whole": int(part.whole)}


def read_part(task: Mapping[str, object], expected: Shapes) -> Part:
    """The part that a task asks for; all of the adapter if it has none of the keys.

    Args:
        task: the task's numbers.
        expected: names and shapes of the adapter's arrays, as the client has them.

    Raises:
        ProtocolError: there is no such part.
    """
    most = {"frozen": len(FACTORS) - 1, "rank": max(0, rank_of(expected) - 1), "whole": 1}
    numbers: dict[str, int] = {}
    for name, highest in most.items():
        number = task.get(name, 0)
        if not is_whole(number) or not 0 <= number <= highest:
            raise ProtocolError(f"a task's {name} must be a whole number up to {highest}")
        numbers[name] = number
    return Part(FACTORS[numbers["frozen"]], numbers["rank"], bool(numbers["whole"]))


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is an integer; booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool)
