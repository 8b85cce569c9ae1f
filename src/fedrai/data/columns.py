"""The columns of a row: where a conversation stands in it, and which names an error may print.

A recipe names columns; without that the usual names count, and those that others use where there
is but one place that the request or the answer can stand. What could be an answer and is not read
is named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrai.data.texts import is_conversation
from fedrai.errors import DataError
from fedrai.recipe.sections import Columns

CONVERSATIONS = ("messages", "conversations", "conversation")
"""Columns that hold a list of turns."""
REQUESTS = ("prompt", "instruction", "question", "query", "request")
"""Columns that hold a request; where none of these is there, `input` does."""
CONTEXT = "input"
ANSWERS = ("response", "completion", "output", "answer", "reply", "generated_text", "chosen",
           "rejected")  # fmt: skip
"""Columns that hold an answer."""
LOSER = "rejected"
"""The answer of a preference pair that is never taken for the one to learn."""
USUAL = ("prompt", "response", "instruction", "input", "output", "question", "answer", "query",
         "text", "completion", "messages", "conversations", "chosen", "rejected", "request",
         "reply", "generated_text", "conversation")  # fmt: skip
"""Names that an error may print; others could be text: the first row of a CSV without a header."""
PLAIN_NAME = re.compile(r"[^\W\d]\w*(?:[.-]\w+)*")
LONGEST_NAME = 40
KEY = "data.sources.columns"

Row = Mapping[str, Any]
Cell = str | bool | int | float


@dataclass(frozen=True, slots=True)
class RowColumns:
    """The columns of one row that hold its conversation; None where it has none.

    Attributes:
        messages: holds the turns; the others are None then.
        prompt: holds the request.
        context: holds what an instruction is about; put after it.
        response: holds the answer.
        unread: other columns in which a text stands that could be an answer.
    """

    messages: str | None = None
    prompt: str | None = None
    context: str | None = None
    response: str | None = None
    unread: tuple[str, ...] = ()


def find_columns(row: Row, columns: Columns) -> RowColumns:
    """Where the conversation of a row stands.

    Args:
        row: the row.
        columns: the names that were given; one that is not the usual one is the only one there is.

    Raises:
        ValueError: nowhere, or in more than one way; it names the columns and the key.
    """
    talk = _talk(row, columns)
    if talk is not None:
        return RowColumns(messages=talk, unread=_others(row, {talk}))
    if columns.prompt not in row and columns.response not in row and not _pair_elsewhere(row):
        raise ValueError(
            f"no column {columns.messages!r}, and no {columns.prompt!r} and {columns.response!r}"
            f" (it has {len(row)} columns{_among(row)})"
        )
    response = _one(row, "response", columns.response, ANSWERS)
    if response == LOSER != columns.response:
        raise ValueError(
            f"its only answer stands in {LOSER!r}, the worse of a pair; to train on it:"
            f' {KEY} = {{ response = "{LOSER}" }}'
        )
    prompt, context = _request(row, columns)
    return RowColumns(None, prompt, context, response, _others(row, {prompt, context, response}))


def answer_columns(row: Row) -> tuple[str, ...]:
    """The usual names of columns in which a text or turns stand that could be an answer."""
    return tuple(name for name in (*ANSWERS, *CONVERSATIONS) if _filled(row, name))


def _others(row: Row, read: set[str | None]) -> tuple[str, ...]:
    return tuple(name for name in answer_columns(row) if name not in read)


def _talk(row: Row, columns: Columns) -> str | None:
    """The column with the turns; one that is named counts even where it holds something else."""
    if row.get(columns.messages) is not None:
        return columns.messages
    elsewhere = columns.messages == "messages" and not _named(columns)
    found = [name for name in CONVERSATIONS if elsewhere and is_conversation(row.get(name))]
    pair = columns.prompt in row or columns.response in row
    return found[0] if len(found) == 1 and not pair else None


def _named(columns: Columns) -> bool:
    return (columns.prompt, columns.response) != ("prompt", "response")


def _request(row: Row, columns: Columns) -> tuple[str, str | None]:
    """The columns of the request, and of what it is about."""
    if columns.prompt in row or columns.prompt != "prompt":
        return columns.prompt, None
    if not any(_filled(row, name) for name in REQUESTS) and _filled(row, CONTEXT):
        return CONTEXT, None
    prompt = _one(row, "prompt", columns.prompt, REQUESTS)
    return prompt, CONTEXT if prompt == "instruction" and _filled(row, CONTEXT) else None


def _one(row: Row, role: str, name: str, usual: tuple[str, ...]) -> str:
    """The column that is named; if it is not there, the only one of those that others use."""
    if name in row or name != usual[0]:
        return name
    found = [other for other in usual if _filled(row, other)]
    if len(found) > 1:
        raise ValueError(
            f"no column {name!r}, and {' or '.join(found)} may be it: set {KEY}.{role}"
        )
    return found[0] if found else name


def _pair_elsewhere(row: Row) -> bool:
    asked = any(_filled(row, name) for name in (*REQUESTS, CONTEXT))
    return asked and any(_filled(row, name) for name in ANSWERS)


def _filled(row: Row, name: str) -> bool:
    value = row.get(name)
    return bool(value.strip()) if isinstance(value, str) else is_conversation(value)


def _among(row: Row) -> str:
    known = ", ".join(name for name in USUAL if name in row)
    return f", among them {known}" if known else ""


def printable_names(counts: Mapping[str, int]) -> str:
    """The names of a file's columns, as far as an error may print them.

    The usual names may be printed. Others may where all that stand in several rows look like names:
    a first row that is taken for the header, or a text that is a key of one row, does not.

    Args:
        counts: in how many rows each name stands.
    """
    common = [name for name, rows in counts.items() if rows > 1]
    plain = all(len(n) <= LONGEST_NAME and PLAIN_NAME.fullmatch(n) for n in common)
    names = [name for name in counts if name in USUAL or (plain and counts[name] > 1)]
    return ", ".join(names)


def check_names(names: Sequence[str], file: str) -> None:
    """See that no column's name is there twice: a row could not hold both.

    Raises:
        DataError: one is.
    """
    for number, name in enumerate(names, 1):
        if (first := names.index(name) + 1) < number:
            known = f" {name!r}" if name in USUAL else ""
            raise DataError(
                f"{file}: columns {first} and {number} have the same name{known}",
                hint="rename or delete one of them",
            )


def unread_line(columns: Mapping[str, int]) -> str:
    """The columns with further answers, which nothing is trained on; empty if none."""
    named = ", ".join(
        f"{name} ({rows:,} {'row' if rows == 1 else 'rows'})" for name, rows in columns.items()
    )
    return f"columns with answers that are not trained on: {named}" if named else ""


def matches(row: Row, where: Mapping[str, Cell]) -> bool:
    """Whether the columns of a row have these values."""
    return all(cell_equals(row.get(name), value) for name, value in where.items())


def cell_equals(value: object, wanted: Cell) -> bool:
    """Whether a cell has this value: text in any case, numbers as numbers, true as 1."""
    return value is not None and _plain(value) == _plain(wanted)


def _plain(value: object) -> str | float:
    word = str(value).strip().lower()
    number = number_of({"true": 1, "false": 0}.get(word, word))
    return word if number is None else number


def number_of(value: object) -> float | None:
    """The number that a cell holds, as such or as text; None where it holds none."""
    if not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
