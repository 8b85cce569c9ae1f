"""The local loop: SFT of the adapter on one client's tokens.

Short on purpose, since it is the hot path: no Python per token, logits only at label tokens, rows
of similar length in one batch. The adapter computes in the base model's number format and has a
float32 master copy. Does not cover data or messages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedrai.model import AdapterState, LanguageModel
from fedrai.model.batching import by_length, collate
from fedrai.model.parts import Part
from fedrai.records import Tokens, TrainingStep, TrainResult
from fedrai.runs.costs import Cost, release_memory, training_operations
from fedrai.training.losses import linear_cross_entropy, token_cross_entropy
from fedrai.training.master_weights import MasterWeights as MasterWeights
from fedrai.training.pair_settings import PairSettings, summed_rates

GROUP = 16  # batches whose rows are sorted by length together


def learning_rates(
    peak: float, *, schedule: str, warmup_steps: int, total_steps: int
) -> Callable[[int], float]:
    """Learning rate by step of the whole run, from 0: linear warm-up, then cosine or constant."""

    def at(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / (warmup_steps + 1)
        if schedule == "constant":
            return peak
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return at


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a client's defence changes in a training; None: nothing.

    Attributes:
        before_step: called with the weights and the learning rate of the next step.
        backward: takes the place of `backward`.
        on_gradient: called with the weights when their gradients are complete, before the step.
        spent: cost of what the defence does besides the steps, when the training is done.
    """

    before_step: Callable[[MasterWeights, float], None] | None = None
    backward: Callable[[Sequence[Tokens]], float] | None = None
    on_gradient: Callable[[MasterWeights], None] | None = None
    spent: Callable[[], Cost] | None = None


class LocalDefence(Protocol):
    """A defence in the training of clients."""

    def begin(
        self, model: LanguageModel, rows: Sequence[Tokens], settings: SftSettings, seed: int
    ) -> Hooks:
        """Prepare one training; the model's adapter is the same afterwards."""


@dataclass(frozen=True, slots=True)
class SftSettings:
    """Settings of a local training.

    Attributes:
        steps: optimiser steps.
        batch_size: rows of a step.
        learning_rate: learning rate by step of the whole run.
        first_step: the whole run's step at which this training begins.
        micro_batch_size: rows that go through the model at once; 0: all of the batch.
        group_by_length: fill batches with rows of similar length; else they are random.
        weight_decay: decoupled, as in AdamW.
        clip_norm: largest norm of the gradient.
        proximal_mu: FedProx's mu: adds mu * (w - w_start) to the gradient (arXiv 1812.06127).
        correction: SCAFFOLD's, by weight: every step also goes -learning rate * correction.
        defence: changes the training; None: nothing does.
        frozen: LoRA's factor that is not trained, "A" or "B"; empty: both are.
        rank: the first ranks are trained, and the others stay as they are; 0: all.
        pairs: how pairs are trained on afterwards, by `local.train`; None: there are none.
    """

    steps: int
    batch_size: int
    learning_rate: Callable[[int], float]
    first_step: int = 0
    micro_batch_size: int = 0
    group_by_length: bool = True
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    proximal_mu: float = 0.0
    correction: AdapterState | None = None
    defence: LocalDefence | None = None
    frozen: str = ""
    rank: int = 0
    pairs: PairSettings | None = None

    @property
    def part(self) -> Part:
        """What of the adapter is trained."""
        return Part(self.frozen, self.rank)

    @property
    def rate_sum(self) -> float:
        """The learning rates of all steps, summed; of very many steps every k-th counts k times."""
        own = summed_rates(self.learning_rate, self.first_step, self.steps)
        return own + self.pairs.rate_sum if self.pairs else own


def train(
    model: LanguageModel,
    start: AdapterState,
    rows: Sequence[Tokens],
    settings: SftSettings,
    *,
    seed: int,
    on_step: Callable[[TrainingStep], None] = lambda _: None,
) -> tuple[AdapterState, TrainResult]:
    """Train the adapter for some steps of AdamW.

    Args:
        model: the shared base model; its adapter is the same afterwards.
        start: the global adapter that training starts from, float32.
        rows: the client's tokenized rows, each with a label token.
        settings: steps, sizes and rates.
        seed: decides the order of rows and the dropout.
        on_step: called after every step; may raise KeyboardInterrupt to stop.

    Returns:
        The trained adapter (float32, CPU) and the figures of the training.
    """
    steps, batch_size, mu = settings.steps, settings.batch_size, settings.proximal_mu
    group = GROUP if settings.group_by_length else 1
    losses: list[float] = []
    tokens = labels = 0
    start_time = time.perf_counter()
    hooks = settings.defence.begin(model, rows, settings, seed) if settings.defence else Hooks()
    part = settings.part
    still = [name for name in model.parameters if not part.trains(name)]
    with model.using(start), model.mode(training=True), model.frozen(still):
        master = MasterWeights(model, start, weight_decay=settings.weight_decay, part=part)
        anchor = [copy.clone() for copy in master.copies] if mu else []
        correction = master.in_order(settings.correction)
        torch.manual_seed(seed)
        for number, batch in enumerate(batches(rows, batch_size, steps, seed, group)):
            step_time = time.perf_counter()
            rate = settings.learning_rate(settings.first_step + number)
            if hooks.before_step:
                hooks.before_step(master, rate)
            if hooks.backward:
                losses.append(hooks.backward(batch))
            else:
                losses.append(backward(model, batch, settings.micro_batch_size or batch_size))
            master.collect()
            if mu:
                add_proximal_gradient(master.copies, anchor, mu)
            if hooks.on_gradient:
                hooks.on_gradient(master)
            master.step(rate, settings.clip_norm, correction)
            counts = token_counts(batch)
            tokens, labels = tokens + counts[0], labels + counts[1]
            seconds = time.perf_counter() - step_time
            on_step(TrainingStep(number + 1, steps, losses[-1], counts[0], seconds))
    seconds = time.perf_counter() - start_time
    length = tokens / max(1, steps * batch_size)
    operations = training_operations(model.shape(), tokens, labels, length)
    if hooks.spent:
        extra = hooks.spent()
        tokens, operations = tokens + extra.tokens, operations + extra.operations
    release_memory()
    return master.adapter(), TrainResult(tuple(losses), tokens, labels, operations, seconds)


