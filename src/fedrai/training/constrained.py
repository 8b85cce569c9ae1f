"""Constrained SFT: a limit on how far each token of an answer may drift from a reference.

Source: Qi et al., "Safety Alignment Should Be Made More Than Just a Few Tokens Deep" (arXiv
2406.05946, section 4): alignment sits in the first tokens of an answer, so these get the strongest
limit. The loss is `losses.constrained_loss`; the paper's limits are beta = 0.5 for the first token,
2 for tokens 2 to 5 and 0.1 after. Tokens are counted from the beginning of each answer of a
conversation. The reference is the adapter that the run started from, not that of the round, so that
drift does not add up over rounds.

Each row that a training takes goes through the reference once before it, however often the training
repeats it. The loss that is reported is the plain cross-entropy, so that it can be compared with
that of other runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from fedrai.model import AdapterState, LanguageModel
from fedrai.model.batching import by_length
from fedrai.records import Tokens
from fedrai.runs.costs import Cost, generation_operations
from fedrai.training.losses import constrained_loss
from fedrai.training.sft import (
    GROUP,
    Hooks,
    SftSettings,
    batch_numbers,
    label_count,
    label_states,
    token_counts,
    token_losses,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of an answer's tokens.

    Attributes:
        first: beta of the first token.
        opening: beta of the others among the first `size`.
        rest: beta of all later ones.
        size: tokens of the opening.
    """

    first: float = 0.5
    opening: float = 2.0
    rest: float = 0.1
    size: int = 5

    def of(self, row: Tokens) -> list[float]:
        """Beta of each label token of a row."""
        betas, place = [], 0
        for is_label, was_label in zip(row.mask[1:], row.mask[:-1], strict=True):
            place = place + 1 if was_label else 0
            if is_label:
                betas.append(self._at(place))
        return betas

    def _at(self, place: int) -> float:
        """Beta of the token at a place of its answer, from 0."""
        if place == 0:
            return self.first
        return self.opening if place < self.size else self.rest


@dataclass(frozen=True, slots=True)
class ConstrainedSft:
    """Constrained SFT as a `sft.LocalDefence`.

    Attributes:
        reference: the adapter of the reference model.
        limits: of the tokens.
    """

    reference: AdapterState
    limits: Limits = field(default_factory=Limits)

    def begin(
        self, model: LanguageModel, rows: Sequence[Tokens], settings: SftSettings, seed: int
    ) -> Hooks:
        """Read the rows that this training takes under the reference."""
        lengths = [len(row.ids) for row in rows]
        group = GROUP if settings.group_by_length else 1
        numbers = batch_numbers(lengths, settings.batch_size, settings.steps, seed, group)
        used = list(dict.fromkeys(rows[i] for batch in numbers for i in batch))
        known, cost = self._read(model, used, settings.batch_size)
        size = settings.micro_batch_size or settings.batch_size
        return Hooks(backward=partial(self._backward, model, known, size), spent=lambda: cost)

    def _read(
        self, model: LanguageModel, rows: Sequence[Tokens], batch_size: int
    ) -> tuple[dict[Tokens, Tensor], Cost]:
        """Log-probabilities of the label tokens of rows under the reference, and the cost."""
        known: dict[Tokens, Tensor] = {}
        with model.using(self.reference), model.mode(training=False), torch.no_grad():
            for part in by_length(range(len(rows)), lambda i: len(rows[i].ids), most=batch_size):
                batch = [rows[i] for i in part]
                values = -token_losses(model, *label_states(model, batch))
                split = torch.split(values, [label_count(row) for row in batch])
                known.update(zip(batch, split, strict=True))
        tokens, labels = token_counts(rows)
        length = tokens / len(rows)
        operations = generation_operations(model.shape(), tokens - labels, labels, length)
        return known, Cost(tokens=tokens, operations=operations)

    def _backward(
        self,
        model: LanguageModel,
        known: Mapping[Tokens, Tensor],
        size: int,
        batch: Sequence[Tokens],
    ) -> float:
        """As `sft.backward`, with the limits; returns the mean plain loss per label token."""
        labels, total = token_counts(batch)[1], 0.0
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            losses = token_losses(model, *label_states(model, part))
            reference = torch.cat([known[row] for row in part])
            betas = torch.tensor([b for row in part for b in self.limits.of(row)])
            limited = constrained_loss(-losses, reference, betas.to(losses.device)).sum()
            (limited / labels).backward()  # type: ignore[no-untyped-call]
            total += losses.detach().sum().item()
        return total / labels
