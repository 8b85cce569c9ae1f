"""TOML as it comes from others: read with limits, so that no file takes long or ends badly.

A file is as large as a long list of words needs, its tables are as deep as any section of ours, and
its whole numbers have the 64 bits that TOML promises.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

LARGEST = 4_000_000  # bytes
DEEPEST = 32  # parts of a key; tables and lists within each other
DOTS = 2_000  # in one line: reading a dotted key takes the square of its parts
BITS = 64
_PART = re.compile(r"\s*[\w\"'-]+\s*")


def read_toml(path: Path, encoding: str = "utf-8") -> dict[str, Any]:
    """The table of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not TOML, or beyond the limits; says which, in one line.
    """
    with path.open("rb") as file:
        body = file.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    return parse_toml(body.decode(encoding))


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a text.

    Raises:
        ValueError: it is not TOML (then a `TOMLDecodeError`), or beyond the limits.
    """
    text = text.replace("\r\n", "\n")
    _check_keys(text)
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # a number with more digits than Python reads
        raise ValueError(_too_large()) from None
    _check_values(table)
    return table


def check_depth(key: str) -> None:
    """See that a dotted key has no more parts than any of ours.

    Raises:
        ValueError: it has.
    """
    if key.count(".") >= DEEPEST:
        raise ValueError(f"a key has more than {DEEPEST} parts")


def _check_keys(text: str) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") < DEEPEST:
            continue
        if line.count(".") > DOTS:
            raise ValueError(f"line {number} has more than {DOTS:,} dots; break it")
        if any(map(_ends_in_deep_key, re.split(r"[=\]]", line)[:-1])):
            raise ValueError(f"line {number}: a key has more than {DEEPEST} parts")


def _ends_in_deep_key(text: str) -> bool:
    """Whether what stands before `=` or `]` ends in a dotted key of too many parts."""
    parts = text.split(".")
    return len(parts) > DEEPEST and all(map(_PART.fullmatch, parts[-DEEPEST:]))


def _check_values(table: dict[str, Any]) -> None:
    level: list[Any] = [table]
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for value in level:
            inner += value.values() if isinstance(value, dict) else value
        if any(isinstance(v, int) and v.bit_length() >= BITS for v in inner):
            raise ValueError(_too_large())
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(_too_deep())


def _too_deep() -> str:
    return f"its tables or lists are more than {DEEPEST} deep"


def _too_large() -> str:
    return f"a whole number in it has more than {BITS} bits"
