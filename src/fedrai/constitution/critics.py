"""The critic of a critique and revision: a model on this machine, or an endpoint.

A critic answers conversations, with None where it has no answer. It does not know what a critique
is, and no answer is trusted: `verifying` checks every revision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from fedrai.endpoint import Access, EndpointClient
from fedrai.errors import ConstitutionError, GuardError
from fedrai.evaluation.chats import PATH, Chats
from fedrai.guards.base import Conversation
from fedrai.model import LanguageModel
from fedrai.model.generate import Sampling, generate

OnBatch = Callable[[int, int], None]
"""Called with (answers done, of how many); may raise to stop."""

PER_TOKEN = 40  # characters; a reply with more than this for each requested token is rejected
KEPT_BATCHES = "finished batches are stored: run the same command again to resume"


def _ignore(_done: int, _of: int) -> None:
    """No progress."""


@dataclass(frozen=True, slots=True)
class CriticAnswers:
    """Answers in the order of the conversations, and their cost.

    Attributes:
        answers: None where there is no answer after all retries.
        tokens: that went through a local model, or that the endpoint reports; without padding.
        operations: floating-point operations of a local model, counted from shapes.
        problems: why answers are missing, and how many for each reason.
    """

    answers: tuple[str | None, ...]
    tokens: int = 0
    operations: float = 0.0
    problems: Mapping[str, int] = field(default_factory=dict)


class CriticModel(Protocol):
    """Answers conversations that end with a user's turn."""

    def answer(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int,
        sampling: Sampling,
        on_batch: OnBatch = _ignore,
    ) -> CriticAnswers:
        """Answer conversations.

        Args:
            conversations: the conversations.
            max_new_tokens: longest answer.
            sampling: how tokens are chosen; every conversation has its own random numbers.
            on_batch: called from time to time.

        Raises:
            ConstitutionError: the critic as a whole cannot answer.
        """
        ...


# --- a local model --------------------------------------------------------------------------------


class LocalCritic:
    """A model on this machine: the one that is aligned, or another.

    Args:
        model: the model.
        batch_size: conversations that are answered at once.
        using: a block with the adapter to answer with, such as `model.using(adapter)`; the model
            as it stands if not set.
    """

    def __init__(
        self,
        model: LanguageModel,
        batch_size: int,
        using: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._model, self._batch_size, self._using = model, batch_size, using

    def answer(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int,
        sampling: Sampling,
        on_batch: OnBatch = _ignore,
    ) -> CriticAnswers:
        """Answer those conversations that fit the model's context; see `CriticModel`."""
        fits = [i for i, turns in enumerate(conversations) if self._fits(turns, max_new_tokens)]
        missing = len(conversations) - len(fits)
        problems = {"longer than the context": missing} if missing else {}
        if not fits:
            return CriticAnswers((None,) * missing, problems=problems)
        with self._using():
            generation = generate(
                self._model,
                [conversations[i] for i in fits],
                max_new_tokens=max_new_tokens,
                batch_size=self._batch_size,
                sampling=sampling,
                on_batch=on_batch,
            )
        by_number = dict(zip(fits, generation.answers, strict=True))
        answers = tuple(map(by_number.get, range(len(conversations))))
        return CriticAnswers(answers, generation.tokens, generation.operations, problems)

    def _fits(self, turns: Conversation, new: int) -> bool:
        context = getattr(self._model.config, "max_position_embeddings", None)
        return context is None or len(self._model.chat.prompt_ids(turns)) + new <= context


# --- an endpoint ----------------------------------------------------------------------------------


class RemoteCritic:
    """A model behind an OpenAI-style endpoint for chat completions.

    Temporary failures (busy, an error, a timeout, no JSON) are retried with growing pauses, or
    after the time that the endpoint names; see `fedrai.endpoint`, which also says what may be sent
    to whom. Conversations without an answer are counted by reason.

    Args:
        access: how to reach it.
        model: its name there.

    Raises:
        ConstitutionError: the address or a setting cannot be used.
    """

    def __init__(self, access: Access, model: str) -> None:
        self._model = model
        with _constitution_errors():
            self._endpoint = EndpointClient(access, PATH)
        self._chats = Chats(self._endpoint, self._unusable, per_token=PER_TOKEN)

    def answer(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int,
        sampling: Sampling,
        on_batch: OnBatch = _ignore,
    ) -> CriticAnswers:
        """Answer conversations, several at once; see `CriticModel`.

        Raises:
            ConstitutionError: the endpoint refuses the key or the model, or answers nothing, not
                even a harmless greeting.
        """
        bodies = [
            {
                "model": self._model,
                "max_tokens": max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": (sampling.seed + i) % 2**31,
                "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            }
            for i, turns in enumerate(conversations)
        ]
        with _constitution_errors():
            replies = self._chats.replies(bodies, on_batch)
        return CriticAnswers(replies.texts, replies.tokens, problems=replies.problems)

    def _unusable(self, problem: str) -> ConstitutionError:
        return ConstitutionError(
            f"the endpoint {self._endpoint.place} does not answer: {problem}",
            hint=f"check that the server runs; {KEPT_BATCHES}",
        )


@contextlib.contextmanager
def _constitution_errors() -> Iterator[None]:
    """Errors of the endpoint as errors of the constitution, within the block."""
    try:
        yield
    except GuardError as error:
        hint = f"{error.hint}; {KEPT_BATCHES}" if error.hint else KEPT_BATCHES
        raise ConstitutionError(error.message, hint=hint) from error
