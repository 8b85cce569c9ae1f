"""Is a revision fit to be trained on? Rules on the text, the refusal judge, then a guard.

The rules (`flaw`) look for what small models do wrong: text that is cut off or loops, talk about
"the answer" instead of an answer, and copies of what stands before it in the chat. All of them are
rules of thumb on words, made for English. `Openings` finds that many revisions begin alike. Nothing
here samples text; `revising` does, again and again until something passes.
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
"""What is wrong with a text; the first that is found counts."""

LONGEST = 20_000
"""Characters; no answer that was asked for is nearly as long."""
LEAST_WORDS = 8
"""Of a revision that declines, and of whatever the token limit cut."""
COPIED_RUN = 12
"""Words in a row that also stand in a demonstration's revision, the critique or the request."""
COPIED_ASKING = 8
"""Words in a row that also stand in a critique request or a revision request."""
BORROWED = 4
"""Content words of a demonstration alone that make a copy, if they are half of the revision's."""
REPEATED = 2
"""A run of four words may stand this often."""

STEM = 4
"""Letters of a word's beginning by which it is known again: steal, stealing."""
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
    """What stood before a revision, and what it may not copy.

    Attributes:
        request: what the user asks.
        harmful: whether it should be declined.
        demonstrations: those that were shown.
        critique: the last one.
        asked: the critique request and the revision request.
    """

    request: str
    harmful: bool = True
    demonstrations: tuple[Demonstration, ...] = ()
    critique: str = ""
    asked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checks:
    """What a revision must pass.

    Attributes:
        guard: judges the revision in the light of its request.
        threshold: probability from which it is unsafe.
        most_common: part of the kept revisions that may have the same opening.
        after: kept revisions from which that holds.
        opening_words: how many words an opening has.
        on_topic: whether a text that declines must take up a word or the hazard of its request.
    """

    guard: Guard
    threshold: float
    most_common: float = 0.15
    after: int = 40
    opening_words: int = 6
    on_topic: bool = True


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What the checks say of a text.

    Attributes:
        text: as it would be trained on: whole sentences only.
        outcome: KEPT, or why not.
        unsafe: the guard's probability; None where it was not asked or has none.
        flaw: what is wrong with the words, where `outcome` is DEGENERATE.
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


def readable(text: str, shown: RevisionContext, *, topical: bool = True) -> CheckResult:
    """What the rules and the refusal judge say of a text, without a guard.

    Args:
        text: as the model said it.
        shown: what stood before it.
        topical: whether a text that declines must take up a word of its request.
    """
    whole = trimmed(text)
    if (wrong := flaw(text, shown)) is not None:
        return CheckResult(whole, Outcome.DEGENERATE, flaw=wrong)
    reply = judge(whole)
    if reply is Reply.UNSCORED:
        return CheckResult(whole, Outcome.DEGENERATE, flaw="says nothing")
    if (reply is Reply.REFUSAL) is not shown.harmful:
        return CheckResult(whole, Outcome.COMPLIES if shown.harmful else Outcome.REFUSES)
    if topical and shown.harmful and not on_topic(whole, shown.request):
        return CheckResult(whole, Outcome.DEGENERATE, flaw="off topic")
    return CheckResult(whole, Outcome.KEPT)


# --- rules on the words ---------------------------------------------------------------------------


def trimmed(text: str) -> str:
    """The text up to its last whole sentence; empty if it has none.

    A sentence ends in a full stop, a question or exclamation mark, with what closes after it;
    the number of an item ("2.") is none.
    """
    text = text[: LONGEST + 1].strip()
    for end in reversed([match.end() for match in _END.finditer(text)]):
        if not _ITEM.search(text[:end][-8:]):
            return text[:end]
    return ""


