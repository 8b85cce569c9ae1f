"""The work of `fedrai scan` and `fedrai guard`: read rows, open a guard, measure, calibrate.

Labels are checked before a guard is loaded. A row is as unsafe as its worst answer, in scans and
measurements as in the filter. Verdicts are cached in the folder `verdicts`, so that a stopped
command resumes when it is run again.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrai import assets
from fedrai.data import DEFAULT_OPTIONS, ReadOptions
from fedrai.data.columns import Cell
from fedrai.errors import EvaluationError, GuardError
from fedrai.evaluation.detection import Detection, by_group, detect
from fedrai.filter.rows import find
from fedrai.guards.base import Guard, OnProgress, Part, full_name
from fedrai.guards.cache import VerdictCache
from fedrai.guards.calibrated import CalibratedGuard, CalibrationFile, TargetRates, calibrate
from fedrai.guards.calibrated import read as read_calibration
from fedrai.guards.labels import Labels
from fedrai.guards.rows import ColumnNames, GuardRow, LabelledSource, Rows, read_all
from fedrai.records import Verdict

if TYPE_CHECKING:
    from fedrai.guards.training.outcome import GuardTrainingOutcome
    from fedrai.recipe.sections import GuardTraining


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Which rows to judge, and where their labels are.

    Attributes:
        specs: datasets whose rows may have labels of their own.
        unsafe: datasets of which every row is unsafe.
        safe: datasets of which every row is safe.
        columns: names of the columns, in all of them.
        labels: columns of `specs` that hold the labels.
        split: split of hub datasets.
        where: only rows whose columns have these values.
        options: encoding, separator and limits of files.
        pairs: whether `chosen` and `rejected` are read as the two answers of a pair.
    """

    specs: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    safe: tuple[str, ...] = ()
    columns: ColumnNames = field(default_factory=ColumnNames)
    labels: Labels = field(default_factory=Labels)
    split: str = "train"
    where: Mapping[str, Cell] = field(default_factory=dict)
    options: ReadOptions = DEFAULT_OPTIONS
    pairs: bool = False


@dataclass(frozen=True, slots=True)
class GuardEvaluation:
    """How well a guard finds the unsafe rows of some datasets.

    Attributes:
        guard: `name@revision`.
        part: what it judged.
        overall: all labelled rows.
        by_source: the rows of each dataset.
        by_category: the rows of each category of the datasets; "" for rows without.
        problems: rows without a probability, by problem.
        unlabelled: rows without a label; they are in no other figure.
        bad_rows: rows that could not be read.
        fresh: different texts that were judged now, without a cached verdict.
        seconds: that this took.
    """

    guard: str
    part: Part
    overall: Detection
    by_source: Mapping[str, Detection]
    by_category: Mapping[str, Detection]
    problems: Mapping[str, int]
    unlabelled: int
    bad_rows: int
    fresh: int
    seconds: float

    @property
    def rate(self) -> float | None:
        """Texts per second; None where all verdicts were cached."""
        return self.fresh / self.seconds if self.fresh and self.seconds else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, rates with their intervals; no text of a row."""
        rest = ("unlabelled", "bad_rows", "fresh", "seconds")
        return {
            "guard": self.guard,
            "part": self.part,
            "overall": self.overall.to_json(),
            "by_source": {name: figures.to_json() for name, figures in self.by_source.items()},
            "by_category": {name: figures.to_json() for name, figures in self.by_category.items()},
            "problems": dict(self.problems),
            **{name: getattr(self, name) for name in rest},
            "rows_per_second": self.rate,
        }


class Pace:
    """The pace of judging, from its progress reports, which are passed on.

    Attributes:
        fresh: texts judged since the first report, which counts those with a cached verdict.
        seconds: since the first report.
    """

    def __init__(self, then: OnProgress = lambda _done, _of: None) -> None:
        self.fresh = 0
        self.seconds = 0.0
        self._first: tuple[int, float] | None = None
        self._then = then

    def __call__(self, done: int, of: int) -> None:
        """Texts with a verdict, and how many there are."""
        now = time.perf_counter()
        self._first = self._first or (done, now)
        self.fresh, self.seconds = done - self._first[0], now - self._first[1]
        self._then(done, of)

    @property
    def rate(self) -> float | None:
        """Texts a second; None before the first new one."""
        return self.fresh / self.seconds if self.fresh and self.seconds else None


def read_rows(data: DataSpec) -> Rows:
    """Read all datasets of a command, in its order.

    Raises:
        DataError: one cannot be read, or a column that is named is in none.
    """
    sources = [LabelledSource(spec, data.labels) for spec in data.specs]
    sources += [LabelledSource(spec, Labels(whole=True)) for spec in data.unsafe]
    sources += [LabelledSource(spec, Labels(whole=False)) for spec in data.safe]
    return read_all(sources, columns=data.columns, split=data.split, where=data.where,
                    options=data.options, pairs=data.pairs)  # fmt: skip


def labelled_rows(rows: Rows) -> tuple[GuardRow, ...]:
    """The rows that have a label.

    Raises:
        EvaluationError: none has, or all have the same.
    """
    labelled = tuple(row for row in rows.rows if row.unsafe is not None)
    unsafe = sum(bool(row.unsafe) for row in labelled)
    if not labelled:
        raise EvaluationError(
            f"none of the {len(rows.rows):,} rows has a label",
            hint="name the label columns (--label, --unsafe-when), or whole datasets"
            " (--unsafe, --safe)",
        )
    if unsafe in (0, len(labelled)):
        kind, other = ("unsafe", "safe") if unsafe else ("safe", "unsafe")
        example = "fedrai:ordinary-held-out" if unsafe else "fedrai:harmful-held-out"
        raise EvaluationError(
            f"all {len(labelled):,} labelled rows are {kind}, and {other} ones are needed too",
            hint=f"add some, such as --{other} {example}; or check that --label and --unsafe-when"
            " name the right columns and values",
        )
    return labelled


def open_guard(
    spec: str, calibration: Path | None = None, part: Part = "pair", *, progress: bool = True
) -> Guard:
    """The guard of a name, folder or file, with a calibration around it if there is one.

    Raises:
        GuardError: there is no such guard, or the calibration is not for it.
    """
    from fedrai.guards.loading import load

    file = read_calibration(calibration, part) if calibration is not None else None
    guard = load(spec, progress=assets.RichProgress() if progress else None)
    return CalibratedGuard(guard, file) if file is not None else guard


def threshold_of(guard: Guard, text: str) -> float:
    """A threshold by its name with this guard, or as a number from 0 to 1.

    Raises:
        GuardError: it is neither.
    """
    if text in guard.thresholds:
        return guard.thresholds[text]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise GuardError(
            f"{guard.name} has no threshold {text!r}",
            hint=f"take a number from 0 to 1, or one of: {', '.join(guard.thresholds)}",
        )
    return number


def open_cache(
    keep: bool, on_problem: Callable[[str], None] = lambda _problem: None
) -> VerdictCache | None:
    """The verdicts of this user's earlier commands; None without a cache."""
    return VerdictCache(assets.cache_root() / "verdicts", on_problem) if keep else None


