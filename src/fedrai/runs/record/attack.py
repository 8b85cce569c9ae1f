"""The attack in `run.json` as a record."""

from __future__ import annotations

from dataclasses import dataclass

from fedrai.runs.record.values import Json, as_count, as_number, part, word


@dataclass(frozen=True, slots=True)
class AttackRecord:
    """The malicious clients of an experiment.

    Attributes:
        kind: what they do.
        strength: how strongly; None: the kind has no strength.
        from_round: first round of the attack.
        clients: their names, sorted.
    """

    kind: str
    strength: float | None
    from_round: int
    clients: tuple[str, ...]

    @classmethod
    def of(cls, info: Json) -> AttackRecord | None:
        """The attack in `run.json`; None where there is none."""
        body = part(info, "attack")
        names = info.get("malicious_clients")
        if not body or not isinstance(names, list):
            return None
        return cls(
            word(body, "kind"),
            as_number(body.get("strength")),
            as_count(body.get("from_round")) or 1,
            tuple(str(name) for name in names),
        )

    @property
    def text(self) -> str:
        """One line: "scaled (strength 10), from round 2, by 1 client: client-03"."""
        strength = "" if self.strength is None else f" (strength {self.strength:g})"
        start = f", from round {self.from_round}" if self.from_round > 1 else ""
        names = f"{len(self.clients)} client{'s' * (len(self.clients) != 1)}"
        return f"{self.kind}{strength}{start}, by {names}: {', '.join(self.clients)}"
