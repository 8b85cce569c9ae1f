"""How long work shows where there is no terminal: a line now and then, with what is left.

A line comes when nothing was printed for half a minute, also while a single batch takes longer than
that; so a log neither falls silent nor fills up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SECONDS_BETWEEN_LINES = 30.0


class ProgressLines:
    """Prints how the running phase goes on, at most one line in `every` seconds.

    Args:
        write: prints a line.
        clock: seconds that only grow.
        every: seconds without any line before there is one; None: half a minute.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        every: float | None = None,
    ) -> None:
        self._write, self._clock = write, clock
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
        shown: Callable[[int], str] = "{:,}".format,
    ) -> None:
        """Hear how far a phase is; prints a line if one is due.

        Args:
            phase: what goes on; stands before the figures.
            done: how much is done.
            of: of how much; below 2 there is nothing to count, or the total is not known.
            unit: stands behind the figures.
            note: other figures.
            left: what is known of the time left; empty: reckoned from the pace of this phase.
            shown: how an amount is written.
        """
        with self._lock:
            now = self._clock()
            if phase != self._phase or done < self._last[0]:
                self._phase, self._first = phase, (done, now)
            self._last = (done, now)

            def line() -> str:
                figures = f"{shown(done)} of {shown(of)} {unit}".rstrip() if of > 1 else ""
                parts = [figures, note, left or self._time_left(of)]
                return f"{phase}: {', '.join(filter(None, parts))}".removesuffix(": ")

            self._line = line
            self.beat()
            if of and done >= of:
                self.end()

    def end(self) -> None:
        """The phase is over: no line of it until another report."""
        with self._lock:
            self._line = None

    def spoke(self) -> None:
        """Another line was printed: none of these for a while."""
        with self._lock:
            self._printed = self._clock()

    def beat(self) -> None:
        """Print a line if nothing was printed for long enough."""
        with self._lock:
            if self._line is not None and self._clock() - self._printed >= self._every:
                self._write(self._line())
                self.spoke()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Within the block, lines come also between reports."""
        ended = threading.Event()
        beats = threading.Thread(target=self._beats, args=(ended,), daemon=True)
        beats.start()
        try:
            yield
        finally:
            ended.set()
            beats.join(timeout=1)

    def _beats(self, ended: threading.Event) -> None:
        with suppress(OSError, ValueError):  # the stream is closed: nobody reads on
            while not ended.wait(min(1.0, max(0.02, self._every / 4))):
                self.beat()

    def _time_left(self, of: int) -> str:
        """The rest of the phase at its pace so far; empty before there is one."""
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
