"""Rules: a user's own words and patterns, as a guard.

A text that holds one of them gets probability 1, any other 0. Words are searched for in a form of
the text without simple disguises: compatibility characters are folded (NFKC), invisible ones are
removed and case does not count, so a zero-width space within a word hides nothing. Spelling
variants, digits for letters and look-alike letters of other scripts are *not* recognised; rules
add to a guard and do not replace one (`cascade.AnyOf`).

Python's `re` cannot be stopped once it runs, so patterns are kept from running away in two ways.
Those that can take time exponential in the text are refused: a repeat of something that can match
the same text in more than one way. The others see a text in windows of 10,000 characters that
overlap by 1,000: a match longer than the overlap may be missed, and a window's end counts as the
end of the text. Several unbounded repeats in a row can still be slow; patterns are the user's own.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from fedrai.errors import GuardError
from fedrai.guards.base import Conversation, OnProgress, VerdictBatch, full_name
from fedrai.records import Verdict

Scope = Literal["last", "all"]

WINDOW, OVERLAP = 10_000, 1_000  # characters
FEW = 8  # a group may be repeated so often whatever stands in it
REPORT_EVERY = 256  # conversations
LARGEST_FILE = 16 * 2**20  # bytes of a rules file
FORM = 1  # counts up when the same rules would match differently

# Scripts without spaces: each character is a word of its own, so a rule matches within a sentence.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}\U00020000-\U0003ffff]|[^\W_{_UNSPACED}]+|_|[^\w\s]")
_FILLERS = {0x115F, 0x1160, 0x3164, 0xFFA0}
_MARKS = ((0x300, 0x370), (0x1AB0, 0x1B00), (0x1DC0, 0x1E00), (0x20D0, 0x2100),
          (0xFE00, 0xFE10), (0xFE20, 0xFE30), (0xE0100, 0xE01F0))  # fmt: skip
_INVISIBLE = _FILLERS.union(*(range(first, end) for first, end in _MARKS))


class RulesGuard:
    """Flags conversations that hold a word or match a pattern.

    Args:
        patterns: regular expressions, searched for in the text as it is and without its
            disguises; case counts unless the pattern says `(?i)`.
        words: words or phrases, matched as whole words whatever their case.
        categories: more patterns by the hazard category that a match means.
        word_categories: more words by the hazard category that a match means.
        name: the guard's name.
        scope: "last" looks at the last message alone, "all" at every message.

    Raises:
        GuardError: there is no rule, or one cannot be used.
    """

    def __init__(
        self,
        patterns: Sequence[str] = (),
        words: Sequence[str] = (),
        *,
        categories: Mapping[str, Sequence[str]] | None = None,
        word_categories: Mapping[str, Sequence[str]] | None = None,
        name: str = "rules",
        scope: Scope = "last",
    ) -> None:
        if scope not in get_args(Scope):
            raise GuardError(f'scope of rules is "last" or "all", not {scope!r}')
        self.name, self.scope = name, scope
        self.thresholds = {"strict": 0.5, "loose": 0.5}
        by_pattern = _by_category(patterns, categories, "patterns")
        by_word = _by_category(words, word_categories, "words")
        self._patterns = {c: _compiled(some, c) for c, some in by_pattern.items() if some}
        self._words = _Words(by_word)
        if not any(by_pattern.values()) and not any(by_word.values()):
            raise GuardError(f"guard {name!r} has no rules", hint="give words or patterns")
        rules = json.dumps([FORM, scope, by_pattern, by_word], sort_keys=True)
        self.revision = hashlib.sha256(rules.encode("utf-8", "surrogatepass")).hexdigest()

    def judge(
        self, conversations: Sequence[Conversation], on_progress: OnProgress = lambda _d, _o: None
    ) -> VerdictBatch:
        """Judge conversations; a text that is blank gets the problem "empty"."""
        verdicts = []
        for done, conversation in enumerate(conversations, start=1):
            verdicts.append(self._verdict(conversation))
            if done % REPORT_EVERY == 0 or done == len(conversations):
                on_progress(done, len(conversations))
        return VerdictBatch(tuple(verdicts))

    def _verdict(self, conversation: Conversation) -> Verdict:
        turns = conversation if self.scope == "all" else conversation[-1:]
        texts = [turn.content for turn in turns if turn.content.strip()]
        if not texts:
            return Verdict(None, full_name(self), problem="empty")
        matched = {category for text in texts for category in self._matches(text)}
        order = [*self._patterns, *self._words.categories]
        categories = tuple(dict.fromkeys(c for c in order if c and c in matched))
        return Verdict(float(bool(matched)), full_name(self), categories)

    def _matches(self, text: str) -> Iterator[str]:
        """The categories that match, "" for rules without one."""
        visible = unmasked(text)
        yield from self._words.matches(visible)
        forms = dict.fromkeys((text, visible))
        for category, patterns in self._patterns.items():
            if any(_matches(pattern, form) for pattern in patterns for form in forms):
                yield category


def from_file(path: Path | str, *, name: str = "rules", scope: Scope = "last") -> RulesGuard:
    """Read rules from a UTF-8 text file.

    One word or phrase a line; a line that begins with `re:` is a pattern; `[name]` puts what
    follows into a hazard category, `[]` into none again; blank lines and lines with `#` in front
    do not count.

    Raises:
        GuardError: the file cannot be read, or a rule in it cannot be used.
    """
    words: dict[str, list[str]] = {}
    patterns: dict[str, list[str]] = {}
    category = ""
    for line in _lines(Path(path)):
        if line.startswith("[") and line.endswith("]"):
            category = line[1:-1].strip()
        elif line.startswith("re:"):
            patterns.setdefault(category, []).append(line.removeprefix("re:").strip())
        else:
            words.setdefault(category, []).append(line)
    return RulesGuard(
        patterns.pop("", ()),
        words.pop("", ()),
        categories=patterns,
        word_categories=words,
        name=name,
        scope=scope,
    )


def unmasked(text: str) -> str:
    """The text in NFKC form without characters that disguise a word.

    Gone are format, control and filler characters, variation selectors, and the marks over and
    through letters that NFKC could not join to their letter.
    """
    return unicodedata.normalize("NFKC", text).translate(_VISIBLE)


class _Visible(dict[int, int | None]):
    """For `str.translate`: takes out invisible characters; each is looked up once."""

    def __missing__(self, code: int) -> int | None:
        hidden = unicodedata.category(chr(code)) in {"Cf", "Cc", "Cs"}
        gone = (hidden and not chr(code).isspace()) or code in _INVISIBLE
        self[code] = None if gone else code
        return self[code]


_VISIBLE = _Visible()


class _Words:
    """Finds any of many words in one pass over a text's tokens."""

    def __init__(self, by_category: Mapping[str, Sequence[str]]) -> None:
        self.categories = tuple(category for category, words in by_category.items() if words)
        self._by_first: dict[str, dict[tuple[str, ...], set[str]]] = {}
        for category, words in by_category.items():
            for number, word in enumerate(words, start=1):
                tokens = _tokens(unmasked(word))
                if not tokens:
                    raise GuardError(f"word {number}{_of(category)} of the rules is blank")
                phrases = self._by_first.setdefault(tokens[0], {})
                phrases.setdefault(tokens, set()).add(category)

    def matches(self, visible: str) -> set[str]:
        """Categories of the words that stand in a text without disguises."""
        if not self._by_first:
            return set()
        tokens = _tokens(visible)
        matched: set[str] = set()
        for start, token in enumerate(tokens):
            for phrase, categories in self._by_first.get(token, {}).items():
                if tokens[start : start + len(phrase)] == phrase:
                    matched |= categories
        return matched


