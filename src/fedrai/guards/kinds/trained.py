"""Guards that `fedrai guard train` makes: a model's body, a LoRA adapter and a small head.

The body reads a request, or a request and its answer; the head turns the last hidden state (the
mean of all, for encoders) into log-odds of "this request is unsafe", of "this answer is unsafe",
and into a guess at the category. Both log-odds are calibrated (`calibration`), so that one
threshold serves both. Only the last exchange of a conversation is judged. Long texts are judged in
overlapping windows; the worst one counts.

A guard is a folder: `guard.json` (what it is), `guard.safetensors` (adapter and head), `README.md`
(its card).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedrai import assets
from fedrai.errors import GuardError, ModelError
from fedrai.guards.base import Conversation, OnProgress, VerdictBatch, full_name
from fedrai.guards.kinds.framing import REQUEST, Framing, Piece
from fedrai.guards.windows import TooLongError
from fedrai.model import AdapterState, Backbone, Lora, load_backbone
from fedrai.model.adapters import check_adapter
from fedrai.model.batching import cut, pad, padded_length
from fedrai.records import Verdict
from fedrai.runs import files
from fedrai.runs.costs import generation_operations, release_memory

CONFIG, WEIGHTS = "guard.json", "guard.safetensors"
FORM = 1  # of guard.json
CHUNK = 2048  # windows that are held in memory at once
BATCH_TOKENS = 4096  # tokens of a batch, with padding
NAMED = 0.25  # a category needs this probability, or to be the likeliest

Chance = Annotated[float, Field(ge=0, le=1)]
Curve = tuple[Annotated[float, Field(gt=0)], float]
"""Slope and intercept that turn log-odds into calibrated ones."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a trained guard is; the content of `guard.json`.

    Attributes:
        name: the guard's name.
        base: the model whose body it uses: asset, hub id or folder.
        layers: how many of the body's layers; 0: all.
        rank: rank of the adapter.
        alpha: LoRA's alpha.
        frame: special tokens before the request, between request and answer, after the answer.
        max_length: most tokens that go through at once.
        categories: names of the categories, in the order of the head's rows.
        prompt: calibration of a request's log-odds: slope and intercept.
        pair: the same for an answer's.
        thresholds: probabilities by name.
        opening: tokens of an answer's beginning that each later window of it repeats.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    base: str
    layers: Annotated[int, Field(ge=0)]
    rank: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0)]
    frame: tuple[str, str, str]
    max_length: int
    categories: tuple[str, ...]
    prompt: Curve = (1.0, 0.0)
    pair: Curve = (1.0, 0.0)
    thresholds: dict[str, Chance] | None = None
    opening: Annotated[int, Field(ge=0)] = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"format": FORM, **asdict(self)}


@dataclass(frozen=True, slots=True)
class HeadScores:
    """The head's scores of a conversation: of its worst window.

    Attributes:
        row: row of the head: `REQUEST` or `ANSWER`.
        odds: log-odds of "unsafe", not calibrated; NaN if a window has none, or there are too many.
        categories: scores of the categories, (C,).
        tokens: tokens of all windows.
        windows: their number.
    """

    row: int
    odds: float
    categories: Tensor
    tokens: int
    windows: int


TOO_LONG = HeadScores(REQUEST, float("nan"), torch.zeros(0), 0, 0)
"""The scores of a conversation that takes too many windows."""


def read(backbone: Backbone, head: torch.nn.Linear, pieces: Sequence[Piece]) -> Tensor:
    """The head's outputs for each piece, (B, 2 + categories), float32; differentiable."""
    length = min(padded_length(max(len(p.ids) for p in pieces)), backbone.positions)
    ids, mask = pad([piece.ids for piece in pieces], backbone.pad_id, length)
    mask = mask.to(backbone.device)
    states = backbone.hidden(ids.to(backbone.device), mask)  # (B, T, D)
    if backbone.causal:
        pooled = states[torch.arange(len(pieces)), mask.sum(1) - 1].float()
    else:
        weights = (mask / mask.sum(1, keepdim=True))[..., None]
        pooled = (states.float() * weights).sum(1)
    out: Tensor = head(pooled)
    return out


def token_batches(
    pieces: Sequence[Piece], order: Sequence[int], budget: int
) -> Iterator[list[int]]:
    """Cut an order of pieces into batches of at most `budget` tokens with padding."""
    return cut(order, lambda i: padded_length(len(pieces[i].ids)), budget)


