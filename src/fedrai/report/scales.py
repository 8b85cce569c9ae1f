"""Scales of a drawing: a range of values, its ticks, and where a value lies on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of values with its ticks.

    Attributes:
        low: its start.
        high: its end.
        ticks: values that are marked.
        percent: whether values are shares, labelled in per cent.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    percent: bool = False

    def position(self, value: float) -> float:
        """Where a value lies: 0 at the start of the scale, 1 at its end."""
        return (value - self.low) / (self.high - self.low)

    def label(self, value: float) -> str:
        """The label of a tick."""
        return f"{100 * value:.0f} %" if self.percent else f"{value:.6g}"


SHARES = Scale(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), percent=True)


def scale_for(values: Sequence[float]) -> Scale:
    """A scale with at most eight round ticks that covers all values; it need not start at 0."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - _margin(low), high + _margin(high)
    step = _round_step((high - low) / 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple(float(f"{n * step:.12g}") for n in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def _margin(value: float) -> float:
    """Half of a value, or of 1 where halving the value would underflow."""
    return 0.5 * (abs(value) if abs(value) > 1e-300 else 1.0)


def whole_number_scale(values: Sequence[float]) -> Scale:
    """A scale of whole numbers such as rounds, with at most eight ticks."""
    low, high = math.floor(min(values)), math.ceil(max(values))
    step = max(1, math.ceil((high - low) / 7))
    ticks = tuple(float(n) for n in range(low, high + 1, step))
    return Scale(low - 0.3 * step, max(high, low + 1) + 0.3 * step, ticks)


def _round_step(step: float) -> float:
    """The smallest round step that is not below a step."""
    size = 10.0 ** math.floor(math.log10(step))
    return next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= step * (1 - 1e-9))
