"""Near-duplicates within a suite, and a rate in which a repeated request counts once.

AdvBench repeats some requests a dozen times (hacking a government's database, a bomb from household
items), and a rate over prompts weighs these most. Here prompts that share most of their distinctive
words form a cluster, and the rate is the mean over clusters.

Similarity is Dice's coefficient over sets of words, each weighted by the square of log(1 + N/n) for
a word in n of the suite's N prompts: the frame of a request ("write a tutorial on how to") weighs
little without any list of words. Clusters are joined while the *mean* similarity between two of
them is at least the threshold (average linkage: Sokal and Michener 1958), since single linkage
would join half of AdvBench. Designed for English and suites of up to a few thousand prompts.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrai.errors import EvaluationError
from fedrai.rates import wilson

THRESHOLD = 0.5
"""Mean similarity from which clusters are joined. It makes 334 clusters of AdvBench's 520 prompts;
at 0.45 requests of one frame on different subjects start to join, at 0.6 rewordings separate."""

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_ENDINGS = ("ing", "ed", "es", "s", "e")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClusteredRate:
    """A rate over clusters, each counted once.

    Attributes:
        value: mean over clusters of the share within each, 0 to 1; None when nothing was scored.
        clusters: clusters with a scored prompt.
        unscored: clusters without one; they are in no other figure.
        prompts: scored prompts.
    """

    value: float | None
    clusters: int
    unscored: int
    prompts: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Wilson's interval with clusters as trials; None when nothing was scored.

        Shares within clusters vary no more than yes-or-no outcomes: the interval is, if anything,
        too wide.

        Raises:
            EvaluationError: `confidence` is not between 0 and 1.
        """
        return wilson((self.value or 0.0) * self.clusters, self.clusters, confidence)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the 95 % interval."""
        low, high = self.interval() or (None, None)
        return {"value": self.value, "low": low, "high": high, **asdict(self)}


def clusters(texts: Sequence[str], threshold: float = THRESHOLD) -> list[int]:
    """The cluster of each text, numbered from 0 in the order of their first texts.

    Args:
        texts: a whole suite: similarity depends on the words of all its texts.
        threshold: mean similarity from which clusters are joined, above 0 and up to 1.

    Raises:
        EvaluationError: the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise EvaluationError(f"a threshold must be above 0 and at most 1, got {threshold}")
    if not texts:
        return []
    groups = _join(_similarities([_words(text) for text in texts]), threshold)
    numbers = {
        place: number for number, group in enumerate(sorted(groups, key=min)) for place in group
    }
    return [numbers[place] for place in range(len(texts))]


def clustered_rate(
    outcomes: Sequence[bool | None], groups: Sequence[int], prompts: Sequence[int] | None = None
) -> ClusteredRate:
    """The rate with each cluster counted once.

    Args:
        outcomes: one for each answer; None: unscored.
        groups: the cluster of each answer's prompt.
        prompts: each answer's prompt; None: each has its own.

    Raises:
        EvaluationError: outcomes and clusters differ in number.
    """
    if len(outcomes) != len(groups):
        raise EvaluationError(f"{len(outcomes)} outcomes do not match {len(groups)} clusters")
    by_group: dict[int, list[bool]] = defaultdict(list)
    for outcome, group in zip(outcomes, groups, strict=True):
        if outcome is not None:
            by_group[group].append(bool(outcome))
    numbers = range(len(outcomes)) if prompts is None else prompts
    scored = {p for p, outcome in zip(numbers, outcomes, strict=True) if outcome is not None}
    shares = [sum(part) / len(part) for part in by_group.values()]
    value = math.fsum(shares) / len(shares) if shares else None
    return ClusteredRate(value, len(shares), len(set(groups)) - len(shares), len(scored))


def _words(text: str) -> frozenset[str]:
    """The distinct words of a text without endings; a text without words is a word itself."""
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
    similarities: Floats = 2 * shared / (whole[:, None] + whole[None, :])
    return similarities


def _join(similarities: Floats, threshold: float) -> list[list[int]]:
    """Repeatedly join the two most similar clusters, by the mean similarity of their members."""
    means, count = similarities.copy(), len(similarities)
    np.fill_diagonal(means, -1.0)
    members: list[list[int]] = [[place] for place in range(count)]
    while True:
        one, other = divmod(int(means.argmax()), count)
        if means[one, other] < threshold - 1e-9:
            return [group for group in members if group]
        sizes = len(members[one]), len(members[other])
        mean = (sizes[0] * means[one] + sizes[1] * means[other]) / sum(sizes)
        means[one] = means[:, one] = mean
        means[one, one] = -1.0
        means[other] = means[:, other] = -1.0
        members[one] += members[other]
        members[other] = []
