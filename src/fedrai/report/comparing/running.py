"""The runs of a comparison, one after the other: arms x seeds (x one axis) of a recipe.

Shared work is done once: the base model is loaded once for as long as arms agree on it, evaluated
once where they ask the same, and the guard's verdicts are kept by its cache. A run that is finished
is not made again, and one that was stopped goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from fedrai.errors import RunError
from fedrai.federation.run import preparation, running
from fedrai.federation.run.observer import SILENT, Observer
from fedrai.model import LanguageModel
from fedrai.progress import about
from fedrai.recipe.sections import Recipe
from fedrai.report.comparing.differences import reference_arm
from fedrai.report.comparing.layout import Axis, PlannedRun, plan_runs
from fedrai.report.comparing.writing import ComparisonResult, compare_runs, write
from fedrai.runs import RunFolder, record
from fedrai.runs.costs import Cost
from fedrai.runs.record import Summary, summarise


@dataclass(frozen=True, slots=True)
class Arm:
    """One run of a comparison: its arm and seed, its folder, its summary."""

    name: str
    seed: int
    value: str
    path: Path
    summary: Summary


@dataclass(frozen=True, slots=True)
class ComparisonRuns:
    """What a comparison made.

    Attributes:
        arms: its runs, in the order in which they are made.
        comparison: what they say about the arms.
        files: tables that were written beside them.
    """

    arms: tuple[Arm, ...]
    comparison: ComparisonResult
    files: tuple[Path, ...]


def compare(
    settings: Recipe,
    out: Path,
    *,
    seeds: Sequence[int] = (),
    axis: Axis | None = None,
    against: str = "",
    observer: Observer = SILENT,
) -> ComparisonRuns:
    """Run every arm of a recipe with every seed; finished runs are not made again.

    Args:
        settings: the recipe with its arms.
        out: the comparison's folder.
        seeds: in the place of the recipe's own.
        axis: a key with its values.
        against: the arm that others are held against; empty: harmful, fedavg, or the first.
        observer: is told of each run and of its progress.

    Raises:
        RunError: a folder in the way is a run, or belongs to another recipe.
        RecipeError: an arm, the axis or the seeds cannot be used.
        EvaluationError: there is no such arm to hold others against.
    """
    if (out / "run.json").is_file():
        raise RunError(
            f"{out} holds a run; a comparison keeps its runs in folders of its own",
            hint="choose another folder with --out",
        )
    plan = plan_runs(settings, out, seeds, axis)
    against = reference_arm(list(dict.fromkeys(entry.arm for entry in plan)), against)
    runs = list({entry.path: entry for entry in plan}.values())
    _make(runs, named=len({entry.seed for entry in runs}) > 1, observer=observer)
    found = compare_runs(plan, axis, against)
    arms = (Arm(e.arm, e.seed, e.value, e.path, summarise(RunFolder.open(e.path))) for e in runs)
    return ComparisonRuns(tuple(arms), found, tuple(write(found, out)))


def _make(runs: Sequence[PlannedRun], *, named: bool, observer: Observer) -> None:
    """Make the runs that are not finished; each is announced with what is left."""
    pending = [entry for entry in runs if not _finished(entry.path)]
    took: dict[str, list[float]] = {}
    for entry in runs:
        if entry not in pending:
            took.setdefault(entry.arm, []).append(_seconds(entry.path))
    if not pending:
        observer.heading(f"all {len(runs)} runs are finished; none is made again")
    models = _Models(observer)
    paths = [entry.path for entry in runs]
    for number, entry in enumerate(pending):
        observer.heading(_line(pending[number:], len(runs), took, named=named))
        begun = time.monotonic()
        there = [path for path in paths if path != entry.path and (path / "run.json").is_file()]
        fresh = not (entry.path / "run.json").is_file()
        if fresh:
            model = models.get(entry.recipe)
            running.run(entry.recipe, entry.path, model, there, observer=observer)
        else:
            running.resume(entry.path, models.get(entry.recipe), observer=observer)
        seconds = time.monotonic() - begun
        took.setdefault(entry.arm, []).append(seconds if fresh else _seconds(entry.path))


def _finished(path: Path) -> bool:
    return (path / "run.json").is_file() and RunFolder.open(path).is_finished()


def _line(
    pending: Sequence[PlannedRun], of: int, took: Mapping[str, Sequence[float]], *, named: bool
) -> str:
    """Which run begins, and about how long this one and those after it will take."""
    first = pending[0]
    seed = f", seed {first.seed}" if named else ""
    value = f", {first.value}" if first.value else ""
    left = seconds_left([entry.arm for entry in pending], took)
    time_left = "" if left is None else f"; {about(left)} left"
    return f"run {of - len(pending) + 1} of {of}: {first.arm}{value}{seed}{time_left}"


def seconds_left(pending: Sequence[str], took: Mapping[str, Sequence[float]]) -> float | None:
    """About how long runs will take: as long as those of the same arm did, else as all did.

    Args:
        pending: arms of the runs that are to be made.
        took: seconds of runs that were made, by arm.

    Returns:
        Seconds; None before the first run is done.
    """
    known = {arm: fmean(seconds) for arm, seconds in took.items() if seconds}
    if not known:
        return None
    mean = fmean(second for seconds in took.values() for second in seconds)
    return sum(known.get(arm, mean) for arm in pending)


def _seconds(path: Path) -> float:
    """What a run recorded of its time, over all the times that it was worked on."""
    return sum(record.read(RunFolder.open(path)).costs.values(), Cost()).seconds


class _Models:
    """The model that was loaded last, for as long as arms agree on it."""

    def __init__(self, observer: Observer) -> None:
        self._progress = observer.downloads
        self._last: tuple[Recipe, LanguageModel] | None = None

    def get(self, settings: Recipe) -> LanguageModel:
        if self._last is None or not running.same_model(self._last[0], settings):
            self._last = None  # two big models at once may not fit
            self._last = (settings, preparation.load_model(settings, self._progress))
        return self._last[1]