def _tokens(visible: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(unmasked(visible.casefold())))


def _compiled(patterns: Iterable[str], category: str) -> list[re.Pattern[str]]:
    return [_compile(p, f"pattern {i}{_of(category)}") for i, p in enumerate(patterns, start=1)]


def _compile(pattern: str, place: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise GuardError(f"{place} of the rules is not a regular expression: {error}") from error
    if compiled.search("") is not None:
        raise GuardError(f"{place} of the rules matches an empty text, so it would match all")
    if _runs_away(importlib.import_module("re._parser").parse(pattern)):
        raise GuardError(
            f"{place} of the rules repeats something that can match one text in several ways, "
            "which can take forever",
            hint="make what stands inside possessive, as in (a++b)+, or repeat it 8 times at most",
        )
    return compiled


def _runs_away(parsed: Any, repeated: bool = False) -> bool:
    """Whether something with more than one way to match stands within a long repeat."""
    for operation, value in getattr(parsed, "data", parsed):
        name, inside = str(operation), repeated
        if name in {"MAX_REPEAT", "MIN_REPEAT"}:
            if repeated and value[0] < value[1]:
                return True
            inside = repeated or value[1] > FEW
        elif name in {"POSSESSIVE_REPEAT", "ATOMIC_GROUP"}:
            inside = False
        elif name == "BRANCH" and repeated and not _distinct(value[1]):
            return True
        if any(_runs_away(part, inside) for part in _parts(value)):
            return True
    return False


def _distinct(branches: Sequence[Any]) -> bool:
    """Whether each alternative begins with a letter of its own."""
    firsts = [branch.data[0] for branch in branches if branch.data]
    letters = {chr(value).casefold() for name, value in firsts if str(name) == "LITERAL"}
    return len(letters) == len(branches)


def _parts(value: Any) -> Iterator[Any]:
    """Sub-patterns within the value of a parsed operation."""
    if hasattr(value, "data"):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _parts(item)


def _matches(pattern: re.Pattern[str], text: str) -> bool:
    starts = range(0, max(len(text) - OVERLAP, 1), WINDOW - OVERLAP)
    return any(pattern.search(text, start, start + WINDOW) for start in starts)


def _lines(path: Path) -> Iterator[str]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise GuardError(f"{path} is larger than {LARGEST_FILE // 2**20} MB of rules")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise GuardError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise GuardError(f"{path} cannot be read: {error.strerror}") from error
    lines = (line.strip() for line in text.splitlines())
    return (line for line in lines if line and not line.startswith("#"))


def _by_category(
    plain: Sequence[str], by_name: Mapping[str, Sequence[str]] | None, what: str
) -> dict[str, tuple[str, ...]]:
    """Rules by category, those without one under ""."""
    if any(isinstance(rules, str) for rules in (plain, *(by_name or {}).values())):
        raise GuardError(f"{what} of the rules must be a list, got a text")
    if by_name and not all(by_name):
        raise GuardError(f"{what} of the rules: the name of a category is empty")
    return {"": tuple(plain), **{name: tuple(rules) for name, rules in (by_name or {}).items()}}


def _of(category: str) -> str:
    return f" of category {category!r}" if category else ""
