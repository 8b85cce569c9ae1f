"""The local loop: SFT of the adapter on one client's tokens.

Short on purpose, since it is the hot path: no work per token outside torch, logits only where there
is a label, rows of like length together, and the adapter's float32 master copy beside weights that
compute in the base model's format. Covers neither data nor messages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrai.model import AdapterState, LanguageModel
from fedrai.model.adapted import AdaptedModel
from fedrai.model.batching import collate
from fedrai.records import Tokens, TrainingStep, TrainResult
from fedrai.runs.costs import release_memory, training_operations
from fedrai.training.losses import linear_cross_entropy

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


class MasterWeights:
    """Float32 copies of an adapter's weights, which AdamW moves, beside those that compute.

    Args:
        model: its adapter is overwritten, now and at every step.
        start: the adapter to start from, float32.
        weight_decay: decoupled, as in AdamW.
        beside: float32 weights that learn with the adapter, such as a head's.
    """

    def __init__(
        self,
        model: AdaptedModel,
        start: AdapterState,
        *,
        weight_decay: float = 0.0,
        beside: Iterable[torch.nn.Parameter] = (),
    ) -> None:
        model.load_adapter(start)
        self._names = list(model.parameters)
        self._weights = list(model.parameters.values())
        for weight in self._weights:
            weight.grad = None  # of a training that broke off
        self.copies = [w.detach().float().clone() for w in self._weights]
        with torch.no_grad():
            for copy, name in zip(self.copies, self._names, strict=True):
                copy.copy_(start[name])
        self._trained = [*self.copies, *beside]
        self._optimiser = torch.optim.AdamW(self._trained, weight_decay=weight_decay)

    def collect(self) -> None:
        """Take the gradients of the weights that compute, which are left without."""
        for weight, copy in zip(self._weights, self.copies, strict=True):
            copy.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None

    def step(self, learning_rate: float, clip_norm: float) -> None:
        """One step of AdamW along the gradients, after they are cut to a norm."""
        self._optimiser.param_groups[0]["lr"] = learning_rate
        torch.nn.utils.clip_grad_norm_(self._trained, clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self.put()

    @torch.no_grad()
    def put(self) -> None:
        """Copy the master weights into the model."""
        torch._foreach_copy_(self._weights, self.copies)

    def adapter(self) -> AdapterState:
        """The adapter as it is now; float32, CPU, still part of this."""
        return {n: c.detach().cpu() for n, c in zip(self._names, self.copies, strict=True)}

    def state(self) -> dict[str, Tensor]:
        """Copies of weights, moments and counts by name, on the CPU; enough to go on the same."""
        parts = {}
        for name, copy in zip(self._names, self.copies, strict=True):
            kept = self._optimiser.state.get(copy) or _unmoved(copy)
            parts[f"weight.{name}"] = copy.detach()
            parts |= {f"{key}.{name}": value for key, value in kept.items()}
        return {name: part.cpu().clone() for name, part in parts.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` gave.

        Raises:
            KeyError: a part is missing.
        """
        for name, copy in zip(self._names, self.copies, strict=True):
            copy.copy_(state[f"weight.{name}"])
            self._optimiser.state[copy] = {
                key: state[f"{key}.{name}"].to(like.device, copy=True)
                for key, like in _unmoved(copy).items()
            }
        self.put()


def _unmoved(weight: Tensor) -> dict[str, Tensor]:
    """What AdamW keeps of a weight before its first step, by its own names."""
    zeros = torch.zeros_like(weight)
    return {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}


@dataclass(frozen=True, slots=True)
class SftSettings:
    """How a local training goes.

    Attributes:
        steps: optimiser steps.
        batch_size: rows of a step.
        learning_rate: by step of the whole run.
        first_step: the whole run's step at which this training begins.
        micro_batch_size: rows that go through the model at once; 0: all of the batch.
        group_by_length: fill batches with rows of like length; else they are random.
        weight_decay: decoupled, as in AdamW.
        clip_norm: largest norm of the gradient.
        proximal_mu: FedProx's mu: adds mu * (w - w_start) to the gradient (arXiv 1812.06127).
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
        model: the shared base model; it gets the adapter that it had back.
        start: the global adapter that training starts from, float32.
        rows: the client's tokenized rows; rows without a label token are not allowed.
        settings: steps, sizes and rates.
        seed: decides the order of rows and the dropout.
        on_step: called after every step; may raise KeyboardInterrupt to stop.

    Returns:
        The trained adapter (float32, CPU) and the numbers of the training.
    """
    steps, batch_size, mu = settings.steps, settings.batch_size, settings.proximal_mu
    with model.using(start):
        master = MasterWeights(model, start, weight_decay=settings.weight_decay)
        anchor = [copy.clone() for copy in master.copies] if mu else []
        torch.manual_seed(seed)
        losses: list[float] = []
        tokens = labels = 0
        group = GROUP if settings.group_by_length else 1
        began = time.perf_counter()
        with model.mode(training=True):
            for number, batch in enumerate(batches(rows, batch_size, steps, seed, group)):
                since = time.perf_counter()
                loss = _accumulate(model, batch, settings.micro_batch_size or batch_size)
                master.collect()
                if mu:
                    _pull(master.copies, anchor, mu)
                master.step(
                    settings.learning_rate(settings.first_step + number), settings.clip_norm
                )
                losses.append(loss)
                count = sum(len(row.ids) for row in batch)
                tokens += count
                labels += sum(label_count(row) for row in batch)
                on_step(TrainingStep(number + 1, steps, loss, count, time.perf_counter() - since))
    seconds = time.perf_counter() - began
    operations = training_operations(
        model.shape(), tokens, labels, tokens / max(1, steps * batch_size)
    )
    release_memory()
    return master.adapter(), TrainResult(tuple(losses), tokens, labels, operations, seconds)


