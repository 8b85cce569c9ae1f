"""Texts of rows: what can be encoded, and what a turn of a conversation says.

A turn is `{role, content}` as the chat templates of Hugging Face take it, or `{from, value}` as
ShareGPT has it. Its content is a text or a list of parts of text. Tool turns are read in a way that
any template takes: a call becomes a line of JSON (`name`, `arguments`) after what the assistant
says, and what tools give back becomes one turn of the user's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, Literal, cast

from fedrai.records import Message, Role

ROLES = ("system", "user", "assistant")
TOOL = "tool"
ROLE_NAMES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "function_call": "assistant",
    "tool": TOOL, "function": TOOL, "observation": TOOL, "function_response": TOOL,
}  # fmt: skip
"""What others call the roles: OpenAI, ShareGPT, LLaMA-Factory, Gemma."""
PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts that are text, and where it stands in them."""
OTHER_PARTS = ("image", "image_url", "input_image", "audio", "audio_url", "input_audio", "video",
               "video_url", "file", "input_file", "thinking", "reasoning", "tool_use",
               "tool_result")  # fmt: skip
"""Kinds of parts that are none; an error names no other, which could be a client's text."""
HALF = "holds half a character, such as \\ud83d without its other half"
SystemTurns = Literal["keep", "prepend", "drop"]


def encodable(value: Any) -> bool:
    """Whether all texts in a value can be encoded; one with half of a surrogate pair cannot."""
    try:
        for text in _texts(value):
            text.encode()
    except UnicodeEncodeError:
        return False
    return True


def half_character(value: Any) -> str:
    """What is wrong with a value that has half a character anywhere in it; empty if it is fine."""
    return "" if encodable(value) else HALF


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def characters(value: Any) -> int:
    """How many characters the texts in a value have."""
    return sum(map(len, _texts(value)))


def as_text(value: object, name: str, *, blank: bool = False) -> str:
    """A value of a row that must be a text with something in it.

    Args:
        value: the value.
        name: of its column, for the error.
        blank: whether nothing will do too, which gives an empty text.

    Raises:
        ValueError: it is none.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        if not blank:
            raise ValueError(f"{name} is empty")
        return value or ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is not text but {type(value).__name__}")
    if not encodable(value):
        raise ValueError(f"{name} {HALF}")
    return value


def turns_of(value: object, *, blank: bool = False) -> tuple[Message, ...]:
    """The turns of a conversation, in any order.

    Args:
        value: a list of turns, or that list as JSON in a text, as CSV holds it.
        blank: whether a turn may say nothing.

    Raises:
        ValueError: it is no such list, or a turn has something that cannot be read.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("messages is text, but not a JSON list") from None
    if not isinstance(value, Sequence) or isinstance(value, str) or not (value or blank):
        raise ValueError("messages is not a list of turns")
    turns = [_turn(turn, number, blank) for number, turn in enumerate(value, 1)]
    return tuple(_without_tools(turns))


def is_conversation(value: object) -> bool:
    """Whether a value is a list of turns, or that list as JSON in a text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list | tuple) and bool(value) and all(
        isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value
    )  # fmt: skip


def _without_tools(turns: Sequence[tuple[str, str]]) -> Iterator[Message]:
    """Messages; what tools gave back one after the other is one turn of the user's."""
    for tool, group in groupby(turns, lambda turn: turn[0] == TOOL):
        if tool:
            yield Message("user", "\n\n".join(text for _, text in group))
        else:
            yield from (Message(cast(Role, role), text) for role, text in group)


def _turn(turn: object, number: int, blank: bool) -> tuple[str, str]:
    """Role, by our names, and text."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} is not an object with role and content")
    role = turn.get("role") if turn.get("role") is not None else turn.get("from")
    named = ROLE_NAMES.get(role.strip().lower()) if isinstance(role, str) else None
    if named is None:
        raise ValueError(f"turn {number} has a role that is not one of {', '.join(ROLES)}")
    share_gpt = "from" in turn and turn.get("content") is None
    where = f"content of turn {number}"
    text = _content(turn.get("value" if share_gpt else "content"), where)
    calls = [_call(call, number) for call in _calls(turn)] if named == "assistant" else []
    whole = "\n".join([text, *calls] if text.strip() else calls) if calls else text
    return named, as_text(whole, where, blank=blank or named == TOOL)


def _content(content: object, name: str) -> str:
    """The text of a turn's content, of which parts are joined as chat templates join them."""
    if not isinstance(content, list | tuple):
        return as_text(content, name, blank=True)
    return "".join(_part(part, name) for part in content)


def _part(part: object, name: str) -> str:
    if isinstance(part, str):
        return as_text(part, name, blank=True)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and isinstance(kind, str) and kind in PARTS:
        return as_text(part.get(PARTS[kind]), name, blank=True)
    shown = f" ({kind})" if kind in OTHER_PARTS else ""
    raise ValueError(f"{name} is not text but list: a part of it is no text{shown}")


def _calls(turn: Mapping[str, Any]) -> Sequence[object]:
    """The tool calls of a turn; the older `function_call` is one."""
    calls = turn.get("tool_calls")
    if calls is None and turn.get("function_call") is not None:
        return [turn["function_call"]]
    return calls if isinstance(calls, list | tuple) else []


def _call(call: object, number: int) -> str:
    """A call as a line of JSON; arguments that stand as JSON in a text are read."""
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise ValueError(f"turn {number} has a tool call without a name")
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    try:
        return json.dumps({"name": inner["name"], "arguments": arguments}, ensure_ascii=False)
    except (TypeError, ValueError):
        raise ValueError(f"turn {number} has a tool call that is no JSON") from None


def check_order(messages: Sequence[Message]) -> None:
    """See that turns go as a training takes them.

    Raises:
        ValueError: they do not.
    """
    roles = [message.role for message in messages]
    talk = list(roles[1:] if roles[:1] == ["system"] else roles)
    expected = ["user", "assistant"] * (len(talk) // 2)
    if not talk or talk != expected:
        raise ValueError(
            "turns must go user, assistant, user, assistant ... and end with the assistant"
            " (one system turn may come first)"
        )


def with_system(messages: tuple[Message, ...], way: SystemTurns) -> tuple[Message, ...]:
    """A conversation whose system turn, if any, stays, is put before the request, or goes."""
    if way == "keep" or len(messages) < 2 or messages[0].role != "system":
        return messages
    first, second, *rest = messages
    if way == "drop":
        return (second, *rest)
    return (Message(second.role, f"{first.content}\n\n{second.content}"), *rest)
