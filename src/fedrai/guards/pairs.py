"""Preference pairs among the rows that a guard judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrai import data
from fedrai.recipe.sections import Columns
from fedrai.records import Message

SIDES = ("chosen", "rejected")
"""The columns of a pair's answers."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair in a row.

    Attributes:
        chosen: the conversation with the preferred answer.
        rejected: the one with the other.
        sides: the columns of both answers.
        columns: those that hold text of the conversations.
    """

    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    sides: tuple[str, str]
    columns: tuple[str, ...]


def read_pair(raw: Mapping[str, Any], prompt: str, answered: Sequence[str]) -> Pair | None:
    """The pair that a row holds; None if it is none: a side is missing, or both are the same.

    Args:
        raw: the row.
        prompt: the column of the request.
        answered: columns that make the row another one than a pair if they hold anything.

    Raises:
        ValueError: the pair cannot be read; see `data.pair_of`.
    """
    chosen, rejected = (raw.get(name) for name in SIDES)
    if not chosen or not rejected or chosen == rejected or any(map(raw.get, answered)):
        return None
    conversations = data.pair_of(raw, Columns(prompt=prompt))
    requests = (prompt, *data.REQUEST_COLUMNS)
    return Pair(*conversations, SIDES, (*SIDES, *(name for name in requests if name in raw)))
