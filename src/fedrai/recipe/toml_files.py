"""Reading TOML from untrusted sources, with limits on size, depth and numbers.

The limits leave room for a long list of words and for any of our sections; whole numbers have the
64 bits of the TOML specification.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

LARGEST = 4_000_000  # bytes
DEEPEST = 32  # parts of a key; tables and lists within each other
DOTS = 2_000  # in one line: reading a dotted key takes quadratic time
BITS = 64
_PART = re.compile(r"\s*[\w\"'-]+\s*")


def read_toml(path: Path, encoding: str = "utf-8") -> dict[str, Any]:
    """The table of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not TOML, or exceeds a limit.
    """
    with path.open("rb") as file:
        body = file.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    return parse_toml(body.decode(encoding))


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a text.

    Raises:
        ValueError: it is not TOML (a `TOMLDecodeError`), or exceeds a limit.
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
    """Check the number of parts of a dotted key.

    Raises:
        ValueError: it has too many.
    """
    if key.count(".") >= DEEPEST:
        raise ValueError(f"a key has more than {DEEPEST} parts")


def _check_keys(text: str) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") < DEEPEST:
            continue
        if line.count(".") > DOTS:
            raise ValueError(f"line {number} has more than {DOTS:,} dots; split the line")
        if any(map(_ends_in_deep_key, re.split(r"[=\]]", line)[:-1])):
            raise ValueError(f"line {number}: a key has more than {DEEPEST} parts")


def _ends_in_deep_key(text: str) -> bool:
    """Whether a text before `=` or `]` ends in a dotted key with too many parts."""
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
