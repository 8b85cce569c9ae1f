"""`fedrai guard train`: fine-tune a body with LoRA and a head on labelled rows.

A part of the rows, chosen by the hash of the request, is not trained on: it fits the calibration
(Platt 1999), sets the thresholds and gives the figures that the guard's card states. Weights are
rounded to the format of the file before that, so that a guard's folder says what was measured.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedrai import assets
from fedrai.errors import GuardError
from fedrai.guards.kinds import trained
from fedrai.guards.kinds.framing import ANSWER, Framing, Piece
from fedrai.guards.kinds.trained import Config, TrainedGuard
from fedrai.guards.training.card import card
from fedrai.guards.training.outcome import GuardTrainingOutcome
from fedrai.guards.training.rows import TrainingRow, check, divide, read
from fedrai.guards.training.thresholds import calibrate
from fedrai.guards.windows import TooLongError
from fedrai.model import Backbone, Lora, load_backbone
from fedrai.recipe.sections import GuardTraining, seed_for
from fedrai.records import TrainingStep
from fedrai.training.master_weights import MasterWeights
from fedrai.training.sft import learning_rates

__all__ = ["GuardTrainingOutcome", "TrainingRow", "divide", "read", "train"]

CHATML = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>")
GROUP = 16  # batches whose rows are sorted by length together


@dataclass(frozen=True, slots=True)
class _Fit:
    """What the loop works on; `pieces` are windows of `rows`."""

    settings: GuardTraining
    categories: tuple[str, ...]
    rows: Sequence[TrainingRow]
    pieces: Sequence[Piece]
    backbone: Backbone
    head: torch.nn.Linear


def train(
    settings: GuardTraining,
    rows: Sequence[TrainingRow],
    folder: Path,
    *,
    on_step: Callable[[TrainingStep], None] = lambda _: None,
    on_judged: Callable[[int, int], None] = lambda _d, _o: None,
    progress: assets.Progress | None = None,
) -> GuardTrainingOutcome:
    """Train a guard, calibrate it and write its folder, with its card.

    Args:
        settings: the recipe.
        rows: labelled rows, as returned by `read`.
        folder: where the guard is written, whole or not at all; must be new or empty.
        on_step: called after every step; may raise KeyboardInterrupt to stop.
        on_judged: called with (held-out rows judged, of how many).
        progress: shows downloads.

    Raises:
        GuardError: the rows cannot train or calibrate a guard, or it cannot be written.
        ModelError, AssetError: the base cannot be used.
    """
    _check_free(folder)
    check(settings, rows)
    start = _start(settings, progress)
    backbone = start.backbone if start else _load(settings, progress)
    frame = start.config.frame if start else _frame(settings, backbone)
    framing = Framing(backbone.tokenizer, frame, settings.max_length, settings.opening)
    usable = [row for row in rows if _is_readable(framing, row)]
    if len(usable) < len(rows):
        check(settings, usable)
    trained_on, held_out = divide(usable, settings)
    config = _config(settings, trained_on, frame, start.config.categories if start else None)
    head = start.head if start else trained.new_head(backbone, len(config.categories))
    guard = TrainedGuard(config, backbone, head, "0" * 64)
    pieces = _pieces(settings, framing, trained_on)
    since = time.perf_counter()
    losses = _loop(_Fit(settings, config.categories, trained_on, pieces, backbone, head), on_step)
    seconds = time.perf_counter() - since
    _round(backbone, head)
    config, figures, reached = calibrate(settings, guard, held_out, on_judged)
    with trained.new_folder(folder) as fresh:
        trained.save(fresh, config, backbone.adapter(), head)
        outcome = GuardTrainingOutcome(
            guard=TrainedGuard(config, backbone, head, trained.revision_of(fresh)),
            rows=Counter(row.source for row in trained_on),
            held_out=figures,
            reached=reached,
            unread=len(rows) - len(usable),
            losses=losses,
            seconds=seconds,
        )
        (fresh / "README.md").write_text(card(settings, outcome), encoding="utf-8")
    return outcome


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GuardError(f"{folder} already exists", hint="choose another folder with --out")


def _load(settings: GuardTraining, progress: assets.Progress | None) -> Backbone:
    backbone = load_backbone(
        settings.base,
        Lora(settings.rank, settings.alpha, dropout=settings.dropout),
        layers=settings.layers,
        dtype=settings.dtype,
        device=settings.device,
        progress=progress,
    )
    backbone.load_adapter(backbone.fresh_adapter(seed_for(settings.seed, "guard-adapter")))
    return backbone


def _start(settings: GuardTraining, progress: assets.Progress | None) -> TrainedGuard | None:
    """The guard to continue from, if there is one."""
    if not settings.start:
        return None
    folder = Path(settings.start).expanduser()
    config = trained.read_config(folder)
    for key in ("base", "layers", "rank", "alpha"):
        own, required = getattr(config, key), getattr(settings, key)
        if own != required:
            raise GuardError(f"{folder} has {key} {own}, the recipe {required}", hint=f"set {key}")
    return trained.load(
        folder,
        dropout=settings.dropout,
        dtype=settings.dtype,
        device=settings.device,
        progress=progress,
    )


def _frame(settings: GuardTraining, backbone: Backbone) -> tuple[str, str, str]:
    """The recipe's frame, or the usual one of decoders or encoders."""
    if settings.frame:
        if len(settings.frame) != 3:
            raise GuardError(
                f"frame needs 3 parts, got {len(settings.frame)}",
                hint="before the request, between request and answer, after the answer",
            )
        return settings.frame[0], settings.frame[1], settings.frame[2]
    if backbone.causal:
        return CHATML
    tokenizer = backbone.tokenizer
    if tokenizer.cls_token is None or tokenizer.sep_token is None:
        raise GuardError(
            f"{settings.base} has no tokens for the beginning of a text and between texts",
            hint="set frame to three strings with special tokens of its tokenizer",
        )
    return tokenizer.cls_token, tokenizer.sep_token, tokenizer.sep_token


