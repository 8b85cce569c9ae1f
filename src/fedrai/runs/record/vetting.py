"""The vetting of a round, from `round.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedrai.runs.record.values import Json, as_number, as_words, part, word


@dataclass(frozen=True, slots=True)
class VettingRecord:
    """The vetting of one round.

    Attributes:
        action: what was done about suspicious clients.
        false_alarms: the share of honest clients that might be suspicious.
        suspicion: part of honest clients that look as bad, by client; None: not known.
        scores: numbers by client and score; None: not known.
        suspicious: reasons of the suspicious clients, by name.
        set_aside: those of them whose updates were left out.
        watched: clients that were suspicious in a round shortly before.
        share: operations of the vetting, as a share of those of the round's training; None: not
            known.
    """

    action: str
    false_alarms: float | None
    suspicion: Mapping[str, float | None]
    scores: Mapping[str, Mapping[str, float | None]]
    suspicious: Mapping[str, str]
    set_aside: Mapping[str, str]
    watched: tuple[str, ...]
    share: float | None

    @classmethod
    def from_json(cls, body: Json) -> VettingRecord | None:
        """A vetting from its part of `round.json`; None where there is none."""
        if not body:
            return None
        scores = part(body, "scores")
        watched = body.get("watched")
        return cls(
            word(body, "action"),
            as_number(body.get("false_alarms")),
            _optional(part(body, "suspicion")),
            {str(name): _optional(part(scores, name)) for name in scores},
            as_words(body, "suspicious"),
            as_words(body, "set_aside"),
            tuple(map(str, watched)) if isinstance(watched, list) else (),
            as_number(body.get("share")),
        )


def _optional(values: Json) -> dict[str, float | None]:
    return {str(name): as_number(value) for name, value in values.items()}
