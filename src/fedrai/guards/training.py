"""`fedrai guard train`: fine-tune a body with LoRA and a head on labelled rows.

A row may have a label for its request, for its answer, or both; labels are 0 to 1, so that a noisy
source can say how far it is to be trusted. A part of the rows, chosen by the hash of the request,
is not trained on: it fits the calibration (Platt 1999), sets the thresholds and gives the figures
that the guard's card states.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedrai import assets, data
from fedrai.errors import DataError, GuardError
from fedrai.evaluation.detection import Detection, detect
from fedrai.guards import calibration, trained
from fedrai.guards.base import Conversation
from fedrai.guards.trained import ANSWER, REQUEST, Config, Framing, Piece
from fedrai.model import Backbone, load_backbone
from fedrai.records import Message, Step
from fedrai.schema import GuardTraining, seed_for
from fedrai.train import learning_rates

CHATML = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>")
BERT = ("[CLS]", "[SEP]", "[SEP]")
GROUP = 16  # batches whose rows are sorted by length together


@dataclass(frozen=True, slots=True)
class Labelled:
    """A conversation with its label.

    Attributes:
        conversation: a request, or a request and its answer.
        unsafe: 0 (safe) to 1 (unsafe).
        category: hazard category; empty if none.
        source: where it comes from, for caps and weights.
    """

    conversation: Conversation
    unsafe: float
    category: str
    source: str

    @property
    def row(self) -> int:
        """The row of the head that judges it."""
        return REQUEST if self.conversation[-1].role == "user" else ANSWER


@dataclass(frozen=True, slots=True)
class Trained:
    """A guard that was trained, and how it does on the rows that were held out.

    Attributes:
        guard: ready to judge.
        rows: rows trained on, by source.
        held_out: figures by what was judged, "prompt" and "pair", at the strict threshold.
        losses: mean loss of each step.
        seconds: wall time of the training.
    """

    guard: trained.TrainedGuard
    rows: Mapping[str, int]
    held_out: Mapping[str, Detection]
    losses: Sequence[float]
    seconds: float


def read(settings: GuardTraining) -> list[Labelled]:
    """The labelled rows of a recipe.

    Raises:
        DataError: a file cannot be read, or holds no labelled row.
    """
    if not settings.rows:
        raise DataError("rows is empty: name at least one file of labelled rows")
    found: list[Labelled] = []
    for spec in settings.rows:
        before = len(found)
        for origin, row in data.rows(spec):
            if isinstance(row, str):
                raise DataError(f"{origin}: {row}")
            found += _labelled(row, origin, settings)
        if len(found) == before:
            raise DataError(
                f"{spec} holds no labelled row",
                hint=f"expected prompt and {settings.prompt_label} (or response and"
                f" {settings.pair_label}); prompt_label and pair_label name other columns",
            )
    return found


def _labelled(row: Mapping[str, Any], origin: str, settings: GuardTraining) -> Iterator[Labelled]:
    prompt, answer = row.get("prompt"), row.get("response")
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{origin}: prompt is empty")
    request = Message("user", prompt)
    category, source = str(row.get("category") or ""), str(row.get("source") or "")
    about_prompt, about_pair = row.get(settings.prompt_label), row.get(settings.pair_label)
    if isinstance(answer, str) and answer.strip():
        if about_pair is not None:
            label = _number(about_pair, origin, settings.pair_label)
            yield Labelled((request, Message("assistant", answer)), label, category, source)
    elif about_prompt is None:
        about_prompt = about_pair
    if about_prompt is not None:
        label = _number(about_prompt, origin, settings.prompt_label)
        yield Labelled((request,), label, category, source)


def _number(value: object, origin: str, column: str) -> float:
    try:
        label = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DataError(f"{origin}: {column} is not a number from 0 to 1") from None
    if not 0 <= label <= 1:
        raise DataError(f"{origin}: {column} is not a number from 0 to 1")
    return label


def divide(
    rows: Sequence[Labelled], settings: GuardTraining
) -> tuple[list[Labelled], list[Labelled]]:
    """Rows to train on, capped by source, and rows held out; a request is in one part only."""
    shuffled = list(rows)
    random.Random(seed_for(settings.seed, "guard-rows")).shuffle(shuffled)
    kept: list[Labelled] = []
    aside: list[Labelled] = []
    seen: Counter[str] = Counter()
    for row in shuffled:
        seen[row.source] += 1
        if seen[row.source] <= settings.caps.get(row.source, len(shuffled)):
            (aside if _held_out(row, settings.held_out) else kept).append(row)
    return kept, aside


def _held_out(row: Labelled, share: float) -> bool:
    request = " ".join(row.conversation[0].content.lower().split())
    digest = hashlib.sha256(f"held out {request}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def train(
    settings: GuardTraining,
    rows: Sequence[Labelled],
    folder: Path,
    *,
    on_step: Callable[[Step], None] = lambda _: None,
    on_judged: Callable[[int, int], None] = lambda _d, _o: None,
    progress: assets.Progress | None = None,
) -> Trained:
    """Train a guard, calibrate it and write its folder.

    Args:
        settings: the recipe.
        rows: labelled rows, as `read` gives them.
        folder: where the guard is written; made if needed.
        on_step: called after every step; may raise KeyboardInterrupt to stop.
        on_judged: hears of the judging of held-out rows.
        progress: shows downloads.

    Raises:
        GuardError: the rows cannot train or calibrate a guard.
        ModelError, AssetError: the base cannot be used.
    """
    kept, aside = divide(rows, settings)
    _check(kept, "to train on")
    _check(aside, "held out")
    backbone = load_backbone(
        settings.base,
        layers=settings.layers,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        dtype=settings.dtype,
        device=settings.device,
        progress=progress,
    )
    backbone.load_adapter(backbone.fresh_adapter(seed_for(settings.seed, "guard-adapter")))
    config = _config(settings, kept, backbone)
    head = trained.new_head(backbone, len(config.categories))
    since = time.perf_counter()
    losses = _loop(settings, config, kept, backbone, head, on_step)
    seconds = time.perf_counter() - since
    guard = trained.TrainedGuard(config, backbone, head, "0" * 64)
    config, figures = _calibrated(settings, config, guard, aside, on_judged)
    trained.save(folder, config, backbone.adapter(), head)
    done = trained.TrainedGuard(config, backbone, head, trained.revision_of(folder))
    return Trained(done, Counter(row.source for row in kept), figures, losses, seconds)


def _check(rows: Sequence[Labelled], where: str) -> None:
    unsafe = sum(row.unsafe > 0.5 for row in rows)
    if not 0 < unsafe < len(rows):
        raise GuardError(
            f"of the {len(rows)} rows {where} {unsafe} are unsafe; a guard needs both kinds",
            hint="give more rows, or raise held_out",
        )


def _config(settings: GuardTraining, rows: Sequence[Labelled], backbone: Backbone) -> Config:
    names = Counter(row.category for row in rows if row.category and row.unsafe > 0.5)
    frame = tuple(settings.frame) or (CHATML if backbone.causal else BERT)
    if len(frame) != 3:
        raise GuardError(f"frame has {len(frame)} parts, expected 3")
    return Config(
        name=settings.name,
        base=settings.base,
        layers=settings.layers,
        rank=settings.rank,
        alpha=settings.alpha,
        frame=(frame[0], frame[1], frame[2]),
        max_length=settings.max_length,
        categories=tuple(sorted(names)),
    )


def _loop(
    settings: GuardTraining,
    config: Config,
    rows: Sequence[Labelled],
    backbone: Backbone,
    head: torch.nn.Linear,
    on_step: Callable[[Step], None],
) -> list[float]:
    """AdamW on float32 copies of the weights; returns the mean loss of each step."""
    framing = Framing(backbone.tokenizer, config.frame, config.max_length)
    pieces = [framing.pieces(row.conversation)[0] for row in rows]
    steps = max(1, int(settings.epochs * len(rows) / settings.batch_size))
    rate = learning_rates(
        settings.learning_rate,
        schedule="cosine",
        warmup_steps=settings.warmup_steps,
        total_steps=steps,
    )
    weights = [*backbone.parameters.values()]
    master = [w.detach().float().clone() for w in weights]
    own = [*head.parameters()]
    optimiser = torch.optim.AdamW([*master, *own], lr=rate(0), weight_decay=settings.weight_decay)
    torch.manual_seed(seed_for(settings.seed, "guard-dropout"))
    losses: list[float] = []
    order = _order([len(p.ids) for p in pieces], settings, steps)
    with backbone.mode(training=True):
        for number, batch in enumerate(order):
            since = time.perf_counter()
            for group in optimiser.param_groups:
                group["lr"] = rate(number)
            loss = _accumulate(settings, config, rows, pieces, batch, backbone, head)
            for weight, copy in zip(weights, master, strict=True):
                copy.grad = None if weight.grad is None else weight.grad.float()
                weight.grad = None
            torch.nn.utils.clip_grad_norm_([*master, *own], settings.clip_norm)
            optimiser.step()
            optimiser.zero_grad()
            with torch.no_grad():
                torch._foreach_copy_(weights, master)
            losses.append(loss)
            tokens = sum(len(pieces[i].ids) for i in batch)
            on_step(Step(number + 1, steps, loss, tokens, time.perf_counter() - since))
    return losses


def _order(lengths: Sequence[int], settings: GuardTraining, steps: int) -> Iterator[list[int]]:
    """Batches of row numbers of like length, from shuffled passes."""
    draw = random.Random(seed_for(settings.seed, "guard-order"))
    size, queue = settings.batch_size, list[list[int]]()
    for _ in range(steps):
        if not queue:
            whole = draw.sample(range(len(lengths)), len(lengths))
            for start in range(0, len(whole), size * GROUP):
                part = sorted(whole[start : start + size * GROUP], key=lambda i: (lengths[i], i))
                queue += [part[k : k + size] for k in range(0, len(part), size)]
            draw.shuffle(queue)
        yield queue.pop()


def _accumulate(
    settings: GuardTraining,
    config: Config,
    rows: Sequence[Labelled],
    pieces: Sequence[Piece],
    batch: Sequence[int],
    backbone: Backbone,
    head: torch.nn.Linear,
) -> float:
    """Backward through a batch in parts of like length; returns its mean loss, in nats."""
    total = 0.0
    for part in trained.token_batches(pieces, batch, settings.micro_batch_tokens):
        out = trained.read(backbone, head, [pieces[i] for i in part])
        loss = _loss(out, [rows[i] for i in part], settings, config) / len(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _loss(out: Tensor, rows: Sequence[Labelled], settings: GuardTraining, config: Config) -> Tensor:
    """Summed loss: binary cross-entropy, and that of the category of unsafe rows."""
    device = out.device
    odds = out[torch.arange(len(rows)), torch.tensor([row.row for row in rows])]
    wanted = torch.tensor([row.unsafe for row in rows], device=device)
    weight = torch.tensor([settings.weights.get(row.source, 1.0) for row in rows], device=device)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        odds, wanted, weight, reduction="sum"
    )
    named = [i for i, row in enumerate(rows) if row.unsafe > 0.5 and row.category]
    if named and settings.category_weight:
        kinds = torch.tensor([config.categories.index(rows[i].category) for i in named])
        scores = out[named, 2:]
        extra = torch.nn.functional.cross_entropy(scores, kinds.to(device), reduction="sum")
        loss = loss + settings.category_weight * extra
    return loss


def _calibrated(
    settings: GuardTraining,
    config: Config,
    guard: trained.TrainedGuard,
    rows: Sequence[Labelled],
    on_judged: Callable[[int, int], None],
) -> tuple[Config, dict[str, Detection]]:
    """The config with its calibration and thresholds, and the figures on the held-out rows."""
    said = guard.judge([row.conversation for row in rows], on_judged).verdicts
    scored = [
        (r, v.probability) for r, v in zip(rows, said, strict=True) if v.probability is not None
    ]
    kinds = {kind: [(p, row.unsafe > 0.5) for row, p in scored if row.row == number]
             for kind, number in (("prompt", REQUEST), ("pair", ANSWER))}  # fmt: skip
    curves = {kind: _curve(found) for kind, found in kinds.items()}
    pooled = [(curves[kind].apply(p), bad) for kind, found in kinds.items() for p, bad in found]
    scores, unsafe = [p for p, _ in pooled], [bad for _, bad in pooled]
    cuts = {
        "strict": calibration.threshold_for_fpr(scores, unsafe, settings.strict_fpr).value,
        "loose": calibration.threshold_for_fpr(scores, unsafe, settings.loose_fpr).value,
    }
    figures = {
        kind: detect(
            [curves[kind].apply(p) for p, _ in found], [bad for _, bad in found], cuts["strict"]
        )
        for kind, found in kinds.items()
        if found
    }
    slopes = {kind: (curve.slope, curve.intercept) for kind, curve in curves.items()}
    return replace(config, thresholds=cuts, **slopes), figures  # type: ignore[arg-type]


def _curve(found: Sequence[tuple[float, bool]]) -> calibration.Calibration:
    """Calibration of one kind of row; none where there are not both classes."""
    if len({bad for _, bad in found}) < 2:
        return calibration.Calibration(1.0, 0.0)
    return calibration.fit([p for p, _ in found], [bad for _, bad in found])
