"""What the outside sets said item by item: the verdicts of a round's answers, without any text."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedrai.evaluation.refusal import Reply
from fedrai.evaluation.sequential import Bounds, Floats, bounds
from fedrai.runs import RunFolder
from fedrai.runs.files import json_lines
from fedrai.runs.record import EvaluationRecord

Verdict = bool | None
"""Whether the refusal rule calls an answer a refusal; None: empty or broken, so unscored."""


@dataclass(frozen=True, slots=True)
class SetOutcomes:
    """The verdicts on one outside set, in random order.

    Attributes:
        name: the set.
        title: its name in the literature.
        harmful: whether a good model declines its requests.
        verdicts: one for each item that was asked.
        numbers: the items' numbers in the set.
    """

    name: str
    title: str
    harmful: bool
    verdicts: tuple[Verdict, ...] = ()
    numbers: tuple[int, ...] = ()

    @property
    def unscored(self) -> int:
        """Answers without a verdict; the gate counts them against the model."""
        return self.verdicts.count(None)

    def with_more(self, numbers: Sequence[int], verdicts: Sequence[Verdict]) -> SetOutcomes:
        """The set after further items."""
        return SetOutcomes(
            self.name, self.title, self.harmful,
            (*self.verdicts, *verdicts), (*self.numbers, *numbers),
        )  # fmt: skip


def recorded(run: RunFolder, evaluation: EvaluationRecord, seed: int) -> list[SetOutcomes]:
    """The outside sets that a run asked after a round, each in a random order.

    The run drew its items at random; their order in the file is that of the set.

    Args:
        run: its folder.
        evaluation: the round's evaluation.
        seed: for the order.
    """
    sets = evaluation.outside.sets if evaluation.outside else {}
    return [
        _read(run, evaluation.number, SetOutcomes(name, one.title, one.harmful), seed)
        for name, one in sets.items()
    ]


def _read(run: RunFolder, number: int, empty: SetOutcomes, seed: int) -> SetOutcomes:
    rows = [
        row
        for row in json_lines(run.evaluation_folder(number) / f"{empty.name}.jsonl")
        if isinstance(row, Mapping) and isinstance(row.get("number"), int)
    ]
    random.Random(f"{seed} {empty.name}").shuffle(rows)
    return empty.with_more(
        [row["number"] for row in rows], [verdict_of(str(row.get("reply"))) for row in rows]
    )


def verdict_of(reply: str) -> Verdict:
    """The verdict in a row of an evaluation."""
    if reply not in (Reply.REFUSAL, Reply.COMPLIANCE):
        return None
    return reply == Reply.REFUSAL


def macro(sets: Sequence[SetOutcomes], error: float) -> Bounds | None:
    """Bounds of the mean share of refusals over sets, each counted once.

    As many items count of each as the smallest set has.
    """
    steps = min((len(one.verdicts) for one in sets), default=0)
    return bounds(np.array([_values(one)[:steps] for one in sets]), error) if steps else None


def single(one: SetOutcomes, error: float, error_high: float) -> Bounds | None:
    """Bounds of one set's share of refusals."""
    return bounds(_values(one)[None, :], error, error_high)


def _values(one: SetOutcomes) -> Floats:
    """1 for a refusal; an answer without a verdict counts as the failure of its side."""
    return np.array([float(one.harmful is False if v is None else v) for v in one.verdicts])
