"""One row that a guard judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from fedrai.records import Message


@dataclass(frozen=True, slots=True)
class GuardRow:
    """One row to judge.

    Attributes:
        conversation: its turns; no message, or blank ones, where it has no text.
        origin: file and line of the row; safe to print.
        source: short name of its dataset.
        category: value of the category column; empty if none.
        unsafe: the label; None where the row has none.
        raw: the row as it was read.
        not_judged: columns with text that is not in the conversation, as they may be printed.
        rejected: of a preference pair, the conversation with the other answer; empty: it is none.
        sides: of a pair, the columns of the preferred and of the other answer.
    """

    conversation: tuple[Message, ...]
    origin: str
    source: str
    category: str
    unsafe: bool | None
    raw: Mapping[str, Any]
    not_judged: tuple[str, ...] = ()
    rejected: tuple[Message, ...] = ()
    sides: tuple[str, str] | None = None

    @property
    def first(self) -> int:
        """The first turn that is judged: of a pair, where its answers begin."""
        same = (one == other for one, other in zip(self.conversation, self.rejected, strict=False))
        return sum(takewhile(bool, same))
