"""The likelihood of texts under a model, by forward passes alone, with the adapter that is in it.

`answer_log_probabilities` and `answer_likelihoods` read whole answers. `opening_likelihoods` reads
the first words of many answers to one prompt: the prompt goes through the model once, and its keys
and values serve all of them. `pair_fit` counts the pairs whose rejected answer is still one that
the model could give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedrai.errors import DataError
from fedrai.model import LanguageModel
from fedrai.model.batching import by_length, cut, pad, padded_length
from fedrai.records import Tokens
from fedrai.runs.costs import generation_operations, release_memory
from fedrai.training.prefer import PreferencePair, log_probabilities
from fedrai.training.prefer.records import check
from fedrai.training.sft import label_count, token_counts

FITTING_FLOOR = -1.5
"""Nats: the least mean log-probability per token of an answer that counts as the model's own."""


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Likelihoods of some rows, and the cost of reading them.

    Attributes:
        values: mean log-probability per label token of each row, in nats.
        tokens: tokens that went through the model, without padding.
        operations: floating-point operations, counted from shapes.
    """

    values: tuple[float, ...]
    tokens: int
    operations: float


@dataclass(frozen=True, slots=True)
class PairFit:
    """Number of pairs that still fit a model.

    Attributes:
        fitting: pairs whose rejected answer the model could still give.
        of: all pairs.
        tokens: tokens that went through the model, without padding.
        operations: floating-point operations, counted from shapes.
    """

    fitting: int
    of: int
    tokens: int
    operations: float

    @property
    def share(self) -> float | None:
        """Part of the pairs that fit, 0 to 1; None without pairs."""
        return self.fitting / self.of if self.of else None


def pair_fit(
    model: LanguageModel,
    pairs: Sequence[PreferencePair],
    floor: float = FITTING_FLOOR,
    *,
    batch_tokens: int = 0,
) -> PairFit:
    """Count the pairs whose rejected answer is still likely under the model.

    A greedy answer has a mean log-probability per token near 0 under the model that gave it; it
    falls as the model changes. Meant for `mixture.revision_pairs`: in a pair for a harmless
    request, no model need have given the rejected answer.

    Args:
        model: the model, with the adapter that is in it.
        pairs: pairs whose rejected answers a model gave.
        floor: mean log-probability per token, in nats, from which an answer fits.
        batch_tokens: see `answer_likelihoods`.
    """
    rejected = [pair.rejected for pair in pairs]
    likelihoods = answer_likelihoods(model, rejected, batch_tokens=batch_tokens)
    fitting = sum(value >= floor for value in likelihoods.values)
    return PairFit(fitting, len(pairs), likelihoods.tokens, likelihoods.operations)


def answer_likelihoods(
    model: LanguageModel, rows: Sequence[Tokens], *, batch_tokens: int = 0
) -> Likelihoods:
    """Mean log-probability per label token of whole rows.

    Args:
        model: the model, with the adapter that is in it.
        rows: tokenized conversations.
        batch_tokens: most tokens of a batch, with padding; a longer row goes alone. 0: all rows in
            one batch.

    Raises:
        DataError: a row has no label token.
    """
    check(rows, [])
    sizes = [padded_length(len(row.ids)) for row in rows]
    sums = _sums(model, rows, by_length(range(len(rows)), sizes.__getitem__, batch_tokens))
    values = tuple(total / label_count(row) for total, row in zip(sums, rows, strict=True))
    tokens, labels = token_counts(rows)
    return Likelihoods(values, tokens, _operations(model, rows, tokens, labels))


def answer_log_probabilities(
    model: LanguageModel,
    rows: Sequence[Tokens],
    *,
    batch_size: int,
    on_batch: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[float]:
    """Log-probability of all label tokens of each row together, in nats, in the order of rows.

    Args:
        model: the model, with the adapter that is in it.
        rows: tokenized conversations; each has a label token after its first token.
        batch_size: rows of a batch; rows of similar length share one.
        on_batch: called after each batch with the numbers of rows done and of all rows; may raise
            to stop.
    """
    lengths = [len(row.ids) for row in rows]
    parts = by_length(range(len(rows)), lengths.__getitem__, most=batch_size)
    sums = _sums(model, rows, parts, on_batch)
    release_memory()
    return sums


def _sums(
    model: LanguageModel,
    rows: Sequence[Tokens],
    parts: Iterable[Sequence[int]],
    on_batch: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[float]:
    """Log-probability of all label tokens of each row, read in these batches."""
    sums: dict[int, float] = {}
    with torch.inference_mode(), model.mode(training=False):
        for part in parts:
            values = log_probabilities(model, [rows[i] for i in part]).tolist()
            sums.update(zip(part, values, strict=True))
            on_batch(len(sums), len(rows))
    return [sums[i] for i in range(len(rows))]


def opening_likelihoods(
    model: LanguageModel,
    rows: Sequence[Tokens],
    *,
    batch_tokens: int = 0,
    on_batch: Callable[[int, int], None] = lambda _done, _of: None,
    shares_prefix: bool = False,
) -> Likelihoods:
    """Mean log-probability per label token of short rows, of which many have the same prompt.

    Equal to `answer_likelihoods` up to rounding. Each prompt is read once, and then all answers
    token by token, so the cost is that of the tokens that differ.

    Args:
        model: the model, with the adapter that is in it.
        rows: tokenized conversations that end with their label tokens, without a gap.
        batch_tokens: most tokens of a batch, with padding; the rows of a prompt stay together. 0:
            all rows in one batch.
        on_batch: called after each batch with the numbers of rows done and of all rows; may raise
            to stop.
        shares_prefix: read the tokens with which all prompts of a batch begin, such as a system
            turn, only once: fewer operations, other rounding.

    Raises:
        DataError: a row has no label token, or other tokens after one.
    """
    check(rows, [])
    done = saved = 0
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(_split(row)[0], []).append(number)
    members = list(groups.values())
    sizes = [sum(padded_length(len(rows[i].ids)) for i in group) for group in members]
    values = [0.0] * len(rows)
    with torch.inference_mode(), model.mode(training=False):
        order = sorted(range(len(members)), key=lambda k: sizes[k])
        for part in cut(order, sizes.__getitem__, batch_tokens, padded=False):
            prefix = _prefix(rows, [members[k] for k in part]) if shares_prefix else 0
            _read_groups(model, rows, [members[k] for k in part], values, prefix)
            done += sum(len(members[k]) for k in part)
            saved += prefix * (len(part) - 1)
            on_batch(done, len(rows))
    outputs = len(groups) + sum(label_count(row) - 1 for row in rows)
    tokens = outputs + sum(len(prompt) - 1 for prompt in groups) - saved
    return Likelihoods(tuple(values), tokens, _operations(model, rows, tokens, outputs))


def _split(row: Tokens) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the prompt and of the answer.

    Raises:
        DataError: the answer is not the end of the row.
    """
    start = row.mask.index(True)
    if not start or not all(row.mask[start:]):
        raise DataError("an opening must be a prompt followed by label tokens only")
    return row.ids[:start], row.ids[start:]


