"""TokenLabels labels off a language model: next-token logits of many prompts, in few passes.

Prompts of a batch are padded on the left. What all of them begin with goes through the model once;
its keys and values are copied to every row. A batch can be continued with more text.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedrai.errors import GuardError
from fedrai.model.batching import pad, padded_length
from fedrai.model.cached import forward_cached
from fedrai.records import Problem
from fedrai.runs.costs import Shape, generation_operations

MIN_MASS = 0.05  # labels that together hold less were not what the guard was about to say


LabelIds = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class TokenLabels:
    """How a label is read off the next token.

    Attributes:
        spare: tokens at the end of the prompt that a label may merge with; they are left off.
        more: tokens that all labels begin with; they are put on.
        unsafe: ids of the tokens that then tell a label that means unsafe, with that label.
        safe: the same of those that mean safe.
    """

    spare: int
    more: tuple[int, ...]
    unsafe: dict[int, str]
    safe: dict[int, str]

    def ids(self, plain: Sequence[int]) -> list[int]:
        """Ids of a prompt up to the token that tells the labels apart."""
        return [*plain[: len(plain) - self.spare], *self.more]


def resolve_labels(plain: Sequence[int], unsafe: LabelIds, safe: LabelIds) -> TokenLabels:
    """How to read labels after a prompt, by the first token in which they differ.

    Args:
        plain: ids of the prompt.
        unsafe: labels that mean unsafe, with the ids of prompt and label together, so that white
            space and merged tokens are those of the real answer.
        safe: labels that mean safe, the same way.

    Raises:
        GuardError: the next token does not tell one class from the other.
    """
    together = [*unsafe.values(), *safe.values()]
    shared, start = len(common_start([plain, *together])), common_start(together)
    if any(len(ids) <= len(start) for ids in together):
        raise GuardError(f"one of the labels {[*unsafe, *safe]} begins with another")
    bad = {ids[len(start)]: label for label, ids in reversed(unsafe.items())}
    good = {ids[len(start)]: label for label, ids in reversed(safe.items())}
    if bad.keys() & good.keys():
        raise GuardError(
            f"the labels {[*unsafe, *safe]} begin with the same token in the guard's tokenizer",
            hint="check the format that the guard is loaded with",
        )
    return TokenLabels(len(plain) - shared, tuple(start[shared:]), bad, good)


def read_labels(logits: Tensor, labels: TokenLabels) -> tuple[list[float], list[float], list[str]]:
    """Probability of unsafe, probability mass of all labels, and the likeliest label, of each row.

    Args:
        logits: logits of the next token, (B, V).
        labels: the tokens that tell them.
    """
    logits = logits.double()
    every = {**labels.unsafe, **labels.safe}
    names = list(every.values())
    unsafe = logits[:, list(labels.unsafe)].logsumexp(-1)
    safe = logits[:, list(labels.safe)].logsumexp(-1)
    mass = (torch.logaddexp(unsafe, safe) - logits.logsumexp(-1)).exp()
    best = logits[:, list(every)].argmax(-1).tolist()
    return torch.sigmoid(unsafe - safe).tolist(), mass.tolist(), [names[b] for b in best]


def unsafe_labels(
    logits: Tensor, labels: TokenLabels, rows: Sequence[int]
) -> list[tuple[int, str]]:
    """The likeliest unsafe label of some rows of logits (B, V), with the number of the row."""
    names = list(labels.unsafe.values())
    best = logits[list(rows)][:, list(labels.unsafe)].argmax(-1).tolist() if rows else []
    return [(row, names[b]) for row, b in zip(rows, best, strict=True)]


def problem_of(mass: float) -> Problem | None:
    """What is wrong with labels of this probability mass."""
    if not math.isfinite(mass):
        return "failed"
    return "unparsed" if mass < MIN_MASS else None


def common_start(rows: Sequence[Sequence[int]]) -> list[int]:
    """The ids that all rows begin with."""
    length = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return list(rows[0][:length])


class MeteredModel:
    """A causal language model, and what went through it.

    Attributes:
        tokens: that went through the model, without padding, since the last `reset`.
        ends: ids that end an answer.
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        self.model, self.pad_id = model.eval(), pad_id
        self.device: torch.device = next(model.parameters()).device
        ends = model.generation_config.eos_token_id
        self.ends = set(ends) if isinstance(ends, list) else {ends}
        self._short = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._started: dict[tuple[int, ...], Any] = {}
        self.reset()

    def reset(self) -> None:
        """Count from nothing."""
        self.tokens = self._read = self._length = 0

    def count(self, tokens: int, lengths: Sequence[int]) -> None:
        """Count tokens that went through, and the lengths of the rows that were read."""
        self.tokens += tokens
        self._read += len(lengths)
        self._length += sum(lengths)

    def operations(self) -> float:
        """Floating-point operations since the last `reset` (`costs.generation_operations`)."""
        mean = self._length / max(1, self._read)
        return generation_operations(self._shape(), self.tokens - self._read, self._read, mean)

    def started(self, ids: Sequence[int], rows: int) -> Any:
        """The key/value cache of a beginning, computed once, for a number of rows."""
        key = tuple(ids)
        if key not in self._started:
            row = torch.tensor([key], device=self.device)
            mask = torch.ones_like(row)
            self._started[key] = self(row, mask, mask.cumsum(1) - 1, None)[1]
            self.count(len(key), [len(key)])
        cache = copy.deepcopy(self._started[key])
        cache.batch_repeat_interleave(rows)
        return cache

    def __call__(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any
    ) -> tuple[Tensor, Any]:
        """Logits (B, V) of the token after ids (B, T), and the cache to go on with."""
        out, cache = forward_cached(
            self.model,
            cache,
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            **({"logits_to_keep": 1} if self._short else {}),
        )
        return out.logits[:, -1], cache

    def _shape(self) -> Shape:
        config = self.model.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        ends = {self.model.get_input_embeddings().weight, self.model.get_output_embeddings().weight}
        return Shape(
            block_weights=sum(
                p.numel() for p in self.model.parameters() if p.ndim > 1 and p not in ends
            ),
            adapter_weights=0,
            output_weights=config.vocab_size * config.hidden_size,
            layers=config.num_hidden_layers,
            attention_size=head * config.num_attention_heads,
        )


