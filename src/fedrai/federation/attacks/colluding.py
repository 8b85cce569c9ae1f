"""`colluding`: malicious clients act as one, and send the same update.

All of them train on the harmful rows of all with one seed. Each adds a little noise of its own, so
that no two updates are the same to the bit. Together they look like the crowd that rules such as
Krum trust (sybils: FoolsGold, arXiv 1808.04866).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.federation.aggregation.norms import update_norm
from fedrai.federation.attacks.arithmetic import noisy
from fedrai.federation.attacks.base import Holdings, Reply, Turn
from fedrai.records import Example


@dataclass(frozen=True, slots=True)
class Colluding:
    """One update for all, each with noise of `strength` times its norm."""

    strength: float

    def rows(self, held: Holdings) -> Sequence[Example]:
        """The harmful rows of all malicious clients."""
        return held.pooled

    def reply(self, turn: Turn) -> Reply:
        """The common training, with noise."""
        adapter, numbers = turn.train(turn.rows, turn.common_seed)
        length = self.strength * update_norm(turn.start, adapter)
        return noisy(adapter, length, turn.noise), numbers
