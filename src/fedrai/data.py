"""Rows to examples: read datasets and check every row.

Reads JSONL, JSON, CSV (each also gzipped), Parquet, hub datasets and the embedded sets. A row is
`messages` (several turns) or prompt and response. A bad row is named by file and line, never by its
text. Dividing the examples over clients is `partition.py`'s.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from fedrai import assets, embedded
from fedrai.errors import DataError, DependencyError
from fedrai.records import BadRow, Example, Message, Role
from fedrai.schema import Columns

ROLES = ("system", "user", "assistant")
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
EMBEDDED = "fedrai:"
INSTEAD = (
    "Name a file, a hub dataset (org/name), or a set that comes along: "
    + ", ".join(f"{EMBEDDED}{name}" for name in embedded.DATASETS)
    + "."
)
USUAL = ("prompt", "response", "instruction", "input", "output", "question", "answer", "query",
         "text", "completion", "messages", "conversations", "chosen", "rejected")  # fmt: skip
"""Names that an error may print; others could be text: the first row of a CSV without a header."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a dataset gave: its usable rows, and the rows that were not usable."""

    examples: tuple[Example, ...]
    bad_rows: tuple[BadRow, ...]


def load(
    spec: str,
    *,
    columns: Columns | None = None,
    harmful: bool = False,
    split: str = "train",
    where: Mapping[str, str | bool | int | float] | None = None,
    bad_rows: str = "stop",
) -> Loaded:
    """Read one dataset.

    Args:
        spec: file, hub dataset, asset, or `fedrai:NAME`.
        columns: names of the columns.
        harmful: whether the source is declared harmful.
        split: split of a hub dataset.
        where: only rows whose columns have these values (CSV: compared as text).
        bad_rows: "stop" raises on a bad row, "skip" leaves bad rows out and returns them.

    Raises:
        DataError: no such file or format, no rows, or a bad row under "stop".
    """
    good: list[Example] = []
    bad: list[BadRow] = []
    for origin, row in rows(spec, split):
        if not isinstance(row, str) and not _wanted(row, where or {}):
            continue
        try:
            problem = row if isinstance(row, str) else None
            if problem is None:
                good.append(_example(cast(Row, row), origin, columns or Columns(), harmful))
        except ValueError as error:
            problem = str(error)
        if problem is not None:
            bad.append(BadRow(origin, problem))
    if bad and bad_rows == "stop":
        raise DataError(_summary(bad), hint='mend the rows, or set data.on_bad_rows = "skip"')
    if not good:
        raise DataError(f"{spec} holds no usable row" + (f"; {_summary(bad)}" if bad else ""))
    return Loaded(tuple(good), tuple(bad))


def _wanted(row: Row, where: Mapping[str, str | bool | int | float]) -> bool:
    return all(
        row.get(key) == value or (isinstance(row.get(key), str) and row[key] == str(value).lower())
        for key, value in where.items()
    )


def _summary(bad: Sequence[BadRow]) -> str:
    named = "; ".join(f"{row.origin}: {row.problem}" for row in bad[:3])
    return named + (f"; and {len(bad) - 3} more bad rows" if len(bad) > 3 else "")


def rows(spec: str, split: str = "train") -> Iterator[tuple[str, Row | str]]:
    """The rows of a dataset as they are.

    Args:
        spec: file, hub dataset, asset, or `fedrai:NAME`.
        split: split of a hub dataset.

    Yields:
        (origin, row); a row that cannot even be parsed comes as a string: what is wrong with it.

    Raises:
        DataError: no such file or format, or it cannot be read as a whole.
    """
    if spec.startswith(EMBEDDED):
        yield from embedded.rows(spec.removeprefix(EMBEDDED))
        return
    if _names_hub_dataset(spec):
        yield from _hub(spec, split)
        return
    path = assets.fetch(spec, instead=INSTEAD)
    if path.is_dir():
        raise DataError(
            f"{spec} is a folder; expected a file", hint=f"formats: {', '.join(SUFFIXES)}"
        )
    yield from read_file(path)


def is_local(spec: str) -> bool:
    """Whether a spec names a file on this machine."""
    known = spec.startswith(EMBEDDED) or spec in assets.CATALOGUE or _names_hub_dataset(spec)
    return not known and assets.parse(spec).scheme == "path"


def _names_hub_dataset(spec: str) -> bool:
    local = Path(spec).expanduser()
    whole = spec.startswith("hf:datasets/") and spec.count("/") == 2
    bare = spec.count("/") == 1 and ":" not in spec and _format(local) not in SUFFIXES
    return whole or (bare and not local.exists() and not spec.startswith((".", "~", "/")))


