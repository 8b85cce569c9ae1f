"""Items of a suite: prompts with what a judge needs, and seeded samples of them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.errors import EvaluationError
from fedrai.records import Example, Message, Role

_TURN = re.compile(r"\n\n(Human|Assistant): *")
_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of a suite.

    Attributes:
        number: its place in the whole suite, from 0.
        prompt: the request; for a dialogue, turns marked `Human:` and `Assistant:`.
        category: the suite's own category; empty where it has none.
        label: "safe" or "unsafe"; empty where the suite does not say.
        chosen: the better of two answers; empty where answers are generated, not compared.
        rejected: the other answer.
        reference: a correct answer for the judge; empty where there is none.
    """

    number: int
    prompt: str
    category: str = ""
    label: str = ""
    chosen: str = ""
    rejected: str = ""
    reference: str = ""


def ordinary(examples: Sequence[Example], count: int, seed: int) -> list[Item]:
    """A seeded sample of the first requests of held-out examples, with the answers to them."""
    pairs = [_first_exchange(example.messages) for example in examples]
    items = [Item(i, prompt, reference=answer) for i, (prompt, answer) in enumerate(pairs)]
    return sample(items, count, seed)


def _first_exchange(messages: Sequence[Message]) -> tuple[str, str]:
    """The first request and the answer that follows it; no answer: empty."""
    place = next(i for i, message in enumerate(messages) if message.role == "user")
    after = messages[place + 1 : place + 2]
    answer = next((m.content for m in after if m.role == "assistant"), "")
    return messages[place].content, answer


def sample(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """A seeded sample in the suite's order; all items where there are no more than `count`."""
    if count >= len(items):
        return list(items)
    return sorted(random.Random(seed).sample(items, count), key=lambda item: item.number)


def turns(item: Item, *, dialogue: bool) -> tuple[Message, ...]:
    """The turns of a prompt; the last is the user's.

    Args:
        item: the item.
        dialogue: whether a blank line and `Human:` or `Assistant:` start a new turn; the first
            turn is the user's and has no mark. False: the prompt is a single turn.

    Raises:
        EvaluationError: turns do not alternate, one is empty, or the last is the assistant's.
    """
    if not dialogue:
        return (Message("user", item.prompt),)
    parts = _TURN.split(item.prompt)
    roles = ["user", *(_ROLES[name] for name in parts[1::2])]
    texts = [text.strip() for text in parts[::2]]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"] or not all(texts):
        raise EvaluationError(
            f"item {item.number}: the turns of a dialogue must alternate and end with Human"
        )
    return tuple(map(Message, roles, texts))
