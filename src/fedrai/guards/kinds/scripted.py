"""A guard that follows a script: for tests, and for trying a pipeline without a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from fedrai.guards.base import Conversation, OnProgress, VerdictBatch, full_name
from fedrai.records import Problem, Verdict

Script = Callable[[Conversation], float | Problem]


class ScriptedGuard:
    """Judges by a function of the conversation, or by words in its last turn.

    Args:
        script: conversation to a probability or a problem; or probabilities by word, of which the
            highest among the words in the last turn counts, 0 where none is there.
        name: its name.
        revision: hex digits; change it when the script changes.
        thresholds: thresholds by name, as those of every guard.
        batch: conversations between two reports of progress.

    Attributes:
        seen: how many conversations it was shown so far.
    """

    def __init__(
        self,
        script: Script | Mapping[str, float],
        *,
        name: str = "scripted",
        revision: str = "",
        thresholds: Mapping[str, float] | None = None,
        batch: int = 1,
    ) -> None:
        words = json.dumps(dict(script), sort_keys=True) if isinstance(script, Mapping) else ""
        self.name = name
        self.revision = revision or hashlib.sha256(words.encode()).hexdigest()
        self.thresholds = dict(thresholds or {"strict": 0.5, "loose": 0.5})
        self.seen = 0
        self._script = _by_words(script) if isinstance(script, Mapping) else script
        self._batch = batch

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge by the script; a conversation without a word in it is "empty"."""
        verdicts = []
        for number, conversation in enumerate(conversations, 1):
            verdicts.append(self._verdict(conversation))
            self.seen += 1
            if number % self._batch == 0 or number == len(conversations):
                on_progress(number, len(conversations))
        return VerdictBatch(tuple(verdicts))

    def _verdict(self, conversation: Conversation) -> Verdict:
        blank = not any(message.content.strip() for message in conversation)
        answer: float | Problem = "empty" if blank else self._script(conversation)
        for problem in get_args(Problem):
            if answer == problem:
                return Verdict(None, full_name(self), problem=problem)
        return Verdict(float(answer), full_name(self))


def _by_words(chances: Mapping[str, float]) -> Script:
    def script(conversation: Conversation) -> float | Problem:
        words = conversation[-1].content.lower().split()
        return max((chance for word, chance in chances.items() if word in words), default=0.0)

    return script
