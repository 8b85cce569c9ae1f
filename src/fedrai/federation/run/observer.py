"""How long work reports its progress: an `Observer` is told, and may show it."""

from __future__ import annotations

import warnings
from typing import Any

from fedrai import assets
from fedrai.records import TrainingStep
from fedrai.runs.record import Summary


class Observer:
    """Is told how work proceeds. This one shows nothing; the command line's `Display` does.

    Attributes:
        downloads: shows transfers; None: they are not shown.
    """

    downloads: assets.Progress | None = None

    def plan(self, total_steps: int, done_steps: int, summary: Summary) -> None:
        """A run starts or resumes.

        Args:
            total_steps: local steps of the whole run, over all clients.
            done_steps: how many of them an earlier process has done.
            summary: the key figures so far.
        """

    def event(self, kind: str, /, **fields: Any) -> None:
        """An event of a run or an alignment."""

    def step(self, client: str, step: TrainingStep) -> None:
        """A step of local training."""

    def judged(self, client: str, done: int, of: int) -> None:
        """Rows that the safety filter's guard has judged."""

    def answers(self, suite: str, done: int, of: int) -> None:
        """Answers of an evaluation."""

    def heading(self, text: str) -> None:
        """The start of one of several runs."""

    def say(self, text: str) -> None:
        """A line in the course of the work."""

    def note(self, text: str) -> None:
        """A line before or after the work."""

    def warn(self, text: str) -> None:
        """Something that may change the result."""
        warnings.warn(text, stacklevel=2)


SILENT = Observer()
