"""Sequence classifiers of the hub as guards: one forward pass gives the probability.

A classifier sees the last turn, or with `pair` a request and its answer. Texts that are longer than
its window are judged in overlapping windows; the unsafest counts. Words of a row that spell a
special token ("[SEP]") are words to the model. A classifier of toxic language misses harmful
requests in polite words: it is a cheap first pass (`cascade.Cascade`), not a filter.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fedrai import assets
from fedrai.errors import GuardError, ModelError
from fedrai.guards.base import (
    UNCALIBRATED,
    Conversation,
    OnProgress,
    VerdictBatch,
    full_name,
    short_name,
)
from fedrai.guards.kinds.outputs import ClassifierLabels, classifier_labels
from fedrai.guards.kinds.prompting import valid
from fedrai.model import loading
from fedrai.model.batching import cut, pad, padded_length
from fedrai.model.pretrained import open_pretrained
from fedrai.recipe.safety import Classifier
from fedrai.records import Verdict

FORM = 1  # counts up when the same weights would be asked or read differently
CHUNK = 1024  # conversations that are tokenized at once


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """How a classifier is shown a text.

    Attributes:
        pair: whether it sees a request beside its answer. A long request keeps its ends.
        max_length: most tokens of a window; fewer if the model takes fewer.
        batch_tokens: most tokens of a batch, with padding.
    """

    pair: bool = False
    max_length: int = 512
    batch_tokens: int = 8192


def load(
    settings: Classifier,
    windows: WindowSettings = WindowSettings(),
    *,
    name: str = "",
    progress: assets.Progress | None = None,
) -> ClassifierGuard:
    """Load a sequence classifier.

    Args:
        settings: its table in a recipe; decides over `windows.pair`.
        windows: limits of a window and of a batch.
        name: the guard's name in verdicts; empty: the last part of the model's name.
        progress: shows downloads.

    Raises:
        GuardError: not a sequence classifier, or it is not known which outputs mean unsafe.
        AssetError: it cannot be fetched.
    """
    folder = loading.model_folder(settings.model, progress)
    device = loading.pick_device(settings.device)
    dtype = loading.pick_dtype(settings.dtype, device)
    model, tokenizer = _load(folder, dtype)
    return ClassifierGuard(
        model.to(device),
        tokenizer,
        classifier_labels(model.config, settings.unsafe_labels or None),
        replace(windows, pair=settings.pair),
        name=name or short_name(settings.model),
        fingerprint=f"{_content(folder)} {dtype}",
    )


class ClassifierGuard:
    """A sequence classifier that judges conversations (`base.Guard`).

    Args:
        model: a sequence classifier of transformers.
        tokenizer: its fast tokenizer.
        labels: what its outputs mean.
        windows: how it is shown a text.
        name: short name.
        fingerprint: identifies the weights and their number format.

    Raises:
        GuardError: the tokenizer is not a fast one, or a window would have no room for text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        labels: ClassifierLabels,
        windows: WindowSettings = WindowSettings(),
        *,
        name: str,
        fingerprint: str,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise GuardError("the classifier's tokenizer is not a fast one")
        self.model, self.tokenizer, self.labels = model.eval(), tokenizer, labels
        self.name, self.thresholds = name, dict(UNCALIBRATED)
        self._pair, self._batch_tokens = windows.pair, windows.batch_tokens
        self._length = min(windows.max_length, _most_tokens(model, tokenizer))
        if self._length < 16:
            raise GuardError(f"a window of {self._length} tokens has no room for text")
        self._pad_id = _pad_id(model, tokenizer)
        self._special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        linear = (m for m in model.modules() if isinstance(m, torch.nn.Linear))
        self._weights = sum(m.weight.numel() for m in linear)
        meaning = [labels.names, labels.unsafe, labels.multi]
        identity = [FORM, fingerprint, *meaning, windows.pair, self._length]
        self.revision = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge conversations in batches of windows of like length.

        A text of which the tokenizer leaves nothing known (control characters, emoji or one endless
        word, for many) gets the problem "empty": the model would judge nothing.
        """
        worst: dict[int, Sequence[float]] = {}
        tokens = 0
        for start in range(0, len(conversations), CHUNK):
            windows = self._windows(conversations[start : start + CHUNK], start)
            open_windows = Counter(row for row, _ in windows)
            tokens += sum(len(window["input_ids"]) for _, window in windows)
            done = min(start + CHUNK, len(conversations)) - len(open_windows)
            for batch in self._batches(windows):
                for row, chances in zip((r for r, _ in batch), self._chances(batch), strict=True):
                    worst[row] = self.labels.worse(worst.get(row), chances)
                    open_windows[row] -= 1
                    done += open_windows[row] == 0
                on_progress(done, len(conversations))
            if not windows:
                on_progress(done, len(conversations))
        verdicts = tuple(self._verdict(worst.get(i)) for i in range(len(conversations)))
        return VerdictBatch(verdicts, tokens=tokens, operations=2.0 * self._weights * tokens)

    def _verdict(self, chances: Sequence[float] | None) -> Verdict:
        if chances is None:
            return Verdict(None, full_name(self), problem="empty")
        if not all(map(math.isfinite, chances)):
            return Verdict(None, full_name(self), problem="failed")
        categories = self.labels.categories(chances)
        return Verdict(self.labels.probability(chances), full_name(self), categories)

    def _windows(
        self, conversations: Sequence[Conversation], first: int
    ) -> list[tuple[int, dict[str, list[int]]]]:
        """Inputs of the windows of each conversation, with its number, counted from `first`."""
        windows = []
        for row, conversation in enumerate(conversations, start=first):
            if conversation and conversation[-1].content.strip():
                windows += [(row, window) for window in self._encode(conversation)]
        return windows

    def _encode(self, conversation: Conversation) -> Iterator[dict[str, list[int]]]:
        texts, truncation = [valid(conversation[-1].content)], "longest_first"
        requests = [turn.content for turn in conversation[:-1] if turn.role == "user"]
        if self._pair and requests and conversation[-1].role == "assistant":
            texts, truncation = [self._ends(valid(requests[-1])), *texts], "only_second"
        encoding = self.tokenizer(
            *texts,
            truncation=truncation,
            max_length=self._length,
            stride=self._length // 8,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
            split_special_tokens=True,
        )
        names = [name for name in self.tokenizer.model_input_names if name in encoding]
        for i, mask in enumerate(encoding["special_tokens_mask"]):
            ids = self._plain(encoding["input_ids"][i], mask)
            text = {token for token, special in zip(ids, mask, strict=True) if not special}
            if text - {self.tokenizer.unk_token_id}:
                yield {name: encoding[name][i] for name in names} | {"input_ids": ids}

    def _plain(self, ids: Sequence[int], mask: Sequence[int]) -> list[int]:
        """Ids without special ones that the text spells: some tokenizers know them as words."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None:
            return list(ids)
        spelled = (not special and i in self._special for i, special in zip(ids, mask, strict=True))
        return [unknown if bad else i for i, bad in zip(ids, spelled, strict=True)]

    def _ends(self, text: str) -> str:
        """The text, or its first and last tokens if it has more than a third of a window."""
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        offsets, most = encoding["offset_mapping"], self._length // 3
        if len(offsets) <= most:
            return text
        half = max(1, most // 2 - 2)
        return f"{text[: offsets[half - 1][1]]} … {text[offsets[-half][0] :]}"

    def _batches(
        self, windows: Sequence[tuple[int, dict[str, list[int]]]]
    ) -> Iterator[list[tuple[int, dict[str, list[int]]]]]:
        """Windows of like length, as many as the token budget holds, at least one."""
        ordered = sorted(windows, key=lambda w: len(w[1]["input_ids"]))
        sizes = [self._padded_length(len(window["input_ids"])) for _, window in ordered]
        for batch in cut(range(len(ordered)), sizes.__getitem__, self._batch_tokens):
            yield [ordered[i] for i in batch]

    def _padded_length(self, length: int) -> int:
        return min(padded_length(length), self._length)

    @torch.inference_mode()
    def _chances(self, batch: Sequence[tuple[int, dict[str, list[int]]]]) -> list[list[float]]:
        length = self._padded_length(max(len(window["input_ids"]) for _, window in batch))
        inputs = {}
        for name in batch[0][1]:
            fill = self._pad_id if name == "input_ids" else 0
            rows, _ = pad([window[name] for _, window in batch], fill, length)
            inputs[name] = rows.to(self.model.device)
        chances: list[list[float]] = self.labels.chances(self.model(**inputs).logits).tolist()
        return chances


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification

    try:
        return open_pretrained(
            AutoModelForSequenceClassification, folder, "a sequence classifier", dtype=dtype
        )
    except ModelError as error:
        hint = f"{error.hint}; a model that was trained to classify, not the base model of one"
        raise GuardError(error.message, hint=hint) from error


def _content(folder: Path) -> str:
    """Hash of the weights, the configuration and the vocabulary."""
    digest = hashlib.sha256()
    for file in sorted(
        f for kind in ("*.safetensors", "*.json", "*.txt") for f in folder.glob(kind)
    ):
        digest.update(f"{file.name} {assets.sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _most_tokens(model: Any, tokenizer: Any) -> int:
    """Tokens that the model takes; RoBERTa's positions begin behind that of the padding."""
    limits = [int(tokenizer.model_max_length)]
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        tables = (m for n, m in model.named_modules() if n.endswith("position_embeddings"))
        padding = getattr(next(tables, None), "padding_idx", None)
        limits.append(positions - (0 if padding is None else padding + 1))
    return min(limits)


def _pad_id(model: Any, tokenizer: Any) -> int:
    """The padding token; decoders read the last token before it, so they must know it too."""
    ids = (tokenizer.pad_token_id, model.config.pad_token_id, tokenizer.eos_token_id)
    pad_id = next((i for i in ids if i is not None), None)
    if pad_id is None:
        raise GuardError("the classifier's tokenizer has no token for padding")
    model.config.pad_token_id = pad_id
    return int(pad_id)
