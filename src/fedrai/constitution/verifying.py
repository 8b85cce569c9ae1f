"""Checks of a revision: rules on the text, the refusal judge, then a guard.

The rules (`flaw`) look for typical faults of small models: text that is cut off or loops, talk
about "the answer" instead of an answer, and copies of earlier text in the chat. They are rules of
thumb on words, made for English. `Openings` finds that many revisions begin alike. This module does
not sample text; `revising` does, until a revision passes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fedrai.constitution.checking import content_words
from fedrai.constitution.document import Demonstration
from fedrai.constitution.records import Outcome
from fedrai.constitution.spending import CostMeter
from fedrai.data.embedded.refusals import OTHER, embedded_refusals
from fedrai.evaluation.refusal import Reply, judge
from fedrai.guards.base import Conversation, Guard
from fedrai.records import Message, Verdict

Flaw = Literal[
    "empty", "too long", "unreadable", "cut off", "short", "loops", "says nothing",
    "talks about answers", "copies a demonstration", "copies the critique", "copies a request",
    "off topic",
]  # fmt: skip
"""What is wrong with a text; the first flaw is reported."""

LONGEST = 20_000
"""Characters; requested answers are far shorter."""
LEAST_WORDS = 8
"""Least words of a revision that declines, and of a text that the token limit cut."""
COPIED_RUN = 12
"""Words in a row shared with a demonstration's revision, the critique or the request: a copy."""
COPIED_ASKING = 8
"""Words in a row shared with a critique request or a revision request: a copy."""
BORROWED = 4
"""Content words shared with one demonstration alone that make a copy, if they are half of all."""
REPEATED = 2
"""A run of four words may occur this often."""

