"""`membership/NNNN.json` of a run: what a membership check found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedrai.runs.folder import RunFolder
from fedrai.runs.record.values import Json, as_count, as_number, json_of, part

Interval = tuple[float, float, float]
"""A figure, and the ends of its 95 % interval."""


@dataclass(frozen=True, slots=True)
class MembershipRecord:
    """One check.

    Attributes:
        number: the round whose model was attacked.
        own_rows: whether the rows were those of the run's clients, not of files.
        members: rows that were trained on.
        others: rows that were not.
        auroc: by attack.
        found: share of members found at 1 % false positives, by attack.
    """

    number: int
    own_rows: bool
    members: int
    others: int
    auroc: Mapping[str, Interval]
    found: Mapping[str, Interval]

    @classmethod
    def from_json(cls, number: int, body: Json) -> MembershipRecord:
        """A check from its file."""
        attacks = part(body, "attacks")
        return cls(
            number,
            body.get("own_rows") is True,
            as_count(body.get("members")) or 0,
            as_count(body.get("others")) or 0,
            *(
                {
                    name: figure
                    for name in attacks
                    if (figure := _interval(part(part(attacks, name), key))) is not None
                }
                for key in ("auroc", "found")
            ),
        )


def _interval(body: Json) -> Interval | None:
    value, low, high = (as_number(body.get(key)) for key in ("value", "low", "high"))
    return None if value is None or low is None or high is None else (value, low, high)


def read_checks(folder: RunFolder) -> tuple[MembershipRecord, ...]:
    """The membership checks of a run, by round.

    Raises:
        RunError: a file is damaged.
    """
    files = sorted((folder.path / "membership").glob("[0-9]*.json"))
    numbers = [int(file.stem) for file in files if file.stem.isdecimal()]
    return tuple(
        MembershipRecord.from_json(n, json_of(folder, f"membership/{n:04d}.json")) for n in numbers
    )
