"""More items of outside sets, asked of a run's model while a bar is not settled."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedrai.errors import ReleaseError
from fedrai.evaluation.records import Questions, asks_for_harm
from fedrai.evaluation.suites import Item, Suite
from fedrai.federation.run import preparation
from fedrai.federation.run.evaluating import settings_with
from fedrai.federation.run.observer import SILENT, Observer
from fedrai.federation.run.rows import questions_for
from fedrai.federation.run.targets import Target
from fedrai.federation.run.targets import target as load_target
from fedrai.release.outcomes import SetOutcomes
from fedrai.runs.costs import Ledger

EVERY_ITEM = 1_000_000
ONLY_OUTSIDE = {
    "outside": EVERY_ITEM, "advbench": 0, "ordinary": 0, "suites": [], "judges": ["rule"],
}  # fmt: skip

Ask = Callable[[int, Sequence[SetOutcomes], int], list[SetOutcomes]]
"""From a round, its sets so far and the items of each that are wanted, to the sets with more."""


@dataclass(slots=True)
class Asker:
    """Asks a run's models; loads them, and the sets, when they are first needed.

    Attributes:
        run: the run folder.
        seed: for the order of the items.
        base: spec of the base model, if it has moved.
        observer: is told of the progress.
        ledger: what the answers cost so far.
    """

    run: Path
    seed: int
    base: str = ""
    observer: Observer = SILENT
    ledger: Ledger = field(default_factory=Ledger)
    _target: tuple[int, Target] | None = None
    _questions: Questions | None = None

    def __call__(self, number: int, sets: Sequence[SetOutcomes], wanted: int) -> list[SetOutcomes]:
        """The sets with up to `wanted` items each; all outside sets where there are none yet.

        Raises:
            ReleaseError: a set is not the one that the run asked.
            FedRAIError: the model or a set cannot be used.
        """
        target, suites = self._load(number), self._suites(number)
        started = list(sets) or [
            SetOutcomes(name, suite.declaration.title, asks_for_harm(suite.declaration))
            for name, suite in suites.items()
        ]
        items = {one.name: self._next(one, suites, wanted) for one in started}
        chosen = [replace(suites[n], items=tuple(part)) for n, part in items.items() if part]
        if not chosen or self._questions is None:
            return list(sets)
        asked = preparation.measure_adapters(
            target.model, replace(self._questions, suites=chosen), [target.adapter],
            self.observer.answers,
        )  # fmt: skip
        self.ledger.merge(asked.costs)
        return [
            one.with_more(
                [answer.number for answer in asked.answers.get(one.name, ())],
                [answer.refused for answer in asked.answers.get(one.name, ())],
            )
            for one in started
        ]

    def _load(self, number: int) -> Target:
        if self._target is None or self._target[0] != number:
            self._target = number, load_target(str(self.run), number, base=self.base)
        return self._target[1]

    def _suites(self, number: int) -> dict[str, Suite]:
        if self._questions is None:
            target = self._load(number)
            settings = settings_with(target.recipe, ONLY_OUTSIDE)
            self._questions = questions_for(settings, target.model, self.observer.downloads)
        return {suite.declaration.name: suite for suite in self._questions.suites}

    def _next(self, one: SetOutcomes, suites: dict[str, Suite], wanted: int) -> list[Item]:
        """The next items of a set, in an order that the seed decides."""
        if one.name not in suites:
            raise ReleaseError(
                f"the outside set {one.name} that the run asked is not available here",
                hint="run `fedrai suites list --outside`, or judge what the run asked: --budget 0",
            )
        asked = set(one.numbers)
        rest = [item for item in suites[one.name].items if item.number not in asked]
        random.Random(f"{self.seed} {one.name} more").shuffle(rest)
        return rest[: max(0, wanted - len(one.verdicts))]
