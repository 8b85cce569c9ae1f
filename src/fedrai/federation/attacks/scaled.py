"""`scaled`: the update of a training on harmful rows, made longer to own the mean.

With factor n among n clients the mean becomes the client's own adapter: "model replacement"
(arXiv 1807.00459, as we read it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.federation.aggregation.norms import scaled
from fedrai.federation.attacks.base import Holdings, Reply, Turn
from fedrai.records import Example


@dataclass(frozen=True, slots=True)
class Scaled:
    """A harmful update times `strength`."""

    strength: float

    def rows(self, held: Holdings) -> Sequence[Example]:
        """As many harmful rows as it holds."""
        return held.harmful

    def reply(self, turn: Turn) -> Reply:
        """The start plus `strength` times the update."""
        adapter, numbers = turn.train(turn.rows, turn.seed)
        return scaled(turn.start, adapter, self.strength), numbers
