"""`mixed`: some harmful rows among many of the client's own, so that its update looks like others.

Few harmful rows suffice to undo an alignment (arXiv 2310.03693), and the rest hides them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.federation.attacks.base import Holdings, Reply, Turn
from fedrai.records import Example


@dataclass(frozen=True, slots=True)
class Mixed:
    """Own rows, of which all but `benign_share` (at least one) are replaced by harmful ones."""

    benign_share: float

    def rows(self, held: Holdings) -> Sequence[Example]:
        """The harmful ones first; training shuffles them."""
        harmful = max(1, round((1 - self.benign_share) * len(held.own)))
        own = random.Random(held.seed).sample(list(held.own), len(held.own) - harmful)
        return [*held.harmful[:harmful], *own]

    def reply(self, turn: Turn) -> Reply:
        """An ordinary training."""
        return turn.train(turn.rows, turn.seed)
