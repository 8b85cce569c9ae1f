"""Types that the functions share, and what shows their progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrai.federation.run.observer import Observer
    from fedrai.guards.base import OnProgress

Row = dict[str, Any]
"""Numbers, texts and None by name; a list of rows makes a table."""

Place = str | Path


def folder(out: Place | None, kind: str, name: str) -> Path:
    """The folder to write; None: the same as the command would."""
    return Path(out) if out is not None else Path(kind) / name


@contextmanager
def observed(progress: bool) -> Iterator[Observer]:
    """An observer that shows progress on stderr as the commands do, or nothing."""
    from fedrai.federation.run.observer import SILENT

    if not progress:
        yield SILENT
        return
    from fedrai.cli.show.display import Display

    with Display() as display:
        yield display


def judging(guard: str, progress: bool) -> AbstractContextManager[OnProgress]:
    """A callback for a guard's verdicts, in the same way."""
    if not progress:
        return nullcontext(lambda _done, _of: None)
    from fedrai.cli.show.live import GuardProgress

    return GuardProgress(guard)
