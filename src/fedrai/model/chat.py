"""Chat templates: conversations to token ids, and the mask of the assistant's tokens.

The tokenizer's own template is rendered twice, once with placeholders, to tell the template's
characters from the content. That gives the loss mask for any template. No row can change the
template around it: special tokens spelled out in a row's text are broken up before tokenization.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from fedrai.errors import ModelError
from fedrai.model.templates import check_templates
from fedrai.records import Message, Tokens

DATE = "26 Jul 2024"  # fixed, for templates that print a date (Llama 3.x): same recipe, same ids
MARGIN = 1000  # characters; a token so far before a cut does not depend on it
BREAK = "\u200b"  # zero-width space, inserted into special tokens that a row spells out


class ChatFormat:
    """A tokenizer's chat template, ready for training and for generation.

    Args:
        tokenizer: a fast tokenizer of transformers with a chat template.

    Raises:
        ModelError: it has no template, one that takes too long, or no positions of tokens in the
            text.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                "the tokenizer has no chat template",
                hint="use an instruct model, or put a chat_template.jinja into the model folder",
            )
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                "the tokenizer is not a fast one, so it returns no positions of tokens in the text"
            )
        check_templates(tokenizer)
        self.tokenizer = tokenizer
        control = control_tokens(tokenizer)
        self._special_ids = set(control)
        self._longest = max(map(len, tokenizer.get_vocab()), default=1)
        self._special = any_of(control.values())
        self._pieces: dict[tuple[str, ...], list[str]] = {}

    def train_tokens(self, messages: Sequence[Message], max_length: int) -> Tokens:
        """Tokenize a conversation and mark the assistant's tokens.

        The mask covers each assistant turn's content and the token that ends the turn, so that the
        model learns to stop. Template text and other roles are not in it.

        Args:
            messages: the turns, oldest first.
            max_length: most ids; the rest is cut.

        Raises:
            ModelError: the template refuses the turns or changes their text, or a turn cannot be
                encoded.
        """
        safe = [Message(m.role, self._defuse(m.content)) for m in messages]
        text, spans = self._locate(safe)
        ids, offsets = self._encode(text, max_length)
        mask = self._mask(ids, offsets, spans)
        return Tokens(tuple(ids[:max_length]), tuple(mask[:max_length]))

    def _encode(self, text: str, count: int) -> tuple[list[int], list[tuple[int, int]]]:
        """The first `count` ids of a text or more, if it has as many, with their positions.

        All ids of a text of megabytes would take gigabytes, so text far beyond is left out.
        """
        ends = count * self._longest + MARGIN
        for part in dict.fromkeys([text[:ends], text]):
            encoded = self.tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
            ids: list[int] = encoded["input_ids"]
            offsets: list[tuple[int, int]] = encoded["offset_mapping"]
            if len(ids) >= count and offsets[count - 1][1] <= ends - MARGIN:
                break  # else a normalizer shortened much of the text
        return ids, offsets

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to the start of the assistant's answer."""
        safe = [Message(m.role, self._defuse(m.content)) for m in messages]
        text = self._render(safe, generation_prompt=True)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def stop_ids(self, configured: Sequence[int]) -> set[int]:
        """Ids that end an answer: the model's own end tokens and that of the template."""
        text, spans = self._locate([Message("user", "a"), Message("assistant", "b")])
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        mask = self._mask(encoded["input_ids"], encoded["offset_mapping"], spans)
        answer = list(itertools.compress(encoded["input_ids"], mask))
        template = {answer[-1]} if answer and answer[-1] in self._special_ids else set()
        return set(configured) | template

    def _defuse(self, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ModelError(
                "a turn holds half a character, such as \\ud83d without its other half, which no"
                " tokenizer can encode"
            ) from None
        return break_marks(text, self._special)

    def _render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages],
                tokenize=False,
                add_generation_prompt=generation_prompt,
                date_string=DATE,
                enable_thinking=False,  # Qwen3: then prompts end like the rows of training
            )
        except Exception as error:  # templates raise any kind
            roles = ", ".join(m.role for m in messages)
            raise ModelError(
                f"the chat template refuses turns of {roles}: {self._reason(error)}"
            ) from None
        return str(rendered)

    def _reason(self, error: Exception) -> str:
        """The message of a template's error, if its words are the template's and not a row's."""
        words = " ".join(str(error).split())
        is_own = bool(words) and words in " ".join(str(self.tokenizer.chat_template).split())
        return words[:200] if is_own else type(error).__name__

    def _locate(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int, int]]]:
        """The rendered text, and each assistant turn: its start, its end, the next turn's start."""
        text = self._render(messages)
        pieces = self._template_pieces(messages)
        contents = _template_contents(text, pieces, messages)
        if contents is not None:
            return text, _spans(messages, pieces, contents)
        raise ModelError(
            "the chat template changes the text of a turn, so its tokens cannot be located"
        )

    def _template_pieces(self, messages: Sequence[Message]) -> list[str]:
        key = tuple(m.role for m in messages)
        if key not in self._pieces:
            marks = [f"FEDRAI{number}MARK" for number in range(len(messages))]
            text = self._render([Message(m.role, k) for m, k in zip(messages, marks, strict=True)])
            pieces = []
            for mark in marks:
                piece, separator, text = text.partition(mark)
                if not separator:
                    raise ModelError(f"the chat template leaves out a turn of {', '.join(key)}")
                pieces.append(piece)
            self._pieces[key] = [*pieces, text]
        return self._pieces[key]

    def _mask(
        self,
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        spans: Sequence[tuple[int, int, int]],
    ) -> list[bool]:
        mask = [False] * len(ids)
        for start, end, limit in spans:
            ended = False
            for i, (left, right) in enumerate(offsets):
                if start < right and left < end and left < right:
                    mask[i] = True
                elif left >= end and right <= limit and ids[i] in self._special_ids and not ended:
                    mask[i] = ended = True
        return mask


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Added tokens that control turns, by id, without the line breaks and HTML tags of Gemma."""
    template = str(tokenizer.chat_template or "")

    def controls(token: Any) -> bool:
        text = str(token)
        marks = len(text) > 2 and not text.isalnum() and not text.isspace()
        return bool(token.special) or (marks and text in template)

    return {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if controls(t)}


def any_of(strings: Iterable[str], flags: int = 0) -> re.Pattern[str] | None:
    """A pattern that matches any of the strings, the longest first; None without strings."""
    ordered = sorted(set(strings), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)), flags) if ordered else None


def break_marks(text: str, marks: re.Pattern[str] | None) -> str:
    """The text with a zero-width space after the first character of every mark in it."""
    if marks is None:
        return text
    return marks.sub(lambda match: match[0][0] + BREAK + match[0][1:], text)


def _template_contents(
    text: str, pieces: Sequence[str], messages: Sequence[Message]
) -> list[str] | None:
    """The contents as the template wrote them, unchanged or trimmed; None if it changed one."""
    candidates: dict[int, list[str]] = {0: []}  # contents so far, by their end in the text
    for piece, message in zip(pieces, messages, strict=False):
        candidates = {
            end + len(piece) + len(content): [*contents, content]
            for end, contents in candidates.items()
            for content in _trimmed_forms(message.content)
            if text.startswith(piece + content, end)
        }
    return next(
        (contents for end, contents in candidates.items() if text[end:] == pieces[-1]), None
    )


def _trimmed_forms(content: str) -> list[str]:
    variants = (content, content.strip(), content.lstrip("\n"), content.lstrip(), content.rstrip())
    return list(dict.fromkeys(variants))


def _spans(
    messages: Sequence[Message], pieces: Sequence[str], contents: Sequence[str]
) -> list[tuple[int, int, int]]:
    spans = []
    position = 0
    for number, (message, content) in enumerate(zip(messages, contents, strict=True)):
        position += len(pieces[number])
        end = position + len(content)
        if message.role == "assistant":
            spans.append((position, end, end + len(pieces[number + 1])))
        position = end
    return spans