def _operations(model: LanguageModel, rows: Sequence[Tokens], tokens: int, outputs: int) -> float:
    """Operations of forward passes of `tokens`, with the output layer at `outputs` of them."""
    length = sum(len(row.ids) for row in rows) / max(1, len(rows))
    return generation_operations(model.shape(), tokens - outputs, outputs, length)


def _prefix(rows: Sequence[Tokens], groups: Sequence[list[int]]) -> int:
    """Number of tokens with which all prompts begin; at least one of each is left."""
    prompts = [_split(rows[group[0]])[0] for group in groups]
    same = (len(set(column)) == 1 for column in zip(*prompts, strict=False))
    shared = next((at for at, is_same in enumerate(same) if not is_same), min(map(len, prompts)))
    return min(shared, min(map(len, prompts)) - 1)


def _read_groups(
    model: LanguageModel,
    rows: Sequence[Tokens],
    groups: Sequence[list[int]],
    values: list[float],
    prefix: int,
) -> None:
    """Write the values of rows into a list; each group has the rows of one prompt.

    The first `prefix` tokens of all prompts are the same, and are read once.
    """
    numbers = [number for group in groups for number in group]
    owners = [k for k, group in enumerate(groups) for _ in group]
    prompts = [_split(rows[group[0]])[0] for group in groups]
    answers = [_split(rows[number])[1] for number in numbers]
    sums = _forced_log_probabilities(model, prompts, owners, answers, prefix).tolist()
    for number, answer, total in zip(numbers, answers, sums, strict=True):
        values[number] = total / len(answer)


def _forced_log_probabilities(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    owners: Sequence[int],
    answers: Sequence[Sequence[int]],
    prefix: int,
) -> Tensor:
    """Log-probability of each answer after the prompt that owns it, (B,) in nats."""
    rest = [prompt[prefix:] for prompt in prompts]
    length = padded_length(max(map(len, rest)))
    ids, mask = (t.to(model.device) for t in pad(rest, model.pad_id, length, left=True))
    cache: Any = None
    if prefix:
        cache = _prefix_cache(model, prompts[0][:prefix], len(prompts))
        mask = torch.cat([mask.new_ones(len(prompts), prefix), mask], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, prefix:]
    logits, cache = model.next_logits(ids, mask, positions, cache)  # (P, V)
    rows = torch.tensor(owners, device=model.device)
    cache.batch_select_indices(rows)
    logits, mask, positions = logits[rows], mask[rows], positions[rows]
    longest = max(map(len, answers))
    targets, real = (t.to(model.device) for t in pad(answers, model.pad_id, longest))  # (B, N)
    total = logits.new_zeros(len(answers), dtype=torch.float32)
    for step in range(targets.shape[1]):
        token = targets[:, step : step + 1]
        chosen = logits.float().log_softmax(-1).gather(1, token)[:, 0]
        total += chosen.where(real[:, step].bool(), 0.0)
        if step + 1 < targets.shape[1]:
            mask = torch.cat([mask, mask.new_ones(len(answers), 1)], 1)
            positions = positions[:, -1:] + 1
            logits, cache = model.next_logits(token, mask, positions, cache)
    return total


def _prefix_cache(model: LanguageModel, prefix: Sequence[int], count: int) -> Any:
    """The keys and values of a prefix, for so many rows."""
    ids = torch.tensor([list(prefix)], device=model.device)
    mask = torch.ones_like(ids)
    _, cache = model.next_logits(ids, mask, mask.cumsum(1) - 1, None)
    cache.batch_select_indices(torch.zeros(count, dtype=torch.long, device=model.device))
    return cache
