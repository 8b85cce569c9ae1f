"""The label of a row: whether its columns say that it is unsafe."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedrai.data.columns import Cell, cell_equals, number_of
from fedrai.errors import DataError

UNSAFE = frozenset({"unsafe", "harmful", "toxic", "hateful", "unacceptable", "true", "yes"})
SAFE = frozenset({"safe", "harmless", "unharmful", "benign", "non-toxic", "acceptable", "false",
                  "no"})  # fmt: skip
"""Words that a label column may hold, in any case."""


class LabelError(ValueError):
    """A cell holds no label."""


@dataclass(frozen=True, slots=True)
class Labels:
    """How to tell from a row whether it is unsafe.

    Attributes:
        columns: label columns: a word such as "unsafe" or "safe", true or false, 0 or 1, or a score
            from 0 to 1. With several, a row is unsafe if any of them says so.
        unsafe_when: (column, value) pairs, any of which makes a row unsafe.
        cut: scores from this one on count as unsafe.
        whole: the label of all rows of the source; None: each row has its own.
    """

    columns: tuple[str, ...] = ()
    unsafe_when: tuple[tuple[str, Cell], ...] = ()
    cut: float = 0.5
    whole: bool | None = None

    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (*self.columns, *(name for name, _ in self.unsafe_when))


def check_labels(labels: Labels) -> None:
    """Refuse columns such as `is_safe`, which would be read upside down.

    Raises:
        DataError: the name of a label column says that its rows are safe.
    """
    for name in labels.columns:
        spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
        if SAFE & set(re.findall(r"[a-z]+", spaced.lower())):
            raise DataError(
                f"column {name!r} seems to say which rows are safe, not which are unsafe",
                hint=f"use --unsafe-when {name}=VALUE, such as {name}=false",
            )


def truth_of(raw: Mapping[str, Any], labels: Labels) -> bool | None:
    """Whether a row is unsafe: any label says so; None where all of them are missing.

    Raises:
        LabelError: a cell holds no label; the message names the column and not the value.
    """
    if labels.whole is not None:
        return labels.whole
    truths = [_label(raw.get(name), name, labels.cut) for name in labels.columns]
    truths += [
        None if raw.get(name) in (None, "") else cell_equals(raw.get(name), value)
        for name, value in labels.unsafe_when
    ]
    present = [truth for truth in truths if truth is not None]
    return any(present) if present else None


def _label(value: object, name: str, cut: float) -> bool | None:
    """The truth in one cell; None where it is blank or not a number."""
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in UNSAFE or word in SAFE:
        return word in UNSAFE
    if value is None or (isinstance(value, str) and word in ("", "null", "none")):
        return None
    score = number_of(value)
    if score is not None and math.isnan(score):
        return None
    if score is None or not 0 <= score <= 1:
        raise LabelError(
            f"{name} is neither a known label nor a score from 0 to 1; name the unsafe value:"
            f" --unsafe-when {name}=VALUE"
        )
    return score >= cut
