"""The malicious clients of a run: who they are, what they hold, and what they reply.

Everything follows from the recipe's seed and the clients' rows, so a resumed run has the same
malicious clients, and they reply the same.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedrai.federation.attacks.base import Attack, Turn
from fedrai.federation.client import Reply, TrainOn
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.protocol import Task
from fedrai.recipe.sections import Attack as Settings
from fedrai.recipe.sections import seed_for
from fedrai.records import TrainingRow


def choose(names: Collection[str], count: int, seed: int) -> list[str]:
    """Names of malicious clients, sorted; a larger count adds to those of a smaller one.

    Args:
        names: of all clients that hold rows.
        count: how many of them are malicious.
        seed: the recipe's.
    """
    order = sorted(names)
    random.Random(seed_for(seed, "malicious")).shuffle(order)
    return sorted(order[:count])


@dataclass(frozen=True, slots=True)
class Malicious:
    """The malicious clients of a run; call it as a `client.Act`.

    Attributes:
        attack: what they do.
        settings: the recipe's section.
        seed: the recipe's.
        rows: tokenized rows that the attack chose, by malicious client.
        honest_rows: what each would train on if it were honest.
        held: number of rows that each holds.
        harmful: number of harmful rows among those that each trains on.
    """

    attack: Attack
    settings: Settings
    seed: int
    rows: Mapping[str, Sequence[TrainingRow]]
    honest_rows: Mapping[str, Sequence[TrainingRow]]
    held: Mapping[str, int]
    harmful: Mapping[str, int]

    def __call__(self, client: str, task: Task, train_on: TrainOn) -> Reply | None:
        """A malicious client's reply; None: it is honest in this round."""
        if client not in self.rows or task.round < self.settings.from_round:
            return None

        def train(rows: Sequence[TrainingRow], seed: int) -> Reply:
            adapter, numbers = train_on(rows, seed)
            return adapter, {**numbers, WEIGHT: self.held[client]}

        return self.attack.reply(self._turn(client, task, train))

    def _turn(self, client: str, task: Task, train: TrainOn) -> Turn:
        noise = seed_for(self.seed, "attack-noise", task.round, client)
        return Turn(
            start=task.adapter,
            rows=self.rows[client],
            honest_rows=self.honest_rows[client],
            held=self.held[client],
            train=train,
            seed=seed_for(self.seed, "training", task.round, client),
            common_seed=seed_for(self.seed, "attack", task.round),
            noise=torch.Generator().manual_seed(noise),
        )

    def to_json(self) -> dict[str, Any]:
        """What `run.json` says of the attack."""
        settings = self.settings
        return {
            "malicious_clients": sorted(self.rows),
            "attack": {
                "kind": settings.kind,
                "share": settings.share,
                "strength": settings.resolved_strength or None,
                "from_round": settings.from_round,
            },
        }
