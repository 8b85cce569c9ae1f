"""The local loop: SFT of the adapter on one client's tokens.

Short on purpose, since it is the hot path: no work per token outside torch, logits only where there
is a label, rows of like length together, and the adapter's float32 master copy beside weights that
compute in the base model's format. Covers neither data nor messages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fedrai.costs import release_memory, training_operations
from fedrai.losses import linear_cross_entropy
from fedrai.model import AdapterState, LanguageModel
from fedrai.records import Step, Tokens, TrainResult

PAD_TO = 16
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


def train(
    model: LanguageModel,
    start: AdapterState,
    rows: Sequence[Tokens],
    *,
    steps: int,
    batch_size: int,
    micro_batch_size: int = 0,
    group_by_length: bool = True,
    learning_rate: Callable[[int], float],
    first_step: int = 0,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    proximal_mu: float = 0.0,
    seed: int,
    on_step: Callable[[Step], None] = lambda _: None,
) -> tuple[AdapterState, TrainResult]:
    """Train the adapter for some steps of AdamW.

    Args:
        model: the shared base model; its adapter is overwritten.
        start: the global adapter that training starts from, float32.
        rows: the client's tokenized rows; rows without a label token are not allowed.
        steps: optimiser steps.
        batch_size: rows of a step.
        micro_batch_size: rows that go through the model at once; 0: all of the batch.
        group_by_length: fill batches with rows of like length; else they are random.
        learning_rate: by step of the whole run.
        first_step: the whole run's step at which this training begins.
        weight_decay: decoupled, as in AdamW.
        clip_norm: largest norm of the gradient.
        proximal_mu: FedProx's mu: adds mu * (w - w_start) to the gradient (arXiv 1812.06127).
        seed: decides the order of rows and the dropout.
        on_step: called after every step; may raise KeyboardInterrupt to stop.

    Returns:
        The trained adapter (float32, CPU) and the numbers of the training.
    """
    model.load_adapter(start)
    weights = list(model.parameters.values())
    master = [w.detach().float().clone() for w in weights]
    with torch.no_grad():
        for copy, name in zip(master, model.parameters, strict=True):
            copy.copy_(start[name])
    anchor = [m.clone() for m in master] if proximal_mu else []
    optimiser = torch.optim.AdamW(master, lr=learning_rate(first_step), weight_decay=weight_decay)
    torch.manual_seed(seed)
    losses: list[float] = []
    tokens = labels = 0
    group = GROUP if group_by_length else 1
    began = time.perf_counter()
    with model.mode(training=True):
        for number, batch in enumerate(batches(rows, batch_size, steps, seed, group)):
            since = time.perf_counter()
            optimiser.param_groups[0]["lr"] = learning_rate(first_step + number)
            loss = _accumulate(model, batch, micro_batch_size or batch_size)
            _collect(weights, master)
            if proximal_mu:
                _pull(master, anchor, proximal_mu)
            torch.nn.utils.clip_grad_norm_(master, clip_norm)
            optimiser.step()
            with torch.no_grad():
                torch._foreach_copy_(weights, master)
            losses.append(loss)
            count = sum(len(row.ids) for row in batch)
            tokens += count
            labels += sum(label_count(row) for row in batch)
            on_step(Step(number + 1, steps, loss, count, time.perf_counter() - since))
    seconds = time.perf_counter() - began
    operations = training_operations(
        model.shape(), tokens, labels, tokens / max(1, steps * batch_size)
    )
    release_memory()
    state = {name: m.detach().cpu() for name, m in zip(model.parameters, master, strict=True)}
    return state, TrainResult(tuple(losses), tokens, labels, operations, seconds)


def batches(
    rows: Sequence[Tokens], size: int, steps: int, seed: int, group: int = GROUP
) -> Iterator[list[Tokens]]:
    """`steps` batches of rows of like length, from shuffled passes over the rows.

    Each pass is shuffled, sorted by length within groups of `group` batches (1: random batches,
    each sorted), cut into batches, and the batches are shuffled; what does not fill a batch waits
    for the next pass.
    """
    if not rows:
        raise ValueError("there are no rows to train on")
    generator = torch.Generator().manual_seed(seed)
    queue: list[list[int]] = []
    waiting: list[int] = []
    for _ in range(steps):
        while not queue:
            waiting += torch.randperm(len(rows), generator=generator).tolist()
            queue, waiting = _grouped(rows, waiting, size, group, generator)
        yield [rows[i] for i in queue.pop()]


def _grouped(
    rows: Sequence[Tokens], order: list[int], size: int, group: int, generator: torch.Generator
) -> tuple[list[list[int]], list[int]]:
    whole = len(order) - len(order) % size
    grouped = [
        sorted(order[start : min(start + group * size, whole)], key=lambda i: (len(rows[i].ids), i))
        for start in range(0, whole, group * size)
    ]
    cut = [part[k : k + size] for part in grouped for k in range(0, len(part), size)]
    shuffled = [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]
    return shuffled, order[whole:]


def padded(length: int) -> int:
    """The next multiple of `PAD_TO`."""
    return -(-length // PAD_TO) * PAD_TO


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
    ids, mask, wanted = collate(rows, model.pad_id, model.device)
    targets = ids[:, 1:][wanted[:, 1:]]
    if model.fused:
        hidden = model.hidden(ids, mask)[:, :-1][wanted[:, 1:]]  # (N, D)
        return linear_cross_entropy(hidden, model.output_weight, targets, model.softcap)
    logits = model.logits(ids, mask)[:, :-1][wanted[:, 1:]]  # (N, V)
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


def collate(
    rows: Sequence[Tokens], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Pad rows on the right: ids, attention mask and label mask, each (B, T), T a multiple of 16.

    CPU kernels keep a compiled copy for every shape they meet; few shapes keep memory from growing.
    """
    length = padded(max(len(row.ids) for row in rows))
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    wanted = torch.zeros((len(rows), length), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
        wanted[i, : len(row.ids)] = torch.tensor(row.mask)
    return ids.to(device), mask.to(device), wanted.to(device)


def _collect(weights: Sequence[Tensor], master: Sequence[Tensor]) -> None:
    for weight, copy in zip(weights, master, strict=True):
        copy.grad = None if weight.grad is None else weight.grad.float()
        weight.grad = None


def _pull(master: Sequence[Tensor], anchor: Sequence[Tensor], mu: float) -> None:
    for weight, origin in zip(master, anchor, strict=True):
        if weight.grad is not None:
            weight.grad.add_(weight.detach() - origin, alpha=mu)


@torch.no_grad()
def held_out_loss(
    model: LanguageModel, rows: Sequence[Tokens], batch_size: int
) -> tuple[float, int]:
    """Mean cross-entropy per label token over rows, in nats, and how many tokens that were."""
    total, labels = 0.0, 0
    ordered = sorted(rows, key=lambda row: len(row.ids))
    with model.mode(training=False):
        for start in range(0, len(ordered), batch_size):
            part = ordered[start : start + batch_size]
            total += summed_loss(model, part).item()
            labels += sum(label_count(row) for row in part)
    return total / labels, labels
