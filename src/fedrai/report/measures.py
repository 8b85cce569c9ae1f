"""What a comparison shows: measures, their headings, and the answers they are counted on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fedrai.rates import split_name

BOTH_SIDES = "both-sides"
LOSS = "held-out-loss"
TFLOP = "tflop"
OVERHEAD = "overhead"

HEADINGS = {
    "safe": "AdvBench safe",
    "safe-legacy": "AdvBench safe (legacy)",
    "safe-guard": "AdvBench safe (guard)",
    "xstest-safe-refused": "XSTest safe refused",
    "refused": "ordinary refused",
    BOTH_SIDES: "both sides",
    "hhh": "HHH",
    "hhh-normalised": "HHH by length",
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
}
"""Headings in the order of columns: safety, then over-refusal, then usefulness, then cost."""

POINTS = ("mt-bench",)
"""Scores that are no shares from 0 to 1."""

Form = Literal["share", "points", "loss", "tflop", "more"]


@dataclass(frozen=True, slots=True)
class Counted:
    """What a rate is counted on.

    Attributes:
        suite: whose prompts.
        judge: of its answers.
    """

    suite: str
    judge: str


def counted(rate: str) -> Counted | None:
    """Where a rate comes from, by its name; None for one that is not known to come from answers.

    `safe` and `refused` are AdvBench's and the ordinary instructions'; `SUITE-safe` and
    `SUITE-refused` are a suite's own; the end may name another judge (see `split_name`).
    """
    plain, judge = split_name(rate)
    if plain in ("safe", "refused"):
        return Counted("advbench" if plain == "safe" else "ordinary", judge)
    suite = next((plain.removesuffix(e) for e in ("-safe", "-refused") if plain.endswith(e)), "")
    return Counted(suite, judge) if suite else None


def scored_on(score: str) -> str:
    """The suite whose answers, or pairs of answers, a score is the mean of."""
    return "ordinary" if score == "rouge-l" else score.removesuffix("-normalised")


def heading(measure: str) -> str:
    """What a measure is called in a table."""
    plain, judge = split_name(measure)
    if judge != "rule" and measure not in HEADINGS:
        return f"{heading(plain)} ({judge})"
    return HEADINGS.get(measure, measure.replace("-", " "))


def form(measure: str) -> Form:
    """How a measure's values are written: shares in %, others as they are."""
    forms: dict[str, Form] = {LOSS: "loss", TFLOP: "tflop", OVERHEAD: "more"}
    return "points" if measure in POINTS else forms.get(measure, "share")


def in_order(measures: Iterable[str]) -> list[str]:
    """Measures as columns: those with a place in `HEADINGS`, then variants and others by name."""
    places = {name: place for place, name in enumerate(HEADINGS)}
    cost = places[LOSS] - 0.5
    return sorted(set(measures), key=lambda name: (places.get(name, cost), name))


def written(measure: str, value: float) -> str:
    """A value: a share in %, an overhead with its sign, a loss with three decimals."""
    kind = form(measure)
    if kind == "share":
        return f"{100 * value:.1f}"
    return f"{100 * value:+.1f} %" if kind == "more" else format(value, _DIGITS[kind])


_DIGITS = {"points": ".2f", "loss": ".3f", "tflop": ",.1f"}


def unit(measure: str) -> str:
    """What stands behind a heading."""
    return " %" if form(measure) == "share" else ""