def batches(
    rows: Sequence[Tokens], size: int, steps: int, seed: int, group: int = GROUP
) -> Iterator[list[Tokens]]:
    """`steps` batches of rows of similar length, in the order of `batch_numbers`."""
    lengths = [len(row.ids) for row in rows]
    for batch in batch_numbers(lengths, size, steps, seed, group):
        yield [rows[i] for i in batch]


def batch_numbers(
    lengths: Sequence[int], size: int, steps: int, seed: int, group: int = GROUP
) -> Iterator[list[int]]:
    """Numbers of the rows of `steps` batches, from shuffled passes over rows of these lengths.

    Each pass is shuffled, sorted by length within groups of `group` batches (1: random batches,
    each sorted), cut into batches, and the batches are shuffled. Rows that do not fill a batch go
    into the next pass.
    """
    if not lengths:
        raise ValueError("no rows to train on")
    generator = torch.Generator().manual_seed(seed)
    queue: list[list[int]] = []
    waiting: list[int] = []
    for _ in range(steps):
        while not queue:
            waiting += torch.randperm(len(lengths), generator=generator).tolist()
            queue, waiting = _group_batches(lengths, waiting, size, group, generator)
        yield queue.pop()


def _group_batches(
    lengths: Sequence[int], order: list[int], size: int, group: int, generator: torch.Generator
) -> tuple[list[list[int]], list[int]]:
    whole = len(order) - len(order) % size
    grouped = [
        sorted(order[start : min(start + group * size, whole)], key=lambda i: (lengths[i], i))
        for start in range(0, whole, group * size)
    ]
    parts = [part[k : k + size] for part in grouped for k in range(0, len(part), size)]
    shuffled = [parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()]
    return shuffled, order[whole:]


def label_count(row: Tokens) -> int:
    """Number of label tokens, which count in the loss: those that are marked, except the first."""
    return sum(row.mask[1:])


def token_counts(rows: Iterable[Tokens]) -> tuple[int, int]:
    """Numbers of tokens and of label tokens in rows."""
    counts = [(len(row.ids), label_count(row)) for row in rows]
    return sum(tokens for tokens, _ in counts), sum(labels for _, labels in counts)


def backward(model: LanguageModel, batch: Sequence[Tokens], size: int) -> float:
    """Backward through a batch in micro-batches; returns the mean loss per label token, in nats."""
    labels = token_counts(batch)[1]
    total = 0.0
    for start in range(0, len(batch), size):
        loss = summed_loss(model, batch[start : start + size])
        (loss / labels).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total / labels


def summed_loss(model: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
    """Cross-entropy summed over the label tokens of some rows, in nats; differentiable."""
    return label_loss(model, *label_states(model, rows))


def label_loss(model: LanguageModel, states: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy of the states and ids of `label_states`, in nats."""
    if model.fused:
        return linear_cross_entropy(states, model.output_weight, targets, model.softcap)
    return torch.nn.functional.cross_entropy(states.float(), targets, reduction="sum")


def token_losses(model: LanguageModel, states: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each of the states and ids of `label_states`, (N,) in nats."""
    if model.fused:
        return token_cross_entropy(states, model.output_weight, targets, model.softcap)
    return torch.nn.functional.cross_entropy(states.float(), targets, reduction="none")


def label_states(model: LanguageModel, rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """States that predict the label tokens of some rows, and the ids of these (N,), row after row.

    The states are the last hidden states (N, D), or logits (N, V) if the model is not `fused`.
    """
    ids, mask, labels = collate(rows, model.pad_id, model.device)
    forward = model.hidden if model.fused else model.logits
    return forward(ids, mask)[:, :-1][labels[:, 1:]], ids[:, 1:][labels[:, 1:]]


def add_proximal_gradient(master: Sequence[Tensor], anchor: Sequence[Tensor], mu: float) -> None:
    """Add mu * (w - w_start), the gradient of FedProx's proximal term."""
    for weight, origin in zip(master, anchor, strict=True):
        if weight.grad is not None:
            weight.grad.add_(weight.detach() - origin, alpha=mu)


@torch.no_grad()
def held_out_loss(
    model: LanguageModel,
    rows: Sequence[Tokens],
    batch_size: int,
    on_batch: Callable[[int, int], None] = lambda _done, _of: None,
) -> tuple[float, int]:
    """Mean cross-entropy per label token over rows, in nats, and the number of label tokens.

    Args:
        model: the model, with the adapter that is in it.
        rows: tokenized rows.
        batch_size: rows of a batch.
        on_batch: called after each batch with the numbers of rows done and of all rows; may raise
            to stop.
    """
    total, done = 0.0, 0
    with model.mode(training=False):
        for part in by_length(range(len(rows)), lambda i: len(rows[i].ids), most=batch_size):
            total += summed_loss(model, [rows[i] for i in part]).item()
            done += len(part)
            on_batch(done, len(rows))
    labels = token_counts(rows)[1]
    return total / labels, labels