def _config(
    settings: GuardTraining,
    rows: Sequence[TrainingRow],
    frame: tuple[str, str, str],
    categories: tuple[str, ...] | None,
) -> Config:
    names = tuple(sorted({row.category for row in rows if row.category and row.bad}))
    return Config(
        name=settings.name,
        base=settings.base,
        layers=settings.layers,
        rank=settings.rank,
        alpha=settings.alpha,
        frame=frame,
        max_length=settings.max_length,
        categories=names if categories is None else categories,
        opening=settings.opening,
    )


def _pieces(settings: GuardTraining, framing: Framing, rows: Sequence[TrainingRow]) -> list[Piece]:
    """What is read of each row: its first window; of an answer whose opening is kept, any one."""
    draw = random.Random(seed_for(settings.seed, "guard-windows"))
    found = (framing.pieces(row.conversation) for row in rows)
    return [
        draw.choice(windows) if settings.opening and windows[0].row == ANSWER else windows[0]
        for windows in found
    ]


def _loop(fit: _Fit, on_step: Callable[[TrainingStep], None]) -> list[float]:
    """AdamW on float32 copies of the weights; returns the mean loss of each step."""
    settings, backbone = fit.settings, fit.backbone
    steps = max(1, int(settings.epochs * len(fit.rows) / settings.batch_size))
    rate = learning_rates(
        settings.learning_rate,
        schedule="cosine",
        warmup_steps=settings.warmup_steps,
        total_steps=steps,
    )
    master = MasterWeights(
        backbone,
        backbone.adapter(),
        weight_decay=settings.weight_decay,
        extra_parameters=fit.head.parameters(),
    )
    torch.manual_seed(seed_for(settings.seed, "guard-dropout"))
    losses: list[float] = []
    with backbone.mode(training=True):
        for number, batch in enumerate(_order(fit, steps)):
            since = time.perf_counter()
            loss = _accumulate(fit, batch)
            _check_loss(loss, number + 1, steps)
            losses.append(loss)
            master.collect()
            master.step(rate(number), settings.clip_norm)
            tokens = sum(len(fit.pieces[i].ids) for i in batch)
            on_step(TrainingStep(number + 1, steps, loss, tokens, time.perf_counter() - since))
    return losses


def _check_loss(loss: float, number: int, steps: int) -> None:
    if not math.isfinite(loss):
        raise GuardError(
            f"the loss of step {number} of {steps} is {loss}", hint="lower learning_rate"
        )


def _order(fit: _Fit, steps: int) -> Iterator[list[int]]:
    """Batches of row numbers of like length, from shuffled passes."""
    draw = random.Random(seed_for(fit.settings.seed, "guard-order"))
    size, lengths = fit.settings.batch_size, [len(piece.ids) for piece in fit.pieces]
    queue: list[list[int]] = []
    for _ in range(steps):
        if not queue:
            whole = draw.sample(range(len(lengths)), len(lengths))
            for start in range(0, len(whole), size * GROUP):
                part = sorted(whole[start : start + size * GROUP], key=lambda i: (lengths[i], i))
                queue += [part[k : k + size] for k in range(0, len(part), size)]
            draw.shuffle(queue)
        yield queue.pop()


def _accumulate(fit: _Fit, batch: Sequence[int]) -> float:
    """Backward through a batch in parts of like length; returns its mean loss, in nats."""
    total = 0.0
    for part in trained.token_batches(fit.pieces, batch, fit.settings.micro_batch_tokens):
        out = trained.read(fit.backbone, fit.head, [fit.pieces[i] for i in part])
        loss = _loss(fit, out, [fit.rows[i] for i in part]) / len(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _loss(fit: _Fit, out: Tensor, rows: Sequence[TrainingRow]) -> Tensor:
    """Summed loss of the head's outputs, (B, 2 + C): binary cross-entropy by row, and cross-entropy
    of the category of unsafe rows that have one.
    """
    device, settings = out.device, fit.settings
    odds = out[torch.arange(len(rows)), torch.tensor([row.row for row in rows])]
    targets = odds.new_tensor([row.unsafe for row in rows])
    weight = odds.new_tensor([settings.weights.get(row.source, 1.0) for row in rows])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        odds, targets, weight, reduction="sum"
    )
    named = [i for i, row in enumerate(rows) if row.bad and row.category in fit.categories]
    if named and settings.category_weight:
        kinds = torch.tensor([fit.categories.index(rows[i].category) for i in named], device=device)
        extra = torch.nn.functional.cross_entropy(out[named, 2:], kinds, reduction="none")
        loss = loss + settings.category_weight * (extra * weight[named]).sum()
    return loss


@torch.no_grad()
def _round(backbone: Backbone, head: torch.nn.Linear) -> None:
    """Give the weights the values that a file in bfloat16 holds."""
    for weight in (*backbone.parameters.values(), *head.parameters()):
        weight.copy_(weight.bfloat16())


def _is_readable(framing: Framing, row: TrainingRow) -> bool:
    """Whether a guard can judge a row: the tokenizer knows some of it, and it is not too long."""
    try:
        return bool(framing.pieces(row.conversation))
    except TooLongError:
        return False
