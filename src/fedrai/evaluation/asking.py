"""Many chats with an LLM behind an OpenAI-style endpoint for chat completions, and a judge there.

Requests go out several at once and replies come back in their order; what has no reply in the end
is None and counted by its reason. What may travel to whom is in `fedrai.endpoint`. Does not know
rubrics (see `rubric`) nor critiques (see `fedrai.constitution.critics`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from fedrai.endpoint import Endpoint, as_they_end, finished
from fedrai.errors import EvaluationError, FedRAIError

OnReply = Callable[[int, int], None]
"""Called after each reply with (replies so far, of how many); may raise to stop."""

PATH = "/chat/completions"  # of an endpoint whose `Endpoint` is meant for `Chats`
PATIENCE = 8  # requests without a reply, one after the other, until the endpoint is checked


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
        at_once: requests under way at once.
        unusable: the error for an endpoint without any reply, made from the reason.
        per_token: characters; a reply with more for each token asked for is none.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        at_once: int,
        unusable: Callable[[str], FedRAIError],
        *,
        per_token: float = math.inf,
    ) -> None:
        self._endpoint, self._at_once = endpoint, at_once
        self._unusable, self._per_token = unusable, per_token

    def replies(self, bodies: Sequence[Mapping[str, Any]], told: OnReply) -> Replies:
        """Reply to requests.

        Args:
            bodies: requests with "max_tokens" and "messages".
            told: called after each reply; may raise to stop.

        Raises:
            FedRAIError: the endpoint refuses the key or the model (as its `raises`), or replies to
                nothing, a greeting included (`unusable`).
        """
        return finished(self._replies(bodies, told))

    async def _replies(self, bodies: Sequence[Mapping[str, Any]], told: OnReply) -> Replies:
        found: dict[int, _Reply] = {}
        lost = 0
        async with self._endpoint.client(self._at_once) as client:
            jobs = (self._numbered(client, i, body) for i, body in enumerate(bodies))
            async with aclosing(as_they_end(jobs, self._at_once)) as ended:
                async for number, reply in ended:
                    found[number] = reply
                    lost = 0 if reply.text is not None else lost + 1
                    if lost == PATIENCE:
                        await self._check(client, bodies[0])
                        lost = 0
                    told(len(found), len(bodies))
            if found and all(reply.text is None for reply in found.values()):
                await self._check(client, bodies[0])
        replies = [found[i] for i in range(len(bodies))]
        return Replies(
            tuple(reply.text for reply in replies),
            sum(reply.tokens for reply in replies),
            Counter(reply.problem for reply in replies if reply.problem),
        )

    async def _numbered(
        self, client: httpx.AsyncClient, number: int, body: Mapping[str, Any]
    ) -> tuple[int, _Reply]:
        return number, await self._one(client, body)

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
        url: base address, such as `http://localhost:8000/v1`.
        model: its name there.
        max_tokens: longest reply.
        api_key_env: environment variable with the key; empty for none.
        concurrency: requests under way at once.
        retries: how often a request is tried again.
        timeout: seconds for one try.
        backoff: seconds before the first retry, doubled with each.
        allow_plain_http: whether prompts may travel in clear to another machine.

    Raises:
        EvaluationError: the address cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        max_tokens: int = 2048,
        api_key_env: str = "",
        concurrency: int = 8,
        retries: int = 4,
        timeout: float = 120.0,
        backoff: float = 0.5,
        allow_plain_http: bool = False,
    ) -> None:
        if min(max_tokens, concurrency) < 1 or retries < 0 or timeout <= 0:
            raise EvaluationError("sizes, concurrency and timeout of a grader must be above 0")
        self._fixed = {"model": model, "max_tokens": max_tokens, "temperature": 0.0}
        self._endpoint = Endpoint(
            url,
            PATH,
            key_variable=api_key_env,
            retries=retries,
            timeout=timeout,
            backoff=backoff,
            allow_plain_http=allow_plain_http,
            raises=EvaluationError,
        )
        self._chats = Chats(self._endpoint, concurrency, self._unusable)

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
