"""The result of training a guard: the guard and its figures on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedrai.evaluation.detection import Detection
from fedrai.guards.calibration import Threshold
from fedrai.guards.kinds import trained


@dataclass(frozen=True, slots=True)
class GuardTrainingOutcome:
    """A guard that was trained, and how it does on the rows that were held out.

    Attributes:
        guard: ready to judge; the same as one loaded from the folder.
        rows: rows trained on, by source.
        held_out: figures by what was judged, "prompt" and "pair", at the strict threshold.
        reached: the thresholds and what they reach on the held-out rows that set them.
        unread: rows that were left out, since the tokenizer leaves nothing of them.
        losses: mean loss of each step, in nats.
        seconds: wall time of the training.
    """

    guard: trained.TrainedGuard
    rows: Mapping[str, int]
    held_out: Mapping[str, Detection]
    reached: Mapping[str, Threshold]
    unread: int
    losses: Sequence[float]
    seconds: float
