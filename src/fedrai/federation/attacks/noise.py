"""`noise`: the client sends Gaussian noise in place of what it learnt.

A broken client looks the same: a wrong number format, a GPU that computes nonsense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.federation.aggregation.norms import update_norm
from fedrai.federation.attacks.arithmetic import noisy
from fedrai.federation.attacks.base import Holdings, Reply, Turn
from fedrai.records import Example


@dataclass(frozen=True, slots=True)
class Noise:
    """Gaussian noise of `strength` times the norm of the client's honest update."""

    strength: float

    def rows(self, held: Holdings) -> Sequence[Example]:
        """Its own rows, unfiltered: they tell how long an honest update is."""
        return held.own

    def reply(self, turn: Turn) -> Reply:
        """The start with noise; the numbers are those of the training."""
        adapter, numbers = turn.train(turn.rows, turn.seed)
        length = self.strength * update_norm(turn.start, adapter)
        return noisy(turn.start, length, turn.noise), numbers
