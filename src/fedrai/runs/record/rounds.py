"""`round.json` of a committed round as a record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fedrai.rates import Rate
from fedrai.runs.costs import Cost
from fedrai.runs.record.defence import DefenceRecord
from fedrai.runs.record.preference import PreferenceRecord
from fedrai.runs.record.privacy import PrivacyRecord
from fedrai.runs.record.values import (
    Json,
    as_costs,
    as_count,
    as_counts,
    as_number,
    as_numbers,
    as_words,
    part,
    word,
)
from fedrai.runs.record.vetting import VettingRecord


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """The result of a probe: the rates of openings that are likelier than their counterparts."""

    safe: Rate
    useful: Rate

    @classmethod
    def from_json(cls, body: Json) -> ProbeRecord | None:
        """A probe from its shares and counts; None if one is missing."""
        sides = []
        for share, size in (("safe", "harmful"), ("useful", "harmless")):
            value, count = as_number(body.get(share)), as_count(body.get(size))
            if value is None or not count or not 0 <= value <= 1:
                return None
            sides.append(Rate(round(value * count), count))
        return cls(*sides)


@dataclass(frozen=True, slots=True)
class MiningRecord:
    """Mining on one side: the requests of a pool that the model failed before the alignment.

    Attributes:
        failed: harmful requests that were not declined, or harmless ones that were.
        unsafe: failed ones whose answer the guard judged unsafe.
        taken: failed ones that the alignment took.
        filled: other requests that it took.
    """

    failed: Rate
    unsafe: int
    taken: int
    filled: int

    @classmethod
    def from_json(cls, body: Json) -> MiningRecord | None:
        """A side from its counts; None if one is missing or does not fit the others."""
        names = ("pool", "failed", "unscored", "unsafe", "taken", "filled")
        pool, failed, unscored, *rest = (as_count(body.get(name)) for name in names)
        if pool is None or failed is None or unscored is None or failed + unscored > pool:
            return None
        unsafe, taken, filled = rest
        if unsafe is None or taken is None or filled is None:
            return None
        return cls(Rate(failed, pool - unscored, unscored), unsafe, taken, filled)


@dataclass(frozen=True, slots=True)
class AlignmentRecord:
    """The alignment of one round.

    Attributes:
        ran: whether the schedule ran it.
        why: the schedule's reason.
        steps: optimiser steps.
        stopped: why training ended.
        requests: red-team requests whose answers were to be revised.
        kept: revisions that passed all checks.
        reused: whether the revisions are those of an earlier round.
        outcomes: number of requests by outcome.
        before: the probe before.
        after: the probe after.
        trace: probes during training: (step, safe, useful), shares from 0 to 1.
        full_operations: estimate for an epoch with fresh generation.
        mining: mining by side ("harmful", "harmless"); empty without it.
    """

    ran: bool
    why: str
    steps: int | None
    stopped: str
    requests: int | None
    kept: int | None
    reused: bool | None
    outcomes: Mapping[str, int]
    before: ProbeRecord | None
    after: ProbeRecord | None
    trace: tuple[tuple[int, float, float], ...]
    full_operations: float | None
    mining: Mapping[str, MiningRecord] = field(default_factory=dict)

    @classmethod
    def from_json(cls, body: Json) -> AlignmentRecord:
        """An alignment from its report."""
        reused = body.get("reused")
        mining = part(body, "mining")
        sides = {side: MiningRecord.from_json(part(mining, side)) for side in mining}
        return cls(
            ran=bool(body.get("ran")),
            why=word(body, "why"),
            steps=as_count(body.get("steps")),
            stopped=word(body, "stopped"),
            requests=as_count(body.get("requests")),
            kept=as_count(body.get("kept")),
            reused=reused if isinstance(reused, bool) else None,
            outcomes=as_counts(body.get("outcomes")),
            before=ProbeRecord.from_json(part(body, "probe_before")),
            after=ProbeRecord.from_json(part(body, "probe_after")),
            trace=tuple(_trace(body.get("trace"))),
            full_operations=as_number(body.get("full_operations")),
            mining={side: counts for side, counts in sides.items() if counts},
        )


def _trace(points: object) -> Iterator[tuple[int, float, float]]:
    for point in points if isinstance(points, list) else []:
        if isinstance(point, Mapping):
            step, safe, useful = (as_number(point.get(k)) for k in ("step", "safe", "useful"))
            if step is not None and safe is not None and useful is not None:
                yield int(step), safe, useful


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One committed round.

    Attributes:
        number: round number, from 1.
        loss_first: weighted mean of clients' first steps, in nats per token.
        loss_last: the same of their last steps.
        clients: the numbers that each client reported, by name.
        update_norms: norms of the clients' updates, by name.
        set_aside: why clients were set aside, by name.
        alignment: None if the recipe has no constitution.
        costs: costs by phase.
        shared_from: the run of the comparison that trained the round, as seen from the folder that
            holds this run; empty: this run did.
        aggregation_error: how far the aggregated adapter was from the mean of the clients' models,
            as a part of the mean change; None: not recorded, or not what the algorithm computes.
        vetting: None if the recipe has none.
        defences: what each defence on the server did.
        preference: weighted means of the clients' preference tuning; None: there was none.
        privacy: the guarantee after it; None: the run has no noise.
    """

    number: int
    loss_first: float | None
    loss_last: float | None
    clients: Mapping[str, Mapping[str, float]]
    update_norms: Mapping[str, float]
    set_aside: Mapping[str, str]
    alignment: AlignmentRecord | None
    costs: Mapping[str, Cost]
    shared_from: str = ""
    aggregation_error: float | None = None
    vetting: VettingRecord | None = None
    defences: tuple[DefenceRecord, ...] = ()
    preference: PreferenceRecord | None = None
    privacy: PrivacyRecord | None = None

    @property
    def shared_seconds(self) -> float:
        """Seconds of the costs that another run spent: all but those of the alignment."""
        own = (c.seconds for phase, c in self.costs.items() if phase != "constitution")
        return sum(own) if self.shared_from else 0.0

    @classmethod
    def from_json(cls, number: int, body: Json) -> RoundRecord:
        """A round.

        Args:
            number: round number, from 1.
            body: the content of `round.json`.
        """
        clients = part(body, "clients")
        reports = {str(name): as_numbers(numbers) for name, numbers in clients.items()}
        return cls(
            number,
            as_number(body.get("loss_first")),
            as_number(body.get("loss_last")),
            reports,
            _norms(body, reports),
            as_words(body, "set_aside"),
            AlignmentRecord.from_json(part(body, "constitution"))
            if "constitution" in body
            else None,
            as_costs(body.get("costs")),
            word(body, "shared_from"),
            as_number(part(body, "aggregation_error").get("of_change")),
            VettingRecord.from_json(part(body, "vetting")),
            DefenceRecord.all_of(body),
            PreferenceRecord.from_json(part(body, "preference")),
            PrivacyRecord.from_json(part(body, "privacy")),
        )


def _norms(body: Json, reports: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Norms of updates as the server measured them; in earlier versions as clients reported."""
    if isinstance(body.get("update_norms"), Mapping):
        return as_numbers(body["update_norms"])
    return {name: n["update-norm"] for name, n in reports.items() if "update-norm" in n}
