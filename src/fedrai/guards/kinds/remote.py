"""A guard behind an OpenAI-style endpoint with log probabilities, such as vLLM's server.

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
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx

from fedrai.endpoint import Access, EndpointClient, run_job
from fedrai.errors import GuardError
from fedrai.guards.base import (
    UNCALIBRATED,
    Conversation,
    OnProgress,
    VerdictBatch,
    full_name,
    unsafest,
)
from fedrai.guards.kinds.logprobs import LabelWords, MissingLogprobsError, no_logprobs, read_places
from fedrai.guards.kinds.prompting import SLOT, arranged, fill_template
from fedrai.model.chat import any_of, break_marks
from fedrai.records import Message, Problem, Verdict

Api = Literal["chat", "completions"]

FORM = 1  # counts up when the same settings would ask or read differently
WINDOWS = 64  # most windows of one message
MOST_UNANSWERED = 0.5  # part of the rows from which it is checked in the end
UNREADABLE = (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError)
"""Errors that a reply of another form may raise."""
TURNS = {"user": "User: ", "assistant": "Assistant: "}
_SPECIAL = re.compile(
    r"<[|｜]|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[/?INST\]|<</?SYS>>"
    r"|<(?:BEGIN|END) |\b(?:User|Human|Assistant|Agent):",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """How a guard behind an endpoint is asked and read.

    Attributes:
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
        revision: revision of the weights behind the endpoint, if you know it.
    """

    model: str
    safe: Sequence[str]
    unsafe: Sequence[str]
    api: Api = "chat"
    template: str = ""
    prefill: str = ""
    lead: str = ""
    categories: Mapping[str, str] = field(default_factory=dict)
    marks: Sequence[str] = ()
    max_characters: int = 12_000
    max_tokens: int = 0
    top_logprobs: int = 20
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=lambda: dict(UNCALIBRATED))
    revision: str = ""

    def body(self) -> dict[str, Any]:
        """The fields that all requests have in common."""
        chat = {"logprobs": True, "top_logprobs": self.top_logprobs}
        limit = self.max_tokens or 2 + len(self.lead) // 2 + (24 if self.categories else 0)
        return {
            **self.extra_body,
            **(chat if self.api == "chat" else {"logprobs": self.top_logprobs}),
            "model": self.model,
            "temperature": 0,
            "max_tokens": limit,
        }


class RemoteGuard:
    """Asks an endpoint for verdicts.

    Args:
        access: how to reach the endpoint.
        settings: how the guard is asked and read.
        name: short name; by default the model's.

    Raises:
        GuardError: a setting cannot be used.
    """

    def __init__(self, access: Access, settings: RemoteSettings, *, name: str = "") -> None:
        if min(settings.max_characters, settings.top_logprobs) < 1:
            raise GuardError("max_characters and top_logprobs of a remote guard must be above 0")
        if (settings.template or settings.api == "completions") and not SLOT.search(
            settings.template
        ):
            raise GuardError(
                "the template of a remote guard has no place for the conversation",
                hint="write {conversation}, or {request} and {answer}, where it belongs",
            )
        self.name = name or settings.model.rsplit("/", 1)[-1].lower()
        self.thresholds = dict(settings.thresholds)
        self.settings, self._fixed = settings, settings.body()
        self._labels = LabelWords(settings.safe, settings.unsafe, settings.lead)
        self._marks = any_of(settings.marks)
        path = "/chat/completions" if settings.api == "chat" else "/completions"
        self._endpoint = EndpointClient(access, path)
        self.revision = self._hash()

    def _hash(self) -> str:
        """SHA-256 of all that a verdict depends on."""
        own = self.settings
        question = [self._endpoint.place, self._fixed, own.api, own.template, own.prefill,
                    own.max_characters]  # fmt: skip
        labels = [sorted(self._labels.safe), sorted(self._labels.unsafe), own.lead,
                  dict(own.categories)]  # fmt: skip
        try:
            text = json.dumps([FORM, question, labels, sorted(own.marks), own.revision],
                              sort_keys=True)  # fmt: skip
        except (TypeError, ValueError):
            raise GuardError(
                "extra_body of a remote guard holds a value that JSON cannot hold"
            ) from None
        return hashlib.sha256(text.encode()).hexdigest()

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge conversations.

        Raises:
            GuardError: the endpoint refuses the key, the model or the form of the requests, returns
                no log probabilities, or no answers at all.
        """
        return run_job(self._judge(conversations, on_progress))

    async def _judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress
    ) -> VerdictBatch:
        async with self._endpoint.client() as client:
            answers = await self._endpoint.replies(
                (self._answer(client, conversation) for conversation in conversations),
                len(conversations),
                is_lost=lambda answer: answer.is_lost if answer.was_sent else None,
                check=lambda: self._check(client),
                on_reply=on_progress,
            )
            sent = [answer for answer in answers if answer.was_sent]
            lost = sum(answer.is_lost for answer in sent)
            if lost and lost >= MOST_UNANSWERED * len(sent):
                await self._check(client)
        tokens = sum(answer.tokens for answer in answers)
        return VerdictBatch(tuple(map(self._verdict, answers)), tokens=tokens)

    async def _check(self, client: httpx.AsyncClient) -> None:
        """Raise unless the endpoint answers to a harmless text."""
        reply = await self._endpoint.post(client, self._body([Message("user", "Hello.")]))
        try:
            if reply is not None:
                self._parse(reply)
                return
        except MissingLogprobsError:
            raise no_logprobs() from None
        except UNREADABLE:
            pass
        raise GuardError(
            f"the endpoint {self._endpoint.place} returns no answers: "
            f"{self._endpoint.problem or 'its replies have another form'}",
            hint="check that the server runs, and what its log says about these requests",
        )

    async def _answer(self, client: httpx.AsyncClient, conversation: Conversation) -> _Answer:
        if not conversation or not conversation[-1].content.strip():
            return _Answer(None, "empty")
        turns = [Message(m.role, self._defuse(m.content)) for m in arranged(conversation)]
        windows = _windows(turns, self.settings.max_characters)
        if len(windows) > WINDOWS:
            return _Answer(None, "failed")
        answers = [await self._window(client, window) for window in windows]
        tokens = sum(answer.tokens for answer in answers)
        return replace(unsafest(answers, self.thresholds["loose"]), tokens=tokens)

    async def _window(self, client: httpx.AsyncClient, turns: Sequence[Message]) -> _Answer:
        """The endpoint's answer about turns; a refusal is final only if "Hello." is refused too.

        Gateways with a filter of their own answer what they block with 403, as they do a wrong key.

        Raises:
            GuardError: the endpoint refuses a harmless text.
        """
        try:
            reply = await self._endpoint.post(client, self._body(turns))
        except GuardError:
            await self._check(client)
            reply = None
        return _Answer(None, "no-answer") if reply is None else self._read(reply)

    def _verdict(self, answer: _Answer) -> Verdict:
        return Verdict(answer.probability, full_name(self), answer.categories, answer.problem)

    def _defuse(self, text: str) -> str:
        return break_marks(break_marks(text, _SPECIAL), self._marks)

    def _body(self, turns: Sequence[Message]) -> dict[str, Any]:
        """A request about turns that a user begins."""
        template, prefill = self.settings.template, self.settings.prefill
        if self.settings.api == "completions":
            return {**self._fixed, "prompt": fill_template(template, turns, TURNS) + prefill}
        if template:
            turns = [Message("user", fill_template(template, turns, TURNS))]
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        if not prefill:
            return {**self._fixed, "messages": messages}
        messages.append({"role": "assistant", "content": prefill})
        unfinished = {"continue_final_message": True, "add_generation_prompt": False}
        return {**self._fixed, **unfinished, "messages": messages}

    def _read(self, reply: Any) -> _Answer:
        """The answer in a reply; "no-answer" where it has another form."""
        try:
            return self._parse(reply)
        except UNREADABLE:
            return _Answer(None, "no-answer")

    def _parse(self, reply: Any) -> _Answer:
        """The answer in a reply.

        Raises:
            MissingLogprobsError: it has no log probabilities at the label.
            Exception: one of `UNREADABLE`: it has another form.
        """
        choice = reply["choices"][0]
        completion = self.settings.api == "completions"
        text = choice["text"] if completion else choice["message"]["content"]
        probability = self._labels.probability(read_places(choice.get("logprobs")))
        tokens = max(0, int((reply.get("usage") or {}).get("total_tokens") or 0))
        if probability is None:
            return _Answer(None, "unparsed", tokens=tokens)
        unsafe = probability >= 0.5 and isinstance(text, str)
        return _Answer(probability, None, self._categories(text) if unsafe else (), tokens)

    def _categories(self, text: str) -> tuple[str, ...]:
        """Categories that an answer names, in its order."""
        names = any_of(self.settings.categories)
        matches = re.findall(rf"(?<!\w)(?:{names.pattern})(?!\w)", text) if names else []
        return tuple(dict.fromkeys(self.settings.categories[name] for name in matches))


@dataclass(frozen=True, slots=True)
class _Answer:
    """The guard's answer about a conversation, or about one window of it."""

    probability: float | None
    problem: Problem | None = None
    categories: tuple[str, ...] = ()
    tokens: int = 0

    @property
    def was_sent(self) -> bool:
        """Whether the endpoint was asked."""
        return self.problem not in ("empty", "failed")

    @property
    def is_lost(self) -> bool:
        """Whether the endpoint gave no answer that can be read."""
        return self.problem == "no-answer"


def _windows(turns: Sequence[Message], size: int) -> list[list[Message]]:
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
    newest: list[Message] = []
    for turn in reversed(turns):
        if len(turn.content) > room and not newest:
            half = max(1, room // 2 - 2)
            newest.append(Message(turn.role, f"{turn.content[:half]} … {turn.content[-half:]}"))
        if len(turn.content) > room:
            break
        newest.append(turn)
        room -= len(turn.content)
    while newest and newest[-1].role != "user":
        newest.pop()
    return newest[::-1]
