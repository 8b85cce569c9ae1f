"""What a tracker is given: finite numbers by name, from the files of a run folder.

Names: `loss/last`, `clients/usable`, `client/NAME/loss_last`, `cost/PHASE/seconds`,
`constitution/steps`, `filter/unsafe`, `filter/category/NAME`, `evaluation/safe` with `_low`,
`_high` (95 % interval), `_scored` and `_unscored`, `evaluation/held_out_loss`. The step is the
round; 0 is before the first. Units are those of the files: nats, seconds, bytes, shares of 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedrai.rates import rate_from_json

Figures = dict[str, float]
COSTS = ("seconds", "tokens", "operations", "peak_bytes", "bytes_down", "bytes_up")
COUNTS = ("rows", "kept", "dropped", "replaced", "unsafe")


def round_figures(found: Mapping[str, Any]) -> Figures:
    """Figures of a round.

    Args:
        found: `rounds/NNNN/round.json`.
    """
    figures = {
        "loss/first": found.get("loss_first"),
        "loss/last": found.get("loss_last"),
        "clients/usable": found.get("usable"),
        "clients/set_aside": found.get("aside"),
        **_costs(found),
        **_alignment(found.get("constitution") or {}),
    }
    for name, metrics in found.get("clients", {}).items():
        figures |= {f"client/{name}/{k.replace('-', '_')}": v for k, v in metrics.items()}
    for name, norm in found.get("update_norms", {}).items():
        figures[f"client/{name}/update_norm"] = norm
    return _numbers(figures)


def evaluation_figures(found: Mapping[str, Any]) -> Figures:
    """Figures of an evaluation.

    Args:
        found: `evaluations/NNNN/metrics.json`.
    """
    figures: dict[str, Any] = {"evaluation/held_out_loss": found.get("held_out_loss")}
    for name, value in found.get("rates", {}).items():
        rate = rate_from_json(value)
        low, high = rate.interval() or (None, None)
        figures |= _with_ends(name, rate.value, low, high)
        figures |= {f"evaluation/{name}_scored": rate.scored}
        figures |= {f"evaluation/{name}_unscored": rate.unscored}
    others = {**(found.get("scores") or {}), "both_sides": found.get("both_sides")}
    for name, value in others.items():
        if isinstance(value, Mapping):
            ends = (value.get(key) for key in ("value", "low", "high"))
            figures |= _with_ends(name, *ends)
    return _numbers({**figures, **_costs(found)})


def filter_figures(found: Mapping[str, Any]) -> Figures:
    """Figures of the safety filter, over all clients.

    Args:
        found: `filter.json`.
    """
    total = found.get("total") or {}
    figures = {f"filter/{key}": total.get(key) for key in COUNTS}
    figures |= {f"filter/category/{k}": n for k, n in (total.get("categories") or {}).items()}
    figures["filter/unscored"] = sum((total.get("unscored") or {}).values())
    return _numbers({**figures, **_costs({"costs": {"filter": found.get("cost") or {}}})})


def settings(recipe: Mapping[str, Any]) -> dict[str, str | float]:
    """What a tracker may show beside the figures: numbers and choices, no path and no address.

    Args:
        recipe: the resolved recipe as plain values.
    """
    found: dict[str, str | float] = {"seed": recipe["seed"]}
    for section in ("adapter", "training", "federation", "aggregation"):
        for key, value in recipe[section].items():
            if isinstance(value, bool | int | float) or key in ("mode", "algorithm", "schedule"):
                found[f"{section}.{key}"] = value
    harm, rules = recipe["data"]["harm"], recipe["constitution"]
    return found | {
        "data.harm.share": harm["share"],
        "filter.mode": recipe["filter"]["mode"],
        "constitution.schedule": rules["schedule"],
    }


def _with_ends(name: str, value: Any, low: Any, high: Any) -> dict[str, Any]:
    stem = f"evaluation/{name}"
    return {stem: value, f"{stem}_low": low, f"{stem}_high": high}


def _costs(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"cost/{phase}/{key}": cost.get(key)
        for phase, cost in (found.get("costs") or {}).items()
        for key in COSTS
    }


def _alignment(report: Mapping[str, Any]) -> dict[str, Any]:
    if not report.get("ran"):
        return {}
    figures = {f"constitution/{k}": report.get(k) for k in ("steps", "requests", "kept", "yield")}
    for when in ("before", "after"):
        probe = report.get(f"probe_{when}") or {}
        figures |= {f"constitution/{k}_{when}": probe.get(k) for k in ("safe", "useful")}
    return figures


def _numbers(found: Mapping[str, Any]) -> Figures:
    """What is a finite number: a figure that was not measured is left out, never sent as 0."""
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
