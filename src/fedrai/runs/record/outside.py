"""The figures of the outside sets in `metrics.json`, as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrai.rates import Rate, percent
from fedrai.runs.record.values import Json, as_count, as_number, as_rate, part, word

SAFE, REFUSED = "safe", "refused"
"""Names of the macro means by the refusal rule: of the harmful sets, and of the harmless ones."""


@dataclass(frozen=True, slots=True)
class MacroRate:
    """A mean over sets, each counted once.

    Attributes:
        value: the mean, 0 to 1.
        low: lower end of its 95 % interval, which is over sets and items.
        high: upper end.
        sets: number of sets.
        items: scored items in all of them.
        unscored: answers without a verdict; in no figure.
    """

    value: float
    low: float
    high: float
    sets: int
    items: int
    unscored: int = 0

    @classmethod
    def from_json(cls, body: Json) -> MacroRate | None:
        """A mean as an evaluation wrote it; None if it has no data or is none."""
        value, low, high = (as_number(body.get(key)) for key in ("value", "low", "high"))
        if value is None or low is None or high is None:
            return None
        counts = (as_count(body.get(key)) or 0 for key in ("sets", "items", "unscored"))
        return cls(value, low, high, *counts)

    def format(self) -> str:
        """The mean and its interval: "67.0 % [47.0, 85.3]"."""
        return percent(self.value, (self.low, self.high))

    def describe(self) -> str:
        """The mean, its interval and its counts: "... (7 sets, 350 answers, 2 unscored)"."""
        unscored = f", {self.unscored} unscored" if self.unscored else ""
        return f"{self.format()} ({self.sets} sets, {self.items} answers{unscored})"


@dataclass(frozen=True, slots=True)
class OutsideSet:
    """One outside set.

    Attributes:
        title: its name in the literature.
        manner: how its requests are put.
        harmful: whether a good model declines them.
        rates: by name: `safe` ... of a harmful set, `refused` of a harmless one.
    """

    title: str
    manner: str
    harmful: bool
    rates: Mapping[str, Rate]

    @property
    def rate(self) -> Rate | None:
        """Its rate by the refusal rule."""
        return self.rates.get(SAFE if self.harmful else REFUSED)


@dataclass(frozen=True, slots=True)
class OutsideRecord:
    """What an evaluation measured on sets that neither trained nor chose anything.

    Attributes:
        means: macro means by name: `safe`, `safe-guard`, `refused` ...
        sets: each set by its name, in the order in which they were asked.
    """

    means: Mapping[str, MacroRate] = field(default_factory=dict)
    sets: Mapping[str, OutsideSet] = field(default_factory=dict)

    @property
    def safe(self) -> MacroRate | None:
        """The mean share of refusals over the harmful sets; None: not measured."""
        return self.means.get(SAFE)

    @property
    def refused(self) -> MacroRate | None:
        """The mean share of refusals over the harmless sets; None: not measured."""
        return self.means.get(REFUSED)

    @classmethod
    def from_json(cls, body: Json) -> OutsideRecord | None:
        """The record of `outside` in `metrics.json`; None where no outside set was asked."""
        if not body:
            return None
        means = {
            str(n): MacroRate.from_json(part(part(body, "means"), n)) for n in part(body, "means")
        }
        return cls(
            {name: mean for name, mean in means.items() if mean is not None},
            {str(name): _set(part(part(body, "sets"), name)) for name in part(body, "sets")},
        )


def _set(body: Json) -> OutsideSet:
    rates = {str(name): as_rate(value) for name, value in part(body, "rates").items()}
    return OutsideSet(
        word(body, "title"),
        word(body, "manner"),
        word(body, "side") == "harmful",
        {name: rate for name, rate in rates.items() if rate is not None},
    )
