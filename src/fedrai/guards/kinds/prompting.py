"""Conversations to prompts of a guard: turns in order, and no row can change the prompt around it.

Special tokens, marks of the prompt and beginnings of turns that a row spells out are broken up.
Long conversations are never cut silently: the oldest turns are dropped first, and then the last
message is judged in windows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fedrai.errors import GuardError
from fedrai.guards.kinds.formats import Format, Kind, Question
from fedrai.guards.kinds.policies import NEMOGUARD_TURNS
from fedrai.guards.windows import window_starts
from fedrai.model.chat import BREAK, DATE, any_of, break_marks, control_tokens
from fedrai.model.templates import check_templates
from fedrai.records import Message

WINDOWS = 64  # most windows of one message; a longer one is not judged in part
NO_REQUEST = "(no request)"  # stands where an answer has none, for templates that insist
_ROLES = ("User:", "Assistant:", "Human:", "Agent:")
SLOT = re.compile(r"\{(request|answer|conversation)\}")
_PROBES = ("a", "Zebra", "7", "\n\nZebra", "é", "<", '"', " a")  # unlike beginnings of a message


class PromptBuilder:
    """Builds a guard's prompts with its tokenizer.

    Args:
        tokenizer: the guard's fast tokenizer.
        entry: the guard's format.
        max_length: most tokens of a prompt with all that the guard is made to say.

    Raises:
        GuardError: the chat template is missing, refuses a plain conversation or leaves out its
            text, or `max_length` has no room for the guard's own words.
    """

    def __init__(self, tokenizer: Any, entry: Format, max_length: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise GuardError("the guard's tokenizer is not a fast one")
        check_templates(tokenizer)
        self.tokenizer, self.format = tokenizer, entry
        self._tokens = any_of(control_tokens(tokenizer).values())
        self._marks = any_of(entry.marks, re.IGNORECASE)
        roles = "|".join(map(re.escape, sorted({*_ROLES, *entry.roles}, key=len, reverse=True)))
        self._roles = re.compile(rf"^([ \t]*(?=(?:{roles})).)", re.IGNORECASE | re.MULTILINE)
        self._chat = entry.wrapped or not all(q.template for q in entry.pair)
        self._parts = False
        for kind in self.kinds():
            self._check(kind)
        reserve = 16 + (entry.categories.limit + 8 if entry.categories else 0)
        self.room = max_length - reserve - max(self._own(kind) for kind in self.kinds())
        self.limit = max_length - reserve
        if self.room < 64:
            raise GuardError(
                f"{max_length} tokens leave no room for a conversation in the prompt of the guard",
                hint=f"set max_length to {max_length - self.room + 64} or more",
            )

    def kinds(self) -> tuple[Kind, ...]:
        """What the guard can judge."""
        kinds: tuple[Kind, ...] = ("prompt", "pair")
        return tuple(kind for kind in kinds if self.format.questions(kind))

    def turns(self, conversation: Sequence[Message]) -> list[Message]:
        """Turns by turns, a user's first, defused; empty if there is nothing to judge."""
        if not conversation or not conversation[-1].content.strip():
            return []
        return [Message(m.role, self._defuse(m.content)) for m in arranged(conversation)]

    def texts(self, question: Question, turns: Sequence[Message]) -> list[str]:
        """Prompts that together show the guard the last turn: one, or one for each window.

        Args:
            question: a question of the guard's format.
            turns: result of `turns`.

        Returns:
            At least one prompt; each of at most `limit` tokens.

        Raises:
            TooLongError: the last turn takes more than `WINDOWS` windows.
        """
        text = self.render(question, turns)
        if self._fits(text):
            return [text]
        recent = self._recent(question, turns)
        text = self.render(question, recent)
        return [text] if self._fits(text) else self._windows(question, recent)

    def render(self, question: Question, turns: Sequence[Message]) -> str:
        """The prompt of a conversation, whatever its length."""
        if self.format.turns == "one":
            turns = folded(turns)
        if question.template:
            turns = [Message("user", fill_template(question.template, turns, NEMOGUARD_TURNS))]
            if not self.format.wrapped:
                return turns[0].content
        messages = [{"role": m.role, "content": self._content(m.content)} for m in turns]
        rendered = self.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=self.format.generation_prompt,
            **{"date_string": DATE, **question.kwargs},
        )
        return str(rendered)

    def ids(self, text: str) -> list[int]:
        """Token ids of a prompt; only where no chat template did, a first token is added."""
        return self.many_ids([text])[0]

    def many_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts."""
        encoding = self.tokenizer(list(texts), add_special_tokens=not self._chat, verbose=False)
        ids: list[list[int]] = encoding["input_ids"]
        return ids

    def probes(self, question: Question, kind: Kind) -> list[str]:
        """PromptBuilder of unlike conversations, which show what all prompts have in common."""
        return [self.render(question, _probe(kind, text)) for text in _PROBES]

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self._parts else text

    def _defuse(self, text: str) -> str:
        text = break_marks(break_marks(text, self._tokens), self._marks)
        return self._roles.sub(lambda match: match[1] + BREAK, text)

    def _check(self, kind: Kind) -> None:
        """Find out how the template takes a text: as it is, or as a list of parts."""
        if self._chat and not getattr(self.tokenizer, "chat_template", None):
            raise GuardError(
                "the guard's tokenizer has no chat template",
                hint="put the guard's chat_template.jinja into its folder",
            )
        mark = "FEDRAI0MARK"
        for parts in (self._parts, not self._parts):
            self._parts = parts
            try:
                text = self.render(self.format.questions(kind)[0], _probe(kind, mark))
            except Exception as error:  # templates raise what they like
                problem = f"refuses a plain conversation ({type(error).__name__})"
                continue
            if text.count(mark) >= (2 if kind == "pair" else 1):
                return
            problem = "leaves out the conversation"
        raise GuardError(
            f"the chat template {problem}, so it is not one of format {self.format.name}",
            hint="check the format that the guard is loaded with",
        )

    def _own(self, kind: Kind) -> int:
        """Tokens of the guard's own words, in its longest prompt of this kind."""
        questions = self.format.questions(kind)
        steps = [sum(len(self.ids(s.text)) + 4 for s in q.steps) for q in questions]
        texts = [self.render(q, _probe(kind, "a")) for q in questions]
        return max(n + len(i) for n, i in zip(steps, self.many_ids(texts), strict=True))

    def _fits(self, text: str) -> bool:
        """Whether a prompt is short enough; a token has at least one byte, so short ones are."""
        return len(text.encode()) < self.limit or len(self.ids(text)) <= self.limit

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _recent(self, question: Question, turns: Sequence[Message]) -> list[Message]:
        """The latest turns that fit, a user's first; at the least what is judged."""
        least = 2 if turns[-1].role == "assistant" else 1
        room, first = self.room, len(turns)
        while first > 0 and (room > 0 or len(turns) - first < least):
            first -= 1
            room -= self._count(turns[first].content) + 8
        first = min(first, len(turns) - least)
        while first < len(turns) - least and (
            turns[first].role != "user" or not self._fits(self.render(question, turns[first:]))
        ):
            first += 1
        return list(turns[first:])

    def _windows(self, question: Question, turns: Sequence[Message]) -> list[str]:
        """The last turn in overlapping windows; a long request before an answer keeps its ends."""
        *before, last = turns
        room = self.room
        while True:
            context = [Message(m.role, self._ends(m.content, room // 3)) for m in before]
            size = room - sum(self._count(m.content) for m in context)
            parts = self._cut(last.content, max(size, 16))
            texts = [self.render(question, [*context, Message(last.role, p)]) for p in parts]
            over = max(map(len, self.many_ids(texts))) - self.limit
            if over <= 0 or room < 16:
                return texts
            room = max(room - over, room // 2)  # a cut text may have more tokens than it had whole

    def _cut(self, text: str, size: int) -> list[str]:
        """Windows of `size` tokens."""
        spans = self._spans(text)
        return [
            text[spans[s][0] : spans[min(s + size, len(spans)) - 1][1]]
            for s in window_starts(len(spans), size, WINDOWS)
        ]

    def _ends(self, text: str, size: int) -> str:
        """The text, or its first and last tokens if it has more than `size`."""
        spans = self._spans(text)
        if len(spans) <= size:
            return text
        half = max(1, size // 2 - 2)
        return f"{text[: spans[half][0]]} [...] {text[spans[-half][0] :]}"

    def _spans(self, text: str) -> list[tuple[int, int]]:
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        spans: list[tuple[int, int]] = encoding["offset_mapping"]
        return spans or [(0, len(text))]


def arranged(conversation: Sequence[Message]) -> list[Message]:
    """Turns as templates want them: valid text, user and assistant in turn, a user's first.

    Turns of one role that follow each other are joined, a system's words belong to the user's turn
    behind them, empty turns are left out, and an answer without a request gets a placeholder.
    """
    turns: list[Message] = []
    for message in conversation:
        role = message.role if message.role == "assistant" else "user"
        text = valid(message.content)
        if not text.strip():
            continue
        if turns and turns[-1].role == role:
            turns[-1] = Message(role, f"{turns[-1].content}\n\n{text}")
        else:
            turns.append(Message(role, text))
    if turns and turns[0].role == "assistant":
        turns.insert(0, Message("user", NO_REQUEST))
    return turns


def valid(text: str) -> str:
    """The text with lone surrogates replaced, which no tokenizer can take."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def folded(turns: Sequence[Message]) -> list[Message]:
    """A request and perhaps its answer; turns before them are written into the request."""
    least = 2 if turns[-1].role == "assistant" else 1
    request, *answer = turns[-least:]
    if len(turns) == least:
        return [request, *answer]
    names = {"user": "User", "assistant": "Assistant"}
    lines = [f"{names[m.role]}: {m.content}" for m in turns[: len(turns) - least + 1]]
    return [Message("user", "\n\n".join(lines)), *answer]


def fill_template(template: str, turns: Sequence[Message], prefixes: Mapping[str, str]) -> str:
    """The template with its slots filled, all at once, so that no row can name a slot.

    Args:
        template: a text with {request}, {answer} or {conversation}.
        turns: a user's first.
        prefixes: what stands before a turn in {conversation}, by its role.
    """
    last = turns[-1]
    slots = {
        "request": next(turn.content for turn in reversed(turns) if turn.role == "user"),
        "answer": last.content if last.role == "assistant" else "",
        "conversation": "\n\n".join(prefixes[turn.role] + turn.content for turn in turns),
    }
    return SLOT.sub(lambda match: slots[match[1]], template)


def _probe(kind: Kind, text: str) -> list[Message]:
    turns = [Message("user", text)]
    return turns if kind == "prompt" else [*turns, Message("assistant", text)]
