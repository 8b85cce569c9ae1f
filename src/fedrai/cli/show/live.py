"""Progress of long work on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from fedrai.filter.guard_evaluation import Pace
from fedrai.progress import ProgressLines, duration


class Live:
    """Where progress is shown; use it as a context manager.

    Args:
        stream: where to write; None: stderr.
        clock: seconds that only grow.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = Console(file=stream or sys.stderr, highlight=False)
        self.live = self.console.is_terminal
        self.lines = ProgressLines(self.print_line, clock)
        self._beats = ExitStack()
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._key = ""

    def __enter__(self) -> Self:
        if not self.live:
            self._beats.enter_context(self.lines.beating())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._beats.close()
        self.close_bar()

    def print_line(self, text: str, style: str = "") -> None:
        """Print a line as it is."""
        self.console.print(text, style=style or None, markup=False, soft_wrap=True)

    def bar(self, key: str, text: str, done: int, of: int, note: str = "") -> None:
        """Show how far something is: one bar at a time, or a line now and then.

        Args:
            key: identifies the bar; another key starts a new one.
            text: shown in front of the figures.
            done: the amount that is done.
            of: the total.
            note: shown after the figures.
        """
        if not self.live:
            self.lines.report(text, done, of, note=note)
            return
        if self._bars is None or self._key != key:
            self.close_bar()
            self._key = key
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=self.console,
                transient=True,
            )
            self._bars.start()
            self._task = self._bars.add_task(text, total=of, note=note)
        if self._task is not None:
            self._bars.update(self._task, description=text, completed=done, total=of, note=note)

    def close_bar(self) -> None:
        """Remove the bar; where there is no terminal, stop repeating the line."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._task = None
        self.lines.end()


class GuardProgress(Live):
    """Shows how far a guard has got; call it with (rows done, of how many).

    Args:
        name: shown in front of the figures.
        stream: where to write; None: stderr.
        unit: past participle for a row that is done, such as "judged".
        clock: seconds that only grow.
    """

    def __init__(
        self,
        name: str,
        stream: TextIO | None = None,
        unit: str = "judged",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream, clock)
        self._name, self._unit = name, unit
        self._pace = Pace()

    def __call__(self, done: int, of: int) -> None:
        """Rows that are done, and how many there are."""
        self._pace(done, of)
        rate = self._pace.rate
        speed = f"{rate:,.1f} a second" if rate else ""
        if not self.live:
            self.lines.report(self._name, done, of, unit=self._unit, note=speed)
            return
        title = f"judging with {self._name}" if self._unit == "judged" else self._name
        note = f"{speed}, {duration((of - done) / rate)} left" if rate else ""
        self.bar(title, title, done, of, note)
        if done >= of:
            self.close_bar()  # another may follow
