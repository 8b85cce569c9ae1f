"""How varied texts are: a model that learns one canned sentence answers everything with it.

Distinct-n is the number of different runs of n words over the number of all runs, over all texts
together (Li et al. 2016, https://arxiv.org/abs/1510.03055). It falls with the number of texts, so
compare equal numbers of texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fedrai.constitution.verifying import opening, words

OPENING_WORDS = 6


def diversity(texts: Sequence[str]) -> dict[str, Any]:
    """Measure how varied texts are.

    Returns:
        By name: the number of `texts`; their `mean_words`; `distinct_1`, different words over all
        words; `distinct_2`, different pairs of neighbours over all pairs; the most common
        `opening`, six words in small letters, and `opening_share`, the part of the texts that begin
        with it. None where there is nothing to count.
    """
    texts_words = [words(text) for text in texts]
    ones = [word for text in texts_words for word in text]
    twos = [couple for text in texts_words for couple in pairwise(text)]
    openings = Counter(opening(text, OPENING_WORDS) for text in texts)
    common, count = max(openings.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    return {
        "texts": len(texts),
        "mean_words": len(ones) / len(texts) if texts else None,
        "distinct_1": len(set(ones)) / len(ones) if ones else None,
        "distinct_2": len(set(twos)) / len(twos) if twos else None,
        "opening": common,
        "opening_share": count / len(texts) if texts else None,
    }
