"""Figures and warnings on a constitution: counts, coverage, and texts too hard for a small model.

`reading.load` reports errors. The warnings here are by rules of thumb.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from fedrai.constitution.document import Constitution, Demonstration
from fedrai.filter.ledger import CATEGORIES

TOKENS_PER_WORD = 1.3  # of English prose, roughly, with the vocabularies of small models
LONGEST_REQUEST = 40
"""Tokens of a critique or revision request, which a prompt repeats for each demonstration."""
LONGEST_DEMONSTRATION = 350
"""Tokens of all turns; a few demonstrations must fit a context of 2,048 with the chat itself."""
NEAR = 0.6
"""Jaccard index of the content words from which two texts say nearly the same."""
OPENING = 3
"""Words; if revisions of several forms begin alike, a model learns the beginning, not the topic."""
STOP = frozenset([
    "a", "an", "and", "any", "are", "as", "at", "be", "but", "by", "can", "do", "does", "did",
    "for", "from", "have", "has", "how", "i", "if", "in", "into", "is", "it", "its", "no", "not",
    "of", "on", "one", "only", "or", "out", "say", "so", "than", "that", "the", "their", "them",
    "then", "there", "this", "to", "was", "what", "when", "which", "who", "whom", "with", "you",
    "your",
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class PrincipleEntry:
    """One principle in the report.

    Attributes:
        id: the principle's.
        categories: the principle's; empty: any request.
        demonstrations: number of its demonstrations.
        tokens: estimated length of its longer request.
    """

    id: str
    categories: tuple[str, ...]
    demonstrations: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Report:
    """The report of `fedrai constitution check`.

    Attributes:
        name: the constitution's name.
        version: the constitution's version.
        hash: the constitution's hash.
        principles: one entry for each.
        demonstrations: their number.
        demonstration_tokens: estimated tokens of all their turns.
        uncovered: categories that no principle names; their requests get the general principles.
        warnings: possible problems, one sentence each.
    """

    name: str
    version: str
    hash: str
    principles: tuple[PrincipleEntry, ...]
    demonstrations: int
    demonstration_tokens: int
    uncovered: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def check(constitution: Constitution) -> Report:
    """Count the parts of a constitution and find gaps."""
    by_principle = Counter(entry.principle for entry in constitution.demonstrations)
    return Report(
        constitution.name,
        constitution.version,
        constitution.hash,
        tuple(
            PrincipleEntry(p.id, p.categories, by_principle[p.id],
                  max(map(estimated_tokens, (p.critique_request, p.revision_request))))
            for p in constitution.principles
        ),
        len(constitution.demonstrations),
        sum(map(_tokens, constitution.demonstrations)),
        _uncovered(constitution),
        tuple(_warnings(constitution)),
    )  # fmt: skip


def estimated_tokens(text: str) -> int:
    """Words by white space times 1.3, rounded up."""
    return math.ceil(len(text.split()) * TOKENS_PER_WORD)


def similarity(one: str, other: str) -> float:
    """Jaccard index of the content words of two texts, 0 to 1; 0 where neither has any."""
    a, b = content_words(one), content_words(other)
    return len(a & b) / len(a | b) if a | b else 0.0


def content_words(text: str) -> frozenset[str]:
    """Words in small letters, without common function words."""
    return frozenset(re.findall(r"[^\W_]+", text.lower())) - STOP


def _tokens(demonstration: Demonstration) -> int:
    return sum(estimated_tokens(turn.content) for turn in demonstration.turns)


def _uncovered(constitution: Constitution) -> tuple[str, ...]:
    covered = {name for entry in constitution.principles for name in entry.categories}
    return tuple(name for name in CATEGORIES if name not in covered)


def _warnings(constitution: Constitution) -> Iterator[str]:
    yield from _missing(constitution)
    yield from _long(constitution)
    yield from _alike(constitution)
    yield from _lone(constitution.demonstrations)


def _missing(constitution: Constitution) -> Iterator[str]:
    if not constitution.general:
        bare = ", ".join([*_uncovered(constitution), "no category"])
        yield f"no general principle: requests of {bare} get a principle of another category"
    if not constitution.demonstrations:
        yield "no demonstrations: a small model needs examples of a critique and a revision"


def _long(constitution: Constitution) -> Iterator[str]:
    for entry in constitution.principles:
        for what in ("critique_request", "revision_request"):
            tokens = estimated_tokens(getattr(entry, what))
            if tokens > LONGEST_REQUEST:
                yield (
                    f"{entry.id}: {what} has about {tokens} tokens;"
                    f" small models follow up to {LONGEST_REQUEST} well"
                )
    for number, demonstration in enumerate(constitution.demonstrations, 1):
        if (tokens := _tokens(demonstration)) > LONGEST_DEMONSTRATION:
            yield (
                f"demonstration {number} has about {tokens} tokens;"
                f" keep it within {LONGEST_DEMONSTRATION}"
            )


def _alike(constitution: Constitution) -> Iterator[str]:
    principles, examples = constitution.principles, constitution.demonstrations
    revisions = [(f"demonstration {n}", entry.revision) for n, entry in enumerate(examples, 1)]
    forms = {place: entry.form for (place, _), entry in zip(revisions, examples, strict=True)}
    groups = {
        "critique_request": [(entry.id, entry.critique_request) for entry in principles],
        "revision_request": [(entry.id, entry.revision_request) for entry in principles],
        "revision": revisions,
    }
    for what, texts in groups.items():
        for (one, text), (other, second) in combinations(texts, 2):
            if (share := similarity(text, second)) >= NEAR:
                yield f"{one} and {other}: {100 * share:.0f} % of the words of {what} are the same"
    yield from _openings(revisions, forms)


def _openings(texts: Sequence[tuple[str, str]], forms: Mapping[str, str]) -> Iterator[str]:
    """Revisions of one form may begin alike, but not those of several forms, nor of no form."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for place, text in texts:
        groups.setdefault(tuple(text.lower().split()[:OPENING]), []).append(place)
    for places in groups.values():
        shared = {forms[place] for place in places}
        if len(places) > 1 and (len(shared) > 1 or shared == {""}):
            yield f"{', '.join(places)}: the revisions begin with the same {OPENING} words"


def _lone(demonstrations: Sequence[Demonstration]) -> Iterator[str]:
    for name, count in Counter(entry.form for entry in demonstrations).items():
        if count == 1:
            which = f"form {name}" if name else "the common form"
            yield f"{which}: one demonstration is not a pattern; write two or three"
