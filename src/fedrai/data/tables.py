"""CSV: read as `pandas.read_csv` reads it, or refused.

Quotes are strict. A quote that is never closed would make one field of all rows after it, so the
whole file is an error, as is a quoted field over several lines with text after its closing quote.
Missing fields at the end of a row are None. Also errors, unlike in pandas: two columns with one
name, NUL bytes, more fields than names.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedrai.data.columns import USUAL, check_names
from fedrai.data.opening import ReadOptions, encoding_of, open_bytes, text_lines
from fedrai.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_HINT = (
    'name the separator: data.sources.separator = ";" in a recipe, --separator ";" on the command'
    ' line ("tab" for tabs)'
)
NO_LIMIT = 2**31 - 1  # our own limit is for whole rows

Row = dict[str, Any]


def rows_of_csv(path: Path, options: ReadOptions) -> Iterator[tuple[str, Row | str]]:
    """The rows of a CSV; for a row that cannot be used, its problem as a string in its place.

    Raises:
        DataError: the file is ambiguous, or cannot be read as a whole.
    """
    with open_bytes(path, options) as file:
        lines = _Lines(text_lines(file, encoding_of(file, options), path.name, options.row_bytes),
                       path.name, options)  # fmt: skip
        separator = options.separator or lines.separator("\t" if _has_tabs(path) else "")
        records = csv.reader(lines, delimiter=separator, strict=True)
        header: list[str] = []
        for number, fields in _records(records, lines, path.name):
            if isinstance(fields, str):
                yield f"{path.name}, line {number}", fields
            elif header:
                yield f"{path.name}, line {number}", _row(header, fields)
            elif lines.last.strip() or lines.number > number:  # pandas skips blank lines
                header = _header(fields, path.name)


def _has_tabs(path: Path) -> bool:
    return ".tsv" in (suffix.lower() for suffix in path.suffixes[-2:])


class _Lines:
    """The lines of a CSV, with the number of the last one and the length of the row so far."""

    def __init__(self, lines: Iterator[str | None], name: str, options: ReadOptions) -> None:
        self._name, self._options = name, options
        self._lines = self._check_lines(lines)
        self.number = self.row_length = 0
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def _check_lines(self, lines: Iterator[str | None]) -> Iterator[str]:
        """Each line, also those that end with a carriage return alone, as on old Macs."""
        limit, comments = self._options.row_bytes + 2, self._options.comments
        for line in lines:
            for part in (line,) if line is None or "\r" not in line else _parts(line):
                self.number += 1
                self.row_length += len(part or "")
                if part is None or self.row_length > limit:
                    raise self._too_long()
                if "\0" in part:
                    raise self._not_text()
                if self.last == "\r" and part[:1] in (*SEPARATORS, self._options.separator):
                    raise self._lost_separator()
                comments = comments and part.startswith("#")
                if not comments:
                    self.last = part
                    yield part

    def _too_long(self) -> DataError:
        return DataError(
            f"{self._name}, line {self.number}: the row is {self._options.too_long}",
            hint="look for a quote that is never closed, or raise the limit",
        )

    def _not_text(self) -> DataError:
        return DataError(
            f"{self._name}, line {self.number} holds a NUL byte, which is not text",
            hint='if the file is UTF-16: data.sources.encoding = "utf-16-le", or --encoding'
            " utf-16-le",
        )

    def _lost_separator(self) -> DataError:
        return DataError(
            f"{self._name}, line {self.number} follows a blank line that ends with a carriage"
            " return alone, so pandas would lose its first separator",
            hint="save the file with one kind of line end",
        )

    def separator(self, usual: str) -> str:
        """The separator of the header, which is still read as a line afterwards.

        Raises:
            DataError: there is more than one possibility.
        """
        header = next((line for line in self._lines if line.strip()), None)
        if header is None:
            return ","
        self._lines = self._prepend(header, self._lines)
        self.number -= 1
        return usual or _separator(header, self._name)

    def _prepend(self, line: str, rest: Iterator[str]) -> Iterator[str]:
        self.number += 1
        yield line
        yield from rest


def _parts(line: str) -> Iterator[str]:
    return iter(io.StringIO(line, newline=""))


def _separator(header: str, name: str) -> str:
    names = {sep: _split(header, sep) for sep in SEPARATORS}
    several = [sep for sep in SEPARATORS if len(names[sep]) > 1]
    if len(several) < 2:
        return several[0] if several else ","
    usual = [sep for sep in several if set(USUAL) & {field.lower() for field in names[sep]}]
    if len(usual) == 1 or usual[:1] == [","]:
        return usual[0]
    if not usual and "," in several:
        return ","
    choices = " or ".join("a tab" if sep == "\t" else repr(sep) for sep in usual or several)
    raise DataError(f"{name} may be separated by {choices}", hint=SEPARATOR_HINT)


def _split(header: str, separator: str) -> list[str]:
    return next(csv.reader([header], delimiter=separator), [])


def _records(records: Any, lines: _Lines, name: str) -> Iterator[tuple[int, list[str] | str]]:
    """The fields of each row, with the line where it begins, without blank lines."""
    while True:
        first = lines.number + 1
        lines.row_length = 0
        try:
            fields = _next(records)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise _open_quote(name, first) from None
            if lines.number > first:
                raise _run_on(name, first, lines.number) from None
            yield first, "not CSV (text after a closing quote)"
            continue
        if fields:
            yield first, fields


def _next(records: Any) -> list[str]:
    """The next row, with fields of any length: the module's own limit is 131,072."""
    before = csv.field_size_limit(NO_LIMIT)
    try:
        fields: list[str] = next(records)
    finally:
        csv.field_size_limit(before)
    return fields


def _open_quote(name: str, line: int) -> DataError:
    return DataError(
        f"{name}, line {line}: a quote is opened in this row and never closed, so all rows from"
        " here on are ambiguous",
        hint='close the quote; a quote within a quoted field is written twice: ""',
    )


def _run_on(name: str, first: int, last: int) -> DataError:
    return DataError(
        f"{name}, lines {first} to {last}: a quoted field runs over these lines and has text after"
        " its closing quote, so it may contain rows",
        hint='close the quote on its own line; a quote within a quoted field is written twice: ""',
    )


def _header(fields: Sequence[str], name: str) -> list[str]:
    """The names of the columns; those without a name get the one of pandas.

    Raises:
        DataError: two columns have the same name.
    """
    names = [field or f"Unnamed: {number}" for number, field in enumerate(fields)]
    check_names(names, name)
    return names


def _row(header: Sequence[str], fields: Sequence[str]) -> Row | str:
    if len(fields) > len(header):
        return "more fields than the header has"
    return dict(itertools.zip_longest(header, fields))
