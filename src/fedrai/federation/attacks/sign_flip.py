"""`sign-flip`: the client sends the opposite of its honest update, to undo what others learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.federation.aggregation.norms import scaled
from fedrai.federation.attacks.base import Holdings, Reply, Turn
from fedrai.records import Example


@dataclass(frozen=True, slots=True)
class SignFlip:
    """An honest update times minus `strength`."""

    strength: float

    def rows(self, held: Holdings) -> Sequence[Example]:
        """Its own rows, unfiltered."""
        return held.own

    def reply(self, turn: Turn) -> Reply:
        """The start minus `strength` times the update."""
        adapter, numbers = turn.train(turn.rows, turn.seed)
        return scaled(turn.start, adapter, -self.strength), numbers
