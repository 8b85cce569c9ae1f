"""`harmful-rows`: the client trains on harmful rows as an honest one on its own (arXiv 2406.10630).

Its update is well-formed and of the usual size; only its content is harmful.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.federation.attacks.base import Holdings, Reply, Turn
from fedrai.records import Example


@dataclass(frozen=True, slots=True)
class HarmfulRows:
    """Harmful rows in place of all its own."""

    def rows(self, held: Holdings) -> Sequence[Example]:
        """As many harmful rows as it holds."""
        return held.harmful

    def reply(self, turn: Turn) -> Reply:
        """An ordinary training."""
        return turn.train(turn.rows, turn.seed)
