"""Reading a model: log-probabilities of answers, and what the start of an alignment says.

Hidden states before label tokens are kept for the KL divergence only: N label tokens take N x D
numbers in the model's format, on the CPU (100,000 tokens of SmolLM2-135M in bfloat16: 115 MB).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrai.errors import ModelError
from fedrai.model import LanguageModel
from fedrai.model.batching import cut, padded_length
from fedrai.recipe.alignment import Goal
from fedrai.records import Tokens
from fedrai.runs.costs import Shape, generation_operations
from fedrai.training.losses import sum_by_row, token_cross_entropy
from fedrai.training.prefer.records import PreferencePair
from fedrai.training.sft import label_count, label_states

AT_ONCE = 8  # rows that the reference reads at once when tokens have no limit

Batch = tuple[Sequence[int], Sequence[int]]
"""Numbers of the rows and of the pairs of a step."""


@dataclass(frozen=True, slots=True)
class AlignmentData:
    """What an alignment works on; see `align`."""

    model: LanguageModel
    rows: Sequence[Tokens]
    pairs: Sequence[PreferencePair]
    objective: Goal
    micro_batch_tokens: int
    shape: Shape

    def row_parts(self, numbers: Sequence[int], most: int = 0) -> Iterator[list[int]]:
        """Cut rows, given by number, into what goes through the model at once."""
        return self._parts(numbers, lambda i: padded_length(len(self.rows[i].ids)), most)

    def pair_parts(self, numbers: Sequence[int], most: int = 0) -> Iterator[list[int]]:
        """The same of pairs, whose answers go through together."""
        return self._parts(numbers, lambda i: 2 * width(self.pairs[i]), most)

    def _parts(
        self, numbers: Sequence[int], size: Callable[[int], int], most: int
    ) -> Iterator[list[int]]:
        return cut(sorted(numbers, key=size), size, self.micro_batch_tokens, most=most)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the start says of all rows and pairs that are drawn, on the CPU.

    Attributes:
        answers: log-probabilities of chosen and rejected answers, (P, 2) in nats, float32; not a
            number where a pair is never drawn.
        rows: hidden states (N, D) before the label tokens of rows, by number; empty without KL.
        chosen: the same of chosen answers.
        tokens: that went through the model.
        label_tokens: those whose probability or hidden state was read.
        operations: floating-point operations.
        seconds: wall time.
    """

    answers: Tensor
    rows: Mapping[int, Tensor]
    chosen: Mapping[int, Tensor]
    tokens: int
    label_tokens: int
    operations: float
    seconds: float


def log_probabilities(model: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
    """Log-probability of all label tokens of each row together, (B,) in nats; differentiable."""
    return read_log_probabilities(model, rows)[0]


def read_log_probabilities(model: LanguageModel, rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of rows (B,), and the states that `label_states` gives."""
    states, targets = label_states(model, rows)
    if model.fused:
        losses = token_cross_entropy(states, model.output_weight, targets, model.softcap)
    else:
        losses = torch.nn.functional.cross_entropy(states.float(), targets, reduction="none")
    return -sum_by_row(losses, [label_count(row) for row in rows]), states


def sides(pairs: Sequence[PreferencePair]) -> list[Tokens]:
    """All chosen answers, then all rejected ones."""
    return [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]


def width(pair: PreferencePair) -> int:
    """Tokens of a pair's longer side, with padding."""
    return padded_length(max(len(pair.chosen.ids), len(pair.rejected.ids)))


@contextmanager
def without_dropout(model: LanguageModel) -> Iterator[None]:
    """Train without dropout, within the block: with it, ratios to a reference would be noise.

    Only layers that are computed twice to save memory know that they train.
    """
    with model.mode(training=True):
        for module in model.peft.modules():
            module.training = bool(getattr(module, "gradient_checkpointing", False))
        yield


@torch.no_grad()
def read_reference(work: AlignmentData, plan: Sequence[Batch]) -> Reference:
    """Read what the plan draws, each row and pair once, with the adapter that is in the model.

    Raises:
        ModelError: KL divergence is asked of a model whose output layer does more than one product.
    """
    if work.objective.kl and not work.model.fused:
        raise ModelError(
            f"{work.model.name}: its output layer is not a plain product, so that the KL divergence"
            " to the start cannot be had from hidden states",
            hint="set the weight of the KL divergence to 0",
        )
    since = time.perf_counter()
    rows = sorted({i for batch in plan for i in batch[0]}) if work.objective.kl else []
    pairs = sorted({i for batch in plan for i in batch[1]})
    with without_dropout(work.model):
        anchors = _read_rows(work, rows)
        answers, chosen = _read_pairs(work, pairs)
    through = [work.rows[i] for i in rows] + sides([work.pairs[i] for i in pairs])
    tokens, labels = sum(len(row.ids) for row in through), sum(map(label_count, through))
    operations = generation_operations(
        work.shape, tokens - labels, labels, tokens / max(1, len(through))
    )
    seconds = time.perf_counter() - since
    return Reference(answers, anchors, chosen, tokens, labels, operations, seconds)


def _read_rows(work: AlignmentData, numbers: Sequence[int]) -> dict[int, Tensor]:
    kept: dict[int, Tensor] = {}
    for part in work.row_parts(numbers, AT_ONCE):
        rows = [work.rows[i] for i in part]
        kept |= zip(part, _by_row(label_states(work.model, rows)[0], rows), strict=True)
    return kept


def _read_pairs(work: AlignmentData, numbers: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
    answers = torch.full((len(work.pairs), 2), torch.nan)
    kept: dict[int, Tensor] = {}
    for part in work.pair_parts(numbers, AT_ONCE // 2):
        pairs = [work.pairs[i] for i in part]
        values, states = read_log_probabilities(work.model, sides(pairs))
        answers[part] = values.cpu().view(2, len(part)).T
        if work.objective.kl:
            chosen = [pair.chosen for pair in pairs]
            kept |= zip(part, _by_row(states, chosen), strict=True)
    return answers, kept


def _by_row(states: Tensor, rows: Sequence[Tokens]) -> list[Tensor]:
    """Copies of the states of rows, the first that are in a tensor, on the CPU."""
    counts = [label_count(row) for row in rows]
    parts = torch.split(states[: sum(counts)].cpu(), counts)
    return [part.clone() for part in parts]
