"""Figures of runs and comparisons as rows for a table: flat dicts of numbers and texts.

`pandas.DataFrame(rows)` accepts each list. Shares lie between 0 and 1; what was not measured is
None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from fedrai.rates import rate_json
from fedrai.report.comparing.differences import Difference
from fedrai.report.comparing.figure import Figure
from fedrai.report.comparing.figures import ArmFigures
from fedrai.report.measures import OUTSIDE
from fedrai.runs.record import EvaluationRecord, FilterCounts, RoundRecord, RunRecord

Row = dict[str, Any]


def figures(run: RunRecord) -> list[Row]:
    """One row per evaluated round and measure, with its 95 % interval."""
    return [row for evaluation in run.evaluations for row in _measures(evaluation)]


def _measures(evaluation: EvaluationRecord) -> Iterator[Row]:
    for name, mean in (evaluation.outside.means if evaluation.outside else {}).items():
        yield {
            "round": evaluation.number, "measure": f"{OUTSIDE}{name}", "value": mean.value,
            "low": mean.low, "high": mean.high, "scored": mean.items, "unscored": mean.unscored,
        }  # fmt: skip
    for name, rate in evaluation.rates.items():
        figure = rate_json(rate)
        columns = {key: figure[key] for key in ("value", "low", "high", "scored", "unscored")}
        yield {"round": evaluation.number, "measure": name, **columns}
    for name, score in evaluation.scores.items():
        yield {
            "round": evaluation.number, "measure": name, "value": score.value, "low": score.low,
            "high": score.high, "scored": score.count, "unscored": score.unscored,
        }  # fmt: skip
    if evaluation.loss is not None:
        yield {"round": evaluation.number, "measure": "held-out-loss", "value": evaluation.loss}


def rounds(run: RunRecord) -> list[Row]:
    """One row a committed round."""
    return [
        {
            "round": one.number,
            "loss_first": one.loss_first,
            "loss_last": one.loss_last,
            "aggregation_error": one.aggregation_error,
            **_preference(one),
            **({"epsilon": one.privacy.epsilon} if one.privacy else {}),
            "updates": len(one.clients) or len(one.update_norms),
            "set_aside": len(one.set_aside),
            "aligned": one.alignment is not None and one.alignment.ran,
        }
        for one in run.rounds
    ]


def _preference(one: RoundRecord) -> Row:
    """The figures of a round's preference tuning; none without it."""
    if one.preference is None:
        return {}
    return {f"preference_{name}": value for name, value in asdict(one.preference).items()}


def updates(run: RunRecord) -> list[Row]:
    """One row per round and client: the norm of its update, or why it was set aside."""
    return [
        {
            "round": one.number,
            "client": client,
            "update_norm": one.update_norms.get(client),
            "set_aside": one.set_aside.get(client, ""),
        }
        for one in run.rounds
        for client in dict.fromkeys([*one.update_norms, *one.set_aside])
    ]


def filtered(run: RunRecord) -> list[Row]:
    """One row per client whose filter counts are known, without categories."""
    return [{"client": name, **_counts(removed)} for name, removed in run.screening.clients.items()]


def _counts(removed: FilterCounts) -> Row:
    names = ("rows", "unsafe", "dropped", "replaced", "unscored")
    return {name: getattr(removed, name) for name in names}


def costs(run: RunRecord) -> list[Row]:
    """One row per phase."""
    return [{"phase": phase, **cost.to_json()} for phase, cost in run.costs.items()]


def arms(figures: Sequence[ArmFigures]) -> list[Row]:
    """One row per arm and measure: the mean over seeds, with its interval or range."""
    return [
        {"arm": arm.arm, "axis_value": arm.value, "measure": measure, **_figure(figure)}
        for arm in figures
        for measure, figure in arm.figures.items()
    ]


def differences(gaps: Sequence[Difference]) -> list[Row]:
    """One row per arm and measure: its difference from the reference, and the verdict."""
    return [
        {
            "arm": one.arm,
            "against": one.against,
            "axis_value": one.value,
            "measure": one.measure,
            **_figure(one.figure),
            "verdict": one.verdict,
        }
        for one in gaps
    ]


def _figure(figure: Figure) -> Row:
    return {
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "interval": figure.kind,
        "seeds": figure.seeds,
        "prompts": figure.count,
        "unscored": figure.unscored,
    }
