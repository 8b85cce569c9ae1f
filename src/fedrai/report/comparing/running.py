"""The runs of a comparison, one after the other: arms x seeds (x one axis) of a recipe.

Shared work is done once: the base model stays loaded while arms agree on it, it is evaluated once
where they ask the same questions, rounds that several arms train alike are trained by the first of
them, trainings of the first round that arms have in common are kept until the comparison is done,
and the guard's verdicts are cached. Finished runs are not run again, and a run that was stopped is
resumed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from fedrai.errors import RunError
from fedrai.federation.run import preparation, running
from fedrai.federation.run.observer import SILENT, Observer
from fedrai.federation.run.sharing import same_model
from fedrai.model import LanguageModel
from fedrai.progress import about
from fedrai.recipe.sections import Recipe
from fedrai.report.comparing.differences import reference_arm
from fedrai.report.comparing.layout import Axis, PlannedRun, plan_runs
from fedrai.report.comparing.writing import ComparisonResult, compare_runs, write
from fedrai.runs import RunFolder, find_runs, record
from fedrai.runs.costs import Cost
from fedrai.runs.record import Summary, summarise

TRAININGS = ".trainings"
"""Folder of the comparison's folder with local trainings that several runs begin with."""


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One run of a comparison: its arm and seed, its folder, its summary."""

    name: str
    seed: int
    value: str
    path: Path
    summary: Summary


@dataclass(frozen=True, slots=True)
class ComparisonRuns:
    """The runs of a comparison with its result.

    Attributes:
        arms: its runs, in order of execution.
        comparison: comparison of the arms.
        files: tables beside the runs.
    """

    arms: tuple[ArmRun, ...]
    comparison: ComparisonResult
    files: tuple[Path, ...]


def compare(
    settings: Recipe,
    out: Path,
    *,
    seeds: Sequence[int] = (),
    axis: Axis | None = None,
    against: str = "",
    sharing: bool = True,
    observer: Observer = SILENT,
) -> ComparisonRuns:
    """Run every arm of a recipe with every seed; finished runs are not run again.

    Args:
        settings: the recipe with its arms.
        out: the comparison's folder.
        seeds: instead of the recipe's own.
        axis: a recipe key with its values; None: no axis.
        against: the reference arm; empty: harmful, fedavg, or the first.
        sharing: whether a run takes rounds and evaluations from another that made the same.
        observer: is told of each run and of its progress.

    Raises:
        RunError: `out` is a run, or the folder of a run belongs to another recipe.
        RecipeError: an arm, the axis or the seeds cannot be used.
        EvaluationError: there is no such reference arm.
    """
    if (out / "run.json").is_file():
        raise RunError(
            f"{out} holds a run; a comparison needs a folder of its own",
            hint="choose another folder with --out",
        )
    plan = plan_runs(settings, out, seeds, axis)
    reference = reference_arm(list(dict.fromkeys(planned.arm for planned in plan)), against)
    runs = list({planned.path: planned for planned in plan}.values())
    _run_pending(runs, out if sharing else None, observer)
    result = compare_runs(plan, axis, reference)
    arms = (
        ArmRun(run.arm, run.seed, run.value, run.path, summarise(RunFolder.open(run.path)))
        for run in runs
    )
    return ComparisonRuns(tuple(arms), result, tuple(write(result, out)))


def _run_pending(runs: Sequence[PlannedRun], out: Path | None, observer: Observer) -> None:
    """Run or resume what is not finished; each run is announced with the time left.

    Args:
        runs: all runs of the comparison.
        out: the folder whose runs share rounds and evaluations; None: none do.
        observer: is told of each run and of its progress.
    """
    pending = [run for run in runs if not _is_finished(run.path)]
    if not pending:
        observer.heading(f"all {len(runs)} runs are finished; none is run again")
    durations: dict[str, list[float]] = {}
    for run in runs:
        if run not in pending:
            durations.setdefault(run.arm, []).append(_seconds(run.path))
    models, kept = _Models(observer), out / TRAININGS if out else None
    several_seeds = len({run.seed for run in runs}) > 1
    for number, run in enumerate(pending):
        position = f"run {len(runs) - len(pending) + number + 1} of {len(runs)}"
        seed = f", seed {run.seed}" if several_seeds else ""
        left = _time_left(pending[number:], durations)
        observer.heading(f"{position}: {_name(run)}{seed}{left}")
        others = _others(run, runs, out) if out else []
        trainings = kept if _trains_in_common(run, runs) else None
        seconds = _run_one(run, others, trainings, models, observer)
        durations.setdefault(run.arm, []).append(seconds)
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)


def _trains_in_common(run: PlannedRun, runs: Sequence[PlannedRun]) -> bool:
    """Whether another run begins with the same trainings, and goes on in another way."""
    one = run.recipe
    return any(
        one.clients_hash == other.recipe.clients_hash
        and one.training_hash != other.recipe.training_hash
        for other in runs
    )


def _run_one(
    run: PlannedRun,
    others: Sequence[Path],
    trainings: Path | None,
    models: _Models,
    observer: Observer,
) -> float:
    """Run or resume one run, with what it shares with others; returns its seconds."""
    start = time.monotonic()
    model = models.get(run.recipe)
    if _exists(run.path):
        running.resume(run.path, model, siblings=others, observer=observer, trainings=trainings)
        return _seconds(run.path)
    running.run(run.recipe, run.path, model, others, observer=observer, trainings=trainings)
    return time.monotonic() - start


def _others(run: PlannedRun, runs: Sequence[PlannedRun], out: Path) -> list[Path]:
    """The folders of the other runs: those of the comparison, then what else `out` holds."""
    paths = [*(other.path for other in runs), *(other.path for other in find_runs(out))]
    return [path for path in dict.fromkeys(paths) if path != run.path and _exists(path)]


def _exists(path: Path) -> bool:
    return (path / "run.json").is_file()


def _is_finished(path: Path) -> bool:
    return _exists(path) and RunFolder.open(path).is_finished()


def _name(run: PlannedRun) -> str:
    return f"{run.arm}, {run.value}" if run.value else run.arm


def _time_left(pending: Sequence[PlannedRun], durations: Mapping[str, Sequence[float]]) -> str:
    """About how long the pending runs will take; empty before the first run is done."""
    left = seconds_left([run.arm for run in pending], durations)
    return "" if left is None else f"; {about(left)} left"


def seconds_left(pending: Sequence[str], durations: Mapping[str, Sequence[float]]) -> float | None:
    """Estimate how long runs will take from the mean of their arm, else from that of all arms.

    Args:
        pending: arms of the pending runs.
        durations: seconds of finished runs, by arm.

    Returns:
        Seconds; None before the first run is done.
    """
    means = {arm: fmean(seconds) for arm, seconds in durations.items() if seconds}
    if not means:
        return None
    overall = fmean(second for seconds in durations.values() for second in seconds)
    return sum(means.get(arm, overall) for arm in pending)


def _seconds(path: Path) -> float:
    """The recorded duration of a run, over all its processes, without rounds that it took over."""
    run = record.read(RunFolder.open(path))
    return sum(run.costs.values(), Cost()).seconds - run.shared_seconds


class _Models:
    """The model that was loaded last, kept while arms agree on it."""

    def __init__(self, observer: Observer) -> None:
        self._progress = observer.downloads
        self._last: tuple[Recipe, LanguageModel] | None = None

    def get(self, settings: Recipe) -> LanguageModel:
        if self._last is None or not same_model(self._last[0], settings):
            self._last = None  # two big models at once may not fit
            self._last = (settings, preparation.load_model(settings, self._progress))
        return self._last[1]
