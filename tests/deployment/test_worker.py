"""A node's worker where a message never comes whole: it goes on once there is a newer task."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import pytest
from flwr.app import RecordDict

from fedrai.deployment import worker
from fedrai.federation.flower_internals import SubStatus


class Line:
    """A client of the Runtime API: which task it is for, and whether it is closed."""

    def __init__(self, token: str) -> None:
        self.token, self.closed = token, threading.Event()

    def close(self) -> None:
        self.closed.set()


class Scene:
    """Tasks by their token; a message of "lost" never comes, others do after `slow` seconds."""

    def __init__(self, tasks: list[str], slow: float = 0.0) -> None:
        self.tasks, self.slow = tasks, slow
        self.answered: list[str] = []
        self.ended: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.looks = 0

    def going(self) -> bool:
        return bool(self.tasks) or len(self.ended) < self.wanted

    def run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wanted = len(self.tasks)
        changes: dict[str, Any] = {
            "runtime_client": lambda _link, token="", **_: Line(token),
            "acquire": self.acquire,
            "pull_task_input": self.pull,
            "push_message": lambda line, *_: self.answered.append(line.token),
            "finish": lambda line, _context, status: self.ended.append((line.token, status)),
            "heartbeat": lambda _line: nullcontext(),
            "context_to_proto": lambda found: found,
            "reply_of": lambda *_: RecordDict(),
            "NEWER": 0.05,
            "POLL": 0.01,
        }
        for name, change in changes.items():
            monkeypatch.setattr(worker, name, change)
        worker.serve(self, None, self.going)  # type: ignore[arg-type]

    def note(self, line: str) -> None:
        self.notes.append(line)

    def acquire(self, _line: Line, _kind: str) -> tuple[str, str] | None:
        self.looks += 1
        return ("task", self.tasks.pop(0)) if self.tasks else None

    def pull(self, line: Line) -> tuple[Any, ...]:
        if line.token == "lost":
            assert line.closed.wait(20), "it was not given up"
            raise RuntimeError("closed")
        line.closed.wait(self.slow)
        return "message", "context", "run", "fab"


def test_a_message_that_never_comes_whole_does_not_keep_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(["one", "lost", "two"])
    scene.run(monkeypatch)
    assert scene.answered == ["one", "two"]
    assert scene.ended == [
        ("one", SubStatus.COMPLETED), ("lost", SubStatus.FAILED), ("two", SubStatus.COMPLETED),
    ]  # fmt: skip
    assert scene.notes == ["a task was lost: its run ended while the message was received"]


def test_a_slow_message_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(["slow"], slow=0.3)
    scene.run(monkeypatch)
    assert (scene.answered, scene.notes) == (["slow"], [])
    assert scene.looks >= 4  # for a newer one, while it came


def test_a_message_that_fails_is_noted_and_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(["bad", "two"])
    pull = scene.pull
    scene.pull = lambda line: {}["row"] if line.token == "bad" else pull(line)  # type: ignore[method-assign]
    scene.run(monkeypatch)
    assert scene.answered == ["two"]
    assert scene.notes == ["a task was lost: KeyError at " + scene.notes[0].partition(" at ")[2]]
