"""Which columns of a row could hold its answer, and how output may name columns.

An answer is in `response`, or under one of the names that other tools use. Only known names are
printed, others by their position: the first row of a CSV without a header would be text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fedrai import data

ANSWERS = frozenset({
    "answer", "answertext", "assistant", "assistantmessage", "assistantreply", "assistantresponse",
    "botresponse", "chosen", "completion", "completiontext", "generatedtext", "generation",
    "llmoutput", "llmresponse", "modelanswer", "modeloutput", "modelresponse", "output",
    "outputtext", "rejected", "reply", "response", "responsetext",
})  # fmt: skip
"""Names of answers in lower case, letters only; an "s", a letter or a number may follow."""

USUAL = tuple(dict.fromkeys((
    *data.USUAL, "generated_text", "reply", "prediction", "reference", "label", "labels", "goal",
    "target", "behavior", "unsafe", "is_safe", "category", "source", "id",
)))  # fmt: skip
"""Column names that an error may print."""


def is_answer(name: str) -> bool:
    """Whether a column has a name of answers: `Output`, `generated_text`, `response_0`."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
    if len(words) > 1 and (words[-1].isdigit() or len(words[-1]) == 1):
        words.pop()
    plain = "".join(words)
    return bool({plain, plain.removesuffix("s")} & ANSWERS)


def holds_text(value: object) -> bool:
    """Whether there is a letter in a value, or in what a list or an object holds."""
    if isinstance(value, str):
        return any(map(str.isalpha, value))
    if isinstance(value, Mapping):
        return any(map(holds_text, value.values()))
    return isinstance(value, list | tuple) and any(map(holds_text, value))


def answers_of(raw: Mapping[str, Any], other: Collection[str] = ()) -> list[str]:
    """The columns of a row that hold its answer by their names, in their order.

    Args:
        raw: the row.
        other: columns that are known to hold something else, such as labels.
    """
    return [n for n, v in raw.items() if n not in other and is_answer(n) and holds_text(v)]


def printable(names: Iterable[str], raw: Collection[str]) -> list[str]:
    """Columns as they may be printed: by a known name, else by their place in the row."""
    places = {name: number for number, name in enumerate(raw, 1)}
    return [n if is_printable(n) else f"column {places[n]}" for n in names]


def is_printable(name: str) -> bool:
    """Whether a column's name says nothing of its row, so that it may be printed."""
    return name.isprintable() and (name.strip().lower() in USUAL or is_answer(name))


def describe_columns(names: Collection[str]) -> str:
    """How many columns there are, with the names that may be printed."""
    known = sorted(filter(is_printable, names), key=lambda name: (_place(name), name))
    count = f"{len(names)} column" + ("" if len(names) == 1 else "s")
    return count + (f", among them {', '.join(known)}" if known else "")


def _place(name: str) -> int:
    return USUAL.index(name) if name in USUAL else len(USUAL)
