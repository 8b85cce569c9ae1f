"""Measures: their order, headings and number formats, and the answers they are counted on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fedrai.evaluation.suites.split import use_of
from fedrai.rates import split_name

OUTSIDE = "outside-"
"""Begins the names of macro means over the outside sets."""
OUTSIDE_SAFE, OUTSIDE_REFUSED = f"{OUTSIDE}safe", f"{OUTSIDE}refused"
BOTH_SIDES = "both-sides"
LOSS = "held-out-loss"
TFLOP = "tflop"
OVERHEAD = "overhead"
MEGABYTES = "megabytes"
SECONDS = "seconds"

HEADINGS = {
    OUTSIDE_SAFE: "outside safe",
    OUTSIDE_REFUSED: "outside refused",
    "outside-safe-legacy": "outside safe (legacy)",
    "outside-safe-guard": "outside safe (guard)",
    "safe": "AdvBench safe",
    "safe-legacy": "AdvBench safe (legacy)",
    "safe-guard": "AdvBench safe (guard)",
    "xstest-safe-refused": "XSTest safe refused",
    "refused": "ordinary refused",
    BOTH_SIDES: "both sides",
    "hhh": "HHH",
    "hhh-normalised": "HHH by length",
    "held-out-pairs": "held-out pairs",
    "held-out-pairs-normalised": "held-out pairs by length",
    "held-out-rewards": "held-out rewards",
    "held-out-rewards-normalised": "held-out rewards by length",
    "mt-bench": "MT-Bench",
    "strongreject": "StrongREJECT",
    "rouge-l": "ROUGE-L",
    "xstest-unsafe-refused": "XSTest unsafe refused",
    "harmbench-safe": "HarmBench safe",
    "do-not-answer-safe": "Do-Not-Answer safe",
    "jailbreakbench-safe": "JailbreakBench safe",
    "strongreject-safe": "StrongREJECT safe",
    LOSS: "held-out loss",
    TFLOP: "Tflop",
    OVERHEAD: "over FedAvg",
    MEGABYTES: "MB",
    SECONDS: "seconds",
}
"""Headings in the order of columns: outside sets, then safety, over-refusal, usefulness, cost."""
DEVELOPMENT = "development: "
"""Before the heading of a measure whose set chose settings, so that it proves nothing."""

POINTS = ("mt-bench",)
"""Scores that are not shares from 0 to 1."""

Kind = Literal["share", "points", "loss", "tflop", "overhead", "count"]


@dataclass(frozen=True, slots=True)
class RateSource:
    """The answers that a rate is counted on: their suite, and their judge."""

    suite: str
    judge: str


def rate_source(rate: str) -> RateSource | None:
    """The source of a rate, by its name; None if the name does not tell.

    `safe` and `refused` are AdvBench's and the ordinary instructions'; `SUITE-safe` and
    `SUITE-refused` are a suite's own; the end may name another judge (see `split_name`).
    """
    plain, judge = split_name(rate)
    if plain in ("safe", "refused"):
        return RateSource("advbench" if plain == "safe" else "ordinary", judge)
    suite = next((plain.removesuffix(e) for e in ("-safe", "-refused") if plain.endswith(e)), "")
    return RateSource(suite, judge) if suite else None


def scored_on(score: str) -> str:
    """The suite of the answers, or pairs of answers, that a score is the mean of."""
    return "ordinary" if score == "rouge-l" else score.removesuffix("-normalised")


def heading(measure: str) -> str:
    """The heading of a measure in a table; one of a development set says so."""
    return f"{DEVELOPMENT if is_development(measure) else ''}{_plain_heading(measure)}"


def _plain_heading(measure: str) -> str:
    plain, judge = split_name(measure)
    if judge != "rule" and measure not in HEADINGS:
        return f"{_plain_heading(plain)} ({judge})"
    return HEADINGS.get(measure, measure.replace("-", " "))


def is_outside(measure: str) -> bool:
    """Whether it is a macro mean over the outside sets."""
    return measure.startswith(OUTSIDE)


def is_development(measure: str) -> bool:
    """Whether its set is one of those that chose settings (`split.toml`)."""
    if measure == BOTH_SIDES:
        return True
    source = None if is_outside(measure) else rate_source(measure)
    return source is not None and use_of(source.suite) == "development"


def value_kind(measure: str) -> Kind:
    """The kind of a measure's values; shares are shown in %."""
    kinds: dict[str, Kind] = {
        LOSS: "loss", TFLOP: "tflop", OVERHEAD: "overhead", MEGABYTES: "count", SECONDS: "count",
    }  # fmt: skip
    return "points" if measure in POINTS else kinds.get(measure, "share")


def in_order(measures: Iterable[str]) -> list[str]:
    """Measures in the order of columns: that of `HEADINGS`; others by name, before the costs."""
    places = {name: place for place, name in enumerate(HEADINGS)}
    cost = places[LOSS] - 0.5
    return sorted(set(measures), key=lambda name: (places.get(name, cost), name))


def format_value(measure: str, value: float) -> str:
    """A value: a share in %, an overhead with its sign, a loss with three decimals."""
    kind = value_kind(measure)
    if kind == "share":
        return f"{100 * value:.1f}"
    return f"{100 * value:+.1f} %" if kind == "overhead" else format(value, _DIGITS[kind])


_DIGITS = {"points": ".2f", "loss": ".3f", "tflop": ",.1f", "count": ",.0f"}


def unit(measure: str) -> str:
    """The unit after a heading."""
    return " %" if value_kind(measure) == "share" else ""
