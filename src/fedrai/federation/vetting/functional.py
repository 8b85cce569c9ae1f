"""What an update does to the model's behaviour, read by forward passes.

The update is put on, and the two-sided probe of `constitution/probe.py` reads margins in nats: of
harmful requests, how much likelier a refusal begins than an answer, and of harmless ones the other
way round. The score is the *fall* of the first, the safety margin, against the start of the round.
Ordinary training lowers it too (tens of rows without a refusal teach a model to help), so a client
is suspicious only if its fall is much larger than that of the others *and* larger than honest
clients have. It is absolute: it needs no other client, and is not misled by a majority of liars.
The helpfulness margin stands in the reason: a client that spoils both spoils the model.

The number of requests follows from a budget: a share of the operations that the round's median
client spent on its training (its own figure; the median bounds what one liar can do). The requests
are a fixed sample of which the first ones are read, with general openings, so that nothing has to
be generated first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean

from fedrai.constitution.probe import (
    COMPLYING,
    REFUSING,
    Opening,
    ProbeResult,
    ProbeRows,
    measure,
    openings,
)
from fedrai.constitution.records import Request
from fedrai.federation.vetting.scores import Score, Values, others
from fedrai.federation.vetting.updates import RoundUpdates
from fedrai.model import AdapterState, LanguageModel
from fedrai.runs.costs import generation_operations
from fedrai.training.sft import label_count

FEWEST, MOST = 2, 32
"""Harmful requests; there are half as many harmless ones."""
TEXTS = 2
"""General openings of each kind."""


class Functional:
    """Reads margins of a round's adapters.

    Args:
        model: the base model.
        requests: harmful and harmless ones, the first of which are read.
        budget: share of the training's operations.
    """

    def __init__(
        self,
        model: LanguageModel,
        requests: tuple[Sequence[Request], Sequence[Request]],
        budget: float,
    ) -> None:
        self._model, self._budget = model, budget
        harmful, harmless = ([_opening(model, r) for r in side[:MOST]] for side in requests)
        self._harmful, self._harmless = harmful, harmless

    @property
    def score(self) -> Score:
        """The score; see the module."""
        return Score("functional", self._measure, self._reason, is_absolute=True)

    def _measure(self, updates: RoundUpdates) -> Values:
        return {name: self._falls(updates, name)[0] for name in updates.names}

    def _falls(self, updates: RoundUpdates, name: str) -> tuple[float, float]:
        """How far the margins of both sides fall with a client's update, in nats."""
        rows = updates.once("functional", lambda: self._rows(updates))
        before, after = (
            updates.once(("functional", key), partial(self._read, updates, rows, adapter))
            for key, adapter in ((None, updates.start), (name, updates.adapters[name]))
        )
        return (
            fmean(before.harmful) - fmean(after.harmful),
            fmean(before.harmless) - fmean(after.harmless),
        )

    def _read(self, updates: RoundUpdates, rows: ProbeRows, adapter: AdapterState) -> ProbeResult:
        with self._model.using(adapter):
            result = measure(self._model, rows, shares_prefix=True)
        updates.meter.add(result)
        return result

    def _rows(self, updates: RoundUpdates) -> ProbeRows:
        """As many requests as the budget allows for all clients and the start."""
        most = min(MOST, len(self._harmful))
        count = len(updates.names)
        allowed = self._budget * updates.training_operations * count / (count + 1)
        numbers = range(most, min(FEWEST, most) - 1, -1)
        fits = (n for n in numbers if self._operations(self._first(n)) <= allowed)
        return self._first(next(fits, numbers[-1]) if updates.training_operations else most)

    def _first(self, number: int) -> ProbeRows:
        """The first harmful requests, and half as many harmless ones, which do not score."""
        half = (number + 1) // 2
        return ProbeRows(tuple(self._harmful[:number]), tuple(self._harmless[:half]))

    def _operations(self, rows: ProbeRows) -> float:
        """Of reading these once; the prompts' common beginning is read once for all."""
        entries = [*rows.harmful, *rows.harmless]
        prefix = _common([row.ids for row in rows.rows])
        prompts = [len(e.rows[0].ids) - label_count(e.rows[0]) - prefix for e in entries]
        outputs = sum(label_count(row) for row in rows.rows)
        length = prefix + sum(prompts) / len(prompts)
        tokens = prefix + sum(prompts)
        return generation_operations(self._model.shape(), tokens, outputs, length)

    def _reason(self, updates: RoundUpdates, values: Values, client: str) -> str:
        harmless = -self._falls(updates, client)[1]
        return (
            f"its update lowers the safety margin by {values[client]:.1f} nats, others"
            f" {others(values, client):.1f} (its helpfulness margin: {harmless:+.1f})"
        )


def _common(rows: Sequence[Sequence[int]]) -> int:
    """Number of tokens with which all rows begin."""
    same = (len(set(column)) == 1 for column in zip(*rows, strict=False))
    return next((at for at, is_same in enumerate(same) if not is_same), min(map(len, rows)))


def _opening(model: LanguageModel, request: Request) -> Opening:
    refusals, answers = REFUSING[-TEXTS:], COMPLYING[:TEXTS]
    sides = (refusals, answers) if request.harmful else (answers, refusals)
    return openings(model, request.prompt, *sides)
