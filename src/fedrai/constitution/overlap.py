"""Near-duplicates: requests that must not be trained on because an evaluation asks the same.

Two texts are near when they share most of their *content* words: Dice's coefficient over the sets
of stemmed words, where a word of the frame ("write a tutorial on how to ...") weighs little and an
article or pronoun hardly anything. So an inserted word or two changes little, and another subject
in the same template changes much. The weights are fixed: what is removed depends on the two texts
alone. Exact; an inverted index finds the pairs (prefix filter: Bayardo, Ma and Srikant, WWW 2007).

Made for English. Words are what stands between spaces, so that in scripts without spaces only equal
clauses are found; and a request that says the same in other words is not found at all.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedrai.constitution.records import Request

THRESHOLD = 0.6
"""Similarity from which a request is left out. Between AdvBench and HarmBench, Do-Not-Answer, CatQA
and HarmfulQA, nearly all pairs above 0.7 ask for the same, and most from 0.6 on; below, most pairs
share a subject but ask for something else. Too low costs a few requests, too high an evaluation."""
SAME = 0.8
"""Similarity from which two requests of one list are the same one twice."""

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
        kept: the others, in their order.
        removed: how many were left out, by the first suite that has their like; all suites named.
        duplicates: near-duplicates of a request that is kept and stands before them.
    """

    kept: tuple[Request, ...]
    removed: Mapping[str, int]
    duplicates: int


def without_overlap(
    requests: Sequence[Request],
    suites: Mapping[str, Sequence[str]],
    *,
    threshold: float = THRESHOLD,
    same: float = SAME,
) -> CleanedRequests:
    """Leave out what is too near to a request of an evaluation, or to an earlier request.

    Args:
        requests: candidates for training.
        suites: what the evaluations ask, by name.
        threshold: similarity (0 to 1) from which a request is left out for a suite's sake.
        same: similarity from which it repeats an earlier request.

    Raises:
        ValueError: a threshold does not lie above 0 and up to 1.
    """
    indexes = {name: _Index(map(words, texts), threshold) for name, texts in suites.items()}
    earlier = _Index((), same)
    removed, duplicates, kept = dict.fromkeys(suites, 0), 0, []
    for request in requests:
        found = words(request.prompt)
        suite = next((name for name, index in indexes.items() if index.has_near(found)), None)
        if suite is not None:
            removed[suite] += 1
        elif earlier.has_near(found):
            duplicates += 1
        else:
            kept.append(request)
            earlier.add(found)
    return CleanedRequests(tuple(kept), removed, duplicates)


def similarity(one: str, other: str) -> float:
    """How near two texts are: 0 (no word in common) to 1 (the same words, in any order)."""
    return _dice(words(one), words(other))


def words(text: str) -> dict[str, float]:
    """The different words of a text, stemmed, with their weights.

    A text that says something but has no word ("???") is one word of its own.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(c for c in plain if unicodedata.category(c) != "Cf" and c not in "'\u2019`")
    found = {_stem(word) for word in re.findall(r"[^\W_]+", plain)} or {*filter(None, [plain])}
    return {word: WEIGHTS.get(word, CONTENT_WEIGHT) for word in sorted(found)}


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
            raise ValueError(f"a threshold lies above 0 and up to 1, got {threshold}")
        self.threshold = threshold
        self.texts: list[Words] = []
        self.places: dict[str, list[int]] = defaultdict(list)
        for text in texts:
            self.add(text)

    def add(self, text: Words) -> None:
        """Take in one more text."""
        for word in text:
            self.places[word].append(len(self.texts))
        self.texts.append(text)

    def has_near(self, text: Words) -> bool:
        """Whether any text reaches the threshold."""
        places = {place for word in self._telling(text) for place in self.places.get(word, ())}
        least = self.threshold - 1e-9  # sums of the same weights differ in the last bits
        return any(_dice(text, self.texts[place]) >= least for place in places)

    def _telling(self, text: Words) -> list[str]:
        """The rarest words, of which every near text has one.

        Of texts with weights a and b, t (a + b) / 2 must be shared, and b is no less than that: so
        at least t a / (2 - t) is shared, more than the words left out here weigh together.
        """
        needed = self.threshold * sum(text.values()) / (2 - self.threshold) - 1e-6
        common = sorted(text, key=lambda word: -len(self.places.get(word, ())))
        left_out = 0.0
        for number, word in enumerate(common):
            left_out += text[word]
            if left_out >= needed:
                return common[number:]
        return []
