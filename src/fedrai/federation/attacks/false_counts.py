"""`false-counts`: the client trains on harmful rows and states many more than it has.

Federated averaging weighs an update by the rows that its client states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.federation.attacks.base import Holdings, Reply, Turn
from fedrai.federation.metrics import RANGES, WEIGHT
from fedrai.records import Example


@dataclass(frozen=True, slots=True)
class FalseCounts:
    """A harmful update that claims `strength` times its rows, as far as a number may go."""

    strength: float

    def rows(self, held: Holdings) -> Sequence[Example]:
        """As many harmful rows as it holds."""
        return held.harmful

    def reply(self, turn: Turn) -> Reply:
        """An ordinary training with a false number of rows."""
        adapter, numbers = turn.train(turn.rows, turn.seed)
        rows = min(max(1, round(self.strength * turn.held)), int(RANGES[WEIGHT].high))
        return adapter, {**numbers, WEIGHT: rows}
