"""Many chats with an LLM behind an OpenAI-style endpoint for chat completions, and a judge there.

Requests go out several at once and replies come back in their order; what has no reply in the end
is None and counted by its reason. What may travel to whom is in `fedrai.endpoint`. Does not know
rubrics (see `rubric`) nor critiques (see `fedrai.constitution.critics`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from fedrai.endpoint import Access, EndpointClient, run_job
from fedrai.errors import EvaluationError, FedRAIError

OnReply = Callable[[int, int], None]
"""Called after each reply with (replies so far, of how many); may raise to stop."""

PATH = "/chat/completions"  # of an endpoint whose `EndpointClient` is meant for `Chats`


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies in the order of what was asked.

    Attributes:
        texts: None where there is none in the end.
        tokens: that the endpoint reports.
        problems: why replies are missing, and how many are for each reason.
    """

    texts: tuple[str | None, ...]
    tokens: int = 0
    problems: Mapping[str, int] = field(default_factory=dict)


class Chats:
    """Asks an endpoint many chats, several at once.

    If many requests go unanswered one after the other, or all of them, or one is refused, a
    greeting is sent: if that has no reply either, the endpoint as a whole is unusable.

    Args:
        endpoint: for requests to `PATH`.
        unusable: the error for an endpoint without any reply, made from the reason.
        per_token: characters; a reply with more for each token asked for is none.
    """

    def __init__(
        self,
        endpoint: EndpointClient,
        unusable: Callable[[str], FedRAIError],
        *,
        per_token: float = math.inf,
    ) -> None:
        self._endpoint, self._unusable, self._per_token = endpoint, unusable, per_token

    def replies(self, bodies: Sequence[Mapping[str, Any]], told: OnReply) -> Replies:
        """Reply to requests.

        Args:
            bodies: requests with "max_tokens" and "messages".
            told: called after each reply; may raise to stop.

        Raises:
            FedRAIError: the endpoint refuses the key or the model (as its `raises`), or replies to
                nothing, a greeting included (`unusable`).
        """
        return run_job(self._replies(bodies, told))

    async def _replies(self, bodies: Sequence[Mapping[str, Any]], told: OnReply) -> Replies:
        async with self._endpoint.client() as client:
            replies = await self._endpoint.replies(
                (self._one(client, body) for body in bodies),
                len(bodies),
                is_lost=lambda reply: reply.text is None,
                check=lambda: self._check(client, bodies[0]),
                on_reply=told,
            )
            if replies and all(reply.text is None for reply in replies):
                await self._check(client, bodies[0])
        return Replies(
            tuple(reply.text for reply in replies),
            sum(reply.tokens for reply in replies),
            Counter(reply.problem for reply in replies if reply.problem),
        )

    async def _one(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> _Reply:
        """A reply; a refusal is final only if a greeting is refused too (gateways refuse texts)."""
        try:
            return await self._tried(client, body)
        except FedRAIError:
            await self._check(client, body)
            return _Reply(None, 0, "refused by the endpoint")

    async def _tried(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> _Reply:
        reply = await self._endpoint.post(client, body)
        if reply is None:
            return _Reply(None, 0, self._endpoint.problem)
        return _read(reply, self._per_token * body["max_tokens"])

    async def _check(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> None:
        """Raise unless the endpoint replies to a greeting, sent as `body` was."""
        hello = [{"role": "user", "content": "Hello."}]
        reply = await self._tried(client, {**body, "messages": hello})
        if reply.text is None:
            raise self._unusable(reply.problem)


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came of a request: a text or a problem."""

    text: str | None
    tokens: int = 0
    problem: str = ""


def _read(reply: Any, longest: float) -> _Reply:
    """The text of a reply of chat completions, of at most `longest` characters."""
    try:
        text = reply["choices"][0]["message"]["content"]
        tokens = max(0, int((reply.get("usage") or {}).get("total_tokens") or 0))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
        return _Reply(None, 0, "no chat completion in the reply")
    if not isinstance(text, str) or not text.strip():
        return _Reply(None, tokens, "no text in the reply")
    if len(text) > longest:
        return _Reply(None, tokens, "a text much longer than asked for")
    return _Reply(text.strip(), tokens)


# --- a judge --------------------------------------------------------------------------------------


class Grader(Protocol):
    """Whoever replies to a judge's prompts."""

    def ask(
        self,
        prompts: Sequence[tuple[str, str]],
        on_reply: OnReply = lambda _done, _of: None,
    ) -> Replies:
        """Reply to prompts.

        Args:
            prompts: each the system's turn (may be empty) and the user's.
            on_reply: called after each reply.

        Raises:
            EvaluationError: the grader as a whole cannot reply.
        """
        ...


class RemoteGrader:
    """A model behind an endpoint, asked greedily.

    Args:
        access: how to reach it.
        model: its name there.
        max_tokens: longest reply.

    Raises:
        EvaluationError: the address or a setting cannot be used.
    """

    def __init__(self, access: Access, model: str, *, max_tokens: int = 2048) -> None:
        if max_tokens < 1:
            raise EvaluationError(f"max_tokens of a grader must be above 0, got {max_tokens}")
        self._fixed = {"model": model, "max_tokens": max_tokens, "temperature": 0.0}
        self._endpoint = EndpointClient(access, PATH, raises=EvaluationError)
        self._chats = Chats(self._endpoint, self._unusable)

    def ask(
        self,
        prompts: Sequence[tuple[str, str]],
        on_reply: OnReply = lambda _done, _of: None,
    ) -> Replies:
        """Reply to prompts, several at once; see `Grader`.

        Raises:
            EvaluationError: the endpoint refuses the key or the model, or replies to nothing, a
                greeting included.
        """
        bodies = [self._body(system, user) for system, user in prompts]
        return self._chats.replies(bodies, on_reply)

    def _body(self, system: str, user: str) -> dict[str, Any]:
        turns = [("system", system)] if system else []
        messages = [{"role": role, "content": text} for role, text in [*turns, ("user", user)]]
        return {**self._fixed, "messages": messages}

    def _unusable(self, problem: str) -> EvaluationError:
        return EvaluationError(
            f"the endpoint {self._endpoint.place} gives no replies: {problem}",
            hint="look whether the server runs and serves chat completions",
        )
