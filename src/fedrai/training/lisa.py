"""Lisa: alternate alignment steps with steps on a client's own rows (arXiv 2405.18641).

Simplified as we read it. Before each group of `own_steps` steps on the client's rows come
`align_steps` steps on safe rows, with the same optimiser and learning rate. Both kinds minimise

    loss + rho / 2 ||w - w_other||^2

where w_other are the weights at which the last steps of the other kind ended, at first those that
the training starts from. The proximal term keeps the two kinds from drifting apart. The paper takes
a tenth of all steps for alignment and leaves the term out in the first tenth of the training. Here
alignment steps come in addition, so that a client goes over its rows as often as without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedrai.model import LanguageModel
from fedrai.recipe.sections import seed_for
from fedrai.records import Tokens
from fedrai.runs.costs import Cost, training_operations
from fedrai.training.master_weights import MasterWeights
from fedrai.training.sft import (
    GROUP,
    Hooks,
    SftSettings,
    add_proximal_gradient,
    backward,
    batches,
    token_counts,
)


@dataclass(frozen=True, slots=True)
class Lisa:
    """Lisa as a `sft.LocalDefence`.

    Attributes:
        rows: safe rows of the alignment steps.
        align_steps: alignment steps before each group.
        own_steps: steps on the client's own rows in a group.
        rho: weight of the proximal term.
    """

    rows: Sequence[Tokens]
    align_steps: int
    own_steps: int
    rho: float

    def begin(
        self, model: LanguageModel, rows: Sequence[Tokens], settings: SftSettings, seed: int
    ) -> Hooks:
        """Draw the batches of the alignment steps."""
        groups = -(-settings.steps // self.own_steps)
        group = GROUP if settings.group_by_length else 1
        safe = batches(
            self.rows, settings.batch_size, groups * self.align_steps, seed_for(seed, "lisa"), group
        )
        training = _Training(self, model, settings, safe)
        return Hooks(
            before_step=training.before_step,
            on_gradient=training.pull,
            spent=training.spent,
        )


class _Training:
    """One training with its two kinds of steps."""

    def __init__(
        self,
        lisa: Lisa,
        model: LanguageModel,
        settings: SftSettings,
        safe: Iterator[list[Tokens]],
    ) -> None:
        self._lisa, self._model, self._settings, self._safe = lisa, model, settings, safe
        self._own = 0
        self._other: list[Tensor] = []
        self._tokens = self._labels = self._rows = 0

    def before_step(self, master: MasterWeights, rate: float) -> None:
        """Make alignment steps where a group of the client's own steps begins."""
        if self._own % self._lisa.own_steps == 0:
            self._other = _copies(master)
            for _ in range(self._lisa.align_steps):
                self._align(master, rate)
            self._other = _copies(master)
        self._own += 1

    def _align(self, master: MasterWeights, rate: float) -> None:
        batch = next(self._safe)
        size = self._settings.micro_batch_size or self._settings.batch_size
        backward(self._model, batch, size)
        master.collect()
        self.pull(master)
        master.step(rate, self._settings.clip_norm)
        tokens, labels = token_counts(batch)
        self._tokens, self._labels = self._tokens + tokens, self._labels + labels
        self._rows += len(batch)

    def pull(self, master: MasterWeights) -> None:
        """Add the gradient of the proximal term to the other kind's weights."""
        if self._lisa.rho:
            add_proximal_gradient(master.copies, self._other, self._lisa.rho)

    def spent(self) -> Cost:
        """The cost of the alignment steps."""
        shape, length = self._model.shape(), self._tokens / max(1, self._rows)
        operations = training_operations(shape, self._tokens, self._labels, length)
        return Cost(tokens=self._tokens, operations=operations)


def _copies(master: MasterWeights) -> list[Tensor]:
    return [copy.detach().clone() for copy in master.copies]
