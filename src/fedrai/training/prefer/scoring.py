"""Log-probabilities of answers in batches, without gradients: the model as it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from fedrai.model import LanguageModel
from fedrai.records import Tokens
from fedrai.runs.costs import release_memory
from fedrai.training.prefer.reference import log_probabilities


@torch.no_grad()
def score(
    model: LanguageModel,
    rows: Sequence[Tokens],
    *,
    batch_size: int,
    on_batch: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[float]:
    """Log-probability of all label tokens of each row together, in nats, in the order of rows.

    Args:
        model: the model with its adapter on or off.
        rows: tokenized conversations; each has a label token after its first token.
        batch_size: rows that are read at once; rows of like length share a batch.
        on_batch: called after each batch with (rows done, of how many); may raise to stop.
    """
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i))
    found: dict[int, float] = {}
    with model.mode(training=False):
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            values = log_probabilities(model, [rows[i] for i in part]).tolist()
            found.update(zip(part, values, strict=True))
            on_batch(len(found), len(rows))
    release_memory()
    return [found[i] for i in range(len(rows))]
