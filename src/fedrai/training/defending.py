"""Several defences in one training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedrai.model import LanguageModel
from fedrai.records import Tokens
from fedrai.runs.costs import Cost
from fedrai.training.sft import Hooks, LocalDefence, SftSettings


@dataclass(frozen=True, slots=True)
class Together:
    """Defences of one training, of which at most one changes the loss of the tokens.

    Attributes:
        parts: the defences, in the order in which they act.
    """

    parts: Sequence[LocalDefence]

    def begin(
        self, model: LanguageModel, rows: Sequence[Tokens], settings: SftSettings, seed: int
    ) -> Hooks:
        """Prepare all of them."""
        hooks = [part.begin(model, rows, settings, seed) for part in self.parts]
        losses = [one.backward for one in hooks if one.backward]
        assert len(losses) <= 1
        spent = [one.spent for one in hooks if one.spent]
        return Hooks(
            before_step=_in_turn([one.before_step for one in hooks]),
            backward=losses[0] if losses else None,
            on_gradient=_in_turn([one.on_gradient for one in hooks]),
            spent=lambda: sum((one() for one in spent), Cost()),
        )


def _in_turn(calls: Sequence[Callable[..., None] | None]) -> Callable[..., None] | None:
    """A function that calls all that there are; None if there is none."""
    real = [call for call in calls if call]

    def call_all(*arguments: Any) -> None:
        for call in real:
            call(*arguments)

    return call_all if real else None
