"""What the filter did, as numbers: the ledger, the counts that may leave a client, their noise.

A ledger holds counts and salted hashes, never text or the place of a row.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from fractions import Fraction
from typing import Any, get_args

from fedrai.data.embedded.refusals import OTHER
from fedrai.errors import RecipeError
from fedrai.filter.pairs import PairCounts
from fedrai.rates import Rate
from fedrai.records import Problem

PROBLEMS: tuple[Problem, ...] = get_args(Problem)
CATEGORIES = (
    "self-harm", "violence", "weapons", "drugs", "cyber", "fraud", "child-abuse", "sexual",
    "privacy", "hate", "harassment", "misinformation", "illegal", OTHER,
)  # fmt: skip
"""What a ledger counts unsafe rows by, whatever the guard calls them: a closed list, so that no
text can enter as the name of a category, and a missing category reveals nothing."""

BINS = 10  # of the histogram
SWAPPED = "swapped"  # counted where there are pairs
COUNT_NAMES = frozenset(
    ["rows", "unsafe", "dropped", "replaced"]
    + [f"unscored-{problem}" for problem in PROBLEMS]
    + [f"category-{name}" for name in CATEGORIES]
)
ROW_CHANGES = 4
"""Of these counts, so many change by one when a row comes or goes: `rows`; then for an unsafe row
`unsafe`, one category, and `dropped`, `replaced` or `swapped`; for an unscored one its problem and
`dropped`.
(The rows kept are rows - dropped.)"""


@dataclass(frozen=True, slots=True)
class DeclaredHarm:
    """What the filter did to rows whose source is declared harmful or not; experiments only.

    Attributes:
        harmful_in: harmful rows before the filter.
        harmful_kept: those that go on to training as they were.
        benign_in: the other rows before the filter.
        benign_removed: those that were dropped or got a refusal.
    """

    harmful_in: int
    harmful_kept: int
    benign_in: int
    benign_removed: int

    def __add__(self, other: DeclaredHarm) -> DeclaredHarm:
        return DeclaredHarm(*map(operator.add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class FilterLedger:
    """What the filter found and did on one client, or on several together.

    Attributes:
        guard: `name@revision`.
        threshold: threshold that was applied; None where clients differ.
        mode: mode that was applied.
        part: part of a row that was judged.
        rows: examples that came in.
        kept: examples that go on to training, replaced ones among them; rows - dropped.
        dropped: examples that left, unsafe or unscored.
        replaced: examples in which an answer gave way to a refusal.
        unsafe: examples with an answer at or above the threshold.
        unscored: examples with no unsafe answer and one that could not be scored, by problem.
        categories: unsafe examples by their likeliest category.
        histogram: examples by probability, in ten bins: [0, 0.1), ... [0.9, 1].
        removed: salted hashes of dropped and replaced examples, sorted; empty for several clients.
        confusion: None outside experiments.
        pairs: counts of the preference pairs among the examples; None: there are none.
    """

    guard: str
    threshold: float | None
    mode: str
    part: str
    rows: int
    kept: int
    dropped: int
    replaced: int
    unsafe: int
    unscored: Mapping[str, int]
    categories: Mapping[str, int]
    histogram: tuple[int, ...]
    removed: tuple[str, ...] = ()
    confusion: DeclaredHarm | None = None
    pairs: PairCounts | None = None

    def counts(self) -> dict[str, int]:
        """What may cross the wire: numbers by the names in `COUNT_NAMES`, always all of them.

        Where there are pairs, also `SWAPPED`.
        """
        counts = {name: getattr(self, name) for name in ("rows", "unsafe", "dropped", "replaced")}
        if self.pairs is not None:
            counts[SWAPPED] = self.pairs.swapped
        counts |= {f"unscored-{problem}": self.unscored.get(problem, 0) for problem in PROBLEMS}
        return counts | {f"category-{name}": self.categories.get(name, 0) for name in CATEGORIES}

    def residual_harm(self) -> Rate | None:
        """The share of harmful rows among those that are trained on; None outside experiments."""
        return Rate(self.confusion.harmful_kept, self.kept) if self.confusion else None

    def benign_loss(self) -> Rate | None:
        """The share of benign rows that the filter took away; None outside experiments."""
        c = self.confusion
        return Rate(c.benign_removed, c.benign_in) if c else None

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name; without `pairs` where there are none."""
        body = asdict(self)
        return body if self.pairs else {k: v for k, v in body.items() if k != "pairs"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FilterLedger:
        """The ledger that `to_json` gave."""
        confusion = DeclaredHarm(**value["confusion"]) if value["confusion"] else None
        pairs = PairCounts(**value["pairs"]) if value.get("pairs") else None
        lists = {name: tuple(value[name]) for name in ("histogram", "removed")}
        return cls(**{**value, **lists, "confusion": confusion, "pairs": pairs})


def total(ledgers: Sequence[FilterLedger]) -> FilterLedger:
    """Several clients' ledgers in one, for tables; hashes under unlike salts are left out.

    Raises:
        ValueError: there is no ledger.
    """
    if not ledgers:
        raise ValueError("no ledger to add up")
    thresholds = {ledger.threshold for ledger in ledgers}
    harm = [ledger.confusion for ledger in ledgers if ledger.confusion is not None]
    pairs = [ledger.pairs for ledger in ledgers if ledger.pairs is not None]

    def column(name: str) -> list[Any]:
        return [getattr(ledger, name) for ledger in ledgers]

    def sums(name: str) -> dict[str, int]:
        keys = dict.fromkeys(key for counts in column(name) for key in counts)
        return {key: sum(counts.get(key, 0) for counts in column(name)) for key in keys}

    return FilterLedger(
        guard=", ".join(sorted(set(column("guard")))),
        mode=", ".join(sorted(set(column("mode")))),
        part=", ".join(sorted(set(column("part")))),
        **{name: sum(column(name)) for name in ("rows", "kept", "dropped", "replaced", "unsafe")},
        threshold=thresholds.pop() if len(thresholds) == 1 else None,
        unscored=sums("unscored"),
        categories=sums("categories"),
        histogram=tuple(map(sum, zip(*column("histogram"), strict=True))),
        confusion=sum(harm[1:], harm[0]) if len(harm) == len(ledgers) else None,
        pairs=sum(pairs[1:], pairs[0]) if pairs else None,
    )


# --- noise ----------------------------------------------------------------------------------------

STEPS = 2**20  # epsilon is taken in parts of 1 / STEPS, rounded down


def add_noise(
    counts: Mapping[str, int], epsilon: float, rng: random.Random | None = None
) -> dict[str, int]:
    """Add independent two-sided geometric noise to every count, for differential privacy.

    Noise z has probability proportional to exp(-epsilon * abs(z)) (the geometric mechanism: Ghosh,
    Roughgarden and Sundararajan 2009, arXiv 0811.2841), drawn exactly, in whole numbers (Canonne,
    Kamath and Steinke 2020, arXiv 2004.00010, algorithms 1 and 2). A count below 0 becomes 0, which
    costs no privacy and lifts small counts a little.

    What it is worth: each count alone is epsilon-private for one row that comes or goes. One row
    changes at most `ROW_CHANGES` = 4 of the counts of a ledger, each by 1, so that all of them
    together are 4 * epsilon-private. Every further draw for the same rows adds as much: draw once,
    and send the same numbers again. It holds if the guard and its threshold do not depend on the
    client's rows, and covers these counts alone: the number of rows that Flower weighs an update
    by, and the update itself, are other matters.

    Args:
        counts: numbers by name, as returned by `FilterLedger.counts`.
        epsilon: epsilon of differential privacy for each count.
        rng: for tests. The default takes its bits from the operating system; noise that can be
            drawn again from a seed protects nobody.

    Raises:
        RecipeError: epsilon is not a number above 0 (at least 1 / 2**20).
    """
    if not (math.isfinite(epsilon) and epsilon * STEPS >= 1):
        raise RecipeError(f"epsilon must be a number above 0, got {epsilon}")
    exact = Fraction(math.floor(epsilon * STEPS), STEPS)
    source = rng or random.SystemRandom()
    return {name: max(0, count + _two_sided(exact, source)) for name, count in counts.items()}


def _two_sided(epsilon: Fraction, rng: random.Random) -> int:
    """A whole number z with probability proportional to exp(-epsilon * abs(z))."""
    s, t = epsilon.numerator, epsilon.denominator
    while True:
        low = rng.randrange(t)
        if not _happens(Fraction(low, t), rng):
            continue
        high = 0
        while _happens(Fraction(1), rng):
            high += 1
        size, negative = (low + t * high) // s, rng.randrange(2) == 1
        if size or not negative:  # 0 has one sign
            return -size if negative else size


def _happens(rate: Fraction, rng: random.Random) -> bool:
    """True with probability exp(-rate), for a rate of 0 to 1."""
    k = 1
    while rng.randrange(rate.denominator * k) < rate.numerator:
        k += 1
    return k % 2 == 1
