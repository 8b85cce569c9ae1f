"""What an attack is given, and what it gives: the protocol of all kinds.

An attack first chooses, once, the rows that a malicious client trains on; no filter sees them. In
each round it then makes the client's reply: an adapter, and the numbers that the client states. It
has no other way to reach the server than that reply, and the server does not know who uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fedrai.federation.client import Reply, TrainOn
from fedrai.model import AdapterState
from fedrai.records import Example, TrainingRow


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a malicious client can take its rows from.

    Attributes:
        own: its own rows, before any filter.
        harmful: as many rows of the harmful sources; empty where the recipe has none.
        pooled: the harmful rows of all malicious clients, in the order of their names.
        seed: the client's own, for drawing among them.
    """

    own: Sequence[Example]
    harmful: Sequence[Example]
    pooled: Sequence[Example]
    seed: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A malicious client's part of a round.

    Attributes:
        start: the adapter that the server sent.
        rows: tokenized, the rows that the attack chose.
        honest_rows: those that the client would train on if it were honest.
        held: how many rows it holds, which an honest client states.
        train: local training from `start` on rows, with a seed; its numbers are those of an honest
            client that holds as many rows as this one.
        seed: of an honest training of this client in this round.
        common_seed: the same for all malicious clients of the round.
        noise: the client's own randomness in this round.
    """

    start: AdapterState
    rows: Sequence[TrainingRow]
    honest_rows: Sequence[TrainingRow]
    held: int
    train: TrainOn
    seed: int
    common_seed: int
    noise: torch.Generator


class Attack(Protocol):
    """A kind of attack; stateless, so that a resumed run replies the same."""

    def rows(self, held: Holdings) -> Sequence[Example]:
        """The rows that a malicious client trains on; rows that are not its own may be made up."""

    def reply(self, turn: Turn) -> Reply:
        """The adapter and the numbers that a malicious client sends in a round."""


__all__ = ["Attack", "Holdings", "Reply", "Turn"]
