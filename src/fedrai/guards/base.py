"""The protocol that every guard follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol, TypeVar

from fedrai.records import Conversation as Conversation
from fedrai.records import Message, Verdict
from fedrai.records import OnProgress as OnProgress
from fedrai.records import VerdictBatch as VerdictBatch

Part = Literal["prompt", "response", "pair"]


UNCALIBRATED = {"strict": 0.2, "loose": 0.5}
"""Thresholds of a guard that nothing has calibrated: its own answer, and room for doubt."""


class _Scored(Protocol):
    @property
    def probability(self) -> float | None: ...


S = TypeVar("S", bound=_Scored)


def unsafest(verdicts: Sequence[S], threshold: float) -> S:
    """The verdict that decides among several on parts of one text: the unsafest.

    One without a probability takes precedence, unless the unsafest is at or above the threshold.
    """
    top = max(verdicts, key=lambda v: -1.0 if v.probability is None else v.probability)
    missing = next((v for v in verdicts if v.probability is None), None)
    unsafe = top.probability is not None and top.probability >= threshold
    return top if missing is None or unsafe else missing


def join(verdicts: Sequence[Verdict], threshold: float) -> Verdict:
    """The unsafest verdict on parts of one text, with the categories of all, its own first."""
    worst = unsafest(verdicts, threshold)
    if worst.probability is None:
        return worst
    scored = [verdict for verdict in verdicts if verdict.probability is not None]
    scored.sort(key=lambda verdict: -(verdict.probability or 0.0))
    names = dict.fromkeys(name for verdict in scored for name in verdict.categories)
    return replace(worst, categories=tuple(names))


class Guard(Protocol):
    """Tells safe conversations from unsafe ones.

    Attributes:
        name: short name, such as `embedded` or `qwen3guard-gen-0.6b`.
        revision: changes whenever a verdict may change (weights, format, calibration, patterns);
            verdicts are cached under it. Hex digits or a hub commit.
        thresholds: probability from which a conversation counts as unsafe, by name; every guard
            has "strict" (finds more) and "loose" (fewer false alarms).
    """

    name: str
    revision: str
    thresholds: dict[str, float]

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge conversations; a row that cannot be judged gets a verdict that says so.

        Raises:
            GuardError: the guard as a whole cannot work (endpoint refuses every row, ...).
        """
        ...


def full_name(guard: Guard) -> str:
    """`name@revision`, as verdicts carry it."""
    return f"{guard.name}@{guard.revision[:12]}"


def short_name(model: str) -> str:
    """A guard's name by its model: the last part of a folder or hub id, in lower case."""
    return model.split("#")[0].split("@")[0].rstrip("/").split("/")[-1].lower()


def caution_of(guard: Guard) -> str:
    """A warning about how a guard is composed; empty if all is well."""
    return str(getattr(guard, "caution", ""))


def part_of(messages: Sequence[Message], part: Part) -> Conversation:
    """The part of a conversation that is to be judged.

    Args:
        messages: the turns.
        part: "prompt": up to the last user turn. "pair": all of it, so the answer in the context
            of its request. "response": the last answer by itself, as a user's text.

    Returns:
        The conversation for the guard; empty if the part is not there.
    """
    turns = tuple(messages)
    answered = bool(turns) and turns[-1].role == "assistant"
    if part == "pair":
        return turns
    if part == "response":
        return (Message("user", turns[-1].content),) if answered else ()
    return turns[:-1] if answered else turns
