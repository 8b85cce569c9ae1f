"""Warnings and log lines of libraries: they go to the run's `library.log`, not to the terminal.

`captured` wraps a whole command, `into` the work on one run, which also gets the lines from before.
Without a run they are dropped. With FEDRAI_DEBUG set, libraries print as usual. Warnings of our own
(a category or a logger of `fedrai`) are still shown to the user.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

FILE = "library.log"
DEBUG = "FEDRAI_DEBUG"
OURS = "fedrai"
MOST_WAITING = 1_000  # lines from before a run


class _Log:
    """Lines of libraries, each once; they wait until there is a file."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque(maxlen=MOST_WAITING)
        self._written: set[str] = set()
        self._file: Path | None = None

    def add(self, text: str) -> None:
        """Write a line, or keep it until it can be written."""
        self._waiting.append(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}")
        self._write()

    def to(self, file: Path | None) -> None:
        """Write to a file from now on, which is created with its first line; None: to none."""
        self._file = file
        self._written.clear()
        self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        lines = [line for line in self._waiting if line.partition(" ")[2] not in self._written]
        self._waiting.clear()
        fresh = {line.partition(" ")[2]: line for line in reversed(lines)}
        self._written.update(fresh)
        with suppress(OSError):  # a full disk must not end the run because of a log line
            if fresh:
                with self._file.open("a", encoding="utf-8") as opened:
                    opened.writelines(line + "\n" for line in reversed(list(fresh.values())))


_log = _Log()


@contextmanager
def captured() -> Iterator[None]:
    """Within the block, warnings and log lines of libraries are kept for the log of the run."""
    if os.environ.get(DEBUG):
        yield
        return
    shown, handled = warnings.showwarning, logging.Logger.callHandlers

    def handle(self: logging.Logger, record: logging.LogRecord) -> None:
        if _ours(record.name):
            handled(self, record)
        else:
            _log.add(f"{record.levelname} {record.name}: {record.getMessage()}")

    warnings.showwarning = _warned
    logging.Logger.callHandlers = handle  # type: ignore[method-assign]
    try:
        yield
    finally:
        warnings.showwarning, logging.Logger.callHandlers = shown, handled  # type: ignore[method-assign]


@contextmanager
def into(folder: Path) -> Iterator[None]:
    """Within the block, lines go to `library.log` in a folder."""
    _log.to(folder / FILE)
    try:
        yield
    finally:
        _log.to(None)


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if _ours(category.__module__):
        print(f"warning: {message}", file=sys.stderr)
    else:
        place = f"{'/'.join(Path(filename).parts[-2:])}:{lineno}"
        _log.add(f"{category.__name__} {place}: {message}")


def _ours(module: str) -> bool:
    return module.partition(".")[0] == OURS