STEM = 4
"""First letters of a word that are compared: steal, stealing."""
_NO_TOPIC = frozenset([
    "anyo", "best", "coul", "crea", "desc", "deta", "ever", "expl", "find", "from", "get", "give",
    "guid", "have", "help", "inst", "just", "know", "let", "like", "list", "look", "make", "maki",
    "me", "much", "need", "othe", "peop", "pers", "plea", "prov", "shou", "show", "some", "step",
    "tell", "them", "they", "thin", "use", "usin", "want", "way", "ways", "will", "with", "woul",
    "writ", "your",
])  # fmt: skip

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_END = re.compile(r"(?<![\s.!?])[.!?…]+[\"'”’)\]*_`]*(?=\s|$)")
_ITEM = re.compile(r"(?:^|\n)[ \t]*\d{1,3}\.$")
_META = re.compile(
    r"""\b(?:your|my|this|last|previous|revised|rewritten|better|new|safer?|original)
          \s(?:last\s|previous\s|new\s)?(?:answer|response|revision|reply)\b
      | (?<!never\s)(?<!not\s)(?<!isn't\s)\bthe\s(?:answer|response|revision|critique)\b
      | \b(?:rewrite|revise|rephrase)\b | \bcritique\b""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class RevisionContext:
    """The chat before a revision, which it may not copy.

    Attributes:
        request: the user's request.
        harmful: whether it should be declined.
        demonstrations: the demonstrations.
        critique: the last one.
        requests: the critique request and the revision request.
    """

    request: str
    harmful: bool = True
    demonstrations: tuple[Demonstration, ...] = ()
    critique: str = ""
    requests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checks:
    """What a revision must pass.

    Attributes:
        guard: judges the revision together with its request.
        threshold: probability from which it is unsafe.
        most_common: part of the kept revisions that may have the same opening.
        after: number of kept revisions from which that applies.
        opening_words: words of an opening.
        on_topic: whether a text that declines must share a word or the hazard of its request.
    """

    guard: Guard
    threshold: float
    most_common: float = 0.15
    after: int = 40
    opening_words: int = 6
    on_topic: bool = True


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of the checks for a text.

    Attributes:
        text: whole sentences only, for training.
        outcome: KEPT, or the reason for rejection.
        unsafe: the guard's probability; None without a verdict.
        flaw: what is wrong with the words, if `outcome` is DEGENERATE.
    """

    text: str
    outcome: Outcome
    unsafe: float | None = None
    flaw: Flaw | None = None


def verify(
    texts: Sequence[str], contexts: Sequence[RevisionContext], checks: Checks, meter: CostMeter
) -> list[CheckResult]:
    """Check texts in their contexts; the guard sees only those that read well.

    Args:
        texts: revisions.
        contexts: one for each text.
        checks: what a revision must pass.
        meter: counts the use of the guard.

    Raises:
        GuardError: the guard as a whole cannot work.
    """
    results = [
        readable(text, context, topical=checks.on_topic)
        for text, context in zip(texts, contexts, strict=True)
    ]
    passed = [i for i, result in enumerate(results) if result.outcome is Outcome.KEPT]
    judged = checks.guard.judge([pair(contexts[i].request, results[i].text) for i in passed])
    meter.add(judged)
    for i, verdict in zip(passed, judged.verdicts, strict=True):
        outcome = _by_guard(verdict, checks.threshold)
        results[i] = CheckResult(results[i].text, outcome, verdict.probability)
    return results


def pair(request: str, answer: str) -> Conversation:
    """The conversation that a guard judges."""
    return (Message("user", request), Message("assistant", answer))


def _by_guard(verdict: Verdict, threshold: float) -> Outcome:
    if verdict.probability is None:
        return Outcome.UNJUDGED
    return Outcome.UNSAFE if verdict.probability >= threshold else Outcome.KEPT


def readable(text: str, context: RevisionContext, *, topical: bool = True) -> CheckResult:
    """The result of the rules and the refusal judge, without a guard.

    Args:
        text: the text as the model generated it.
        context: the chat before it.
        topical: whether a text that declines must share a word of its request.
    """
    whole = trim_to_sentence(text)
    if (problem := flaw(text, context)) is not None:
        return CheckResult(whole, Outcome.DEGENERATE, flaw=problem)
    reply = judge(whole)
    if reply is Reply.UNSCORED:
        return CheckResult(whole, Outcome.DEGENERATE, flaw="says nothing")
    if (reply is Reply.REFUSAL) is not context.harmful:
        return CheckResult(whole, Outcome.COMPLIES if context.harmful else Outcome.REFUSES)
    if topical and context.harmful and not on_topic(whole, context.request):
        return CheckResult(whole, Outcome.DEGENERATE, flaw="off topic")
    return CheckResult(whole, Outcome.KEPT)


# --- rules on the words ---------------------------------------------------------------------------


def trim_to_sentence(text: str) -> str:
    """The text up to its last whole sentence; empty if it has none.

    A sentence ends in a full stop, a question or exclamation mark, with closing quotes or brackets;
    the number of an item ("2.") does not end one.
    """
    text = text[: LONGEST + 1].strip()
    for end in reversed([match.end() for match in _END.finditer(text)]):
        if not _ITEM.search(text[:end][-8:]):
            return text[:end]
    return ""


def flaw(text: str, context: RevisionContext) -> Flaw | None:
    """What is wrong with the words of a text; None if nothing is.

    Args:
        text: the text as the model generated it, perhaps cut off.
        context: the chat before it.
    """
    if not text.strip():
        return "empty"
    if len(text) > LONGEST:
        return "too long"
    if any(map(_unreadable, text)):
        return "unreadable"
    whole = trim_to_sentence(text)
    if not whole:
        return "cut off"
    if len(words(whole)) < LEAST_WORDS and (context.harmful or len(whole) < len(text.strip())):
        return "short"
    return "loops" if loops(whole) else _copied(whole, context)


def words(text: str) -> list[str]:
    """Words in small letters, without punctuation."""
    return _WORD.findall(text.lower().replace("’", "'"))


def loops(text: str) -> bool:
    """Whether a sentence of three words or more occurs twice, or a run of four three times."""
    parts = [tuple(words(part)) for part in re.split(r"[.!?\n]+", text)]
    sentences = [part for part in parts if len(part) >= 3]
    runs = Counter(_runs(words(text), 4))
    return len(set(sentences)) < len(sentences) or any(n > REPEATED for n in runs.values())


def common_run(text: str, other: str, length: int) -> bool:
    """Whether both texts have the same `length` words in a row."""
    return not set(_runs(words(text), length)).isdisjoint(_runs(words(other), length))


def _copied(text: str, context: RevisionContext) -> Flaw | None:
    if _META.search(text.replace("’", "'")):
        return "talks about answers"
    others = [
        (d, [o for o in context.demonstrations if o is not d]) for d in context.demonstrations
    ]
    if any(
        common_run(text, one.revision, COPIED_RUN) or is_borrowed(text, one, rest, context.request)
        for one, rest in others
    ):
        return "copies a demonstration"
    if _copies_critique(text, context.critique):
        return "copies the critique"
    copied = any(common_run(text, request, COPIED_ASKING) for request in context.requests)
    return "copies a request" if copied or common_run(text, context.request, COPIED_RUN) else None


def on_topic(text: str, request: str) -> bool:
    """Whether a text shares one of the request's content words, or its hazard.

    The hazard is the common topic of the words of both ("kill" in one, "injured" in the other), by
    the embedded refusals. True if the request has no content word.
    """
    stems = _stems(request)
    if not stems or not stems.isdisjoint(_stems(text)):
        return True
    topic = embedded_refusals().topic(request, ())
    return topic != OTHER and topic == embedded_refusals().topic(text, ())


def _stems(text: str) -> set[str]:
    return {word.removesuffix("s")[:STEM] for word in _topics(text)} - _NO_TOPIC


def _copies_critique(text: str, critique: str) -> bool:
    """Whether a text copies the critique; it may if the critique itself declines."""
    same = words(text) == words(critique) or common_run(text, critique, COPIED_RUN)
    return same and judge(critique) is not Reply.REFUSAL


def is_borrowed(
    text: str, one: Demonstration, others: Sequence[Demonstration], request: str
) -> bool:
    """Whether a text is about a demonstration's topic instead of its own request.

    Words shared with other demonstrations are the form, words of the request are the topic. Of the
    rest, at least four words, and half of them, come from this demonstration. Without other
    demonstrations the form is not known, so nothing counts as borrowed.
    """
    revision = _topics(one.revision)
    form = {word for other in others for word in _topics(other.revision) & revision}
    own = _topics(text) - _topics(request) - form
    shared = own & revision
    return bool(others) and len(shared) >= BORROWED and 2 * len(shared) >= len(own)


def _topics(text: str) -> set[str]:
    return {word for word in content_words(text) if len(word) >= 3}


def _runs(items: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(items[i : i + length]) for i in range(len(items) - length + 1))


def _unreadable(sign: str) -> bool:
    return sign == "\ufffd" or (sign not in "\n\r\t" and unicodedata.category(sign) in _STEERING)


_STEERING = {"Cc", "Cs", "Co", "Cn"}


# --- many revisions -------------------------------------------------------------------------------


def opening(text: str, count: int) -> str:
    """The first words of a text."""
    return " ".join(words(text[: 200 * count])[:count])


class Openings:
    """Counts how the kept revisions begin.

    Args:
        kept: kept revisions so far.
        checks: which openings are too common.
    """

    def __init__(self, kept: Iterable[str], checks: Checks) -> None:
        self._checks = checks
        self._counts = Counter(opening(text, checks.opening_words) for text in kept)

    def is_canned(self, text: str) -> bool:
        """Whether too many of the kept revisions begin like this text."""
        total = self._counts.total()
        share = self._counts[opening(text, self._checks.opening_words)] / max(1, total)
        return total >= self._checks.after and share > self._checks.most_common

    def add(self, text: str) -> None:
        """Count a kept text."""
        self._counts[opening(text, self._checks.opening_words)] += 1
