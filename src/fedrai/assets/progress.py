"""The progress of a fetch: the `Progress` protocol, and a bar on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from fedrai.progress import ProgressLines

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID


class Progress(Protocol):
    """Shows one running transfer."""

    def start(self, description: str, total_bytes: int | None) -> None:
        """Start; a second start with the same description sets the total, which was unknown."""

    def advance(self, n_bytes: int) -> None:
        """Report `n_bytes` more."""

    def stop(self) -> None:
        """End the transfer, finished or not."""


class RichProgress:
    """A rich progress bar on stderr, or plain lines if stderr is not a terminal.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._description = ""
        self._total: int | None = None
        self._done = 0
        self._printed = ""  # the last line of this transfer
        self._lines = ProgressLines(self._line, clock, amount=format_bytes)
        self._beating = ExitStack()
        self._bars: RichBars | None = None
        self._task: TaskID | None = None

    def start(self, description: str, total_bytes: int | None) -> None:
        """Show a transfer, or give the running one its total."""
        if description == self._description:
            self._set_total(total_bytes)
            return
        self.stop()
        self._description, self._total, self._done = description, total_bytes, 0
        if sys.stderr.isatty():
            self._open_bars()
        else:
            print(description, file=sys.stderr)
            self._lines.reset()
            self._report()
            self._beating.enter_context(self._lines.beating())

    def advance(self, n_bytes: int) -> None:
        """Move the bar; without a terminal, print a line from time to time."""
        self._done += n_bytes
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, n_bytes)
        else:
            self._report()

    def stop(self) -> None:
        """Remove the bar; without a terminal, print the last line of a long transfer."""
        self._beating.close()
        self._lines.end()
        if self._bars is not None:
            self._bars.stop()
        elif self._printed:
            of_total = "" if self._total is None else f" of {format_bytes(self._total)}"
            last = f"{self._description}: {format_bytes(self._done)}{of_total}"
            if last != self._printed:
                self._line(last)
        self._description, self._bars, self._task, self._printed = "", None, None, ""

    def _set_total(self, total_bytes: int | None) -> None:
        self._total = total_bytes
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, total=total_bytes)

    def _open_bars(self) -> None:
        from rich import progress as rich_progress
        from rich.console import Console

        self._bars = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.DownloadColumn(),
            rich_progress.TransferSpeedColumn(),
            rich_progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bars.start()
        self._task = self._bars.add_task(self._description, total=self._total)

    def _report(self) -> None:
        note = "" if self._total else format_bytes(self._done)
        self._lines.report(self._description, self._done, self._total or 0, note=note)

    def _line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        self._printed = text


class Meter:
    """An optional `Progress` that also adds up the disk space that the transfer needs."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._totals: dict[str, int] = {}

    @property
    def needed(self) -> int | None:
        """Bytes of all phases so far on disk; None while no total is known."""
        return sum(self._totals.values()) or None

    @contextmanager
    def phase(self, description: str, total_bytes: int | None, *, writes: bool) -> Iterator[None]:
        """Show one phase and end it in any case; `writes`: its bytes are written to disk."""
        self.start(description, total_bytes, writes=writes)
        try:
            yield
        finally:
            if self._progress is not None:
                self._progress.stop()

    def start(self, description: str, total_bytes: int | None, *, writes: bool) -> None:
        """Start a phase, or give the running one its total."""
        if writes and total_bytes is not None:
            self._totals[description] = total_bytes
        if self._progress is not None:
            self._progress.start(description, total_bytes)

    def advance(self, n_bytes: int) -> None:
        """Report `n_bytes` more of the running phase."""
        if self._progress is not None:
            self._progress.advance(n_bytes)


def format_bytes(n_bytes: int) -> str:
    """Bytes for a reader, in powers of 1000: `999 bytes`, `14.0 kB`, `92.9 MB`, `16.1 GB`."""
    from rich.filesize import decimal

    return decimal(n_bytes)
