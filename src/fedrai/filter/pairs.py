"""Preference pairs in the filter: what is judged of them, what becomes of them, and their counts.

A pair teaches its chosen answer, so that is what the guard judges, without the turns that both
answers share. A harmful rejected answer is as it should be. It is judged only where it may take the
chosen one's place.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Literal

from fedrai.records import Example

PairMode = Literal["drop", "swap"]


@dataclass(frozen=True, slots=True)
class PairCounts:
    """What the filter did to pairs.

    Attributes:
        rows: pairs that came in.
        unsafe: pairs whose chosen answer is unsafe.
        swapped: pairs whose answers changed places.
        dropped: pairs that left because their chosen answer is unsafe.
    """

    rows: int
    unsafe: int
    swapped: int
    dropped: int

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(*map(operator.add, astuple(self), astuple(other)))


def swapped(example: Example) -> Example:
    """The pair with its answers in each other's place."""
    return replace(example, messages=example.rejected, rejected=example.messages)


def first_judged(example: Example) -> int:
    """The first turn of a row that is trained on: of a pair, where its answers begin."""
    return example.shared_turns if example.rejected else 0


def counts_of(
    examples: Sequence[Example], unsafe: Iterable[bool], outcomes: Sequence[Example | None]
) -> PairCounts | None:
    """The counts of a client's pairs; None if it holds none.

    Args:
        examples: its rows.
        unsafe: whether the guard found the answer to learn unsafe.
        outcomes: what became of each; None: it left.
    """
    pairs = [row for row in zip(examples, unsafe, outcomes, strict=True) if row[0].rejected]
    if not pairs:
        return None
    return PairCounts(
        len(pairs),
        sum(is_unsafe for _, is_unsafe, _ in pairs),
        sum(outcome is not None and outcome is not example for example, _, outcome in pairs),
        sum(is_unsafe and outcome is None for _, is_unsafe, outcome in pairs),
    )
