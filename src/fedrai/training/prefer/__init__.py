"""Alignment: train an adapter on rows and preference pairs together, close to its start.

The reference is the adapter that training starts from, or another one. `reference` computes its
values for all rows and pairs once, before the first step, so no second model is in memory. `loop`
makes the steps. Does not cover the sources of rows and pairs, nor when to stop: the caller decides.
"""

from fedrai.records import PreferencePair
from fedrai.training.prefer.loop import align
from fedrai.training.prefer.records import (
    AlignHooks,
    AlignResult,
    AlignSettings,
    AlignStep,
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
