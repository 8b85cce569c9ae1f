"""Who answers in a critique and revision: a model here, or an endpoint.

A critic is asked conversations and gives an answer or None for each. It does not know what a
critique is, and nothing that it says is trusted: `verifying` looks at every revision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedrai.endpoint import Access, EndpointClient
from fedrai.errors import ConstitutionError, GuardError
from fedrai.evaluation.chats import PATH, Chats
from fedrai.guards.base import Conversation
from fedrai.model import AdapterState, LanguageModel
from fedrai.model.generate import Sampling, generate

OnBatch = Callable[[int, int], None]
"""Called with (answers done, of how many); may raise to stop."""

PER_TOKEN = 40  # characters; a reply with more than this for each token asked for is none
KEPT_BATCHES = "finished batches are kept: the same command goes on after them"


@dataclass(frozen=True, slots=True)
class CriticAnswers:
    """Answers in the order of the conversations, and what they took.

    Attributes:
        answers: None where there is none in the end.
        tokens: that went through a model here, or that the endpoint reports; without padding.
        operations: floating-point operations here, counted from shapes.
        problems: why answers are missing, and how many are for each reason.
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
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        on_batch: OnBatch = lambda _done, _of: None,
    ) -> CriticAnswers:
        """Answer conversations.

        Args:
            conversations: what is asked.
            max_new_tokens: longest answer.
            temperature: 0 is greedy.
            top_p: smallest probability mass that sampling draws from.
            seed: of the sampling; every conversation has a stream of its own.
            on_batch: called now and then.

        Raises:
            ConstitutionError: the critic as a whole cannot answer.
        """
        ...


# --- a model here ---------------------------------------------------------------------------------


class LocalCritic:
    """A model on this machine: the one that is aligned, or another.

    Args:
        model: the model.
        batch_size: conversations that are answered at once.
        adapter: an adapter to answer with; the model gets its own back afterwards. None: its own.
        use_adapter: False: the base model alone.
    """

    def __init__(
        self,
        model: LanguageModel,
        batch_size: int,
        *,
        adapter: AdapterState | None = None,
        use_adapter: bool = True,
    ) -> None:
        self._model, self._batch_size = model, batch_size
        self._adapter, self._use_adapter = adapter, use_adapter

    def answer(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        on_batch: OnBatch = lambda _done, _of: None,
    ) -> CriticAnswers:
        """Answer those conversations that fit the model's context; see `CriticModel`."""
        fits = [i for i, turns in enumerate(conversations) if self._fits(turns, max_new_tokens)]
        if not fits:
            missing = len(conversations)
            return CriticAnswers((None,) * missing, problems=_missing(missing))
        with self._context():
            found = generate(
                self._model,
                [conversations[i] for i in fits],
                max_new_tokens=max_new_tokens,
                batch_size=self._batch_size,
                sampling=Sampling(temperature, top_p, seed),
                on_batch=on_batch,
            )
        by_number = dict(zip(fits, found.answers, strict=True))
        return CriticAnswers(
            tuple(map(by_number.get, range(len(conversations)))),
            found.tokens,
            found.operations,
            _missing(len(conversations) - len(fits)),
        )

    def _fits(self, turns: Conversation, new: int) -> bool:
        room = getattr(self._model.config, "max_position_embeddings", None)
        return room is None or len(self._model.chat.prompt_ids(turns)) + new <= room

    def _context(self) -> contextlib.AbstractContextManager[None]:
        """The model with the critic's adapter, within the block."""
        if self._use_adapter and self._adapter is None:
            return contextlib.nullcontext()
        return self._model.using(self._adapter if self._use_adapter else None)


def _missing(count: int) -> dict[str, int]:
    return {"longer than the context": count} if count else {}


# --- an endpoint ----------------------------------------------------------------------------------


class RemoteCritic:
    """A model behind an OpenAI-style endpoint for chat completions.

    What can pass by itself (busy, failing, silent, no JSON) is tried again with growing pauses or
    as long as the endpoint asks; see `fedrai.endpoint`, which also says what may travel to
    whom. What stays without an answer is counted by reason.

    Args:
        access: how to reach it.
        model: its name there.

    Raises:
        ConstitutionError: the address or a setting cannot be used.
    """

    def __init__(self, access: Access, model: str) -> None:
        self._model = model
        with _as_ours():
            self._endpoint = EndpointClient(access, PATH)
        self._chats = Chats(self._endpoint, self._unusable, per_token=PER_TOKEN)

    def answer(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        on_batch: OnBatch = lambda _done, _of: None,
    ) -> CriticAnswers:
        """Answer conversations, several at once; see `CriticModel`.

        Raises:
            ConstitutionError: the endpoint refuses the key or the model, or has no answer to
                anything, a harmless greeting included.
        """
        fixed = {"model": self._model, "max_tokens": max_new_tokens, "temperature": temperature}
        bodies = [
            {**fixed, "top_p": top_p, "seed": (seed + i) % 2**31, "messages": _messages(turns)}
            for i, turns in enumerate(conversations)
        ]
        with _as_ours():
            found = self._chats.replies(bodies, on_batch)
        return CriticAnswers(found.texts, found.tokens, problems=found.problems)

    def _unusable(self, problem: str) -> ConstitutionError:
        return ConstitutionError(
            f"the endpoint {self._endpoint.place} gives no answers: {problem}",
            hint=f"look whether the server runs; {KEPT_BATCHES}",
        )


def _messages(turns: Conversation) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    """Errors of the endpoint as errors of the constitution, within the block."""
    try:
        yield
    except GuardError as error:
        hint = f"{error.hint}; {KEPT_BATCHES}" if error.hint else KEPT_BATCHES
        raise ConstitutionError(error.message, hint=hint) from error
