"""What a fetch shows while it runs: the `Progress` protocol, and a bar on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 10.0


class Progress(Protocol):
    """Anything that can show one running transfer."""

    def start(self, description: str, total_bytes: int | None) -> None:
        """Begin; a second start with the same description only says that the total is now known."""

    def advance(self, n_bytes: int) -> None:
        """Report `n_bytes` more."""

    def stop(self) -> None:
        """End the transfer, finished or not."""


class RichProgress:
    """A rich progress bar on stderr, or plain lines where stderr is no terminal."""

    def __init__(self) -> None:
        self._description = ""
        self._total: int | None = None
        self._done = 0
        self._last_line = 0.0
        self._wrote = False
        self._bars: RichBars | None = None
        self._task: TaskID | None = None

    def start(self, description: str, total_bytes: int | None) -> None:
        """Show a transfer, or give the running one its total."""
        if description == self._description:
            self._set_total(total_bytes)
            return
        self.stop()
        self._description, self._total, self._done = description, total_bytes, 0
        self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._open_bars()
        else:
            print(description, file=sys.stderr)

    def advance(self, n_bytes: int) -> None:
        """Move the bar; without a terminal, write a line every ten seconds."""
        self._done += n_bytes
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, n_bytes)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._line()
            self._wrote = True

    def stop(self) -> None:
        """Take the bar down; without a terminal, write the last line of a long transfer."""
        if self._bars is not None:
            self._bars.stop()
        elif self._wrote:
            self._line()
        self._description, self._bars, self._task, self._wrote = "", None, None, False

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

    def _line(self) -> None:
        of_total = "" if self._total is None else f" of {format_bytes(self._total)}"
        print(f"{self._description}: {format_bytes(self._done)}{of_total}", file=sys.stderr)
        self._last_line = time.monotonic()


class Meter:
    """A `Progress` that may be absent, and that remembers how much disk the transfer needs."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._totals: dict[str, int] = {}

    @property
    def needed(self) -> int | None:
        """Bytes that all phases so far take together on disk; None while no total is known."""
        return sum(self._totals.values()) or None

    @contextmanager
    def phase(self, description: str, total_bytes: int | None, *, writes: bool) -> Iterator[None]:
        """Show one phase and end it whatever happens; `writes` when its bytes land on disk."""
        self.start(description, total_bytes, writes=writes)
        try:
            yield
        finally:
            if self._progress is not None:
                self._progress.stop()

    def start(self, description: str, total_bytes: int | None, *, writes: bool) -> None:
        """Begin a phase, or give the running one its total."""
        if writes and total_bytes is not None:
            self._totals[description] = total_bytes
        if self._progress is not None:
            self._progress.start(description, total_bytes)

    def advance(self, n_bytes: int) -> None:
        """Report `n_bytes` more of the running phase."""
        if self._progress is not None:
            self._progress.advance(n_bytes)


def format_bytes(n_bytes: int) -> str:
    """Bytes for a reader, in powers of 1000: `999 B`, `14.0 kB`, `92.9 MB`, `16.1 GB`."""
    if n_bytes < 1000:
        return f"{n_bytes} B"
    size, unit = n_bytes / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}"
