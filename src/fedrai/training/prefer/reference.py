"""Log-probabilities of answers, and the values of an alignment's reference.

Hidden states are stored for the KL divergence only: N label tokens take N x D numbers in the
model's format, on the CPU (100,000 tokens of SmolLM2-135M in bfloat16: 115 MB).
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
from fedrai.model.batching import by_length, padded_length
from fedrai.recipe.alignment import Objective
from fedrai.records import PreferencePair, Tokens
from fedrai.runs.costs import generation_operations
from fedrai.training.losses import sum_by_row
from fedrai.training.prefer.records import AlignSettings
from fedrai.training.sft import label_count, label_states, token_counts, token_losses

REFERENCE_BATCH = 8  # rows of a batch of the reference when tokens have no limit

Batch = tuple[Sequence[int], Sequence[int]]
"""Numbers of the rows and of the pairs of a step."""


@dataclass(frozen=True, slots=True)
class AlignmentData:
    """Inputs of an alignment; see `align`."""

    model: LanguageModel
    rows: Sequence[Tokens]
    pairs: Sequence[PreferencePair]
    settings: AlignSettings

    @property
    def objective(self) -> Objective:
        """The weights of the three losses."""
        return self.settings.objective

    def row_parts(self, numbers: Sequence[int], most: int = 0) -> Iterator[list[int]]:
        """Cut rows, given by number, into micro-batches."""
        return self._parts(numbers, lambda i: padded_length(len(self.rows[i].ids)), most)

    def pair_parts(self, numbers: Sequence[int], most: int = 0) -> Iterator[list[int]]:
        """The same for pairs, whose two answers share a micro-batch."""
        most = most or self.settings.micro_batch_pairs
        return self._parts(numbers, lambda i: 2 * width(self.pairs[i]), most)

    def _parts(
        self, numbers: Sequence[int], size: Callable[[int], int], most: int
    ) -> Iterator[list[int]]:
        return by_length(numbers, size, self.settings.micro_batch_tokens, most=most)


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference's values for all rows and pairs that are drawn, on the CPU.

    Attributes:
        answers: log-probabilities of chosen and rejected answers, (P, 2) in nats, float32; NaN for
            a pair that is never drawn.
        rows: hidden states (N, D) before the label tokens of rows, by number; empty without KL.
        chosen: the same for chosen answers.
        tokens: tokens that went through the model.
        label_tokens: tokens whose probability or hidden state was read.
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
    """Log-probabilities of rows (B,), and the states from `label_states`."""
    states, targets = label_states(model, rows)
    losses = token_losses(model, states, targets)
    return -sum_by_row(losses, [label_count(row) for row in rows]), states


def sides(pairs: Sequence[PreferencePair]) -> list[Tokens]:
    """All chosen answers, then all rejected ones."""
    return [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]


def width(pair: PreferencePair) -> int:
    """Tokens of a pair's longer side, with padding."""
    return padded_length(max(len(pair.chosen.ids), len(pair.rejected.ids)))


@contextmanager
def without_dropout(model: LanguageModel) -> Iterator[None]:
    """Training without dropout, within the block: with it, ratios to a reference would be noise.

    Only layers that are computed twice to save memory are in training mode.
    """
    with model.mode(training=True):
        for module in model.peft.modules():
            module.training = bool(getattr(module, "gradient_checkpointing", False))
        yield


@torch.no_grad()
def read_reference(data: AlignmentData, plan: Sequence[Batch]) -> Reference:
    """Read the rows and pairs of the plan, each once, with the adapter that is in the model.

    Raises:
        ModelError: the objective has a KL divergence, and the model's output layer is not a plain
            product.
    """
    if data.objective.kl and not data.model.fused:
        raise ModelError(
            f"{data.model.name}: the output layer is not a plain product, so the KL divergence"
            " cannot be computed from hidden states",
            hint="set the weight of the KL divergence to 0",
        )
    since = time.perf_counter()
    rows = sorted({i for batch in plan for i in batch[0]}) if data.objective.kl else []
    pairs = sorted({i for batch in plan for i in batch[1]})
    with without_dropout(data.model):
        anchors = _read_rows(data, rows)
        answers, chosen = _read_pairs(data, pairs)
    through = [data.rows[i] for i in rows] + sides([data.pairs[i] for i in pairs])
    tokens, labels = token_counts(through)
    operations = generation_operations(
        data.model.shape(), tokens - labels, labels, tokens / max(1, len(through))
    )
    seconds = time.perf_counter() - since
    return Reference(answers, anchors, chosen, tokens, labels, operations, seconds)


def _read_rows(data: AlignmentData, numbers: Sequence[int]) -> dict[int, Tensor]:
    states_by_row: dict[int, Tensor] = {}
    for part in data.row_parts(numbers, REFERENCE_BATCH):
        rows = [data.rows[i] for i in part]
        states_by_row |= zip(part, _by_row(label_states(data.model, rows)[0], rows), strict=True)
    return states_by_row


def _read_pairs(data: AlignmentData, numbers: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
    answers = torch.full((len(data.pairs), 2), torch.nan)
    states_by_row: dict[int, Tensor] = {}
    for part in data.pair_parts(numbers, REFERENCE_BATCH // 2):
        pairs = [data.pairs[i] for i in part]
        values, states = read_log_probabilities(data.model, sides(pairs))
        answers[part] = values.cpu().view(2, len(part)).T
        if data.objective.kl:
            chosen = [pair.chosen for pair in pairs]
            states_by_row |= zip(part, _by_row(states, chosen), strict=True)
    return answers, states_by_row


def _by_row(states: Tensor, rows: Sequence[Tokens]) -> list[Tensor]:
    """Copies of the states of rows, which are the first in the tensor, on the CPU."""
    counts = [label_count(row) for row in rows]
    parts = torch.split(states[: sum(counts)].cpu(), counts)
    return [part.clone() for part in parts]
