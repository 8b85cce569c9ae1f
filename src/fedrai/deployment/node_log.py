"""What a node tells its operator: lines that are also kept in a log beside its `node.toml`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from fedrai.progress import ProgressLines


class NodeLog:
    """Prints lines and keeps them in a file: counts and places in the code, never a row.

    Args:
        file: the log.
        write: prints a line for the operator.

    Attributes:
        progress: prints how long work proceeds; these lines are not kept.
    """

    def __init__(self, file: Path, write: Callable[[str], None]) -> None:
        self._file, self._write = file, write
        self._is_failing = False
        self.progress = ProgressLines(self._print)

    def note(self, line: str) -> None:
        """Print and keep a line.

        If the file cannot be written (a full disk), that is printed once and nothing stops.
        """
        self._print(line)
        self.progress.reset()
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(f"{stamp} {line}\n")
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                self._print(f"{self._file} cannot be written: {error.strerror or 'input/output'}")
            self._is_failing = True

    def _print(self, line: str) -> None:
        with suppress(OSError):  # standard error may be a file on the same disk, or a closed pipe
            self._write(line)
