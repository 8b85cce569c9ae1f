"""`free-rider`: the client does not train, but states its rows, to get the model for nothing.

It sends the adapter that it was given, with a little noise so that it is not the same to the bit
(arXiv 2006.11901 calls it a disguised free rider, as we read it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.federation.aggregation.norms import update_norm
from fedrai.federation.attacks.arithmetic import noisy
from fedrai.federation.attacks.base import Holdings, Reply, Turn
from fedrai.federation.metrics import WEIGHT
from fedrai.records import Example

NOTHING = {"steps": 0, "tokens": 0, "label-tokens": 0, "seconds": 0, "operations": 0,
           "peak-bytes": 0}  # fmt: skip
"""Its costs, which are true: the run's sums stay right. It states no losses."""


@dataclass(frozen=True, slots=True)
class FreeRider:
    """The start with noise of `strength` times the start's own norm."""

    strength: float

    def rows(self, held: Holdings) -> Sequence[Example]:
        """None."""
        return []

    def reply(self, turn: Turn) -> Reply:
        """No training."""
        zero = {name: 0 * tensor for name, tensor in turn.start.items()}
        length = self.strength * update_norm(zero, turn.start)
        return noisy(turn.start, length, turn.noise), {WEIGHT: turn.held, **NOTHING}
