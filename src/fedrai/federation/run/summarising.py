"""`summary.json`: the key figures of a run, derived from its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedrai.constitution.outcome import spent
from fedrai.runs import RunFolder
from fedrai.runs.costs import Cost, Ledger

TOLD_COSTS = ("seconds", "tokens", "operations", "peak-bytes")
"""Costs that clients tell of themselves; bytes are counted by the server."""
TOTALS = ("rows", "unsafe", "dropped", "replaced")
WITHOUT = ("filter", "training", "aggregation")  # a run's work beside alignments and evaluations


def summarise(run: RunFolder) -> dict[str, Any]:
    """Everything `summary.json` holds; reads the folder only."""
    evaluations = {n: run.read_json(f"evaluations/{n:04d}/metrics.json") for n in run.evaluations()}
    rounds = [run.read_json(f"rounds/{n:04d}/round.json") for n in run.rounds()]
    ledger = Ledger()
    for part in [*rounds, *evaluations.values()]:
        for phase, cost in Ledger(part["costs"]).phases.items():
            ledger.add(phase, cost)
    screening = run.read_json("filter.json") if (run.path / "filter.json").is_file() else None
    if screening is not None:
        ledger.add("filter", Cost.from_json(screening["cost"]))
    info = run.info
    told = _told(info, rounds)
    untold = _untold(rounds)
    rows = info["rows"] or {name: int(m["num-examples"]) for name, m in told.items()}
    return {
        "name": info["name"],
        "recipe_hash": info["recipe_hash"],
        "status": "finished" if run.is_finished() else "unfinished",
        "start": info.get("start", ""),
        "rounds": len(rounds),
        "clients": len(rows),
        "rows": sum(rows.values()),
        "harmful_rows": sum(info["harmful_rows"].values()),
        "bad_rows": info["bad_row_count"],
        "bad_row_problems": info.get("bad_row_problems", {}),
        "unread_columns": info.get("unread_columns", {}),
        "held_out_bad_rows": info.get("held_out_bad_rows", 0),
        "filter": _elsewhere(info, told)
        if told
        else screening
        and {"mode": info["filter"], "total": screening["total"], "skipped": screening["skipped"]},
        "constitution": _constitution(info, rounds, ledger, known="operations" not in untold),
        "evaluations": {
            str(n): {k: v for k, v in m.items() if k != "costs"} for n, m in evaluations.items()
        },
        "training_loss": [{"round": r["round"], "last": r["loss_last"]} for r in rounds],
        "set_aside": [
            {"round": r["round"], "client": c, "reason": why}
            for r in rounds
            for c, why in r["set_aside"].items()
        ],
        "costs": ledger.to_json(),
        "untold_costs": untold,
    }


def _untold(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Costs that some client kept to itself in some round; sums are without them."""
    sent = [numbers for r in rounds for numbers in r["clients"].values()]
    return [name for name in TOLD_COSTS if any(name not in numbers for numbers in sent)]


def _constitution(
    info: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], ledger: Ledger, *, known: bool
) -> dict[str, Any] | None:
    """What alignments did and took; `saving` and `full_operations` are estimates.

    Args:
        info: `run.json`.
        rounds: their records.
        ledger: all costs.
        known: whether every client tells its operations.
    """
    if not info.get("constitution"):
        return None
    found = spent([r["constitution"] for r in rounds if "constitution" in r])
    cost = ledger.phases.get("constitution", Cost())
    others = sum((c.operations for name, c in ledger.phases.items() if name in WITHOUT), 0.0)
    return {
        "schedule": info["constitution"]["schedule"],
        "hash": info["constitution"]["hash"],
        "alignments": found.alignments,
        "steps": found.steps,
        "tokens": cost.tokens,
        "operations": cost.operations,
        "seconds": cost.seconds,
        "extra": cost.operations / others if others and known else None,
        "full_operations": found.full_operations,
        "saving": found.saving(cost.operations),
    }


def _told(
    info: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]
) -> Mapping[str, Mapping[str, float]]:
    """The last numbers of each client of a deployment; nothing for clients of one process."""
    if info.get("engine") != "flower":
        return {}
    return {name: numbers for r in rounds for name, numbers in r["clients"].items()}


def _elsewhere(
    info: Mapping[str, Any], told: Mapping[str, Mapping[str, float]]
) -> dict[str, Any] | None:
    """What the nodes' own filters did, as far as they tell; `total` is None if none does."""
    if info["filter"] == "off":
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
    return {"mode": info["filter"], "total": total if counts else None, "skipped": ""}
