"""A file's bytes and lines: regular files only, within limits, in an encoding that is certain.

UTF-8 is the default; UTF-16 and UTF-32 are recognised by their first bytes. No other encoding can
be recognised with certainty, so it is an error that names the key. The unpacked size of a gzipped
file and the length of a row are limited.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from fedrai.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
"""Encodings by the mark at the start of a file; a mark comes before those that it begins with."""
ENCODING_HINT = (
    'name the encoding: data.sources.encoding = "cp1252" (Excel and Windows in Western Europe) in a'
    " recipe, --encoding cp1252 on the command line"
)
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a file is read, and its limits.

    Attributes:
        encoding: Python's name of it; empty: UTF-8, or by the first bytes.
        separator: character between the fields of a CSV; empty: found in the header.
        max_row_mb: most megabytes of a row.
        max_unpacked_mb: most megabytes of a packed file (gzip, Parquet) after unpacking.
        comments: whether lines before a CSV's header that begin with "#" are skipped.
    """

    encoding: str = ""
    separator: str = ""
    max_row_mb: float = 16
    max_unpacked_mb: float = 1000
    comments: bool = False

    @property
    def row_bytes(self) -> int:
        """Most bytes of a row (characters, if a file is not UTF-8)."""
        return int(self.max_row_mb * MEGABYTE)

    @property
    def too_long(self) -> str:
        """The problem of a row that is longer."""
        return f"longer than {self.max_row_mb:g} MB (data.sources.max_row_mb)"


DEFAULT_OPTIONS = ReadOptions()


def check_regular(path: Path) -> None:
    """Check that a path is a regular file or a folder, so that reading it ends.

    Raises:
        DataError: it is a pipe, a device or a socket, or cannot be accessed.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(
            f"{path} is not a regular file but a pipe, a device or a socket",
            hint=f"write it to a file first:  cat {path} > rows.jsonl",
        )


def open_bytes(path: Path, options: ReadOptions) -> io.BufferedReader:
    """The bytes of a file, unpacked if its name ends with `.gz`.

    Raises:
        DataError: it is not a regular file; while reading: it unpacks to more than the limit.
    """
    check_regular(path)
    if path.suffix.lower() == ".gz":
        packed = cast(IO[bytes], gzip.GzipFile(path, "rb"))
        return io.BufferedReader(_Limited(packed, path.name, options.max_unpacked_mb))
    return path.open("rb")


class _Limited(io.RawIOBase):
    """The unpacked bytes of a packed file, up to a limit."""

    def __init__(self, inner: IO[bytes], name: str, megabytes: float) -> None:
        self._inner, self._name, self._megabytes = inner, name, megabytes
        self._remaining = int(megabytes * MEGABYTE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._inner.read(len(view))
        self._remaining -= len(data)
        if self._remaining < 0:
            raise unpacks_to_more(self._name, self._megabytes)
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._inner.close()
        super().close()


def unpacks_to_more(name: str, megabytes: float) -> DataError:
    """The error of a packed file that is larger than the limit."""
    return DataError(
        f"{name} unpacks to more than {megabytes:g} MB",
        hint="if the size is right, raise data.sources.max_unpacked_mb in a recipe, or"
        " --max-unpacked-mb on the command line",
    )


def encoding_of(file: io.BufferedReader, options: ReadOptions) -> str:
    """The encoding of a file: from the options, by its first bytes, or UTF-8."""
    if options.encoding:
        name = codecs.lookup(options.encoding).name
        return "utf-8-sig" if name == "utf-8" else name
    head = file.peek(4)[:4]
    by_mark = next((name for bom, name in BOMS.items() if head.startswith(bom)), "")
    return by_mark or (json.detect_encoding(head) if b"\0" in head else "utf-8-sig")


def byte_lines(file: io.BufferedReader, limit: int) -> Iterator[bytes | None]:
    """Lines, each with its line feed; None in place of a line longer than `limit`."""
    while line := file.readline(limit + 2):
        if len(line) <= limit or len(line.rstrip(b"\r\n")) <= limit:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MEGABYTE)
        yield None


def text_lines(
    file: io.BufferedReader, encoding: str, name: str, limit: int
) -> Iterator[str | None]:
    """Lines as text, ended by line feeds alone; None in place of a line longer than `limit`.

    Raises:
        DataError: bytes that are not valid in this encoding.
    """
    if encoding == "utf-8-sig":
        yield from _utf8_lines(file, name, limit)
        return
    with io.TextIOWrapper(file, encoding, newline="\n") as text:
        try:
            while line := text.readline(limit + 2):
                if len(line.rstrip("\r\n")) <= limit:
                    yield line
                    continue
                while line and not line.endswith("\n"):
                    line = text.readline(MEGABYTE)
                yield None
        except UnicodeError as error:
            raise not_in(name, encoding) from error


def _utf8_lines(file: io.BufferedReader, name: str, limit: int) -> Iterator[str | None]:
    place = 0
    for line in byte_lines(file, limit):
        try:
            yield None if line is None else line.decode("utf-8" if place else "utf-8-sig")
        except UnicodeDecodeError as error:
            skipped = 3 if not place and line and line.startswith(codecs.BOM_UTF8) else 0
            raise not_in(name, "utf-8-sig", place + error.start + skipped) from error
        place += len(line or b"")


def not_in(name: str, encoding: str, place: int | None = None) -> DataError:
    """The error of a file that is not in the expected encoding."""
    label = "UTF-8" if encoding == "utf-8-sig" else encoding
    at = "" if place is None else f" (byte {place})"
    return DataError(f"{name} is not {label}{at}", hint=ENCODING_HINT)


def text_of(path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> str:
    """A file's text.

    Raises:
        DataError: it cannot be read, or is in another encoding.
    """
    try:
        with open_bytes(path, options) as file:
            encoding = encoding_of(file, options)
            return file.read().decode(encoding)
    except UnicodeDecodeError as error:
        raise not_in(path.name, encoding, error.start) from error
    except UnicodeError as error:
        raise not_in(path.name, encoding) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
