"""Ctrl-C stops long work after the running step, so that nothing is lost."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ParamSpec

Given = ParamSpec("Given")


class Stop:
    """Turns Ctrl-C into a stop after the running step; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        """Hear of a signal."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this step (Ctrl-C again: at once)", file=sys.stderr)

    def check(self) -> None:
        """Stop here if that was asked for."""
        if self.asked:
            raise KeyboardInterrupt

    def after(self, call: Callable[Given, None]) -> Callable[Given, None]:
        """The same call, with a look for a stop behind it."""

        def both(*args: Given.args, **named: Given.kwargs) -> None:
            call(*args, **named)
            self.check()

        return both


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Within the block, Ctrl-C and SIGTERM ask for a stop; the work has to look for it.

    Python lets only the main thread handle signals; in any other nothing asks for a stop.
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
