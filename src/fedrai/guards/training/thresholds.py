"""Calibration and thresholds of a guard that has just been trained, from its held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fedrai.errors import GuardError
from fedrai.evaluation.detection import Detection, detect
from fedrai.guards import calibration
from fedrai.guards.calibration import Threshold
from fedrai.guards.kinds import trained
from fedrai.guards.kinds.framing import ANSWER, REQUEST
from fedrai.guards.kinds.trained import Config, Curve, TrainedGuard
from fedrai.guards.training.rows import TrainingRow, sets_thresholds
from fedrai.recipe.sections import GuardTraining

EDGE = 1e-6  # thresholds nearer to 0 or 1 than this count as this far from it
FEWEST = 8  # held-out rows of each label that a calibration needs
NEUTRAL: Curve = (1.0, 0.0)
Scored = tuple[Sequence[float], Sequence[bool], Curve]
"""Log-odds of rows, whether each is unsafe, and the curve to their probabilities."""
KINDS = {"prompt": REQUEST, "pair": ANSWER}


def calibrate(
    settings: GuardTraining,
    guard: TrainedGuard,
    rows: Sequence[TrainingRow],
    on_judged: Callable[[int, int], None],
) -> tuple[Config, dict[str, Detection], dict[str, Threshold]]:
    """The guard's config with calibration and thresholds, and the figures on the held-out rows.

    Thresholds are set on the requests, if there are enough of both labels; the answers' curve is
    then shifted until the strict one stands for the wished false alarms among them.
    """
    odds = _odds(guard, rows, on_judged)
    places = {kind: [i for i, row in enumerate(rows) if row.row == n] for kind, n in KINDS.items()}
    curves, on_requests = _curves(settings, rows, odds, places)
    chances = {i: trained.chance(odds[i], curves[kind]) for kind in places for i in places[kind]}
    scores, unsafe = [chances[i] for i in range(len(rows))], [row.bad for row in rows]
    on_both = [i for i in range(len(rows)) if sets_thresholds(settings, rows[i])]
    decisive = [i for i in on_both if not on_requests or rows[i].row == REQUEST]
    rates = {"strict": settings.strict_fpr, "loose": settings.loose_fpr}
    cuts = {
        name: calibration.threshold_for_fpr(*_chosen(decisive, scores, unsafe), fpr).value
        for name, fpr in rates.items()
    }
    counts = {
        name: detect(*_chosen(on_both, scores, unsafe), cut).counts for name, cut in cuts.items()
    }
    reached = {
        name: Threshold(cuts[name], count.recall, count.false_positive_rate)
        for name, count in counts.items()
    }
    figures = {
        kind: detect(*_chosen(part, scores, unsafe), cuts["strict"])
        for kind, part in places.items()
        if part
    }
    config = replace(guard.config, thresholds=cuts, prompt=curves["prompt"], pair=curves["pair"])
    return config, figures, reached


def _curves(
    settings: GuardTraining,
    rows: Sequence[TrainingRow],
    odds: Sequence[float],
    places: Mapping[str, Sequence[int]],
) -> tuple[dict[str, Curve], bool]:
    """The curve of each kind of row, and whether the answers' one was shifted to the requests'."""
    bad = [row.bad for row in rows]
    labelled = {kind: _chosen(part, odds, bad) for kind, part in places.items()}
    curves = {kind: _curve(kind, *some) for kind, some in labelled.items()}
    strict = settings.strict_fpr
    pair = settings.pair_fpr or strict
    decisive = [row for row in rows if sets_thresholds(settings, row)]
    requests = _resolves(decisive, REQUEST, min(settings.loose_fpr, strict))
    if not (requests and _resolves(decisive, ANSWER, pair)):
        return curves, False
    kept = {
        kind: [i for i in places[kind] if sets_thresholds(settings, rows[i])] for kind in places
    }
    sides = [(*_chosen(kept[kind], odds, bad), curves[kind]) for kind in ("prompt", "pair")]
    return curves | {"pair": _shift_curve(sides[0], sides[1], (strict, pair))}, True


def _chosen(
    places: Sequence[int], values: Sequence[float], unsafe: Sequence[bool]
) -> tuple[list[float], list[bool]]:
    """The values and labels of some of the rows."""
    return [values[i] for i in places], [unsafe[i] for i in places]


def _resolves(rows: Sequence[TrainingRow], kind: int, fpr: float) -> bool:
    """Whether enough rows of a kind are held out to measure false alarms of `fpr`."""
    bad = [row.bad for row in rows if row.row == kind]
    return _has_both(bad) and fpr * bad.count(False) >= 1


def _shift_curve(prompts: Scored, pairs: Scored, wishes: tuple[float, float]) -> Curve:
    """The pairs' curve, shifted so that one strict threshold serves both kinds of rows."""
    cuts = [
        calibration.threshold_for_fpr([trained.chance(o, curve) for o in odds], bad, fpr).value
        for (odds, bad, curve), fpr in zip((prompts, pairs), wishes, strict=True)
    ]
    safe_cuts = (min(max(cut, EDGE), 1 - EDGE) for cut in cuts)
    target, own = (math.log(cut / (1 - cut)) for cut in safe_cuts)
    slope, intercept = pairs[2]
    return slope, intercept + target - own


def _has_both(unsafe: Sequence[bool]) -> bool:
    return min(sum(unsafe), len(unsafe) - sum(unsafe)) >= FEWEST


def _odds(
    guard: TrainedGuard, rows: Sequence[TrainingRow], on_judged: Callable[[int, int], None]
) -> list[float]:
    """Log-odds of the held-out rows, not calibrated."""
    scores = guard.head_scores([row.conversation for row in rows], on_judged)
    odds = [score.odds for score in scores if score is not None]
    if not all(map(math.isfinite, odds)):
        raise GuardError("the trained guard's answers are not finite", hint="lower learning_rate")
    return odds


def _curve(kind: str, odds: Sequence[float], unsafe: Sequence[bool]) -> Curve:
    """Calibration of one kind of row; neutral where too few rows were held out."""
    if not _has_both(unsafe):
        return NEUTRAL
    try:
        fitted = calibration.fit([trained.chance(o, NEUTRAL) for o in odds], unsafe)
    except GuardError as error:
        raise GuardError(
            f"the guard did not learn to judge {kind} rows: on those held out {error.message}",
            hint="check the labels; if they are right, give more rows, epochs or layers",
        ) from error
    return fitted.slope, fitted.intercept
