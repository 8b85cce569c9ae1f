"""Which of two answers a model finds likelier: HHH (Askell et al., arXiv 2112.00861).

The log-probability of an answer is that of its tokens and of the token that ends its turn, given
the request in the model's own chat template. A pair is decided by the sums, and beside it by the
means per token (length-normalised), since sums favour short answers. A tie is not right, and is
counted; a pair that does not fit the model's context is unscored, never cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedrai.errors import EvaluationError
from fedrai.evaluation.suites import Item
from fedrai.evaluation.suites.items import turns
from fedrai.model import LanguageModel
from fedrai.rates import Rate, rate, rate_json
from fedrai.records import Message, OnProgress, Tokens, ignore
from fedrai.runs.costs import Cost, Ledger, generation_operations
from fedrai.training.likelihood import answer_log_probabilities
from fedrai.training.sft import label_count, token_counts


@dataclass(frozen=True, slots=True)
class Choice:
    """What the model says of one pair.

    Attributes:
        number: of the item.
        category: of the item.
        chosen: log-probability of the better answer, in nats; None if the pair did not fit.
        rejected: of the other answer.
        chosen_tokens: tokens of the better answer, with the one that ends it; 0 if unscored.
        rejected_tokens: of the other answer.
    """

    number: int
    category: str
    chosen: float | None
    rejected: float | None
    chosen_tokens: int
    rejected_tokens: int

    @property
    def summed(self) -> float | None:
        """How much likelier the better answer is, in nats; None if unscored."""
        if self.chosen is None or self.rejected is None:
            return None
        return self.chosen - self.rejected

    @property
    def normalised(self) -> float | None:
        """The same per token of each answer, in nats; None if unscored."""
        if self.chosen is None or self.rejected is None:
            return None
        return self.chosen / self.chosen_tokens - self.rejected / self.rejected_tokens

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name; no text."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often the better answer is the likelier one; ties are scored and not right."""

    rate: Rate
    ties: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**rate_json(self.rate), "ties": self.ties}


@dataclass(frozen=True, slots=True)
class Preferences:
    """What the model says of all pairs, and what that took."""

    choices: tuple[Choice, ...]
    costs: Ledger

    @property
    def summed(self) -> Accuracy:
        """Decided by the log-probabilities of whole answers."""
        return _accuracy(self.choices, [choice.summed for choice in self.choices])

    @property
    def normalised(self) -> Accuracy:
        """Decided by log-probabilities per token."""
        return _accuracy(self.choices, [choice.normalised for choice in self.choices])

    @classmethod
    def joined(cls, parts: Sequence[Preferences]) -> Preferences:
        """What several models say of the same pairs, as one; their costs are elsewhere."""
        return cls(tuple(choice for part in parts for choice in part.choices), Ledger())

    def by_category(self) -> Mapping[str, Preferences]:
        """The same for each category, in the order of their first pairs; the costs are of all."""
        names = dict.fromkeys(choice.category for choice in self.choices)
        return {
            name: Preferences(tuple(c for c in self.choices if c.category == name), self.costs)
            for name in names
        }


def prefer(
    model: LanguageModel,
    items: Sequence[Item],
    *,
    batch_size: int = 16,
    max_length: int = 0,
    dialogue: bool = True,
    on_batch: OnProgress = ignore,
) -> Preferences:
    """Compare the answers of pairs with the model as it stands.

    Args:
        model: the model, its adapter on or off.
        items: pairs, each with `chosen` and `rejected`.
        batch_size: answers that are read at once.
        max_length: longest request with answer, in tokens; 0: the model's context.
        dialogue: whether prompts are dialogues with marked turns, as those of HHH.
        on_batch: called after each batch with (answers done, of how many); may raise to stop.

    Raises:
        EvaluationError: an item is no pair, or its dialogue cannot be taken apart.
        ModelError: the chat template refuses the turns.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    limit = max_length or context or 2**31
    rows = [_rows(model, item, dialogue, limit) for item in items]
    fits = [i for i, pair in enumerate(rows) if all(_fits(row, limit) for row in pair)]
    read = [row for i in fits for row in rows[i]]
    ledger = Ledger()
    with ledger.measure("evaluation"):
        values = answer_log_probabilities(model, read, batch_size=batch_size, on_batch=on_batch)
    ledger.add("evaluation", _cost(model, read))
    found = {i: (values[2 * k], values[2 * k + 1]) for k, i in enumerate(fits)}
    return Preferences(
        tuple(_choice(item, rows[i], found.get(i)) for i, item in enumerate(items)), ledger
    )


def _rows(model: LanguageModel, item: Item, dialogue: bool, limit: int) -> tuple[Tokens, Tokens]:
    """The request with each answer; one token more than the limit tells that it does not fit."""
    if not (item.chosen and item.rejected):
        raise EvaluationError(f"item {item.number} has no two answers to compare")
    asked = turns(item, dialogue=dialogue)
    earlier = sum(model.chat.train_tokens(asked, limit + 1).mask) if len(asked) > 1 else 0
    one, other = (
        model.chat.train_tokens([*asked, Message("assistant", answer)], limit + 1)
        for answer in (item.chosen, item.rejected)
    )
    return _answer_only(one, earlier), _answer_only(other, earlier)


def _answer_only(row: Tokens, earlier: int) -> Tokens:
    """Only the last turn counts: the first `earlier` marked tokens are the assistant's before."""
    seen = list(itertools.accumulate(row.mask))
    mask = tuple(marked and n > earlier for marked, n in zip(row.mask, seen, strict=True))
    return Tokens(row.ids, mask)


def _fits(row: Tokens, limit: int) -> bool:
    return len(row.ids) <= limit and label_count(row) > 0


def _choice(item: Item, pair: tuple[Tokens, Tokens], values: tuple[float, float] | None) -> Choice:
    if values is None:
        return Choice(item.number, item.category, None, None, 0, 0)
    counts = [label_count(row) for row in pair]
    return Choice(item.number, item.category, *values, *counts)


def _cost(model: LanguageModel, rows: Sequence[Tokens]) -> Cost:
    tokens, labels = token_counts(rows)
    length = tokens / max(1, len(rows))
    operations = generation_operations(model.shape(), tokens - labels, labels, length)
    return Cost(tokens=tokens, operations=operations)


def _accuracy(choices: Sequence[Choice], margins: Sequence[float | None]) -> Accuracy:
    outcomes = [None if margin is None else margin > 0 for margin in margins]
    return Accuracy(rate(outcomes, [choice.number for choice in choices]), margins.count(0.0))