class TrainedGuard:
    """A guard of this package's own making.

    Args:
        config: what it is.
        backbone: the body, with the guard's adapter in it.
        head: linear, hidden size to 2 + categories.
        revision: names its weights and settings.

    Raises:
        GuardError: the body takes fewer tokens than `max_length`, or the frame does not fit.
    """

    def __init__(
        self, config: Config, backbone: Backbone, head: torch.nn.Linear, revision: str
    ) -> None:
        if config.max_length > backbone.positions:
            raise GuardError(
                f"max_length {config.max_length} is more than the {backbone.positions} tokens that"
                f" {config.base} takes"
            )
        self.name, self.revision = config.name, revision
        self.thresholds: dict[str, float] = dict(config.thresholds or {"strict": 0.5, "loose": 0.8})
        self.config, self.backbone, self.head = config, backbone, head
        self.framing = Framing(backbone.tokenizer, config.frame, config.max_length, config.opening)

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge conversations; see `base.Guard`."""
        verdicts: list[Verdict] = []
        tokens = windows = 0
        for score in self.head_scores(conversations, on_progress):
            verdicts.append(self._verdict(score))
            if score is not None:
                tokens, windows = tokens + score.tokens, windows + score.windows
        release_memory()
        length = tokens / max(1, windows)
        operations = generation_operations(self.backbone.shape(), tokens, 0, length)
        return VerdictBatch(tuple(verdicts), tokens, operations)

    def head_scores(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> Iterator[HeadScores | None]:
        """The head's scores of each conversation, in order; None if there is nothing to judge."""
        done, total = 0, len(conversations)
        for group in self._groups(conversations):
            flat = [piece for pieces in group for piece in pieces or ()]
            outputs = iter(self._outputs(flat, _share(on_progress, done, len(group), total)))
            for pieces in group:
                if pieces is None:
                    yield TOO_LONG
                else:
                    yield _worst(pieces, [next(outputs) for _ in pieces]) if pieces else None
            done += len(group)
            if not flat:
                on_progress(done, total)

    def _groups(self, conversations: Sequence[Conversation]) -> Iterator[list[list[Piece] | None]]:
        """Pieces of conversations, of some at a time, so that memory does not grow with rows."""
        group: list[list[Piece] | None] = []
        held = 0
        for conversation in conversations:
            group.append(self._pieces(conversation))
            held += 1 + len(group[-1] or ())
            if held >= CHUNK:
                yield group
                group, held = [], 0
        if group:
            yield group

    def _pieces(self, conversation: Conversation) -> list[Piece] | None:
        """All windows of a conversation; None if it is too long to look at all of them."""
        try:
            return self.framing.pieces(conversation)
        except TooLongError:
            return None

    def _outputs(self, pieces: Sequence[Piece], on_progress: OnProgress) -> list[Tensor]:
        """The head's outputs for each piece, in order."""
        order = sorted(range(len(pieces)), key=lambda i: (len(pieces[i].ids), i))
        outputs: dict[int, Tensor] = {}
        with torch.inference_mode(), self.backbone.mode(training=False):
            for part in token_batches(pieces, order, BATCH_TOKENS):
                out = read(self.backbone, self.head, [pieces[i] for i in part]).cpu()
                outputs.update(zip(part, out, strict=True))
                on_progress(len(outputs), len(pieces))
        return [outputs[i] for i in range(len(pieces))]

    def _verdict(self, score: HeadScores | None) -> Verdict:
        if score is None:
            return Verdict(None, full_name(self), problem="empty")
        if score.odds != score.odds:
            return Verdict(None, full_name(self), problem="failed")
        curve = self.config.prompt if score.row == REQUEST else self.config.pair
        probability = chance(score.odds, curve)
        flagged = probability >= min(self.thresholds.values())
        return Verdict(
            probability, full_name(self), self._categories(score.categories) if flagged else ()
        )

    def _categories(self, scores: Tensor) -> tuple[str, ...]:
        """The likeliest category, and others that are likely; the likeliest first."""
        if not len(scores):
            return ()
        likely = scores.softmax(-1).tolist()
        order = sorted(range(len(likely)), key=lambda i: -likely[i])
        return tuple(self.config.categories[i] for i in order if i == order[0] or likely[i] > NAMED)


