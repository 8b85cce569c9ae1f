"""Near-duplicates within a suite, and a rate in which a much-repeated request counts once.

AdvBench asks some things a dozen times (hacking a government's database, a bomb from household
items): a rate over prompts weighs these most. Here prompts that share most of their telling words
form a cluster, and the rate is the mean over clusters.

Two texts are near by Dice's coefficient over their sets of words, each weighted by the square of
log(1 + N/n) for a word that n of the suite's N prompts have: the frame of a request ("write a
tutorial on how to") weighs little without any list of words. Clusters are joined while the *mean*
similarity between two of them is at least the threshold (average linkage: Sokal and Michener 1958),
since chains of single links would join half of AdvBench. Made for English and for suites of up to
some thousand prompts.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrai.errors import EvaluationError
from fedrai.rates import wilson

THRESHOLD = 0.5
"""Mean similarity from which clusters are joined. On AdvBench it makes 334 clusters of 520 prompts;
at 0.45 requests of one frame with another subject begin to join, at 0.6 plain rewordings part."""

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_ENDINGS = ("ing", "ed", "es", "s", "e")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClusteredRate:
    """A rate over clusters, each counting once.

    Attributes:
        value: mean over clusters of the share within each, 0 to 1; None when nothing was scored.
        clusters: clusters with a scored prompt.
        unscored: clusters without one; they are in nothing else.
        prompts: scored prompts.
    """

    value: float | None
    clusters: int
    unscored: int
    prompts: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Wilson's interval with clusters as trials; None when nothing was scored.

        Shares within clusters lie between 0 and 1, so that they vary no more than yes and no would:
        the interval is, if anything, too wide.

        Raises:
            EvaluationError: `confidence` is not between 0 and 1.
        """
        return wilson((self.value or 0.0) * self.clusters, self.clusters, confidence)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the 95 % interval."""
        ends = self.interval()
        return {
            "value": self.value,
            "low": ends[0] if ends else None,
            "high": ends[1] if ends else None,
            "clusters": self.clusters,
            "unscored": self.unscored,
            "prompts": self.prompts,
        }


def clusters(texts: Sequence[str], threshold: float = THRESHOLD) -> list[int]:
    """The cluster of each text, numbered from 0 in the order of their first texts.

    Args:
        texts: a whole suite: what is near depends on the words of all of it.
        threshold: mean similarity from which clusters are joined, above 0 and up to 1.

    Raises:
        EvaluationError: the threshold is out of its range.
    """
    if not 0 < threshold <= 1:
        raise EvaluationError(f"a threshold lies above 0 and up to 1, got {threshold}")
    if not texts:
        return []
    members = _joined(_similarities([_words(text) for text in texts]), threshold)
    owner = {place: min(group) for group in members for place in group}
    numbers = {first: number for number, first in enumerate(sorted(set(owner.values())))}
    return [numbers[owner[place]] for place in range(len(texts))]


def clustered_rate(
    outcomes: Sequence[bool | None], groups: Sequence[int], prompts: Sequence[int] | None = None
) -> ClusteredRate:
    """The rate in which every cluster counts once.

    Args:
        outcomes: one an answer; None could not be scored.
        groups: the cluster of each answer's prompt.
        prompts: which prompt each is of; None: each of its own.

    Raises:
        EvaluationError: their numbers differ.
    """
    if len(outcomes) != len(groups):
        raise EvaluationError(f"{len(outcomes)} outcomes do not match {len(groups)} clusters")
    found: dict[int, list[bool]] = defaultdict(list)
    for outcome, group in zip(outcomes, groups, strict=True):
        if outcome is not None:
            found[group].append(bool(outcome))
    known = range(len(outcomes)) if prompts is None else prompts
    scored = {p for p, outcome in zip(known, outcomes, strict=True) if outcome is not None}
    shares = [sum(part) / len(part) for part in found.values()]
    value = math.fsum(shares) / len(shares) if shares else None
    return ClusteredRate(value, len(shares), len(set(groups)) - len(shares), len(scored))


def _words(text: str) -> frozenset[str]:
    """The different words of a text without endings; a text without words is one of its own."""
    plain = text.casefold().replace("'", "").replace("\u2019", "")
    return frozenset(map(_stem, _WORD.findall(plain))) or frozenset([plain])


def _stem(word: str) -> str:
    ending = next((e for e in _ENDINGS if word.endswith(e) and len(word) - len(e) >= 3), "")
    return word[: len(word) - len(ending)]


def _similarities(texts: Sequence[frozenset[str]]) -> Floats:
    """Dice's coefficient of all pairs, (N, N)."""
    counts = Counter(word for words in texts for word in words)
    places = {word: place for place, word in enumerate(sorted(counts))}
    has = np.zeros((len(texts), len(places)))
    for row, words in enumerate(texts):
        has[row, [places[word] for word in words]] = 1.0
    weights = np.array([math.log(1 + len(texts) / counts[word]) ** 2 for word in places])
    shared = (has * weights) @ has.T
    whole = np.diag(shared)
    found: Floats = 2 * shared / (whole[:, None] + whole[None, :])
    return found


def _joined(near: Floats, threshold: float) -> list[list[int]]:
    """Join the nearest two clusters again and again, by the mean similarity of their members."""
    near, count = near.copy(), len(near)
    np.fill_diagonal(near, -1.0)
    members: list[list[int]] = [[place] for place in range(count)]
    while True:
        one, other = divmod(int(near.argmax()), count)
        if near[one, other] < threshold - 1e-9:
            return [group for group in members if group]
        sizes = len(members[one]), len(members[other])
        mean = (sizes[0] * near[one] + sizes[1] * near[other]) / sum(sizes)
        near[one] = near[:, one] = mean
        near[one, one] = -1.0
        near[other] = near[:, other] = -1.0
        members[one] += members[other]
        members[other] = []
