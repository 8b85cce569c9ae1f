"""A guard behind an OpenAI-style endpoint that gives log probabilities, such as vLLM's server.

The probability is read, not counted: of the likeliest tokens at the place of the label, the mass of
those that mean unsafe over the mass of all labels. One request judges one text; many are under way
at once. A row without an answer that can be read gets the problem "no-answer": the endpoint was
silent, its own filter blocked the row, or the log probabilities are missing or cannot be. If 8
rows go unanswered one after the other, or half of all, or one is refused as a wrong key is, a
harmless text is sent: only if that has no answer either is the guard as a whole unusable, which is
an error.

An endpoint sees special tokens in a text as such, so the usual ones are broken up before a row is
sent (`fedrai.model.chat.break_marks`); name those of an unusual model in `marks`. What may travel
to whom is in `fedrai.endpoint`. Written to the reference of vLLM's server (docs.vllm.ai,
OpenAI-Compatible Server).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import httpx

from fedrai.endpoint import Access, EndpointClient, run_job
from fedrai.errors import GuardError
from fedrai.guards.base import Conversation, OnProgress, VerdictBatch, full_name, unsafest
from fedrai.guards.kinds.logprobs import LabelWords, MissingLogprobsError, no_logprobs, read_places
from fedrai.guards.kinds.prompting import arranged
from fedrai.model.chat import any_of, break_marks
from fedrai.records import Message, Problem, Verdict

Api = Literal["chat", "completions"]

FORM = 1  # counts up when the same settings would ask or read differently
WINDOWS = 64  # most windows of one message
MOST_UNANSWERED = 0.5  # part of the rows from which it is checked in the end
NOT_UNDERSTOOD = (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError)
"""What a reply of another form may raise."""
_SLOT = re.compile(r"\{(request|answer|conversation)\}")
_NAMES = {"user": "User", "assistant": "Assistant"}
_SPECIAL = re.compile(
    r"<[|｜]|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[/?INST\]|<</?SYS>>"
    r"|<(?:BEGIN|END) |\b(?:User|Human|Assistant|Agent):",
    re.IGNORECASE,
)


class RemoteGuard:
    """Asks an endpoint for verdicts.

    Args:
        access: how to reach the endpoint.
        model: name of the guard there.
        safe: first tokens of the labels that mean safe. Tokens are compared without the white space
            around them, letter by letter; only if none fits so, whatever their case.
        unsafe: the same for unsafe. A label in between ("Controversial") goes to one of the two.
        api: "chat" sends turns through the model's chat template, "completions" a text.
        template: a text with the slots {request}, {answer} or {conversation} that is sent instead
            of the turns: as one user's turn, or to "completions" as it is.
        prefill: what the guard's answer is made to begin with. In "chat" it is sent as an
            unfinished turn of the assistant, which only helps if the chat template does not itself
            write the turns into a question, as those of Llama Guard and Qwen3Guard do.
        lead: what the guard says by itself before the label ("Safety:"); white space never counts.
        categories: what the guard writes for a category after an unsafe label, to what is reported.
        marks: more strings that a row must not be able to write.
        max_characters: longer conversations lose their oldest turns, a long request before an
            answer keeps its ends, and then the last message is judged in windows that overlap by a
            quarter, of which the unsafest counts. More than 64 windows: the problem "failed".
        max_tokens: most tokens of an answer; 0 for as many as lead, label and categories need.
        top_logprobs: likeliest tokens to ask for; vLLM allows 20 unless started otherwise.
        extra_body: more fields of every request (`chat_template_kwargs`, ...).
        thresholds: "strict" and "loose"; by default 0.5, the guard's own word, is the loose one.
        revision: of the weights behind the endpoint, if you know it.
        name: short name; by default the model's.

    Raises:
        GuardError: a setting cannot be used.
    """

    def __init__(
        self,
        access: Access,
        model: str,
        *,
        safe: Sequence[str],
        unsafe: Sequence[str],
        api: Api = "chat",
        template: str = "",
        prefill: str = "",
        lead: str = "",
        categories: Mapping[str, str] | None = None,
        marks: Sequence[str] = (),
        max_characters: int = 12_000,
        max_tokens: int = 0,
        top_logprobs: int = 20,
        extra_body: Mapping[str, Any] | None = None,
        thresholds: Mapping[str, float] | None = None,
        revision: str = "",
        name: str = "",
    ) -> None:
        if min(max_characters, top_logprobs) < 1:
            raise GuardError("max_characters and top_logprobs of a remote guard must be above 0")
        if (template or api == "completions") and not _SLOT.search(template):
            raise GuardError(
                "the template of a remote guard has no place for the conversation",
                hint="write {conversation}, or {request} and {answer}, where it belongs",
            )
        self.name = name or model.rsplit("/", 1)[-1].lower()
        self.thresholds = dict(thresholds or {"strict": 0.2, "loose": 0.5})
        self._labels = LabelWords(safe, unsafe, lead)
        self._names = dict(categories or {})
        self._api, self._template, self._prefill = api, template, prefill
        self._marks, self._size = any_of(marks), max_characters
        wanted = {"logprobs": True, "top_logprobs": top_logprobs}
        limit = max_tokens or 2 + len(lead) // 2 + (24 if categories else 0)
        self._fixed = {
            **(extra_body or {}),
            **(wanted if api == "chat" else {"logprobs": top_logprobs}),
            "model": model,
            "temperature": 0,
            "max_tokens": limit,
        }
        self._endpoint = EndpointClient(
            access, "/chat/completions" if api == "chat" else "/completions"
        )
        asked = [self._endpoint.place, self._fixed, api, template, prefill, max_characters]
        read = [sorted(self._labels.safe), sorted(self._labels.unsafe), lead, self._names]
        self.revision = _hash([FORM, asked, read, sorted(marks), revision])

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge conversations.

        Raises:
            GuardError: the endpoint refuses the key, the model or the form of the requests, gives
                no log probabilities, or answers nothing at all.
        """
        return run_job(self._judge(conversations, on_progress))

    async def _judge(self, conversations: Sequence[Conversation], told: OnProgress) -> VerdictBatch:
        async with self._endpoint.client() as client:
            rows = await self._endpoint.replies(
                (self._row(client, conversation) for conversation in conversations),
                len(conversations),
                is_lost=lambda row: row.problem == "no-answer" if row.asked else None,
                check=lambda: self._check(client),
                on_reply=told,
            )
            asked = [row for row in rows if row.asked]
            unanswered = sum(row.problem == "no-answer" for row in asked)
            if unanswered and unanswered >= MOST_UNANSWERED * len(asked):
                await self._check(client)
        return VerdictBatch(tuple(map(self._verdict, rows)), tokens=sum(row.tokens for row in rows))

    async def _check(self, client: httpx.AsyncClient) -> None:
        """Raise unless the endpoint answers to a harmless text."""
        reply = await self._endpoint.post(client, self._body([Message("user", "Hello.")]))
        try:
            if reply is not None:
                self._understood(reply)
                return
        except MissingLogprobsError:
            raise no_logprobs() from None
        except NOT_UNDERSTOOD:
            pass
        raise GuardError(
            f"the endpoint {self._endpoint.place} gives no answers: "
            f"{self._endpoint.problem or 'its replies have another form'}",
            hint="look whether the server runs and what its log says of these requests",
        )

    async def _row(self, client: httpx.AsyncClient, conversation: Conversation) -> _Row:
        if not conversation or not conversation[-1].content.strip():
            return _Row(None, "empty")
        turns = [Message(m.role, self._defused(m.content)) for m in arranged(conversation)]
        windows = _windowed(turns, self._size)
        if len(windows) > WINDOWS:
            return _Row(None, "failed")
        found = [await self._window(client, window) for window in windows]
        worst = unsafest(found, self.thresholds["loose"])
        return replace(worst, tokens=sum(row.tokens for row in found))

    async def _window(self, client: httpx.AsyncClient, turns: Sequence[Message]) -> _Row:
        """What the endpoint says of turns; a refusal is final only if "Hello." is refused too.

        Gateways with a filter of their own answer what they block with 403, as they do a wrong key.

        Raises:
            GuardError: the endpoint refuses a harmless text.
        """
        try:
            reply = await self._endpoint.post(client, self._body(turns))
        except GuardError:
            await self._check(client)
            reply = None
        return _Row(None, "no-answer") if reply is None else self._read(reply)

    def _verdict(self, row: _Row) -> Verdict:
        return Verdict(row.probability, full_name(self), row.categories, row.problem)

    def _defused(self, text: str) -> str:
        return break_marks(break_marks(text, _SPECIAL), self._marks)

    def _body(self, turns: Sequence[Message]) -> dict[str, Any]:
        """A request about turns that a user begins."""
        if self._api == "completions":
            return {**self._fixed, "prompt": _filled(self._template, turns) + self._prefill}
        if self._template:
            turns = [Message("user", _filled(self._template, turns))]
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        if not self._prefill:
            return {**self._fixed, "messages": messages}
        messages.append({"role": "assistant", "content": self._prefill})
        unfinished = {"continue_final_message": True, "add_generation_prompt": False}
        return {**self._fixed, **unfinished, "messages": messages}

    def _read(self, reply: Any) -> _Row:
        """What a reply says; "no-answer" where nothing can be made of it."""
        try:
            return self._understood(reply)
        except NOT_UNDERSTOOD:
            return _Row(None, "no-answer")

    def _understood(self, reply: Any) -> _Row:
        """What a reply says.

        Raises:
            MissingLogprobsError: it has no log probabilities at the label.
            Exception: one of `NOT_UNDERSTOOD`: it has another form.
        """
        choice = reply["choices"][0]
        text = choice["text"] if self._api == "completions" else choice["message"]["content"]
        probability = self._labels.probability(read_places(choice.get("logprobs")))
        tokens = max(0, int((reply.get("usage") or {}).get("total_tokens") or 0))
        if probability is None:
            return _Row(None, "unparsed", tokens=tokens)
        named = self._named(text) if probability >= 0.5 and isinstance(text, str) else ()
        return _Row(probability, None, named, tokens)

    def _named(self, text: str) -> tuple[str, ...]:
        """Categories that an answer names, in its order."""
        names = any_of(self._names)
        found = re.findall(rf"(?<!\w)(?:{names.pattern})(?!\w)", text) if names else []
        return tuple(dict.fromkeys(self._names[name] for name in found))


