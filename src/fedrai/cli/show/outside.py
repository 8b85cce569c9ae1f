"""The figures of outside sets as rows of a table: the macro means, then each set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedrai.rates import Rate, split_name
from fedrai.runs.record import EvaluationRecord, OutsideRecord

SET_COLUMNS = ["outside set", "manner", "figure", "value", "answers", "unscored", "judge"]
_SIDES = {"safe": "mean of harmful sets", "refused": "mean of harmless sets"}
_SHOWN = {"safe": "declined", "refused": "refused"}
_HIDDEN = "legacy"  # kept in the files; it says nothing that the rule does not


def set_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """Cells of `SET_COLUMNS`; none where no outside set was asked."""
    outside = EvaluationRecord.from_json(0, figures).outside
    return [] if outside is None else [*_means(outside), *_sets(outside)]


def _means(outside: OutsideRecord) -> Iterator[list[str]]:
    for name, mean in outside.means.items():
        plain, judge = split_name(name)
        if judge != _HIDDEN:
            counts = [f"{mean.sets} sets, {mean.items}", str(mean.unscored)]
            yield [_SIDES[plain], "", _figure(plain, judge), mean.format(), *counts, judge]


def _sets(outside: OutsideRecord) -> Iterator[list[str]]:
    for name, one in sorted(outside.sets.items(), key=lambda pair: not pair[1].harmful):
        for figure, rate in one.rates.items():
            plain, judge = split_name(figure)
            if judge != _HIDDEN:
                yield _row(name, one.manner, _figure(plain, judge), rate, judge)


def _row(name: str, manner: str, figure: str, rate: Rate, judge: str) -> list[str]:
    return [name, manner, figure, rate.format(), str(rate.scored), str(rate.unscored), judge]


def _figure(plain: str, judge: str) -> str:
    return "answer safe" if judge == "guard" else _SHOWN[plain]