def worst_verdicts(
    rows: Sequence[GuardRow],
    guard: Guard,
    part: Part,
    cache: VerdictCache | None,
    on_progress: OnProgress,
    threshold: float = math.inf,
) -> list[Verdict]:
    """The verdict that decides over each row, as in the filter."""
    talks = [row.conversation for row in rows]
    findings, _ = find(talks, guard, part, threshold, cache, on_progress)
    return [finding.worst for finding in findings]


def evaluate(
    rows: Rows,
    guard: Guard,
    *,
    part: Part,
    threshold: float,
    cache: VerdictCache | None,
    on_progress: OnProgress = lambda _done, _of: None,
) -> GuardEvaluation:
    """Judge labelled rows and measure.

    Args:
        rows: rows with labels of both kinds.
        guard: the guard.
        part: what it is to judge.
        threshold: rows from this probability on are flagged.
        cache: verdicts of earlier times.
        on_progress: called with (different texts judged, of how many).

    Raises:
        EvaluationError: there are not labels of both kinds.
        GuardError: the guard as a whole cannot work.
    """
    labelled, pace = labelled_rows(rows), Pace(on_progress)
    worst = worst_verdicts(labelled, guard, part, cache, pace, threshold)
    p, y = [verdict.probability for verdict in worst], [bool(row.unsafe) for row in labelled]
    return GuardEvaluation(
        guard=full_name(guard),
        part=part,
        overall=detect(p, y, threshold),
        by_source=by_group(p, y, [row.source for row in labelled], threshold),
        by_category=by_group(p, y, [row.category for row in labelled], threshold),
        problems=Counter(verdict.problem for verdict in worst if verdict.problem is not None),
        unlabelled=len(rows.rows) - len(labelled),
        bad_rows=len(rows.bad_rows),
        fresh=pace.fresh,
        seconds=pace.seconds,
    )


def calibrate_on(
    rows: Rows,
    guard: Guard,
    *,
    part: Part,
    targets: TargetRates,
    cache: VerdictCache | None,
    on_progress: OnProgress = lambda _done, _of: None,
) -> CalibrationFile:
    """Judge labelled rows and fit curve and thresholds to the guard; see `calibrated.calibrate`.

    Raises:
        EvaluationError: there are not labels of both kinds.
        GuardError: the guard cannot work, or cannot be calibrated on these rows.
    """
    labelled = labelled_rows(rows)
    worst = worst_verdicts(labelled, guard, part, cache, on_progress)
    return calibrate(
        guard,
        [verdict.probability for verdict in worst],
        [bool(row.unsafe) for row in labelled],
        part=part,
        sources=tuple(dict.fromkeys(row.source for row in labelled)),
        targets=targets,
    )


def train(
    settings: GuardTraining, out: Path, on_step: OnProgress, on_judged: OnProgress
) -> GuardTrainingOutcome:
    """Train a guard and write its folder, with its card.

    Args:
        settings: the recipe.
        out: folder to write; must not be there.
        on_step: called with (steps taken, of how many).
        on_judged: called with (held-out rows judged, of how many).

    Raises:
        DataError, GuardError, ModelError, RunError: something cannot be used.
    """
    from fedrai import runs
    from fedrai.guards.training import loop

    runs.check_free(out)
    return loop.train(
        settings,
        loop.read(settings),
        out,
        on_step=lambda step: on_step(step.step, step.steps),
        on_judged=on_judged,
        progress=assets.RichProgress(),
    )
