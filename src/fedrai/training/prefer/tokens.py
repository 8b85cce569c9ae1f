"""Conversations of a pair to tokens, with the answers alone as labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from fedrai.model.chat import ChatFormat
from fedrai.records import Message, PreferencePair, Tokens


def pair_tokens(
    chat: ChatFormat,
    chosen: Sequence[Message],
    rejected: Sequence[Message],
    shared: int,
    max_length: int,
) -> PreferencePair:
    """Tokenize a pair; see `pair_problem` for what may be wrong with it.

    Args:
        chat: the model's.
        chosen: the conversation that ends with the preferred answer.
        rejected: the one that ends with the other.
        shared: number of turns that both begin with, the last of them the user's.
        max_length: most ids of either; the rest is cut.

    Raises:
        ModelError: as raised by `ChatFormat.train_tokens`.
    """
    earlier = earlier_labels(chat, chosen[:shared], max_length)
    rows = (chat.train_tokens(turns, max_length) for turns in (chosen, rejected))
    return PreferencePair(*(answer_only(row, earlier) for row in rows))


def earlier_labels(chat: ChatFormat, request: Sequence[Message], max_length: int) -> int:
    """Label tokens of the assistant's turns within a request of several turns."""
    roles = [turn.role for turn in request]
    return sum(chat.train_tokens(request, max_length).mask) if "assistant" in roles else 0


def answer_only(row: Tokens, earlier: int) -> Tokens:
    """The row with its labels but the first `earlier` ones."""
    counts = accumulate(row.mask)
    mask = tuple(label and n > earlier for label, n in zip(row.mask, counts, strict=True))
    return Tokens(row.ids, mask)
