"""The result of an alignment for the round loop: an adapter, a report and the cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedrai.runs.costs import Cost

if TYPE_CHECKING:
    from fedrai.model import AdapterState


@dataclass(frozen=True, slots=True)
class Aligned:
    """The result of one round's alignment.

    Attributes:
        adapter: the aligned one; the aggregated one itself where no alignment ran.
        report: plain values that a repetition reproduces, so no seconds: `ran` and `why` (the
            schedule's reason); if it ran also `steps`, `stopped` (why it ended),
            `probe_before` and `probe_after` (with `safe` and `useful`, shares from 0 to 1),
            `requests`, `kept`, `yield`, `outcomes`, `diversity`, `pairs`, `rows`,
            `overlap_removed`, `reused`, and `full_operations`: an estimate of the operations of an
            epoch with fresh generation. With mining also `mining`: by side `pool`, `failed`,
            `unscored`, `unsafe`, `taken` and `filled`.
        cost: total cost, including the probe.
    """

    adapter: AdapterState
    report: Mapping[str, Any]
    cost: Cost

    @property
    def ran(self) -> bool:
        """Whether there was an alignment."""
        return bool(self.report["ran"])


def brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """The key figures of an alignment, printed when it is done; None for a missing figure.

    Args:
        report: `Aligned.report` of a round in which it ran.
    """
    before, after = (report.get(key) or {} for key in ("probe_before", "probe_after"))
    mining = report.get("mining") or {}
    failed = {side: [n["failed"], n["pool"] - n["unscored"]] for side, n in mining.items()}
    return {
        "steps": report.get("steps", 0),
        "yield": report.get("yield"),
        "safe": [before.get("safe"), after.get("safe")],
        "useful": [before.get("useful"), after.get("useful")],
        **({"failed": failed} if failed else {}),
    }
