"""Fit a guard to the user's own labelled rows, save the result, and apply it to the guard.

A guard can miss most of a domain's unsafe rows and still rank rows correctly. Then a curve over its
log-odds turns its scores into probabilities, and thresholds can be chosen by what they find.
Calibration needs labelled rows that were not trained on; its rates there are a little better than
those on new rows.

    strict  finds at least the target share of the unsafe rows
    loose   flags at most the target share of the safe rows
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedrai.errors import GuardError
from fedrai.evaluation.detection import scored
from fedrai.guards.base import Conversation, Guard, OnProgress, VerdictBatch, caution_of, full_name
from fedrai.guards.calibration import Calibration, fit, threshold_for_fpr, threshold_for_recall
from fedrai.records import Verdict
from fedrai.runs.files import write_bytes, writing


@dataclass(frozen=True, slots=True)
class TargetRates:
    """What the thresholds are to reach on the calibration rows, from 0 to 1.

    Attributes:
        recall: share of the unsafe rows that strict must find.
        fpr: share of the safe rows that loose may flag.
    """

    recall: float = 0.9
    fpr: float = 0.02


@dataclass(frozen=True, slots=True)
class CalibrationFile:
    """A calibration file: for which guard, from which rows, and the rates it reached.

    Attributes:
        guard: name of the guard.
        revision: revision of the guard that was calibrated; it fits no other.
        part: what was judged: "prompt", "response" or "pair".
        sources: names of the datasets.
        rows: labelled rows with a probability.
        unsafe_rows: the unsafe rows among them.
        unscored: labelled rows without a probability; left out.
        slope: slope of the curve over log-odds.
        intercept: intercept of that curve.
        thresholds: "strict" and "loose", on the calibrated scale.
        wish: targets, {"recall": of strict, at least; "false_positive_rate": of loose, at most}.
        reached: rates on these rows by threshold, as returned by `Threshold.to_json`.
        created: date, ISO 8601.
    """

    guard: str
    revision: str
    part: str
    sources: tuple[str, ...]
    rows: int
    unsafe_rows: int
    unscored: int
    slope: float
    intercept: float
    thresholds: Mapping[str, float]
    wish: Mapping[str, float]
    reached: Mapping[str, Any]
    created: str

    @property
    def calibration(self) -> Calibration:
        """The curve."""
        return Calibration(self.slope, self.intercept)


class CalibratedGuard:
    """A guard with calibrated probabilities and thresholds; itself a guard.

    Raises:
        GuardError: the calibration was made for another guard or revision.
    """

    def __init__(self, guard: Guard, file: CalibrationFile) -> None:
        if (file.guard, file.revision) != (guard.name, guard.revision):
            raise GuardError(
                f"the calibration is for {file.guard}@{file.revision[:12]}, the guard is "
                f"{guard.name}@{guard.revision[:12]}",
                hint="calibrate this guard: fedrai guard calibrate",
            )
        self.name = guard.name
        self.caution = caution_of(guard)
        self.thresholds = dict(file.thresholds)
        self._guard, self._curve = guard, file.calibration
        facts = json.dumps([guard.revision, file.slope, file.intercept])
        self.revision = hashlib.sha256(facts.encode()).hexdigest()

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge as the guard within does; its problems and categories stay as they are."""
        batch = self._guard.judge(conversations, on_progress)
        return replace(batch, verdicts=tuple(map(self._calibrate, batch.verdicts)))

    def _calibrate(self, verdict: Verdict) -> Verdict:
        p = verdict.probability
        calibrated = None if p is None else self._curve.apply(p)
        return replace(verdict, guard=full_name(self), probability=calibrated)


def calibrate(
    guard: Guard,
    probabilities: Sequence[float | None],
    unsafe: Sequence[bool],
    *,
    part: str,
    sources: Sequence[str],
    targets: TargetRates = TargetRates(),
) -> CalibrationFile:
    """Fit curve and thresholds to a guard's probabilities on labelled rows.

    Each threshold meets its target on these rows; strict is the lower of the two, loose the higher.

    Args:
        guard: the guard that judged.
        probabilities: its probabilities, one a row; None where it has none.
        unsafe: labels, one a row.
        part: what it judged.
        sources: names of the datasets.
        targets: what the thresholds are to reach.

    Raises:
        GuardError: labels of one class only, scores that do not rise with the labels, or no
            threshold that meets the target for false alarms.
    """
    raw, labels = scored(probabilities, unsafe)
    curve = fit(raw.tolist(), labels.tolist())
    p, y = [curve.apply(x) for x in raw.tolist()], labels.tolist()
    cuts = [threshold_for_recall(p, y, targets.recall), threshold_for_fpr(p, y, targets.fpr)]
    strict, loose = sorted(cuts, key=lambda threshold: threshold.value)
    thresholds = {"strict": strict, "loose": loose}
    return CalibrationFile(
        guard=guard.name,
        revision=guard.revision,
        part=part,
        sources=tuple(sources),
        rows=len(y),
        unsafe_rows=sum(y),
        unscored=len(probabilities) - len(y),
        slope=curve.slope,
        intercept=curve.intercept,
        thresholds={name: threshold.value for name, threshold in thresholds.items()},
        wish={"recall": targets.recall, "false_positive_rate": targets.fpr},
        reached={name: threshold.to_json() for name, threshold in thresholds.items()},
        created=datetime.now(UTC).date().isoformat(),
    )


def write(file: CalibrationFile, path: Path) -> None:
    """Write a calibration as JSON, whole or not at all.

    Raises:
        GuardError: the file cannot be written.
    """
    body = json.dumps(asdict(file), indent=2) + "\n"
    with writing(path, GuardError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, body.encode(), shared=True)


def read(path: Path, part: str | None = None) -> CalibrationFile:
    """Read a calibration; `CalibratedGuard` checks that it fits the guard.

    Args:
        path: the file.
        part: what is to be judged with it; None if that does not matter.

    Raises:
        GuardError: no such file, it holds no usable calibration, or one for another part.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        file = CalibrationFile(**{**body, "sources": tuple(body["sources"])})
        numbers = [file.slope, file.intercept, *(file.thresholds[n] for n in ("strict", "loose"))]
        usable = all(math.isfinite(number) for number in numbers) and file.slope > 0
    except OSError as error:
        raise GuardError(f"cannot read the calibration {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        usable = False
    if not usable:
        raise GuardError(
            f"{path} is not a calibration", hint="make one: fedrai guard calibrate GUARD DATA"
        )
    if part not in (None, file.part):
        raise GuardError(
            f"{path} is for judging the {file.part}, the guard is to judge the {part}",
            hint=f"calibrate with --judge {part}",
        )
    return file
