"""The columns of a row that hold its conversation, and the names that an error may print.

A recipe names columns. Without that, the usual names are read, or other common names where only one
column can be the request or the answer. Columns that may hold answers and are not read are
reported.
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
"""Columns that hold a request; if there is none of these, `input` does."""
CONTEXT = "input"
REQUEST_COLUMNS = (*REQUESTS, CONTEXT)
ANSWERS = ("response", "completion", "output", "answer", "reply", "generated_text", "chosen",
           "rejected")  # fmt: skip
"""Columns that hold an answer."""
LOSER = "rejected"
"""The rejected answer of a preference pair, which is trained on only if it is named."""
USUAL = ("prompt", "response", "instruction", "input", "output", "question", "answer", "query",
         "text", "completion", "messages", "conversations", "chosen", "rejected", "request",
         "reply", "generated_text", "conversation")  # fmt: skip
"""Names that an error may print; others may be text: the first row of a CSV without a header."""
PLAIN_NAME = re.compile(r"[^\W\d]\w*(?:[.-]\w+)*")
LONGEST_NAME = 40
DEFAULT_NAMES = ("messages", "prompt", "response")
KEY = "data.sources.columns"

Row = Mapping[str, Any]
Cell = str | bool | int | float


@dataclass(frozen=True, slots=True)
class RowColumns:
    """The columns of one row that hold its conversation; None for those that it does not have.

    Attributes:
        messages: holds the turns; then the others are None.
        prompt: holds the request.
        context: holds the input of an instruction, which is appended to it.
        response: holds the answer.
        unread: other columns that may hold an answer.
    """

    messages: str | None = None
    prompt: str | None = None
    context: str | None = None
    response: str | None = None
    unread: tuple[str, ...] = ()


def find_columns(row: Row, columns: Columns) -> RowColumns:
    """The columns that hold the conversation of a row.

    Args:
        row: the row.
        columns: names from the recipe; a name other than the default is the only one that is read.

    Raises:
        ValueError: there are none, or more than one possibility; it names the columns and the key.
    """
    messages = _messages_column(row, columns)
    if messages is not None:
        return RowColumns(messages=messages, unread=_others(row, {messages}))
    if columns.prompt not in row and columns.response not in row and not _has_other_pair(row):
        raise ValueError(
            f"no column {columns.messages!r}, and no {columns.prompt!r} and {columns.response!r}"
            f" (it has {len(row)} columns{_among(row)})"
        )
    response = _one(row, "response", columns.response, ANSWERS)
    if response == LOSER != columns.response:
        raise ValueError(
            f"its only answer is in {LOSER!r}, the rejected one of a pair; to train on it:"
            f' {KEY} = {{ response = "{LOSER}" }}'
        )
    prompt, context = _request(row, columns)
    return RowColumns(None, prompt, context, response, _others(row, {prompt, context, response}))


def find_request(row: Row, columns: Columns) -> tuple[str, str | None]:
    """The columns of a pair's request and of its input, by the rules of `find_columns`.

    Raises:
        ValueError: there is none, or more than one possibility.
    """
    prompt, context = _request(row, columns)
    if prompt not in row:
        raise ValueError(
            f"no column {prompt!r}, and {columns.chosen!r} is an answer alone, not a conversation"
        )
    return prompt, context


def answer_columns(row: Row) -> tuple[str, ...]:
    """Columns with a usual name and a text or turns that may be an answer."""
    return tuple(name for name in (*ANSWERS, *CONVERSATIONS) if _is_filled(row, name))


def _others(row: Row, read: set[str | None]) -> tuple[str, ...]:
    return tuple(name for name in answer_columns(row) if name not in read)


def _messages_column(row: Row, columns: Columns) -> str | None:
    """The column with the turns; a named one counts even if it holds something else."""
    if row.get(columns.messages) is not None:
        return columns.messages
    is_default = (columns.messages, columns.prompt, columns.response) == DEFAULT_NAMES
    if not is_default or "prompt" in row or "response" in row:
        return None
    candidates = [name for name in CONVERSATIONS if is_conversation(row.get(name))]
    return candidates[0] if len(candidates) == 1 else None


def _request(row: Row, columns: Columns) -> tuple[str, str | None]:
    """The columns of the request, and of its input if it is an instruction."""
    if columns.prompt in row or columns.prompt != "prompt":
        return columns.prompt, None
    if not any(_is_filled(row, name) for name in REQUESTS) and _is_filled(row, CONTEXT):
        return CONTEXT, None
    prompt = _one(row, "prompt", columns.prompt, REQUESTS)
    return prompt, CONTEXT if prompt == "instruction" and _is_filled(row, CONTEXT) else None


def _one(row: Row, role: str, name: str, usual: tuple[str, ...]) -> str:
    """The named column; if the row lacks it, the only one with another common name."""
    if name in row or name != usual[0]:
        return name
    candidates = [other for other in usual if _is_filled(row, other)]
    if len(candidates) > 1:
        raise ValueError(
            f"no column {name!r}, and {' or '.join(candidates)} may be it: set {KEY}.{role}"
        )
    return candidates[0] if candidates else name


def _has_other_pair(row: Row) -> bool:
    """Whether a request and an answer are in columns with other common names."""
    has_request = any(_is_filled(row, name) for name in (*REQUESTS, CONTEXT))
    return has_request and any(_is_filled(row, name) for name in ANSWERS)


def _is_filled(row: Row, name: str) -> bool:
    value = row.get(name)
    return bool(value.strip()) if isinstance(value, str) else is_conversation(value)


def _among(row: Row) -> str:
    usual = ", ".join(name for name in USUAL if name in row)
    return f", among them {usual}" if usual else ""


def printable_names(counts: Mapping[str, int]) -> str:
    """The names of a file's columns that an error may print.

    These are the usual names, and others if all that occur in several rows look like names. A first
    row that is read as the header does not, nor does a text that is a key of one row.

    Args:
        counts: numbers of rows by name.
    """
    common = [name for name, rows in counts.items() if rows > 1]
    plain = all(len(n) <= LONGEST_NAME and PLAIN_NAME.fullmatch(n) for n in common)
    names = [name for name in counts if name in USUAL or (plain and counts[name] > 1)]
    return ", ".join(names)


def check_names(names: Sequence[str], file: str) -> None:
    """Check that no two columns have the same name: a row could not hold both.

    Raises:
        DataError: two have.
    """
    for number, name in enumerate(names, 1):
        if (first := names.index(name) + 1) < number:
            usual = f" {name!r}" if name in USUAL else ""
            raise DataError(
                f"{file}: columns {first} and {number} have the same name{usual}",
                hint="rename or delete one of them",
            )


def unread_line(columns: Mapping[str, int]) -> str:
    """A line with the columns whose answers are not trained on; empty without any."""
    names = ", ".join(
        f"{name} ({rows:,} {'row' if rows == 1 else 'rows'})" for name, rows in columns.items()
    )
    return f"columns with answers that are not trained on: {names}" if names else ""


def matches(row: Row, where: Mapping[str, Cell]) -> bool:
    """Whether the columns of a row have these values."""
    return all(cell_equals(row.get(name), value) for name, value in where.items())


def cell_equals(value: object, expected: Cell) -> bool:
    """Whether a cell has this value: text in any case, numbers as numbers, true as 1."""
    return value is not None and _plain(value) == _plain(expected)


def _plain(value: object) -> str | float:
    word = str(value).strip().lower()
    number = number_of({"true": 1, "false": 0}.get(word, word))
    return word if number is None else number


def number_of(value: object) -> float | None:
    """The number in a cell, also if it is text; None if there is none."""
    if not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
