"""Near-duplicates: requests that must not be trained on because an evaluation asks the same.

Two texts are near if they share most of their *content* words: Dice's coefficient over the sets of
stemmed words, where a word of the frame ("write a tutorial on how to ...") has little weight and an
article or pronoun hardly any. So an inserted word or two changes little, and another subject in the
same template changes much. The weights are fixed: the result depends on the two texts alone. It is
exact; an inverted index finds the pairs (prefix filter: Bayardo, Ma and Srikant, WWW 2007).

Made for English. Words are separated by spaces, so in scripts without spaces only equal clauses are
found. A paraphrase in other words is not found.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedrai.constitution.records import Request

THRESHOLD = 0.6
"""Similarity from which a request is excluded. Between AdvBench and HarmBench, Do-Not-Answer, CatQA
and HarmfulQA, nearly all pairs above 0.7 ask for the same, and most from 0.6 on; below, most pairs
share a subject but ask for something else. A low value costs a few requests, a high one spoils an
evaluation."""
SAME = 0.8
"""Similarity from which two requests of one list are duplicates."""

FUNCTION_WEIGHT, FRAME_WEIGHT, CONTENT_WEIGHT = 0.03, 0.1, 1.0
FUNCTION_WORDS = (
    "a an and any are as at be been but by can could did do does for from had has have he her him"
    " his how i if in into is it its me my no not of on or our out s she should so some t than that"
    " the their them then there these they this those to up us was we were what when where which"
    " who whom whose why will with without would you your"
)
FRAME_WORDS = (
    "about article best build construct create describe design detailed details develop example"
    " explain find generate get give good guide help instruct instructions list make manual message"
    " method need outline people person plan please post program provide script show someone"
    " somebody step strategy suggest teach tell tutorial use want way write"
)
ENDINGS = ("ingly", "ings", "ing", "edly", "ed", "ies", "es", "ly", "s")

Words = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CleanedRequests:
    """Requests without those that an evaluation asks, and without repetitions.

    Attributes:
        requests: the remaining requests, in their order.
        removed: number of excluded requests by the first suite with a near request; has all suites.
        duplicates: near-duplicates of an earlier request that is kept.
    """

    requests: tuple[Request, ...]
    removed: Mapping[str, int]
    duplicates: int


def without_overlap(
    requests: Sequence[Request],
    suites: Mapping[str, Sequence[str]],
    *,
    threshold: float = THRESHOLD,
    same: float = SAME,
) -> CleanedRequests:
    """Exclude requests that are near to one of an evaluation, or to an earlier request.

    Args:
        requests: candidates for training.
        suites: requests of evaluations, by name.
        threshold: similarity (0 to 1) to a suite's request from which a request is excluded.
        same: similarity from which it duplicates an earlier request.

    Raises:
        ValueError: a threshold is not above 0 and at most 1.
    """
    indexes = {name: _Index(map(words, texts), threshold) for name, texts in suites.items()}
    earlier = _Index((), same)
    removed, duplicates, remaining = dict.fromkeys(suites, 0), 0, []
    for request in requests:
        text = words(request.prompt)
        suite = next((name for name, index in indexes.items() if index.has_near(text)), None)
        if suite is not None:
            removed[suite] += 1
        elif earlier.has_near(text):
            duplicates += 1
        else:
            remaining.append(request)
            earlier.add(text)
    return CleanedRequests(tuple(remaining), removed, duplicates)


def similarity(one: str, other: str) -> float:
    """How near two texts are: 0 (no word in common) to 1 (the same words, in any order)."""
    return _dice(words(one), words(other))


def words(text: str) -> dict[str, float]:
    """The different words of a text, stemmed, with their weights.

    A text without a word ("???") counts as one word.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(c for c in plain if unicodedata.category(c) != "Cf" and c not in "'\u2019`")
    stems = {_stem(word) for word in re.findall(r"[^\W_]+", plain)} or {*filter(None, [plain])}
    return {word: WEIGHTS.get(word, CONTENT_WEIGHT) for word in sorted(stems)}


def _stem(word: str) -> str:
    """A word without its English inflection, roughly: making, makes, make are all "mak"."""
    ending = next((e for e in ENDINGS if word.endswith(e) and len(word) - len(e) >= 3), "")
    word = word[: len(word) - len(ending)] + ("y" if ending == "ies" else "")
    doubled = ending[:2] in ("in", "ed") and len(word) > 3 and word[-1] == word[-2] not in "ls"
    return word[:-1] if doubled or (word.endswith("e") and len(word) > 3) else word


WEIGHTS: Words = {_stem(word): FRAME_WEIGHT for word in FRAME_WORDS.split()} | {
    _stem(word): FUNCTION_WEIGHT for word in FUNCTION_WORDS.split()
}


def _dice(one: Words, other: Words) -> float:
    shared = sum(weight for word, weight in one.items() if word in other)
    whole = sum(one.values()) + sum(other.values())
    return 2 * shared / whole if whole else 0.0


class _Index:
    """Texts by their words, for one threshold."""

    def __init__(self, texts: Iterable[Words], threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"a threshold must be above 0 and at most 1, got {threshold}")
        self.threshold = threshold
        self.texts: list[Words] = []
        self.places: dict[str, list[int]] = defaultdict(list)
        for text in texts:
            self.add(text)

    def add(self, text: Words) -> None:
        """Add a text."""
        for word in text:
            self.places[word].append(len(self.texts))
        self.texts.append(text)

    def has_near(self, text: Words) -> bool:
        """Whether any text reaches the threshold."""
        places = {place for word in self._rarest(text) for place in self.places.get(word, ())}
        least = self.threshold - 1e-9  # sums of the same weights differ in the last bits
        return any(_dice(text, self.texts[place]) >= least for place in places)

    def _rarest(self, text: Words) -> list[str]:
        """The rarest words; every near text has one of them.

        Texts with weights a and b must share t (a + b) / 2, and b is no less than that. So they
        share at least t a / (2 - t), more than the total weight of the words left out here.
        """
        needed = self.threshold * sum(text.values()) / (2 - self.threshold) - 1e-6
        common = sorted(text, key=lambda word: -len(self.places.get(word, ())))
        left_out = 0.0
        for number, word in enumerate(common):
            left_out += text[word]
            if left_out >= needed:
                return common[number:]
        return []
