"""Texts of rows: whether they can be encoded, and the turns of conversations.

A turn is `{role, content}` as in the chat templates of Hugging Face, or `{from, value}` as in
ShareGPT. Its content is a text or a list of parts with text. Tool turns are converted to turns that
any template accepts: a call becomes a line of JSON (`name`, `arguments`) after the assistant's
text, and the results of tools become one turn of the user.
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
"""Our role by the names of OpenAI, ShareGPT, LLaMA-Factory and Gemma."""
PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts with text, and the key of the text."""
OTHER_PARTS = ("image", "image_url", "input_image", "audio", "audio_url", "input_audio", "video",
               "video_url", "file", "input_file", "thinking", "reasoning", "tool_use",
               "tool_result")  # fmt: skip
"""Kinds of parts without text; an error names no other kind, which may be a client's text."""
HALF = "holds half a character, such as \\ud83d without its other half"
SystemTurns = Literal["keep", "prepend", "drop"]


def encodable(value: Any) -> bool:
    """Whether all texts in a value can be encoded; half of a surrogate pair cannot."""
    try:
        for text in _texts(value):
            text.encode()
    except UnicodeEncodeError:
        return False
    return True


def half_character(value: Any) -> str:
    """The problem of a value with half a character anywhere in it; empty if it has none."""
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
    """Number of characters of all texts in a value."""
    return sum(map(len, _texts(value)))


def as_text(value: object, name: str, *, blank: bool = False) -> str:
    """A value of a row, which must be a text that is not blank.

    Args:
        value: the value.
        name: its column, for the error.
        blank: whether a blank or missing value is allowed; the text is then empty.

    Raises:
        ValueError: it is not.
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


def request_of(row: Mapping[str, Any], prompt: str, context: str | None) -> tuple[Message, ...]:
    """The turn of the user: the text in a column, and that in a column with its input.

    Raises:
        ValueError: the text is missing, or one cannot be read.
    """
    text = as_text(row.get(prompt), prompt)
    more = as_text(row.get(context), context, blank=True) if context else ""
    return (Message("user", f"{text}\n\n{more}" if more.strip() else text),)


def turns_of(value: object, *, blank: bool = False) -> tuple[Message, ...]:
    """The turns of a conversation, in any order.

    Args:
        value: a list of turns, or such a list as JSON text, as in a CSV.
        blank: whether turns may be empty.

    Raises:
        ValueError: it is not a list of turns, or a turn has content that cannot be read.
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
    """Whether a value is a list of turns, or such a list as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list | tuple) and bool(value) and all(
        isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value
    )  # fmt: skip


def _without_tools(turns: Sequence[tuple[str, str]]) -> Iterator[Message]:
    """Messages; consecutive results of tools become one turn of the user."""
    for tool, group in groupby(turns, lambda turn: turn[0] == TOOL):
        if tool:
            yield Message("user", "\n\n".join(text for _, text in group))
        else:
            yield from (Message(cast(Role, role), text) for role, text in group)


def _turn(turn: object, number: int, blank: bool) -> tuple[str, str]:
    """Our name of the role, and the text."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} is not an object with role and content")
    role = turn.get("role") if turn.get("role") is not None else turn.get("from")
    our_role = ROLE_NAMES.get(role.strip().lower()) if isinstance(role, str) else None
    if our_role is None:
        raise ValueError(f"turn {number} has a role that is not one of {', '.join(ROLES)}")
    share_gpt = "from" in turn and turn.get("content") is None
    where = f"content of turn {number}"
    text = _content(turn.get("value" if share_gpt else "content"), where)
    calls = [_call(call, number) for call in _calls(turn)] if our_role == "assistant" else []
    with_calls = "\n".join([text, *calls] if text.strip() else calls) if calls else text
    return our_role, as_text(with_calls, where, blank=blank or our_role == TOOL)


def _content(content: object, name: str) -> str:
    """The text of a turn's content; parts are joined as in chat templates."""
    if not isinstance(content, list | tuple):
        return as_text(content, name, blank=True)
    return "".join(_part(part, name) for part in content)


def _part(part: object, name: str) -> str:
    if isinstance(part, str):
        return as_text(part, name, blank=True)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and isinstance(kind, str) and kind in PARTS:
        return as_text(part.get(PARTS[kind]), name, blank=True)
    label = f" ({kind})" if kind in OTHER_PARTS else ""
    raise ValueError(f"{name} is not text but list: a part of it is not text{label}")


def _calls(turn: Mapping[str, Any]) -> Sequence[object]:
    """The tool calls of a turn; the older `function_call` is one."""
    calls = turn.get("tool_calls")
    if calls is None and turn.get("function_call") is not None:
        return [turn["function_call"]]
    return calls if isinstance(calls, list | tuple) else []


def _call(call: object, number: int) -> str:
    """A call as a line of JSON; arguments that are JSON text are parsed."""
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
        raise ValueError(f"turn {number} has a tool call that is not JSON") from None


def check_order(messages: Sequence[Message]) -> None:
    """Check that turns have the order that training needs.

    Raises:
        ValueError: they do not.
    """
    roles: list[str] = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(
            "turns must be user, assistant, user, assistant ... and end with the assistant"
            " (one system turn may come first)"
        )


def with_system(messages: tuple[Message, ...], way: SystemTurns) -> tuple[Message, ...]:
    """A conversation whose system turn, if any, is kept, prepended to the request, or dropped."""
    if way == "keep" or len(messages) < 2 or messages[0].role != "system":
        return messages
    first, second, *rest = messages
    if way == "drop":
        return (second, *rest)
    return (Message(second.role, f"{first.content}\n\n{second.content}"), *rest)
