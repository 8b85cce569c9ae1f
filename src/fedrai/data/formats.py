"""The rows of a file in the format of its suffix: JSON, CSV, Parquet, lines of text."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedrai.data.columns import check_names
from fedrai.data.lists import rows_of_json, rows_of_lines
from fedrai.data.opening import (
    DEFAULT_OPTIONS,
    MEGABYTE,
    ReadOptions,
    check_regular,
    text_of,
    unpacks_to_more,
)
from fedrai.data.tables import rows_of_csv
from fedrai.data.texts import characters
from fedrai.errors import DataError, DependencyError

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row | str]]

ROWS_AT_ONCE = 256  # of Parquet


def read_file(path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> Rows:
    """The rows of a JSONL, JSON, CSV or Parquet file; text formats may be gzipped (`.jsonl.gz`).

    Args:
        path: the file.
        options: encoding, separator and limits.

    Yields:
        (origin, row); for a row that cannot be parsed, the problem as a string in its place.

    Raises:
        DataError: another format, or the file as a whole cannot be read.
    """
    check_regular(path)
    form = format_of(path)
    if form not in FORMATS:
        raise DataError(
            f"{path.name}: format {path.suffix or '(no suffix)'} is not supported",
            hint=f"formats: {', '.join(SUFFIXES)}",
        )
    try:
        yield from FORMATS[form](path, options)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is damaged: it does not unpack as gzip") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def format_of(path: Path) -> str:
    """The suffix in lower case; for a gzipped text file, the one before `.gz`."""
    suffix, inner = path.suffix.lower(), Path(path.stem).suffix.lower()
    return inner if suffix == ".gz" and inner in PACKED and _is_gzip(path) else suffix


def _is_gzip(path: Path) -> bool:
    """Whether a file begins like gzip (RFC 1952); true for one that cannot be read."""
    try:
        if not path.is_file():
            return True
        with path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError:
        return True


def lines_of(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a text file with one request a line.

    Raises:
        DataError: it cannot be read.
    """
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            yield f"{path.name}, line {number}", {"prompt": line.strip()}


def _parquet(path: Path, options: ReadOptions) -> Rows:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            "Parquet files need the package pyarrow", hint="pip install 'fedrai[data]'"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_names(file.schema_arrow.names, path.name)
            yield from _batches(path, file, options)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} is not a Parquet file, or a damaged one") from error


def _batches(path: Path, file: Any, options: ReadOptions) -> Rows:
    remaining, number = options.max_unpacked_mb * MEGABYTE, 0
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
        remaining -= batch.nbytes
        if remaining < 0:
            raise unpacks_to_more(path.name, options.max_unpacked_mb)
        for row in batch.to_pylist():
            number += 1
            long = characters(row) > options.row_bytes
            yield f"{path.name}, row {number}", options.too_long if long else row


FORMATS: Mapping[str, Callable[[Path, ReadOptions], Rows]] = {
    ".jsonl": rows_of_lines,
    ".ndjson": rows_of_lines,
    ".json": rows_of_json,
    ".csv": rows_of_csv,
    ".tsv": rows_of_csv,
    ".parquet": _parquet,
}
SUFFIXES = tuple(FORMATS)
PACKED = SUFFIXES[:-1]
