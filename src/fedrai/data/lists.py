"""Rows in JSON: an object a line, or one list of objects, whatever the suffix.

A number, nesting or text that cannot be read makes a bad row, not an error of the whole file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrai.data.columns import USUAL
from fedrai.data.opening import (
    ReadOptions,
    byte_lines,
    encoding_of,
    open_bytes,
    text_lines,
    text_of,
)
from fedrai.data.texts import characters, half_character
from fedrai.errors import DataError

Row = dict[str, Any]
NOT_JSON = "not JSON"
NOT_OBJECT = "not a JSON object"
FORMAT_HINT = (
    "a .jsonl file must hold one JSON object per line, a .json file one list of objects; if the"
    " file is CSV, rename it to .csv or .tsv, and name its separator if need be (--separator on the"
    " command line, data.sources.separator in a recipe)"
)
REPEATED = "a key occurs twice in an object"


def rows_of_lines(path: Path, options: ReadOptions) -> Iterator[tuple[str, Row | str]]:
    """The rows of JSON Lines; a file that begins with a list is read as a list.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    with open_bytes(path, options) as file:
        encoding = encoding_of(file, options)
        lines: Iterator[bytes | str | None]
        if encoding == "utf-8-sig":
            lines = byte_lines(file, options.row_bytes)
        else:
            lines = text_lines(file, encoding, path.name, options.row_bytes)
        numbered = ((n, line) for n, line in enumerate(lines, 1) if line is None or line.strip())
        first = next(numbered, None)
        if first is None:
            return
        if _opens_a_list(first[1]):
            yield from _read_list(path, options)
            return
        for number, line in itertools.chain([first], numbered):
            row = options.too_long if line is None else _row(line)
            yield f"{path.name}, line {number}", row


def _opens_a_list(line: bytes | str | None) -> bool:
    """Whether a file's first line is, or opens, a list of objects."""
    text = line.decode("utf-8-sig", "replace") if isinstance(line, bytes) else line or ""
    return text.strip() == "[" or text.lstrip().startswith(("[{", "[ {"))


def rows_of_json(path: Path, options: ReadOptions) -> Iterator[tuple[str, Row | str]]:
    """The rows of a JSON file: a list, or JSON Lines, as `datasets` writes them.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    if _object_a_line(path, options):
        yield from rows_of_lines(path, options)
    else:
        yield from _read_list(path, options)


def _object_a_line(path: Path, options: ReadOptions) -> bool:
    """Whether the first line of a file is a JSON object with a row."""
    with open_bytes(path, options) as file:
        lines = text_lines(file, encoding_of(file, options), path.name, options.row_bytes)
        try:
            first = next((line for line in lines if line is None or line.strip()), "")
            more = any(line is None or line.strip() for line in lines)
        except DataError:  # bytes of another encoding
            return False
    if first is None:  # too long for a row: a whole list, or the first of several rows
        return more
    row = _parse(first)
    return isinstance(row, dict) and (more or any(name in row for name in USUAL))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_list(path: Path, options: ReadOptions) -> Iterator[tuple[str, Row | str]]:
    try:
        rows = json.loads(text_of(path, options), object_pairs_hook=_object)
    except _RepeatedKeyError:
        raise DataError(f"{path.name}: {REPEATED}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not valid JSON{_at(error)}", hint=FORMAT_HINT) from None
    if not isinstance(rows, list):
        raise DataError(
            f"{path.name} is not a list of rows", hint="use .jsonl for one object a line"
        )
    for number, row in enumerate(rows, 1):
        long = characters(row) > options.row_bytes
        yield f"{path.name}, row {number}", options.too_long if long else _check_row(row, "\\")


class _RepeatedKeyError(ValueError):
    """A key occurs twice in an object, and only one of the values would be read."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _RepeatedKeyError
    return value


def _at(error: Exception) -> str:
    return f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""


def _row(line: bytes | str) -> Row | str:
    try:
        text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
        return _check_row(json.loads(text, object_pairs_hook=_object), text)
    except _RepeatedKeyError:
        return REPEATED
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        return f"{NOT_JSON} (column {error.colno})"
    except (ValueError, RecursionError):  # numbers and nesting beyond what Python reads
        return f"{NOT_JSON} that can be read"


def _check_row(row: Any, text: str) -> Row | str:
    """The row, or its problem; only an escape can make half a character."""
    if not isinstance(row, dict):
        return NOT_OBJECT
    return (half_character(row) if "\\" in text else "") or row
