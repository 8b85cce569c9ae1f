"""Ctrl-C stops long work after the running step, so that nothing is lost."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


class Stop:
    """Turns Ctrl-C into a stop after the running step; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this step (Ctrl-C again: at once)", file=sys.stderr)

    def check(self) -> None:
        """Stop here if a stop was requested."""
        if self.requested:
            raise KeyboardInterrupt

    def after(self, call: Callable[Arguments, None]) -> Callable[Arguments, None]:
        """The same call, followed by a check."""

        def checked(*args: Arguments.args, **named: Arguments.kwargs) -> None:
            call(*args, **named)
            self.check()

        return checked


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Within the block, Ctrl-C and SIGTERM request a stop; the work has to check for it.

    Python lets only the main thread handle signals; in other threads nothing requests a stop.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
