"""`metrics.json` of an evaluation as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedrai.rates import Rate
from fedrai.runs.costs import Cost
from fedrai.runs.record.outside import MacroRate, OutsideRecord
from fedrai.runs.record.values import Json, as_costs, as_count, as_number, as_rate, as_words, part

COLUMNS = (
    "outside safe", "outside refused", "development: AdvBench safe", "AdvBench safe (legacy)",
    "ordinary refused", "held-out loss",
)  # fmt: skip
"""Figures of an evaluation in a table: outside sets first, then those that chose settings."""
NOT_OUTSIDE = (
    "No outside set was asked: AdvBench and the ordinary instructions chose settings, so that they"
    " prove nothing. Ask some with `fedrai eval RUN --outside` or evaluation.outside."
)


@dataclass(frozen=True, slots=True)
class Score:
    """A figure that is no rate of answers, such as HHH's accuracy or MT-Bench's mean.

    Attributes:
        value: the value in its own unit.
        low: lower end of its interval.
        high: upper end.
        count: number of items it is the mean of.
        unscored: items without a score.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    unscored: int

    @classmethod
    def from_json(cls, value: object) -> Score | None:
        """A score as an evaluation wrote it; None if it has no data or is none."""
        body = value if isinstance(value, Mapping) else {}
        number, low, high = (as_number(body.get(key)) for key in ("value", "low", "high"))
        if number is None:
            return None
        counts = (as_count(body.get(key)) or 0 for key in ("count", "unscored"))
        return cls(number, low, high, *counts)

    def format(self) -> str:
        """The score with its interval, if it has one: "0.500 [0.250, 0.750]"."""
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One evaluation.

    Attributes:
        number: the round that it follows; 0: before the first.
        rates: by name ("safe", "safe-legacy", "refused" ...).
        loss: loss on held-out answers, in nats per token.
        scores: by name ("hhh", "mt-bench" ...), those with data.
        score_names: all that were requested, with or without data.
        both_sides: one figure for safety and over-refusal.
        suites: the declaration of each, by name.
        unavailable: why a suite was not available, by name.
        costs: costs by phase.
        figures: `metrics.json` without its costs, for tables of single suites.
        loss_tokens: label tokens of the held-out rows; 0 without such rows.
        outside: figures of the outside sets; None: none was asked.
    """

    number: int
    rates: Mapping[str, Rate]
    loss: float | None
    scores: Mapping[str, Score] = field(default_factory=dict)
    score_names: tuple[str, ...] = ()
    both_sides: Score | None = None
    suites: Mapping[str, Json] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    loss_tokens: int = 0
    outside: OutsideRecord | None = None

    @property
    def loss_is_nan(self) -> bool:
        """Whether there were held-out rows, but their loss is not a number."""
        return self.loss is None and self.loss_tokens > 0

    def loss_text(self, missing: str = "not measured", unit: str = "") -> str:
        """The held-out loss, "not a number", or the words for a missing one."""
        if self.loss is None:
            return "not a number" if self.loss_is_nan else missing
        return f"{self.loss:.3f}{unit}"

    @classmethod
    def from_json(cls, number: int, body: Json, models: int = 1) -> EvaluationRecord:
        """An evaluation.

        Args:
            number: the round that it follows.
            body: the content of `metrics.json`.
            models: models that answered each prompt (local mode: one for each client).
        """
        rates = {str(name): as_rate(value) for name, value in part(body, "rates").items()}
        scores = {str(n): Score.from_json(value) for n, value in part(body, "scores").items()}
        return cls(
            number,
            {n: _pooled_rate(rate, models) for n, rate in rates.items() if rate is not None},
            as_number(body.get("held_out_loss")),
            {name: score for name, score in scores.items() if score is not None},
            tuple(n for n, value in part(body, "scores").items() if isinstance(value, Mapping)),
            Score.from_json(body.get("both_sides")),
            {str(name): part(part(body, "suites"), name) for name in part(body, "suites")},
            as_words(body, "unavailable"),
            as_costs(body.get("costs")),
            {name: value for name, value in body.items() if name != "costs"},
            as_count(body.get("held_out_tokens")) or 0,
            OutsideRecord.from_json(part(body, "outside")),
        )

    @property
    def outside_safe(self) -> MacroRate | None:
        """The mean share of refusals over the outside sets of harmful requests."""
        return self.outside.safe if self.outside else None

    @property
    def outside_refused(self) -> MacroRate | None:
        """The mean share of refusals over the outside sets of harmless requests."""
        return self.outside.refused if self.outside else None


def _pooled_rate(rate: Rate, models: int) -> Rate:
    """A rate over the answers of several models; earlier versions recorded no prompts."""
    if models == 1 or rate.prompts or not rate.scored:
        return rate
    return replace(rate, prompts=max(1, rate.scored // models))


def evaluation_cells(figures: Mapping[str, Any]) -> list[str]:
    """One evaluation as the cells of `COLUMNS`: rates in % with 95 % intervals, loss in nats."""
    evaluation = EvaluationRecord.from_json(0, figures)
    means = evaluation.outside_safe, evaluation.outside_refused
    cells = ["not measured" if mean is None else _macro_cell(mean) for mean in means]
    for key in ("safe", "safe-legacy", "refused"):
        rate = evaluation.rates.get(key)
        unscored = f", {rate.unscored} unscored" if rate and rate.unscored else ""
        cells.append("not measured" if rate is None else rate.format() + unscored)
    return [*cells, evaluation.loss_text()]


def _macro_cell(mean: MacroRate) -> str:
    return mean.format() + (f", {mean.unscored} unscored" if mean.unscored else "")
