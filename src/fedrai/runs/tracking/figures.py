"""The figures for a tracker: finite numbers by name, from the files of a run folder.

Names: `loss/last`, `preference/accuracy`, `aggregation/error`, `privacy/epsilon`,
`clients/usable`, `client/NAME/loss_last`, `cost/PHASE/seconds`, `constitution/steps`,
`filter/unsafe`, `filter/category/NAME`, `evaluation/safe` with `_low`, `_high` (95 % interval),
`_scored` and `_unscored`, `evaluation/held_out_loss`. The step is the
round; 0 is before the first. Units are those of the files: nats, seconds, bytes, shares of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fedrai.runs.record import EvaluationRecord, RoundRecord
from fedrai.runs.record.values import Json, as_numbers, as_total, part

Figures = dict[str, float]
COSTS = ("seconds", "tokens", "operations", "peak_bytes", "bytes_down", "bytes_up")
COUNTS = ("rows", "kept", "dropped", "replaced", "unsafe")


def round_figures(body: Json) -> Figures:
    """Figures of a round.

    Args:
        body: `rounds/NNNN/round.json`.
    """
    record = RoundRecord.from_json(0, body)
    figures: dict[str, Any] = {
        "loss/first": record.loss_first,
        "loss/last": record.loss_last,
        "aggregation/error": record.aggregation_error,
        "privacy/epsilon": record.privacy.epsilon if record.privacy else None,
        "clients/usable": body.get("usable"),
        "clients/set_aside": body.get("aside"),
        **_costs(part(body, "costs")),
        **_alignment(part(body, "constitution")),
    }
    if (tuned := record.preference) is not None:
        figures |= {f"preference/{name}": value for name, value in asdict(tuned).items()}
    for name, numbers in record.clients.items():
        figures |= {f"client/{name}/{k.replace('-', '_')}": v for k, v in numbers.items()}
    figures |= {f"defence/{step.method}/moved": step.relative for step in record.defences}
    figures |= {f"client/{name}/update_norm": norm for name, norm in record.update_norms.items()}
    return _numbers(figures)


def evaluation_figures(body: Json) -> Figures:
    """Figures of an evaluation.

    Args:
        body: `evaluations/NNNN/metrics.json`.
    """
    record = EvaluationRecord.from_json(0, body)
    figures: dict[str, Any] = {"evaluation/held_out_loss": record.loss}
    for name, mean in (record.outside.means if record.outside else {}).items():
        figures |= _with_ends(f"outside-{name}", mean.value, mean.low, mean.high)
    for name, rate in record.rates.items():
        figures |= _with_ends(name, rate.value, *(rate.interval() or (None, None)))
        figures |= {f"evaluation/{name}_scored": rate.scored}
        figures |= {f"evaluation/{name}_unscored": rate.unscored}
    for name, score in {**record.scores, "both_sides": record.both_sides}.items():
        if score is not None:
            figures |= _with_ends(name, score.value, score.low, score.high)
    return _numbers({**figures, **_costs(part(body, "costs"))})


def filter_figures(body: Json) -> Figures:
    """Figures of the safety filter, over all clients.

    Args:
        body: `filter.json`.
    """
    total = part(body, "total")
    figures = {f"filter/{key}": total.get(key) for key in COUNTS}
    figures |= {f"filter/category/{name}": n for name, n in part(total, "categories").items()}
    figures["filter/unscored"] = as_total(total.get("unscored")) or 0
    return _numbers({**figures, **_costs({"filter": part(body, "cost")})})


def settings(recipe: Mapping[str, Any]) -> dict[str, str | float]:
    """Settings that a tracker shows beside the figures: numbers and choices, no paths or addresses.

    Args:
        recipe: the resolved recipe as plain values.
    """
    chosen: dict[str, str | float] = {"seed": recipe["seed"]}
    for section in ("adapter", "training", "federation", "aggregation"):
        for key, value in recipe[section].items():
            if isinstance(value, bool | int | float) or key in ("mode", "algorithm", "schedule"):
                chosen[f"{section}.{key}"] = value
    return chosen | {
        "data.harm.share": recipe["data"]["harm"]["share"],
        "filter.mode": recipe["filter"]["mode"],
        "constitution.schedule": recipe["constitution"]["schedule"],
    }


def _with_ends(name: str, value: Any, low: Any, high: Any) -> dict[str, Any]:
    stem = f"evaluation/{name}"
    return {stem: value, f"{stem}_low": low, f"{stem}_high": high}


def _costs(costs: Json) -> dict[str, Any]:
    return {f"cost/{phase}/{key}": part(costs, phase).get(key) for phase in costs for key in COSTS}


def _alignment(report: Json) -> dict[str, Any]:
    if not report.get("ran"):
        return {}
    figures = {f"constitution/{k}": report.get(k) for k in ("steps", "requests", "kept", "yield")}
    for when in ("before", "after"):
        probe = part(report, f"probe_{when}")
        figures |= {f"constitution/{k}_{when}": probe.get(k) for k in ("safe", "useful")}
    return figures


def _numbers(figures: Json) -> Figures:
    """The finite numbers: a figure that was not measured is left out, never sent as 0."""
    return {name: float(value) for name, value in as_numbers(figures).items()}
