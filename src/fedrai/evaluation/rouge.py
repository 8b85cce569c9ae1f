"""ROUGE-L of one answer against one reference (Lin 2004, "ROUGE: A Package for Automatic
Evaluation of Summaries", section 3.2).

Words are runs of letters and digits in any script, regardless of case; for ASCII text the figures
equal those of the usual packages without stemming. An answer truncated at the limit of new tokens
loses recall: compare figures of one limit only.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+")


def rouge_l(answer: str, reference: str) -> float | None:
    """F measure (beta 1) of the longest common subsequence of words.

    Args:
        answer: the model's answer; without a word it scores 0.
        reference: the answer to compare it with.

    Returns:
        0 to 1; None where the reference has no word.
    """
    words, reference_words = _words(answer), _words(reference)
    if not reference_words:
        return None
    shared = longest_common(words, reference_words)
    return 2 * shared / (len(words) + len(reference_words))


def longest_common(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence, in time of the product of both lengths."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0  # of the row above, one place to the left
        for place, match in enumerate(other, 1):
            above = row[place]
            row[place] = before + 1 if word == match else max(above, row[place - 1])
            before = above
    return row[-1]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
