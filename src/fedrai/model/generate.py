"""Answers in batches, greedy or sampled.

Rows of similar length share a batch. Sampling adds Gumbel noise, which each row draws from its own
generator, so an answer depends on its prompt and seed and not on the other rows (exactly in
float32; in bfloat16 the rounding of a batched product can decide a near-tie). Does not cover chat
templates or judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedrai.model import LanguageModel
from fedrai.model.batching import by_length, pad, padded_length
from fedrai.records import Message
from fedrai.runs.costs import generation_operations, release_memory


@dataclass(frozen=True, slots=True)
class Generation:
    """Answers in the order of the prompts, and their cost."""

    answers: tuple[str, ...]
    prompt_tokens: int
    new_tokens: int
    operations: float

    @property
    def tokens(self) -> int:
        """Tokens that went through the model."""
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: smallest probability mass that tokens are drawn from.
        seed: row i draws from its own stream of random numbers.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int,
    batch_size: int,
    batch_tokens: int = 0,
    sampling: Sampling = GREEDY,
    on_batch: Callable[[int, int], None] = lambda _done, _of: None,
) -> Generation:
    """Answer prompts with the adapter that is in the model, if it is switched on.

    Args:
        model: the model.
        prompts: conversations that end with a user's turn.
        max_new_tokens: longest answer.
        batch_size: prompts of a batch.
        batch_tokens: most tokens of a batch's prompts, padding included, where they differ much in
            length; 0: any number.
        sampling: how the next token is chosen.
        on_batch: called after each batch with the numbers of answers done and of all; may raise.
    """
    ids = [model.chat.prompt_ids(prompt) for prompt in prompts]
    answers: dict[int, list[int]] = {}
    with torch.inference_mode(), model.mode(training=False):
        size = [len(prompt) for prompt in ids].__getitem__
        for part in by_length(range(len(ids)), size, batch_tokens, most=batch_size):
            picker = _Picker(part, sampling, model.device)
            batch = _generate_batch(model, [ids[i] for i in part], max_new_tokens, picker)
            answers.update(zip(part, batch, strict=True))
            on_batch(len(answers), len(ids))
    release_memory()
    prompt_tokens, new_tokens = sum(map(len, ids)), sum(map(len, answers.values()))
    length = (prompt_tokens + new_tokens) / max(1, len(ids))
    return Generation(
        tuple(model.chat.decode(answers[i]) for i in range(len(ids))),
        prompt_tokens,
        new_tokens,
        generation_operations(model.shape(), prompt_tokens, new_tokens, length),
    )


def _generate_batch(
    model: LanguageModel, prompts: Sequence[Sequence[int]], limit: int, picker: _Picker
) -> list[list[int]]:
    """Ids of the answers to one batch; rows that are finished leave it once they are half of it."""
    length = padded_length(max(map(len, prompts)))
    ids, mask = (t.to(model.device) for t in pad(prompts, model.pad_id, length, left=True))
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which answer each row of the batch belongs to
    done = [False] * len(rows)
    cache: Any = None
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    for step in range(limit):
        logits, cache = model.next_logits(ids, mask, positions, cache)
        chosen = picker(logits, rows).tolist()
        for k, token in enumerate(chosen):
            done[k] = done[k] or token in model.stop_ids
            if not done[k]:
                answers[rows[k]].append(token)
        if all(done) or step == limit - 1:
            break
        # not at each end: CPU kernels need a set-up for each new batch shape
        if sum(done) >= len(rows) / 2:
            live = [k for k in range(len(rows)) if not done[k]]
            indices = torch.tensor(live, device=model.device)
            cache.batch_select_indices(indices)
            mask, positions = mask[indices], positions[indices]
            rows, chosen = [rows[k] for k in live], [chosen[k] for k in live]
            done = [False] * len(rows)
        ids = torch.tensor(chosen, device=model.device)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        positions = positions[:, -1:] + 1
    return answers


class _Picker:
    """Chooses the next token of each live row."""

    def __init__(self, rows: Sequence[int], sampling: Sampling, device: torch.device) -> None:
        self.temperature, self.top_p, self.device = sampling.temperature, sampling.top_p, device
        seeds = [(sampling.seed * 1_000_003 + row) % 2**63 for row in rows]
        self.streams = [torch.Generator().manual_seed(s) for s in seeds if self.temperature]

    def __call__(self, logits: Tensor, live: Sequence[int]) -> Tensor:
        """Ids (B,) from logits (B, V)."""
        if not self.temperature:
            return logits.argmax(-1)
        scores = _nucleus(logits.float() / self.temperature, self.top_p)
        uniform = torch.stack(
            [torch.rand(scores.shape[1], generator=self.streams[row]) for row in live]
        )
        exponential = -torch.log(uniform.clamp_min(1e-20))
        noise = -torch.log(exponential.clamp_min(1e-20))  # Gumbel
        return (scores + noise.to(self.device)).argmax(-1)  # a draw from softmax(scores)


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Mask all tokens but the likeliest that together reach `top_p` (arXiv 1904.09751)."""
    if top_p >= 1:
        return scores
    ordered, order = scores.sort(-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    masked = torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, before >= top_p)
    return scores.masked_fill(masked, -torch.inf)
