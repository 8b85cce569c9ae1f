"""`norm-matched`: a harmful update as long as an honest one, so that no norm gives it away.

The client trains on its own rows too, to learn how long its honest update would be, and states the
numbers of that training: its losses are honest as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.federation.aggregation.norms import scaled, update_norm
from fedrai.federation.attacks.base import Holdings, Reply, Turn
from fedrai.records import Example


@dataclass(frozen=True, slots=True)
class NormMatched:
    """A harmful update with `strength` times the norm of the client's honest one."""

    strength: float

    def rows(self, held: Holdings) -> Sequence[Example]:
        """As many harmful rows as it holds."""
        return held.harmful

    def reply(self, turn: Turn) -> Reply:
        """Both trainings start from the server's adapter."""
        honest, numbers = turn.train(turn.honest_rows, turn.seed)
        harmful, _ = turn.train(turn.rows, turn.seed)
        length = update_norm(turn.start, harmful)
        wanted = self.strength * update_norm(turn.start, honest)
        return scaled(turn.start, harmful, wanted / length if length else 1.0), numbers