class CachedBatch:
    """One batch on its way through the model.

    Args:
        engine: the model.
        shared: ids that all rows begin with; may be empty.
        rows: size of the batch.
    """

    def __init__(self, engine: MeteredModel, shared: list[int], rows: int) -> None:
        self.engine = engine
        self._fed = [shared] * rows
        self._cache: Any = engine.started(shared, rows) if shared else None
        self._mask = torch.ones((rows, len(shared)), dtype=torch.long, device=engine.device)

    def feed(self, ids: Sequence[list[int]]) -> Tensor:
        """Logits (B, V) of the token after each row.

        Args:
            ids: ids of each row from its beginning; only those not fed yet go through, unless a row
                has changed before that: then the batch begins anew.
        """
        if any(len(i) <= len(f) or i[: len(f)] != f for i, f in zip(ids, self._fed, strict=True)):
            self._fed = [[]] * len(ids)
            self._cache, self._mask = None, self._mask[:, :0]
        new = [i[len(f) :] for i, f in zip(ids, self._fed, strict=True)]
        longest = max(map(len, new))
        width = padded_length(longest) if longest > 16 else longest
        chunk, real = pad(new, self.engine.pad_id, width, left=True)
        self._mask = torch.cat([self._mask, real.to(self._mask.device)], 1)
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -width:]
        self._fed = [list(i) for i in ids]
        self.engine.count(sum(map(len, new)), [len(i) for i in ids])
        logits, self._cache = self.engine(
            chunk.to(self._mask.device), self._mask, positions, self._cache
        )
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows only."""
        selected = torch.tensor(list(rows), device=self._mask.device)
        self._cache.batch_select_indices(selected)
        self._mask = self._mask[selected]
        self._fed = [self._fed[row] for row in rows]
