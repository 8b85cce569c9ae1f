"""`filter.json` and the clients' own ledgers as a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrai.runs.costs import Cost
from fedrai.runs.folder import RunFolder
from fedrai.runs.record.rounds import RoundRecord
from fedrai.runs.record.values import (
    Json,
    as_count,
    as_counts,
    as_number,
    json_of,
    part,
    word,
)

FILTER = "filter.json"


@dataclass(frozen=True, slots=True)
class FilterCounts:
    """Counts of a filter's ledger.

    Attributes:
        rows: judged rows.
        unsafe: unsafe rows; the sum of `categories` if the guard gives one to each.
        dropped: rows left out of training.
        replaced: rows whose answer was replaced by a refusal.
        unscored: rows without a verdict.
        categories: unsafe rows by hazard.
        swapped: pairs whose answers changed places; None: the rows are no pairs.
    """

    rows: int
    unsafe: int
    dropped: int
    replaced: int
    unscored: int
    categories: Mapping[str, int]
    swapped: int | None = None

    @classmethod
    def from_json(cls, body: Json) -> FilterCounts:
        """The counts of a ledger."""
        rows, unsafe, dropped, replaced = (
            as_count(body.get(key)) or 0 for key in ("rows", "unsafe", "dropped", "replaced")
        )
        unscored = sum(as_counts(body.get("unscored")).values())
        swapped = as_count(part(body, "pairs").get("swapped", body.get("swapped")))
        categories = as_counts(body.get("categories"))
        return cls(rows, unsafe, dropped, replaced, unscored, categories, swapped)


@dataclass(frozen=True, slots=True)
class ScreeningRecord:
    """The results of the safety filter.

    Attributes:
        mode: "off", "drop", "replace" ...
        guard: its name.
        threshold: probability from which a row counts as unsafe.
        skipped: why it did not run though the recipe asks for it; empty: it ran.
        total: over all clients.
        clients: clients by name.
        reported: whether the counts are those that clients sent, perhaps with noise.
        confusion: harmful and benign rows in and out, if the data labels them.
        cost: cost of judging the rows; None if no row was judged here.
        ledger: the content of `filter.json`; None if there is none.
    """

    mode: str
    guard: str | None
    threshold: float | None
    skipped: str
    total: FilterCounts | None
    clients: Mapping[str, FilterCounts]
    reported: bool
    confusion: Mapping[str, int]
    cost: Cost | None
    ledger: Json | None


def read_screening(
    folder: RunFolder, info: Json, settings: Json, rounds: Sequence[RoundRecord]
) -> ScreeningRecord:
    """The counts of the ledgers; on a deployment, those of clients' last updates."""
    ledger = json_of(folder, FILTER) if (folder.path / FILTER).is_file() else None
    total = part(ledger or {}, "total")
    suffix = f".{FILTER}"
    clients = {
        file.name.removesuffix(suffix): FilterCounts.from_json(
            json_of(folder, f"clients/{file.name}")
        )
        for file in sorted((folder.path / "clients").glob(f"*{suffix}"))
    }
    reported = {} if clients else _counts_by_client(rounds)
    mode = info.get("filter", part(settings, "filter").get("mode", "off"))
    return ScreeningRecord(
        mode=str(mode),
        guard=word(total, "guard") or None,
        threshold=as_number(total.get("threshold")),
        skipped=word(info, "filter_skipped"),
        total=FilterCounts.from_json(total) if total else None,
        clients=clients or reported,
        reported=bool(reported),
        confusion=as_counts(total.get("confusion")),
        cost=None if ledger is None else Cost.from_json(ledger.get("cost")),
        ledger=ledger,
    )


def _counts_by_client(rounds: Sequence[RoundRecord]) -> dict[str, FilterCounts]:
    counts = {
        name: _reported_counts(numbers)
        for one in rounds
        for name, numbers in one.clients.items()
        if "filter-rows" in numbers
    }
    return dict(sorted(counts.items()))


def _reported_counts(numbers: Mapping[str, float]) -> FilterCounts:
    def under(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in numbers.items() if k.startswith(prefix)}

    parts = {"unscored": under("filter-unscored-"), "categories": under("filter-category-")}
    return FilterCounts.from_json({**under("filter-"), **parts})
