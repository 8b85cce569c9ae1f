"""Who is suspicious in a round, why, and what follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrai.federation.vetting.combining import FEWEST, Honest, shares, suspicion
from fedrai.federation.vetting.scores import Score, Values
from fedrai.federation.vetting.updates import RoundUpdates
from fedrai.runs.costs import Cost

WATCHED = 2.0
"""A watched client is suspicious at this many times the false alarm rate."""


@dataclass(frozen=True, slots=True)
class ClientVerdict:
    """What vetting says of one client.

    Attributes:
        scores: its numbers by score; None: not known in this round.
        suspicion: part of honest clients that look as bad; None: not known.
        is_suspicious: whether that is at most the false alarm rate.
        is_watched: whether it was suspicious in one of the rounds before.
        reason: why it is suspicious, in words; empty if it is not.
    """

    scores: Mapping[str, float | None]
    suspicion: float | None
    is_suspicious: bool
    is_watched: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RoundVerdict:
    """What vetting says of a round.

    Attributes:
        clients: the clients' verdicts, by name.
        action: the recipe's `vetting.action`.
        false_alarms: the recipe's.
        weight: factor on the weight of a suspicious client, with `weigh`.
        cost: what it took.
        figures: further numbers for the record.
    """

    clients: Mapping[str, ClientVerdict]
    action: str
    false_alarms: float
    weight: float
    cost: Cost
    figures: Mapping[str, float]

    @property
    def suspicious(self) -> dict[str, str]:
        """The reasons of the suspicious clients, by name."""
        return {name: one.reason for name, one in self.clients.items() if one.is_suspicious}

    @property
    def aside(self) -> dict[str, str]:
        """Those whose updates are left out."""
        return self.suspicious if self.action == "set-aside" else {}

    @property
    def factors(self) -> dict[str, float]:
        """Factors on the weights of the clients that weigh less."""
        return dict.fromkeys(self.suspicious, self.weight) if self.action == "weigh" else {}

    def to_json(self) -> dict[str, Any]:
        """Its part of `round.json`."""
        return {
            "action": self.action,
            "false_alarms": self.false_alarms,
            "scores": {name: dict(one.scores) for name, one in self.clients.items()},
            "suspicion": {name: one.suspicion for name, one in self.clients.items()},
            "watched": [name for name, one in self.clients.items() if one.is_watched],
            "suspicious": self.suspicious,
            "set_aside": self.aside,
            "factors": self.factors,
            **self.figures,
        }


def judge_clients(
    updates: RoundUpdates,
    scores: Sequence[Score],
    honest: Mapping[str, Honest],
    false_alarms: float,
    watched: frozenset[str],
) -> dict[str, ClientVerdict]:
    """The verdicts of a round, by client.

    Scores that need no other client come first: whom they catch is not compared with. Of the rest,
    the worst is caught, and the others are held against each other again without it, until none is
    suspicious. So one kind of malicious client does not hide another, or make honest ones look odd.

    Args:
        updates: the round's.
        scores: which scores.
        honest: what honest clients have, by score.
        false_alarms: share of honest clients that may be suspicious.
        watched: clients that were suspicious lately.

    Raises:
        FederationError: a score of an installed package fails.
    """
    caught: dict[str, ClientVerdict] = {}
    alone = [score for score in scores if honest[score.name].relative is None]
    for part, at_once in ((alone, True), (scores, False)):
        while part:
            left = updates.only([name for name in updates.names if name not in caught])
            if not left.names:
                break
            verdicts = _judged(left, scores, part, honest, false_alarms, watched)
            found = {name: one for name, one in verdicts.items() if one.is_suspicious}
            if at_once or not found or len(left.names) <= FEWEST:
                caught |= found
                break
            worst = min(found, key=lambda name: found[name].suspicion or 0.0)
            caught[worst] = found[worst]
    return {name: caught.get(name) or verdicts[name] for name in updates.names}


def _judged(
    updates: RoundUpdates,
    all_scores: Sequence[Score],
    scores: Sequence[Score],
    honest: Mapping[str, Honest],
    false_alarms: float,
    watched: frozenset[str],
) -> dict[str, ClientVerdict]:
    """The verdicts by some scores on the clients that are left."""
    values = {score.name: score.measure(updates) for score in all_scores}
    parts = {s.name: shares(s, values[s.name], honest[s.name]) for s in all_scores}
    counted = [score.name for score in scores]
    verdicts = {}
    for name in updates.names:
        own = {score: parts[score][name] for score in parts}
        verdict = suspicion({score: own[score] for score in counted}, len(all_scores))
        limit = false_alarms * (WATCHED if name in watched else 1)
        found = verdict is not None and verdict <= limit
        numbers = {s: values[s][name] if own[s] is not None else None for s in own}
        reason = _reason(updates, scores, values, own, name) if found else ""
        verdicts[name] = ClientVerdict(numbers, verdict, found, name in watched, reason)
    return verdicts


def _reason(
    updates: RoundUpdates,
    scores: Sequence[Score],
    values: Mapping[str, Values],
    own: Mapping[str, float | None],
    client: str,
) -> str:
    """The reason of the score by which the client looks worst."""
    known = [(share, score) for score in scores if (share := own[score.name]) is not None]
    score = min(known, key=lambda pair: pair[0])[1]
    return score.reason(updates, values[score.name], client)