def batches(
    rows: Sequence[Tokens], size: int, steps: int, seed: int, group: int = GROUP
) -> Iterator[list[Tokens]]:
    """`steps` batches of rows of like length, in the order of `batch_numbers`."""
    lengths = [len(row.ids) for row in rows]
    for batch in batch_numbers(lengths, size, steps, seed, group):
        yield [rows[i] for i in batch]


def batch_numbers(
    lengths: Sequence[int], size: int, steps: int, seed: int, group: int = GROUP
) -> Iterator[list[int]]:
    """Numbers of the rows of `steps` batches, from shuffled passes over rows of these lengths.

    Each pass is shuffled, sorted by length within groups of `group` batches (1: random batches,
    each sorted), cut into batches, and the batches are shuffled; what does not fill a batch waits
    for the next pass.
    """
    if not lengths:
        raise ValueError("there are no rows to train on")
    generator = torch.Generator().manual_seed(seed)
    queue: list[list[int]] = []
    waiting: list[int] = []
    for _ in range(steps):
        while not queue:
            waiting += torch.randperm(len(lengths), generator=generator).tolist()
            queue, waiting = _grouped(lengths, waiting, size, group, generator)
        yield queue.pop()


def _grouped(
    lengths: Sequence[int], order: list[int], size: int, group: int, generator: torch.Generator
) -> tuple[list[list[int]], list[int]]:
    whole = len(order) - len(order) % size
    grouped = [
        sorted(order[start : min(start + group * size, whole)], key=lambda i: (lengths[i], i))
        for start in range(0, whole, group * size)
    ]
    cut = [part[k : k + size] for part in grouped for k in range(0, len(part), size)]
    shuffled = [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]
    return shuffled, order[whole:]


def label_count(row: Tokens) -> int:
    """Tokens that count in the loss: marked ones after the first, which nothing precedes."""
    return sum(row.mask[1:])


def _accumulate(model: LanguageModel, batch: Sequence[Tokens], size: int) -> float:
    """Backward through a batch in micro-batches; returns the mean loss per label token, in nats."""
    labels = sum(label_count(row) for row in batch)
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
    """Summed cross-entropy of what `label_states` gives, in nats."""
    if model.fused:
        return linear_cross_entropy(states, model.output_weight, targets, model.softcap)
    return torch.nn.functional.cross_entropy(states.float(), targets, reduction="sum")


def label_states(model: LanguageModel, rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """What the label tokens of some rows are read from, and their ids (N,), row after row.

    The first is the last hidden states (N, D), or logits (N, V) if the model is not `fused`.
    """
    ids, mask, wanted = collate(rows, model.pad_id, model.device)
    forward = model.hidden if model.fused else model.logits
    return forward(ids, mask)[:, :-1][wanted[:, 1:]], ids[:, 1:][wanted[:, 1:]]


def _pull(master: Sequence[Tensor], anchor: Sequence[Tensor], mu: float) -> None:
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
    """Mean cross-entropy per label token over rows, in nats, and how many tokens that were.

    Args:
        model: the model as it stands.
        rows: tokenized rows.
        batch_size: rows that are read at once.
        on_batch: called after each batch with (rows done, of how many); may raise to stop.
    """
    total, labels = 0.0, 0
    ordered = sorted(rows, key=lambda row: len(row.ids))
    with model.mode(training=False):
        for start in range(0, len(ordered), batch_size):
            part = ordered[start : start + batch_size]
            total += summed_loss(model, part).item()
            labels += sum(label_count(row) for row in part)
            on_batch(start + len(part), len(ordered))
    return total / labels, labels