def read_file(path: Path) -> Iterator[tuple[str, Row | str]]:
    """The rows of a JSONL, JSON, CSV or Parquet file; text formats may be gzipped (`.jsonl.gz`).

    Yields:
        (origin, row); a row that cannot even be parsed comes as a string: what is wrong with it.

    Raises:
        DataError: another format, or the file as a whole cannot be read.
    """
    readers = {
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".json": _json,
        ".csv": _csv,
        ".parquet": _parquet,
    }
    if _format(path) not in readers:
        raise DataError(
            f"{path.name}: format {path.suffix or '(no suffix)'} is not known",
            hint=f"formats: {', '.join(SUFFIXES)}",
        )
    try:
        yield from readers[_format(path)](path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is broken: it does not unpack as gzip") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _format(path: Path) -> str:
    """The suffix, in lower case; of a gzipped text file the one before `.gz`."""
    suffix, inner = path.suffix.lower(), Path(path.stem).suffix.lower()
    return inner if suffix == ".gz" and inner in SUFFIXES[:-1] and _gzipped(path) else suffix


def _gzipped(path: Path) -> bool:
    """Whether a file begins as gzip does (RFC 1952); one that cannot be read may well."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError:
        return True


def text_of(path: Path) -> str:
    """A file's text.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def lines_of(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a text file that has a request a line.

    Raises:
        DataError: it cannot be read.
    """
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            yield f"{path.name}, line {number}", {"prompt": line.strip()}


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.GzipFile(path, "rb"))
    return path.open("rb")


def _content(path: Path) -> str:
    with _open(path) as file:
        return file.read().decode("utf-8-sig")


def _jsonl(path: Path) -> Iterator[tuple[str, Row | str]]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path.name}, line {number}", _json_row(line)


def _json_row(line: bytes) -> Row | str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        return f"not JSON (column {error.colno})"
    except (ValueError, RecursionError):  # numbers and nesting beyond what Python reads
        return "not JSON that can be read"
    return row if isinstance(row, dict) else "not a JSON object"


def _json(path: Path) -> Iterator[tuple[str, Row | str]]:
    try:
        rows = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not JSON in UTF-8") from error
    if not isinstance(rows, list):
        raise DataError(
            f"{path.name} holds no list of rows", hint="one object a line goes into .jsonl"
        )
    for number, row in enumerate(rows, 1):
        yield f"{path.name}, row {number}", row if isinstance(row, dict) else "not a JSON object"


def _csv(path: Path) -> Iterator[tuple[str, Row | str]]:
    try:
        text = _content(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 (byte {error.start})") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"{path.name}, line {line}", f"not CSV ({error})"
            continue
        if fields and header:
            yield f"{path.name}, line {line}", _csv_row(header, fields)
        header = header or fields


def _csv_row(header: Sequence[str], fields: Sequence[str]) -> Row | str:
    if len(fields) > len(header):
        return "more fields than the header has"
    return dict(itertools.zip_longest(header, fields))


def _parquet(path: Path) -> Iterator[tuple[str, Row | str]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            "Parquet files need the package pyarrow", hint="pip install 'fedrai[data]'"
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path.name} is not a Parquet file that can be read") from error
    number = 0
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            number += 1
            yield f"{path.name}, row {number}", row


def _hub(spec: str, split: str) -> Iterator[tuple[str, Row | str]]:
    try:
        import datasets
    except ImportError as error:
        raise DependencyError(
            f"the hub dataset {spec} needs the package datasets", hint="pip install 'fedrai[data]'"
        ) from error
    name, _, revision = spec.removeprefix("hf:datasets/").partition("@")
    try:
        rows = datasets.load_dataset(name, revision=revision or None, split=split)
    except Exception as error:
        raise DataError(
            f"cannot load the hub dataset {name} ({type(error).__name__})",
            hint=f"check the name, split {split!r}, the network, HF_TOKEN; or name a local file",
        ) from error
    for number, row in enumerate(rows, 1):
        yield f"{name}, row {number}", row


def _example(row: Row, origin: str, columns: Columns, harmful: bool) -> Example:
    turns = row.get(columns.messages)
    messages = _turns(turns) if turns is not None else _pair(row, columns)
    label = row.get(columns.label)
    return Example(messages, origin, "" if label is None else str(label), harmful)


def _pair(row: Row, columns: Columns) -> tuple[Message, ...]:
    if columns.prompt not in row and columns.response not in row:
        known = ", ".join(name for name in USUAL if name in row)
        raise ValueError(
            f"no column {columns.messages!r}, and no {columns.prompt!r} and {columns.response!r}"
            f" (it has {len(row)} columns" + (f", among them {known})" if known else ")")
        )
    prompt = as_text(row.get(columns.prompt), columns.prompt)
    response = as_text(row.get(columns.response), columns.response)
    return (Message("user", prompt), Message("assistant", response))


def as_text(value: object, name: str) -> str:
    """A value of a row that must be a text with something in it.

    Args:
        value: the value.
        name: of its column, for the error.

    Raises:
        ValueError: it is none.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{name} is empty")
    if not isinstance(value, str):
        raise ValueError(f"{name} is not text but {type(value).__name__}")
    return value


def _turns(turns: object) -> tuple[Message, ...]:
    if isinstance(turns, str):  # CSV holds the list as JSON
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError):
            raise ValueError("messages is text, but not a JSON list") from None
    if not isinstance(turns, Sequence) or not turns:
        raise ValueError("messages is not a list of turns")
    messages = tuple(_turn(turn, number) for number, turn in enumerate(turns, 1))
    _check_order([message.role for message in messages])
    return messages


def _turn(turn: object, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} is not an object with role and content")
    role = turn.get("role")
    if role not in ROLES:
        raise ValueError(f"turn {number} has a role that is not one of {', '.join(ROLES)}")
    return Message(cast(Role, role), as_text(turn.get("content"), f"content of turn {number}"))


def _check_order(roles: Sequence[str]) -> None:
    talk = list(roles[1:] if roles[0] == "system" else roles)
    expected = ["user", "assistant"] * (len(talk) // 2)
    if not talk or talk != expected:
        raise ValueError(
            "turns must go user, assistant, user, assistant ... and end with the assistant"
            " (one system turn may come first)"
        )
