"""Which of two answers is likelier to a model: HHH (Askell et al., arXiv 2112.00861).

The log-probability of an answer is that of its tokens and of the token that ends its turn, given
the request in the model's own chat template. A pair is decided by the sums and, separately, by the
means per token (length-normalised), since sums favour short answers. A tie is counted as wrong; a
pair that does not fit the model's context is unscored, never truncated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedrai.errors import EvaluationError
from fedrai.evaluation.suites import Item
from fedrai.evaluation.suites.items import turns
from fedrai.model import LanguageModel
from fedrai.rates import Rate, rate, rate_json
from fedrai.records import Message, OnProgress, PreferencePair, Tokens, ignore
from fedrai.runs.costs import Cost, Ledger, generation_operations
from fedrai.training.likelihood import answer_log_probabilities
from fedrai.training.prefer.tokens import pair_tokens
from fedrai.training.sft import label_count, token_counts


@dataclass(frozen=True, slots=True)
class Choice:
    """The log-probabilities of one pair.

    Attributes:
        number: the item's number.
        category: the item's category.
        chosen: log-probability of the better answer, in nats; None if the pair did not fit.
        rejected: log-probability of the other answer, likewise.
        chosen_tokens: tokens of the better answer, its end token included; 0 if unscored.
        rejected_tokens: tokens of the other answer, likewise.
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
    """How often the better answer is the likelier one; ties are scored as wrong."""

    rate: Rate
    ties: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**rate_json(self.rate), "ties": self.ties}


@dataclass(frozen=True, slots=True)
class Preferences:
    """The choices on all pairs, and their cost."""

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
        """Several models' choices on the same pairs, as one; without their costs."""
        return cls(tuple(choice for part in parts for choice in part.choices), Ledger())

    def by_category(self) -> Mapping[str, Preferences]:
        """The choices of each category, in the order of their first pairs; costs of all pairs."""
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
        batch_size: answers scored at once.
        max_length: longest request with answer, in tokens; 0: the model's context.
        dialogue: whether prompts are dialogues with marked turns, like HHH's.
        on_batch: called after each batch with (answers done, total); may raise to stop.

    Raises:
        EvaluationError: an item is not a pair, or its dialogue is malformed.
        ModelError: the chat template rejects the turns.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    limit = max_length or context or 2**31
    rows = [_rows(model, item, dialogue, limit) for item in items]
    fits = [i for i, pair in enumerate(rows) if all(_fits(row, limit) for row in pair)]
    answers = [row for i in fits for row in rows[i]]
    ledger = Ledger()
    with ledger.measure("evaluation"):
        values = answer_log_probabilities(model, answers, batch_size=batch_size, on_batch=on_batch)
    ledger.add("evaluation", _cost(model, answers))
    by_item = {i: (values[2 * k], values[2 * k + 1]) for k, i in enumerate(fits)}
    return Preferences(
        tuple(_choice(item, rows[i], by_item.get(i)) for i, item in enumerate(items)), ledger
    )


def _rows(model: LanguageModel, item: Item, dialogue: bool, limit: int) -> tuple[Tokens, Tokens]:
    """The request with each answer; a row longer than the limit does not fit."""
    if not (item.chosen and item.rejected):
        raise EvaluationError(f"item {item.number} does not have two answers to compare")
    request = turns(item, dialogue=dialogue)
    one, other = ((*request, Message("assistant", text)) for text in (item.chosen, item.rejected))
    pair = pair_tokens(model.chat, one, other, len(request), limit + 1)
    return pair.chosen, pair.rejected


def compare_pairs(
    model: LanguageModel,
    pairs: Sequence[PreferencePair],
    *,
    batch_size: int = 16,
    on_batch: OnProgress = ignore,
) -> Preferences:
    """Compare the answers of tokenized pairs with the model as it stands, as `prefer` does.

    Args:
        model: the model, its adapter on or off.
        pairs: the pairs; each answer has a label token.
        batch_size: answers scored at once.
        on_batch: called after each batch with (answers done, total); may raise to stop.
    """
    answers = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    ledger = Ledger()
    with ledger.measure("evaluation"):
        values = answer_log_probabilities(model, answers, batch_size=batch_size, on_batch=on_batch)
    ledger.add("evaluation", _cost(model, answers))
    choices = [
        Choice(n, "", one, other, label_count(pair.chosen), label_count(pair.rejected))
        for n, (pair, one, other) in enumerate(zip(pairs, values[::2], values[1::2], strict=True))
    ]
    return Preferences(tuple(choices), ledger)


def against(own: Preferences, base: Preferences) -> Preferences:
    """The choices by log-ratios to another model's, such as the base model's; without costs."""
    pairs = zip(own.choices, base.choices, strict=True)
    return Preferences(tuple(_ratio(one, other) for one, other in pairs), Ledger())


def _ratio(own: Choice, base: Choice) -> Choice:
    values = (own.chosen, own.rejected, base.chosen, base.rejected)
    if any(value is None for value in values):
        return replace(own, chosen=None, rejected=None)
    chosen, rejected, chosen_before, rejected_before = (value or 0.0 for value in values)
    return replace(own, chosen=chosen - chosen_before, rejected=rejected - rejected_before)


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