@dataclass(frozen=True, slots=True)
class _Row:
    """What the guard says of a conversation or of one window of it."""

    probability: float | None
    problem: Problem | None = None
    categories: tuple[str, ...] = ()
    tokens: int = 0

    @property
    def asked(self) -> bool:
        """Whether the endpoint was asked."""
        return self.problem not in ("empty", "failed")


def _windowed(turns: Sequence[Message], size: int) -> list[list[Message]]:
    """The conversation whole, or its last turn in windows behind the newest of those before it."""
    if sum(len(turn.content) for turn in turns) <= size:
        return [list(turns)]
    last = turns[-1]
    context = _newest(turns[:-1], max(size // 2, size - len(last.content)))
    width = size - sum(len(turn.content) for turn in context)
    step = max(1, width - width // 4)
    starts = range(0, max(1, len(last.content) - width // 4), step)
    parts = (last.content[start : start + width] for start in starts)
    return [[*context, Message(last.role, part)] for part in parts]


def _newest(turns: Sequence[Message], room: int) -> list[Message]:
    """The newest turns within `room` characters, a user's first; a long newest keeps its ends."""
    kept: list[Message] = []
    for turn in reversed(turns):
        if len(turn.content) > room and not kept:
            half = max(1, room // 2 - 2)
            kept.append(Message(turn.role, f"{turn.content[:half]} … {turn.content[-half:]}"))
        if len(turn.content) > room:
            break
        kept.append(turn)
        room -= len(turn.content)
    while kept and kept[-1].role != "user":
        kept.pop()
    return kept[::-1]


def _filled(template: str, turns: Sequence[Message]) -> str:
    """The template with the conversation in its slots, in one pass: texts fill no slots."""
    answer = turns[-1].content if turns[-1].role == "assistant" else ""
    texts = {
        "request": next(turn.content for turn in reversed(turns) if turn.role == "user"),
        "answer": answer,
        "conversation": "\n\n".join(f"{_NAMES[turn.role]}: {turn.content}" for turn in turns),
    }
    return _SLOT.sub(lambda slot: texts[slot[1]], template)


def _hash(said: Any) -> str:
    try:
        text = json.dumps(said, sort_keys=True)
    except (TypeError, ValueError):
        raise GuardError("extra_body of a remote guard holds what JSON has no form for") from None
    return hashlib.sha256(text.encode()).hexdigest()
