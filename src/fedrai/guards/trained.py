"""Guards that `fedrai guard train` makes: a model's body, a LoRA adapter and a small head.

The body reads a request, or a request and its answer; the head turns the last hidden state (the
mean of all, for encoders) into log-odds of "this request is unsafe", of "this answer is unsafe",
and into a guess at the category. Both log-odds are calibrated (`calibration`), so that one
threshold serves both. The last exchange of a conversation is judged; whoever needs all of them asks
for each. What is too long is judged in overlapping windows, the worst of which counts.

A guard is a folder: `guard.json` (what it is), `guard.safetensors` (adapter and head), `README.md`
(its card).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedrai import assets
from fedrai.chat import any_of, broken, control_tokens
from fedrai.costs import generation_operations, release_memory
from fedrai.errors import GuardError, ModelError
from fedrai.guards.base import Conversation, Judged, OnProgress, full_name
from fedrai.guards.prompting import arranged
from fedrai.model import AdapterState, Backbone, load_backbone
from fedrai.records import Verdict
from fedrai.train import padded

CONFIG, WEIGHTS = "guard.json", "guard.safetensors"
REQUEST, ANSWER = 0, 1  # rows of the head
WINDOWS = 64  # most windows of one text; more text than that is sampled evenly
BATCH_TOKENS = 4096  # tokens of a batch, with padding
NAMED = 0.25  # a category needs this probability, or to be the likeliest


@dataclass(frozen=True, slots=True)
class Config:
    """What a trained guard is; the content of `guard.json`.

    Attributes:
        name: of the guard.
        base: the model whose body it uses: asset, hub id or folder.
        layers: how many of the body's layers; 0: all.
        rank: of the adapter.
        alpha: of the adapter.
        frame: special tokens before the request, between request and answer, after the answer.
        max_length: most tokens that go through at once.
        categories: names of the categories, in the order of the head's rows.
        prompt: calibration of a request's log-odds: slope and intercept.
        pair: the same for an answer's.
        thresholds: probabilities by name.
    """

    name: str
    base: str
    layers: int
    rank: int
    alpha: float
    frame: tuple[str, str, str]
    max_length: int
    categories: tuple[str, ...]
    prompt: tuple[float, float] = (1.0, 0.0)
    pair: tuple[float, float] = (1.0, 0.0)
    thresholds: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"format": 1, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Piece:
    """Token ids that go through the body at once, and the row of the head that reads the end."""

    ids: tuple[int, ...]
    row: int


class Framing:
    """Requests and answers as token ids, between special tokens that no row can spell.

    Args:
        tokenizer: of the body.
        frame: see `Config`.
        max_length: most tokens of a piece.

    Raises:
        GuardError: the frame leaves no room for a text.
    """

    def __init__(self, tokenizer: Any, frame: Sequence[str], max_length: int) -> None:
        self._tokenizer = tokenizer
        self._marks = any_of(control_tokens(tokenizer).values())
        self._before, self._between, self._after = (self._ids(part) for part in frame)
        room = max_length - len(self._before) - len(self._between) - len(self._after)
        if room < 16:
            raise GuardError(
                f"max_length {max_length} leaves {room} tokens for a text; it needs 16 or more"
            )
        self._room = room

    def pieces(self, conversation: Conversation) -> list[Piece]:
        """The last exchange in one piece, or in windows; empty if there is nothing to judge."""
        if not conversation or not conversation[-1].content.strip():
            return []
        turns = arranged(conversation)
        if turns[-1].role == "user":
            parts = self._windows(self._text(turns[-1].content), self._room)
            return [Piece((*self._before, *p, *self._between), REQUEST) for p in parts]
        request, answer = self._text(turns[-2].content), self._text(turns[-1].content)
        kept = _ends(request, max(self._room // 3, self._room - len(answer)))
        parts = self._windows(answer, self._room - len(kept))
        head = (*self._before, *kept, *self._between)
        return [Piece((*head, *p, *self._after), ANSWER) for p in parts]

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return found

    def _text(self, text: str) -> list[int]:
        return self._ids(broken(text, self._marks))

    @staticmethod
    def _windows(ids: Sequence[int], size: int) -> list[Sequence[int]]:
        """Windows that overlap by a quarter; at most `WINDOWS`, evenly spread."""
        last = max(0, len(ids) - size)
        count = min(WINDOWS, 1 + -(-last // max(1, size - size // 4)))
        starts = sorted({round(last * i / max(1, count - 1)) for i in range(count)})
        return [ids[start : start + size] for start in starts]


def _ends(ids: Sequence[int], size: int) -> Sequence[int]:
    """The ids, or the first and last of them."""
    half = size // 2
    return ids if len(ids) <= size else [*ids[: size - half], *ids[len(ids) - half :]]


def read(backbone: Backbone, head: torch.nn.Linear, pieces: Sequence[Piece]) -> Tensor:
    """What the head says of each piece, (B, 2 + categories), float32; differentiable."""
    length = padded(max(len(p.ids) for p in pieces))
    ids = torch.full((len(pieces), length), backbone.pad_id)
    mask = torch.zeros((len(pieces), length), dtype=torch.long)
    for i, piece in enumerate(pieces):
        ids[i, : len(piece.ids)] = torch.tensor(piece.ids)
        mask[i, : len(piece.ids)] = 1
    mask = mask.to(backbone.device)
    states = backbone.hidden(ids.to(backbone.device), mask)  # (B, T, D)
    if backbone.causal:
        pooled = states[torch.arange(len(pieces)), mask.sum(1) - 1].float()
    else:
        weights = (mask / mask.sum(1, keepdim=True))[..., None]
        pooled = (states.float() * weights).sum(1)
    out: Tensor = head(pooled)
    return out


def token_batches(pieces: Sequence[Piece], order: Sequence[int], budget: int) -> list[list[int]]:
    """Cut an order of pieces into batches of at most `budget` tokens with padding."""
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, padded(len(pieces[index].ids)))
        if not batches or (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
            longest = padded(len(pieces[index].ids))
        batches[-1].append(index)
    return batches


class TrainedGuard:
    """A guard of this package's own making.

    Args:
        config: what it is.
        backbone: the body, with the guard's adapter in it.
        head: linear, hidden size to 2 + categories.
        revision: names its weights and settings.
    """

    def __init__(
        self, config: Config, backbone: Backbone, head: torch.nn.Linear, revision: str
    ) -> None:
        self.name, self.revision = config.name, revision
        self.thresholds = dict(config.thresholds or {"strict": 0.5, "loose": 0.8})
        self.config, self._backbone, self._head = config, backbone, head
        self._framing = Framing(backbone.tokenizer, config.frame, config.max_length)

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> Judged:
        """Judge conversations; see `base.Guard`."""
        found = [self._framing.pieces(conversation) for conversation in conversations]
        pieces = [piece for group in found for piece in group]
        said = iter(self._said(pieces, len(found), on_progress))
        verdicts = [self._verdict([(piece, next(said)) for piece in group]) for group in found]
        tokens = sum(len(piece.ids) for piece in pieces)
        length = tokens / max(1, len(pieces))
        operations = generation_operations(self._backbone.shape(), tokens, 0, length)
        return Judged(tuple(verdicts), tokens, operations)

    def _said(self, pieces: Sequence[Piece], of: int, on_progress: OnProgress) -> list[Tensor]:
        """What the head says of each piece, in their order."""
        order = sorted(range(len(pieces)), key=lambda i: (len(pieces[i].ids), i))
        said: dict[int, Tensor] = {}
        with torch.inference_mode(), self._backbone.mode(training=False):
            for part in token_batches(pieces, order, BATCH_TOKENS):
                out = read(self._backbone, self._head, [pieces[i] for i in part]).cpu()
                said.update(zip(part, out, strict=True))
                on_progress(of * len(said) // len(pieces), of)
        release_memory()
        return [said[i] for i in range(len(pieces))]

    def _verdict(self, said: Sequence[tuple[Piece, Tensor]]) -> Verdict:
        """The verdict of the worst window."""
        if not said:
            return Verdict(None, full_name(self), problem="empty")
        row = said[0][0].row
        if not all(bool(out.isfinite().all()) for _piece, out in said):
            return Verdict(None, full_name(self), problem="failed")
        worst = max((out for _piece, out in said), key=lambda out: float(out[row]))
        slope, intercept = self.config.prompt if row == REQUEST else self.config.pair
        probability = float(torch.sigmoid(slope * worst[row].double() + intercept))
        named = self._categories(worst[2:]) if probability >= min(self.thresholds.values()) else ()
        return Verdict(probability, full_name(self), named)

    def _categories(self, scores: Tensor) -> tuple[str, ...]:
        """The likeliest category, and others that are likely; the likeliest first."""
        if not len(scores):
            return ()
        likely = scores.softmax(-1).tolist()
        order = sorted(range(len(likely)), key=lambda i: -likely[i])
        return tuple(self.config.categories[i] for i in order if i == order[0] or likely[i] > NAMED)


def new_head(backbone: Backbone, categories: int) -> torch.nn.Linear:
    """A head that says nothing yet."""
    head = torch.nn.Linear(backbone.width, 2 + categories, device=backbone.device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


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
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if found.pop("format") != 1:
            raise GuardError(f"{folder / CONFIG} is of a newer form", hint="update fedrai")
        fixed = {k: tuple(found[k]) for k in ("frame", "categories", "prompt", "pair")}
        return Config(**{**found, **fixed})
    except FileNotFoundError:
        raise GuardError(
            f"no guard in {folder} (expected {CONFIG})", hint="fedrai guard train makes one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GuardError(f"{folder / CONFIG} is not what it should be ({error!r})") from error


def load(
    folder: Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    progress: assets.Progress | None = None,
) -> TrainedGuard:
    """Load a guard from its folder.

    Raises:
        GuardError: the folder is not a guard's, or its weights do not fit.
        ModelError, AssetError: its base model cannot be had.
    """
    config = read_config(folder)
    try:
        weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise GuardError(f"{folder / WEIGHTS} cannot be read ({error})") from error
    backbone = load_backbone(
        config.base,
        layers=config.layers,
        rank=config.rank,
        alpha=config.alpha,
        dtype=dtype,
        device=device,
        progress=progress,
    )
    head = new_head(backbone, len(config.categories))
    try:
        head.load_state_dict({k: weights.pop(f"head.{k}") for k in ("weight", "bias")})
        backbone.load_adapter(weights)
    except (KeyError, RuntimeError, ModelError) as error:
        raise GuardError(f"{folder / WEIGHTS} does not fit {config.base} ({error})") from error
    return TrainedGuard(config, backbone, head, revision_of(folder))


def revision_of(folder: Path) -> str:
    """SHA-256 of a guard's settings and weights, in hex."""
    found = (folder / CONFIG).read_bytes() + (folder / WEIGHTS).read_bytes()
    return hashlib.sha256(found).hexdigest()