def flaw(text: str, shown: RevisionContext) -> Flaw | None:
    """What is wrong with the words of a text; None if nothing is.

    Args:
        text: as the model said it, perhaps cut off.
        shown: what stood before it.
    """
    if not text.strip():
        return "empty"
    if len(text) > LONGEST:
        return "too long"
    if any(map(_unreadable, text)):
        return "unreadable"
    whole = trimmed(text)
    if not whole:
        return "cut off"
    if len(words(whole)) < LEAST_WORDS and (shown.harmful or len(whole) < len(text.strip())):
        return "short"
    return "loops" if loops(whole) else _copied(whole, shown)


def words(text: str) -> list[str]:
    """Words in small letters, without punctuation."""
    return _WORD.findall(text.lower().replace("’", "'"))


def loops(text: str) -> bool:
    """Tell whether a sentence of three words or more comes twice, or a run of four three times."""
    said = [tuple(words(part)) for part in re.split(r"[.!?\n]+", text)]
    sentences = [part for part in said if len(part) >= 3]
    runs = Counter(_runs(words(text), 4))
    return len(set(sentences)) < len(sentences) or any(n > REPEATED for n in runs.values())


def common_run(text: str, other: str, length: int) -> bool:
    """Tell whether `length` words in a row stand in both texts."""
    return not set(_runs(words(text), length)).isdisjoint(_runs(words(other), length))


def _copied(text: str, shown: RevisionContext) -> Flaw | None:
    if _META.search(text.replace("’", "'")):
        return "talks about answers"
    others = [(d, [o for o in shown.demonstrations if o is not d]) for d in shown.demonstrations]
    if any(
        common_run(text, one.revision, COPIED_RUN) or borrowed(text, one, rest, shown.request)
        for one, rest in others
    ):
        return "copies a demonstration"
    if _said_again(text, shown.critique):
        return "copies the critique"
    asked = any(common_run(text, asking, COPIED_ASKING) for asking in shown.asked)
    return "copies a request" if asked or common_run(text, shown.request, COPIED_RUN) else None


def on_topic(text: str, request: str) -> bool:
    """Tell whether a text takes up the request: one of its content words, or its hazard.

    The hazard is the topic that the words of both tell of ("kill" in the one, "injured" in the
    other), as the embedded refusals have it. True if the request has no content word.
    """
    wanted = _stems(request)
    if not wanted or not wanted.isdisjoint(_stems(text)):
        return True
    topic = embedded_refusals().topic(request, ())
    return topic != OTHER and topic == embedded_refusals().topic(text, ())


def _stems(text: str) -> set[str]:
    return {word.removesuffix("s")[:STEM] for word in _topics(text)} - _NO_TOPIC


def _said_again(text: str, critique: str) -> bool:
    """Tell whether a text copies the critique; one that declines in its place may be said again."""
    same = words(text) == words(critique) or common_run(text, critique, COPIED_RUN)
    return same and judge(critique) is not Reply.REFUSAL


def borrowed(text: str, one: Demonstration, others: Sequence[Demonstration], request: str) -> bool:
    """Tell whether a text is about what a demonstration is about, and not about its own request.

    Words that other demonstrations share are the form, those of the request are the topic; of what
    is left, at least four words and half of them come from this demonstration. Without others there
    is no telling the form from the topic: then nothing counts as borrowed.
    """
    revision = _topics(one.revision)
    form = {word for other in others for word in _topics(other.revision) & revision}
    own = _topics(text) - _topics(request) - form
    taken = own & revision
    return bool(others) and len(taken) >= BORROWED and 2 * len(taken) >= len(own)


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
        kept: revisions so far.
        checks: which openings are too common.
    """

    def __init__(self, kept: Iterable[str], checks: Checks) -> None:
        self._checks = checks
        self._seen = Counter(opening(text, checks.opening_words) for text in kept)

    def is_canned(self, text: str) -> bool:
        """Tell whether more of the kept revisions than may begin as this text does."""
        total = self._seen.total()
        share = self._seen[opening(text, self._checks.opening_words)] / max(1, total)
        return total >= self._checks.after and share > self._checks.most_common

    def add(self, text: str) -> None:
        """Count a text that is kept."""
        self._seen[opening(text, self._checks.opening_words)] += 1
