"""Figures in words: counts and intervals beside each rate, "not recorded" for what is missing."""

from __future__ import annotations

from fedrai.rates import Rate
from fedrai.report.markup import Cell, tag

MISSING = "not recorded"
NAMES = {
    "safe": "AdvBench safe",
    "safe-legacy": "AdvBench safe (legacy)",
    "safe-guard": "AdvBench safe (guard)",
    "refused": "ordinary refused",
    "xstest-safe-refused": "XSTest safe refused",
    "xstest-unsafe-refused": "XSTest unsafe refused",
}


def rate_name(key: str) -> str:
    """What a rate is called."""
    return NAMES.get(key, key)


def rate_text(rate: Rate | None) -> str:
    """A rate with its interval and counts."""
    if rate is None:
        return "not measured"
    unscored = f", {rate.unscored} unscored" if rate.unscored else ""
    return f"{rate.format()} ({rate.successes} of {rate.scored}{unscored})"


def rate_cell(rate: Rate | None) -> Cell:
    """A rate in a table: its counts stand on a line of their own."""
    if rate is None:
        return Cell(rate_text(rate))
    unscored = f", {rate.unscored} unscored" if rate.unscored else ""
    counts = tag("small", f"{rate.successes} of {rate.scored}{unscored}")
    return Cell(tag("span", rate.format(), " ", counts, class_="rate"), rate.value)


def number_cell(value: float | None, form: str = ",") -> Cell:
    """A number in a table, by a format specification."""
    return Cell(MISSING) if value is None else Cell(format(value, form), value)


def share_cell(value: float | None) -> Cell:
    """A share more or less, in per cent."""
    return Cell(MISSING) if value is None else Cell(f"{100 * value:+.1f} %", value)


def time_text(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
