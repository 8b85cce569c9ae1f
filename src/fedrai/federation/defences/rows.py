"""Rows that a defence needs besides the adapter: embedded ones, or those of a file."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fedrai import data
from fedrai.errors import DataError
from fedrai.model import LanguageModel
from fedrai.recipe.sections import seed_for
from fedrai.records import Example, Message, Tokens
from fedrai.training.sft import label_count


def read_rows(
    model: LanguageModel, source: str, count: int, seed: int, max_length: int
) -> list[Tokens]:
    """A seeded sample of a dataset's rows, tokenized.

    Args:
        model: its tokenizer and chat template.
        source: `fedrai:NAME`, or a file.
        count: size of the sample; 0, or more than there are: all.
        seed: the recipe's.
        max_length: longest row in tokens; a longer one is cut at the end.

    Raises:
        DataError: it cannot be read, or no row has an answer within that length.
        AssetError: it cannot be fetched.
    """
    examples = data.load(source).examples
    order: list[Example] = random.Random(seed_for(seed, source)).sample(examples, len(examples))
    rows = tokenized(model, [example.messages for example in order], max_length)
    if not rows:
        raise DataError(f"{source}: no row has an answer within {max_length} tokens")
    return rows[: count or len(rows)]


def tokenized(
    model: LanguageModel, conversations: Sequence[Sequence[Message]], max_length: int
) -> list[Tokens]:
    """Conversations as rows to train on, without those whose answer is cut off."""
    rows = [model.chat.train_tokens(messages, max_length) for messages in conversations]
    return [row for row in rows if label_count(row)]
