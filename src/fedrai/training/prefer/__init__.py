"""Alignment: the adapter learns from rows and preference pairs together, near where it began.

The reference is the adapter that training starts from (`reference`): what it says of rows and pairs
is computed once, before the first step, so that no second model runs beside the first. `loop` makes
the steps. Covers neither where rows and pairs come from nor when it is time to stop: the caller is
asked.
"""

from fedrai.training.prefer.loop import align
from fedrai.training.prefer.records import (
    AlignHooks,
    AlignResult,
    AlignSettings,
    AlignStep,
    PreferencePair,
    check,
    pair_problem,
)
from fedrai.training.prefer.reference import log_probabilities

__all__ = [
    "AlignHooks",
    "AlignResult",
    "AlignSettings",
    "AlignStep",
    "PreferencePair",
    "align",
    "check",
    "log_probabilities",
    "pair_problem",
]
