"""`summary.json`: the key figures of a run, derived from its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedrai.runs import RunFolder, record
from fedrai.runs.costs import Cost
from fedrai.runs.record import RunRecord, ScreeningRecord

TOLD_COSTS = ("seconds", "tokens", "operations", "peak-bytes")
"""Costs that clients tell of themselves; bytes are counted by the server."""
TOTALS = ("rows", "unsafe", "dropped", "replaced")
WITHOUT = ("filter", "training", "aggregation")  # a run's work beside alignments and evaluations

Numbers = Mapping[str, Mapping[str, float]]
"""What clients say of themselves, by client."""


def summarise(folder: RunFolder) -> dict[str, Any]:
    """Everything `summary.json` holds; reads the folder only.

    Raises:
        RunError: a file of the run is missing or damaged.
    """
    run = record.read(folder)
    told = _told(run)
    untold = _untold(run)
    rows = run.client_rows or {name: int(m.get("num-examples", 0)) for name, m in told.items()}
    return {
        "name": run.name,
        "recipe_hash": run.recipe_hash,
        "status": "finished" if run.finished else "unfinished",
        "start": run.start,
        "rounds": len(run.rounds),
        "clients": len(rows),
        "rows": sum(rows.values()),
        "harmful_rows": run.harmful_rows or 0,
        "bad_rows": run.bad_rows or 0,
        "bad_row_problems": dict(run.bad_row_problems),
        "unread_columns": dict(run.unread_columns),
        "held_out_bad_rows": run.held_out_bad_rows,
        "filter": _elsewhere(run.screening.mode, told) if told else _here(run.screening),
        "constitution": _constitution(run, known="operations" not in untold),
        "evaluations": {str(one.number): one.figures for one in run.evaluations},
        "training_loss": [{"round": one.number, "last": one.loss_last} for one in run.rounds],
        "set_aside": [
            {"round": one.number, "client": name, "reason": why}
            for one in run.rounds
            for name, why in one.set_aside.items()
        ],
        "costs": {phase: cost.to_json() for phase, cost in run.costs.items()},
        "untold_costs": untold,
    }


def _untold(run: RunRecord) -> list[str]:
    """Costs that some client kept to itself in some round; sums are without them."""
    sent = [numbers for one in run.rounds for numbers in one.clients.values()]
    return [name for name in TOLD_COSTS if any(name not in numbers for numbers in sent)]


def _constitution(run: RunRecord, *, known: bool) -> dict[str, Any] | None:
    """What alignments did and took; `saving` and `full_operations` are estimates.

    Args:
        run: the run.
        known: whether every client tells its operations.
    """
    found = run.constitution
    if found is None:
        return None
    cost = run.costs.get("constitution", Cost())
    others = sum((c.operations for name, c in run.costs.items() if name in WITHOUT), 0.0)
    return {
        "schedule": found.schedule,
        "hash": found.hash,
        "alignments": found.alignments,
        "steps": found.steps,
        "tokens": cost.tokens,
        "operations": cost.operations,
        "seconds": cost.seconds,
        "extra": cost.operations / others if others and known else None,
        "full_operations": found.full_operations,
        "saving": found.saving,
    }


def _told(run: RunRecord) -> Numbers:
    """The last numbers of each client of a deployment; nothing for clients of one process."""
    if run.engine != "flower":
        return {}
    return {name: numbers for one in run.rounds for name, numbers in one.clients.items()}


def _here(found: ScreeningRecord) -> dict[str, Any] | None:
    """What the filter of this process did."""
    if found.ledger is None:
        return None
    return {"mode": found.mode, **{key: found.ledger.get(key) for key in ("total", "skipped")}}


def _elsewhere(mode: str, told: Numbers) -> dict[str, Any] | None:
    """What the nodes' own filters did, as far as they tell; `total` is None if none does."""
    if mode == "off":
        return None
    counts: Counter[str] = Counter()
    whole = {f"filter-{name}" for name in TOTALS}
    for numbers in [numbers for numbers in told.values() if whole <= numbers.keys()]:
        for key in [key for key in numbers if key.startswith("filter-")]:
            counts[key.removeprefix("filter-")] += int(numbers[key])

    def under(prefix: str) -> dict[str, int]:
        return {k.removeprefix(prefix): n for k, n in counts.items() if k.startswith(prefix)}

    total: dict[str, Any] = {name: counts[name] for name in TOTALS}
    total |= {"unscored": under("unscored-"), "categories": under("category-")}
    total |= {"guard": "", "confusion": None}
    return {"mode": mode, "total": total if counts else None, "skipped": ""}
