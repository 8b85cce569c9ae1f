"""Chats with an LLM behind an OpenAI-style endpoint for chat completions, many at once.

Replies come back in the order of the requests; a missing reply is None and counted by its reason.
What may be sent to which endpoint is in `fedrai.endpoint`; rubrics are in `rubric`, critiques in
`fedrai.constitution.critics`.
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
from fedrai.records import OnProgress, ignore

PATH = "/chat/completions"  # the path that the `EndpointClient` of `Chats` posts to


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies in the order of the requests.

    Attributes:
        texts: None where there is no reply.
        tokens: number of tokens that the endpoint reports.
        problems: the number of missing replies, by reason.
    """

    texts: tuple[str | None, ...]
    tokens: int = 0
    problems: Mapping[str, int] = field(default_factory=dict)


class Chats:
    """Sends many chats to an endpoint, several at once.

    If many requests in a row go unanswered, or all of them, or one is refused, a greeting is sent:
    if that has no reply either, the endpoint is unusable.

    Args:
        endpoint: posts to `PATH`.
        unusable: makes the error for an endpoint without any reply from the reason.
        per_token: characters for each requested token; a longer reply does not count.
    """

    def __init__(
        self,
        endpoint: EndpointClient,
        unusable: Callable[[str], FedRAIError],
        *,
        per_token: float = math.inf,
    ) -> None:
        self._endpoint, self._unusable, self._per_token = endpoint, unusable, per_token

    def replies(self, bodies: Sequence[Mapping[str, Any]], on_reply: OnProgress) -> Replies:
        """The replies to requests.

        Args:
            bodies: requests with "max_tokens" and "messages".
            on_reply: called after each reply; may raise to stop.

        Raises:
            FedRAIError: the endpoint refuses the key or the model (as its `raises`), or replies to
                nothing, not even a greeting (`unusable`).
        """
        return run_job(self._replies(bodies, on_reply))

    async def _replies(self, bodies: Sequence[Mapping[str, Any]], on_reply: OnProgress) -> Replies:
        async with self._endpoint.client() as client:
            replies = await self._endpoint.replies(
                (self._one(client, body) for body in bodies),
                len(bodies),
                is_lost=lambda reply: reply.text is None,
                check=lambda: self._check(client, bodies[0]),
                on_reply=on_reply,
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
            return await self._send(client, body)
        except FedRAIError:
            await self._check(client, body)
            return _Reply(None, 0, "refused by the endpoint")

    async def _send(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> _Reply:
        reply = await self._endpoint.post(client, body)
        if reply is None:
            return _Reply(None, 0, self._endpoint.problem)
        return _read(reply, self._per_token * body["max_tokens"])

    async def _check(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> None:
        """Raise unless the endpoint replies to a greeting, sent as `body` was."""
        hello = [{"role": "user", "content": "Hello."}]
        reply = await self._send(client, {**body, "messages": hello})
        if reply.text is None:
            raise self._unusable(reply.problem)


@dataclass(frozen=True, slots=True)
class _Reply:
    """The outcome of a request: a text or a problem."""

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
    """Replies to a judge's prompts."""

    def ask(
        self,
        prompts: Sequence[tuple[str, str]],
        on_reply: OnProgress = ignore,
    ) -> Replies:
        """The replies to prompts.

        Args:
            prompts: each the system turn (may be empty) and the user turn.
            on_reply: called after each reply; may raise to stop.

        Raises:
            EvaluationError: the grader cannot reply at all.
        """
        ...


class RemoteGrader:
    """A model behind an endpoint, sampled greedily.

    Args:
        access: address and limits of the endpoint.
        model: its name there.
        max_tokens: longest reply.

    Raises:
        EvaluationError: the address or a setting cannot be used.
    """

    def __init__(self, access: Access, model: str, *, max_tokens: int = 2048) -> None:
        if max_tokens < 1:
            raise EvaluationError(f"max_tokens of a grader must be at least 1, got {max_tokens}")
        self._fixed = {"model": model, "max_tokens": max_tokens, "temperature": 0.0}
        self._endpoint = EndpointClient(access, PATH, raises=EvaluationError)
        self._chats = Chats(self._endpoint, self._unusable)

    def ask(
        self,
        prompts: Sequence[tuple[str, str]],
        on_reply: OnProgress = ignore,
    ) -> Replies:
        """The replies to prompts, several at once; see `Grader`.

        Raises:
            EvaluationError: the endpoint refuses the key or the model, or replies to nothing, not
                even a greeting.
        """
        bodies = [self._body(system, user) for system, user in prompts]
        return self._chats.replies(bodies, on_reply)

    def _body(self, system: str, user: str) -> dict[str, Any]:
        turns = [("system", system)] if system else []
        messages = [{"role": role, "content": text} for role, text in [*turns, ("user", user)]]
        return {**self._fixed, "messages": messages}

    def _unusable(self, problem: str) -> EvaluationError:
        return EvaluationError(
            f"the endpoint {self._endpoint.place} does not reply: {problem}",
            hint="check that the server is running and serves chat completions",
        )