def _share(on_progress: OnProgress, done: int, size: int, of: int) -> OnProgress:
    """Progress within a group of `size` conversations as progress of all."""
    return lambda part, whole: on_progress(done + size * part // whole, of)


def _worst(pieces: Sequence[Piece], outputs: Sequence[Tensor]) -> HeadScores:
    """The scores of the worst window."""
    row, tokens = pieces[0].row, sum(len(piece.ids) for piece in pieces)
    worst = max(outputs, key=lambda out: float(out[row]))
    whole = all(bool(out.isfinite().all()) for out in outputs)
    return HeadScores(
        row, float(worst[row]) if whole else float("nan"), worst[2:], tokens, len(outputs)
    )


def chance(odds: float, curve: Curve) -> float:
    """The calibrated probability of log-odds."""
    slope, intercept = curve
    return float(torch.tensor(slope * odds + intercept, dtype=torch.float64).sigmoid())


def new_head(backbone: Backbone, categories: int) -> torch.nn.Linear:
    """A head of zeros: every probability is one half."""
    head = torch.nn.Linear(backbone.width, 2 + categories, device=backbone.device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place when the block ends well; else nothing is left.

    Raises:
        GuardError: it cannot be written.
    """
    try:
        with files.new_folder(target) as fresh:
            yield fresh
    except OSError as error:
        raise GuardError(
            f"cannot write the guard in {target}: {error.strerror or error}",
            hint="choose another folder with --out",
        ) from error


def save(folder: Path, config: Config, adapter: AdapterState, head: torch.nn.Linear) -> None:
    """Write `guard.json` and `guard.safetensors` (adapter and head in bfloat16) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {**adapter, **{f"head.{k}": v.detach() for k, v in head.state_dict().items()}}
    small = {name: weights[name].cpu().bfloat16().contiguous() for name in sorted(weights)}
    save_file(small, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config.to_json(), indent=2) + "\n", encoding="utf-8")


def read_config(folder: Path) -> Config:
    """What a guard's folder says it is.

    Raises:
        GuardError: missing, not JSON, or not of this form.
    """
    file = folder / CONFIG
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        if (form := body.pop("format", None)) != FORM:
            raise GuardError(f"{file} has format {form}, expected {FORM}", hint="update fedrai")
        config = TypeAdapter(Config).validate_json(json.dumps(body), strict=True)
    except FileNotFoundError:
        raise GuardError(
            f"no guard in {folder} (expected {CONFIG})", hint="fedrai guard train makes one"
        ) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise GuardError(f"{file}: {where}: {first['msg']}") from None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise GuardError(f"{file} cannot be read as JSON ({type(error).__name__})") from error
    cuts = config.thresholds
    if cuts is not None and not cuts.get("strict", 2) <= cuts.get("loose", -1):
        raise GuardError(f"{file}: a guard needs thresholds with strict <= loose")
    return config


def load(
    folder: Path,
    *,
    dropout: float = 0.0,
    dtype: str = "auto",
    device: str = "auto",
    progress: assets.Progress | None = None,
) -> TrainedGuard:
    """Load a guard from its folder.

    Args:
        folder: a folder that `save` wrote.
        dropout: dropout on the adapter's input, if training continues.
        dtype: `auto`, `bfloat16` or `float32`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        progress: shows downloads.

    Raises:
        GuardError: the folder is not a guard's, or its weights do not fit.
        ModelError, AssetError: its base model is not available.
    """
    config = read_config(folder)
    try:
        weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise GuardError(f"{folder / WEIGHTS} cannot be read ({error})") from error
    backbone = load_backbone(
        config.base,
        Lora(config.rank, config.alpha, dropout=dropout),
        layers=config.layers,
        dtype=dtype,
        device=device,
        progress=progress,
    )
    head = new_head(backbone, len(config.categories))
    own = {f"head.{name}": tuple(value.shape) for name, value in head.state_dict().items()}
    try:
        check_adapter({name: weights[name] for name in weights.keys() & own.keys()}, own)
        head.load_state_dict({k: weights.pop(f"head.{k}") for k in ("weight", "bias")})
        backbone.load_adapter(weights)
    except ModelError as error:
        raise GuardError(f"{folder / WEIGHTS} does not fit {config.base}: {error}") from error
    return TrainedGuard(config, backbone, head, revision_of(folder))


def revision_of(folder: Path) -> str:
    """SHA-256 of a guard's settings and weights, in hex."""
    content = (folder / CONFIG).read_bytes() + (folder / WEIGHTS).read_bytes()
    return hashlib.sha256(content).hexdigest()
