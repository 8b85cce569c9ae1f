"""Progress of long work where there is no terminal: a line now and then, with the time left.

A line is printed when there was none for half a minute, even while a single batch takes longer than
that; so a log neither falls silent nor fills up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SECONDS_BETWEEN_LINES = 30.0


class ProgressLines:
    """Prints the progress of the current phase, at most one line in `every` seconds.

    Args:
        write: prints a line.
        clock: seconds that only grow.
        every: seconds without any line before one is printed; None: half a minute.
        amount: formats an amount.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        every: float | None = None,
        amount: Callable[[int], str] = "{:,}".format,
    ) -> None:
        self._write, self._clock, self._amount = write, clock, amount
        self._every = SECONDS_BETWEEN_LINES if every is None else every
        self._lock = threading.RLock()
        self._printed = clock()
        self._phase = ""
        self._first = self._last = (0, 0.0)  # (done, when) of the phase's first and last report
        self._line: Callable[[], str] | None = None

    def report(
        self,
        phase: str,
        done: int,
        of: int,
        *,
        unit: str = "",
        note: str = "",
        left: str = "",
    ) -> None:
        """Record how far a phase is; prints a line if one is due.

        Args:
            phase: shown in front of the figures.
            done: how much is done.
            of: the total; below 2 there is nothing to count, or the total is not known.
            unit: shown after the figures.
            note: other figures.
            left: the time left; empty: estimated from the pace of this phase.
        """
        with self._lock:
            now = self._clock()
            if phase != self._phase or done < self._last[0]:
                self._phase, self._first = phase, (done, now)
            self._last = (done, now)

            def line() -> str:
                figures = f"{self._amount(done)} of {self._amount(of)} {unit}" if of > 1 else ""
                parts = [figures.rstrip(), note, left or self._time_left(of)]
                return f"{phase}: {', '.join(filter(None, parts))}".removesuffix(": ")

            self._line = line
            self.beat()
            if of and done >= of:
                self.end()

    def end(self) -> None:
        """End the phase: no line of it until another report."""
        with self._lock:
            self._line = None

    def reset(self) -> None:
        """Wait as if a line had just been printed, because another one was."""
        with self._lock:
            self._printed = self._clock()

    def beat(self) -> None:
        """Print a line if nothing was printed for long enough."""
        with self._lock:
            if self._line is not None and self._clock() - self._printed >= self._every:
                self._write(self._line())
                self.reset()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Within the block, lines are printed between reports too."""
        ended = threading.Event()
        beats = threading.Thread(target=self._beats, args=(ended,), daemon=True)
        beats.start()
        try:
            yield
        finally:
            ended.set()
            beats.join(timeout=1)

    def _beats(self, ended: threading.Event) -> None:
        with suppress(OSError, ValueError):  # the stream is closed
            while not ended.wait(min(1.0, max(0.02, self._every / 4))):
                self.beat()

    def _time_left(self, of: int) -> str:
        """The rest of the phase at its pace so far; empty before the pace is known."""
        (done, since), (now_done, at) = self._first, self._last
        if now_done <= done or at <= since or of <= now_done:
            return ""
        seconds = (of - now_done) * (at - since) / (now_done - done) - (self._clock() - at)
        return f"{duration(seconds)} left" if seconds >= 1 else "slower than before"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def about(seconds: float) -> str:
    """`less than a minute`, `about 4 min`, `about 2 h 5 min`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes} min" if minutes < 60 else f"about {duration(60 * minutes)}"
