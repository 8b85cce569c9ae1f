r"""Preference pairs: two answers to one request, in the formats that datasets have them.

- TRL's explicit prompt: `prompt`, `chosen` and `rejected`; each a text, or turns.
- whole conversations in `chosen` and `rejected`, which begin alike: turns (a `prompt` beside them
  is not read), or one text with marked turns as in Anthropic's HH ("\n\nHuman: ...").

The request is all turns that both conversations share; what follows in each is its answer, which
may go on over several turns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fedrai.data.columns import find_request
from fedrai.data.texts import as_text, check_order, is_conversation, request_of, turns_of
from fedrai.recipe.sections import Columns
from fedrai.records import Message, Role

Turns = tuple[Message, ...]
MARKED = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
"""The start of a turn in a text with marked turns."""
ROLES: Mapping[str, Role] = {"Human": "user", "Assistant": "assistant"}


def pair_of(row: Mapping[str, Any], columns: Columns) -> tuple[Turns, Turns]:
    """The conversation that ends with the preferred answer, and the one with the other answer.

    Args:
        row: the row.
        columns: names from the recipe.

    Raises:
        ValueError: it holds no pair, or a text in it cannot be read.
    """
    names = columns.chosen, columns.rejected
    if missing := [name for name in names if row.get(name) is None]:
        raise ValueError(f"no column {missing[0]!r}, which holds one of a pair's answers")
    chosen, rejected = (_conversation(row, name, columns) for name in names)
    for name, turns in zip(names, (chosen, rejected), strict=True):
        _check_order(turns, name)
    _check_sides(chosen, rejected)
    return chosen, rejected


def _conversation(row: Mapping[str, Any], name: str, columns: Columns) -> Turns:
    """One side: its column is a whole conversation, or the answer to the row's request."""
    value = row[name]
    turns = turns_of(value) if is_conversation(value) else _marked(as_text(value, name))
    if turns and turns[0].role != "assistant":
        return turns
    answer = turns or (Message("assistant", as_text(value, name)),)
    prompt, context = find_request(row, columns)
    request = row.get(prompt)
    before = turns_of(request) if is_conversation(request) else ()
    return (*(before or _marked_request(row, prompt, context)), *answer)


def _marked_request(row: Mapping[str, Any], prompt: str, context: str | None) -> Turns:
    """The turns of a request that is a text, also one with marked turns."""
    turns = request_of(row, prompt, context)
    return _marked(turns[0].content.strip().removesuffix("\n\nAssistant:")) or turns


def _marked(text: str) -> Turns:
    """The turns of a text that begins with the user's mark; none if it does not."""
    if not text.lstrip().startswith("Human:"):
        return ()
    parts = MARKED.split(text.strip())
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return tuple(Message(ROLES[mark], content.strip()) for mark, content in turns)


def _check_order(turns: Sequence[Message], name: str) -> None:
    try:
        if any(not turn.content.strip() for turn in turns):
            raise ValueError("a turn is empty")
        check_order(turns)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_sides(chosen: Turns, rejected: Turns) -> None:
    """Raise unless the sides are two answers to one request."""
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same")
    places = range(min(len(chosen), len(rejected)))
    first = next((n for n in places if chosen[n] != rejected[n]), None)
    if first is None:
        raise ValueError("one of chosen and rejected only goes on where the other one ends")
    if chosen[first].role != "assistant" or rejected[first].role != "assistant":
        raise ValueError("chosen and rejected are answers to different requests")
