"""Preference pairs in a scan: both of their answers are judged, each in the light of the request.

A row of a pair is unsafe if its chosen answer is: that is the one that training learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrai.filter.rows import Finding
from fedrai.guards.rows import GuardRow
from fedrai.rates import Rate, rate, rate_json


@dataclass(frozen=True, slots=True)
class PairScan:
    """The figures of the pairs among the rows.

    Attributes:
        rows: pairs that were judged.
        chosen: unsafe ones among their preferred answers.
        rejected: unsafe ones among the others.
        both: pairs with two unsafe answers.
        swappable: pairs whose preferred answer is unsafe and whose other answer is safe.
    """

    rows: int
    chosen: Rate
    rejected: Rate
    both: int
    swappable: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, rates with their 95 % Wilson intervals."""
        return {
            "rows": self.rows,
            "chosen": rate_json(self.chosen),
            "rejected": rate_json(self.rejected),
            "both": self.both,
            "swappable": self.swappable,
        }


def pair_scan(findings: Sequence[Finding], others: Sequence[Finding | None]) -> PairScan | None:
    """The figures of pairs; None if there are none.

    Args:
        findings: on the rows; of a pair, on its preferred answer.
        others: on the pairs' other answers, row by row; None: the row is no pair.
    """
    pairs = [
        (one.is_unsafe, other.is_unsafe)
        for one, other in zip(findings, others, strict=True)
        if other is not None
    ]
    if not pairs:
        return None
    return PairScan(
        len(pairs),
        rate(one for one, _ in pairs),
        rate(other for _, other in pairs),
        pairs.count((True, True)),
        pairs.count((True, False)),
    )


def swapped_columns(
    raw: Mapping[str, Any], row: GuardRow, other: Finding | None
) -> dict[str, Any] | None:
    """The columns of a pair with its answers in each other's place; None: the other is not safe."""
    if other is None or other.is_unsafe is not False or row.sides is None:
        return None
    chosen, rejected = row.sides
    return {**raw, chosen: raw[rejected], rejected: raw[chosen]}
