"""The rule of a recipe for LoRA's factors, and the ranks of its clients: see `lora.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrai.federation.aggregation import fedex, ffa, flexlora, flora, raflora, rolora
from fedrai.federation.aggregation.lora import Replies, Reply, Rule, first_ranks
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.protocol import Update
from fedrai.model.adapters import AdapterState
from fedrai.model.parts import Part, factor_of
from fedrai.recipe.lora import Ranks

RULES: Mapping[str, Rule] = {
    "plain": Rule(),
    "ffa": ffa.RULE,
    "rolora": rolora.RULE,
    "flexlora": flexlora.RULE,
    "raflora": raflora.RULE,
    "flora": flora.RULE,
    "fedex": fedex.RULE,
}


@dataclass(frozen=True, slots=True)
class Factors:
    """What becomes of LoRA's factors in a run.

    Attributes:
        rule: name of the rule, as in `aggregation.lora`.
        ranks: the ranks that clients train.
        seed: the recipe's.
    """

    rule: str = "plain"
    ranks: Ranks = field(default_factory=Ranks)
    seed: int = 0

    @property
    def _rule(self) -> Rule:
        return RULES[self.rule]

    def part(self, round_: int, client: str) -> Part:
        """What of the adapter a client trains in a round."""
        rank = self.ranks.of(client)
        return Part(self._rule.frozen(round_), rank, self._rule.carries and rank > 0)

    def start(self, current: AdapterState, part: Part) -> AdapterState:
        """What a client that trains a part starts from, of the global adapter."""
        if not part.rank or part.whole:
            return current
        if self._rule.refits:
            return first_ranks(current, part.rank)
        shapes = {name: tuple(tensor.shape) for name, tensor in current.items()}
        return part.expanded(part.received(current), shapes)

    def frozen(self, round_: int, current: AdapterState) -> set[str]:
        """Names of the tensors that no client trains in a round."""
        factor = self._rule.frozen(round_)
        return {name for name in current if factor and factor_of(name) == factor}

    def combine(
        self, round_: int, current: AdapterState, updates: Mapping[str, Update]
    ) -> AdapterState | None:
        """The next global adapter; None: the algorithm's arithmetic makes it of the factors."""
        if self._rule.combine is None:
            return None
        replies = [self._reply(name, updates[name], current) for name in sorted(updates)]
        return self._rule.combine(Replies(round_, current, replies, self.ranks, self.seed))

    def _reply(self, client: str, update: Update, current: AdapterState) -> Reply:
        full = Replies(0, current, ()).rank
        return Reply(update.metrics[WEIGHT], self.ranks.of(client) or full, update.adapter)
