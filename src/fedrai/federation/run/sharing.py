"""Which runs of a comparison train alike, so that a run can take their rounds and evaluations.

Two runs train alike if their recipes agree in all that decides training (`Recipe.training_hash`,
the seed included) and they have the same base model, start, rows after the filter, versions and
machine. A round is then taken over only if the adapter that it begins with is the same to the bit,
an evaluation only if it asks the same questions of the same adapter. An alignment before the last
round makes another adapter, and the runs part there by themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from fedrai import recipe
from fedrai.assets import checksums
from fedrai.errors import ChecksumError, RecipeError, RunError
from fedrai.federation import protocol, round_record, variates
from fedrai.federation.plan import Adapters, Plan, load_adapters
from fedrai.federation.run.preparation import PreparedRun
from fedrai.federation.shared_round import SharedRound, read_shared, same_bits
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder

SAME_TRAINING = (
    "engine", "model_fingerprint", "start_sha256", "data_fingerprint", "filter_skipped", "dtype",
    "device", "machine", "versions",
)  # fmt: skip
"""Keys of `run.json` on which runs that train alike agree."""
SAME_QUESTIONS = ("questions_fingerprint", "start_sha256", "model_fingerprint")


class Siblings:
    """The other runs of a comparison, as a source of rounds and evaluations of one run.

    Args:
        prepared: the run, with the folders of the others.
        run: its folder.
        plan: its rounds.
    """

    def __init__(self, prepared: PreparedRun, run: RunFolder, plan: Plan) -> None:
        self._model, self._run, self._plan = prepared.model, run, plan
        self._has_variates = prepared.recipe.has_variates
        self._has_residuals = prepared.recipe.messages.has_residuals
        self._alike = list(_that(trains_alike, prepared.siblings, run))

    def round(
        self, number: int, before: Adapters, state: Mapping[str, Tensor]
    ) -> SharedRound | None:
        """The first run's round that was made of the same bits; None: no run has one."""
        for other in self._alike:
            shared = read_shared(
                other, self._name(other), self._model, self._plan, number, before, state
            )
            if shared is not None and self._take_states(other, number, shared):
                return shared
        return None

    def _take_states(self, other: RunFolder, number: int, shared: SharedRound) -> bool:
        """Take over what the clients of a round keep; False: some of it is not kept any more."""
        folders = [
            (source(name), place(name))
            for name in sorted(shared.record["clients"])
            for has, source, place in (
                (self._has_variates, other.variates, self._run.variates),
                (self._has_residuals, other.residuals, self._run.residuals),
            )
            if has
        ]
        shapes = protocol.shapes_of(self._model.parameters)
        states = [(place, variates.read(source, number, shapes)) for source, place in folders]
        if any(state is None for _, state in states):
            return False
        for place, state in states:
            if state is not None:
                before = [n for n in variates.numbers(place) if n < number]
                variates.write(place, number, max(before, default=0), state)
        return True

    def copy_evaluation(self, number: int, after: Adapters) -> bool:
        """Copy the evaluation of the same adapters by a run that asks the same questions."""
        for other in self._alike:
            if number in other.evaluations() and self._holds(other, number, after):
                round_record.copy_evaluation(other, self._run, number)
        return number in self._run.evaluations()

    def _holds(self, other: RunFolder, number: int, adapters: Adapters) -> bool:
        """Whether a run asks the same questions and has the same adapters after a round."""
        intact = number in other.rounds() and not checksums.changed(other.round_folder(number))
        if not (intact or number == 0) or not asks_alike(other, self._run):
            return False
        return same_bits(load_adapters(other, self._model, self._plan, number), adapters)

    def _name(self, other: RunFolder) -> str:
        """Where the other run lies, as seen from the folder that holds this one."""
        here = self._run.path.resolve().parent
        return Path(os.path.relpath(other.path.resolve(), here)).as_posix()


def trains_alike(one: RunFolder, other: RunFolder) -> bool:
    """Whether the clients of two runs do the same with the same adapters."""
    if any(one.info.get(key) != other.info.get(key) for key in SAME_TRAINING):
        return False
    recipes = [recipe.load(run.recipe_file) for run in (one, other)]
    if recipes[0].training_hash != recipes[1].training_hash:
        return False
    changed = (event["event"] == "versions-changed" for event in one.events())
    return not any(changed)


def asks_alike(one: RunFolder, other: RunFolder) -> bool:
    """Whether two runs ask the same questions in the same way, of models of the same kind."""
    if any(one.info.get(key) != other.info.get(key) for key in SAME_QUESTIONS):
        return False
    first, second = (recipe.load(run.recipe_file) for run in (one, other))
    drawn = first.evaluation.temperature > 0 and first.seed != second.seed
    same = first.evaluation == second.evaluation and first.guards == second.guards
    return same and not drawn and same_model(first, second)


def share_base_evaluation(folder: RunFolder, siblings: Sequence[Path]) -> None:
    """Copy round 0 from a run that asked the same of the same model, whatever it trained."""
    for other in _that(asks_alike, siblings, folder):
        round_record.copy_evaluation(other, folder, 0)
        if 0 in folder.evaluations():
            return


def _that(
    agrees: Callable[[RunFolder, RunFolder], bool], paths: Sequence[Path], run: RunFolder
) -> Iterator[RunFolder]:
    """The runs that agree with this one; a run that cannot be read shares nothing."""
    for path in paths:
        with suppress(RunError, ChecksumError, RecipeError):
            if agrees(RunFolder.open(path), run):
                yield RunFolder(path)


def same_model(one: Recipe, other: Recipe) -> bool:
    """Whether both load the same model; starts and what clients train of them may differ."""
    shapes = [r.adapter.model_copy(update={"start": "", "ranks": []}) for r in (one, other)]
    return (
        one.model == other.model
        and shapes[0] == shapes[1]
        and one.data.max_length == other.data.max_length
        and one.training.gradient_checkpointing == other.training.gradient_checkpointing
        and one.training.compile == other.training.compile
    )
