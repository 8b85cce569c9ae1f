"""Refusals that replace unsafe answers: the topic of a request, and a reply that fits it.

The replies are in `refusals.toml`; a user's own file has the same form. A reply never repeats any
text of the request. The topic is the guard's likeliest category; if the guard names none, or one
that covers several topics ("Non-Violent Crimes"), the words of the request decide.

Names of other taxonomies are from the model cards of Llama Guard 3 (S1 to S14), Qwen3Guard, Granite
Guardian and ShieldGemma, and from NVIDIA's Aegis 2.0 (NemoGuard, by name: its codes differ).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fedrai.errors import DataError
from fedrai.recipe.toml_files import read_toml

EMBEDDED = Path(__file__).with_name("refusals.toml")
OTHER = "other"
LEAST = 3  # replies of a topic: a model would learn a single sentence by heart
KEYS = frozenset({"replies", "aliases", "broad", "keywords"})


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic and the replies to its requests.

    Attributes:
        replies: the refusals.
        aliases: its names in taxonomies of guards, normalised.
        broad: names that cover other topics too, normalised.
        keywords: words that vote for the topic, normalised; a trailing `*` matches any ending.
    """

    replies: tuple[str, ...]
    aliases: frozenset[str] = frozenset()
    broad: frozenset[str] = frozenset()
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusals:
    """Topics by name, in the order in which they win ties; without a match, "other"."""

    topics: Mapping[str, Topic]

    def named(self, category: str) -> str | None:
        """The topic of a guard's category, if any."""
        match = self._find(category)
        return match[0] if match else None

    def topic(self, request: str, categories: Sequence[str]) -> str:
        """The topic of a request: of the likeliest category with one, else by its words."""
        match = next(filter(None, map(self._find, categories)), None)
        if match and not match[1]:
            return match[0]
        return self._by_words(request) or (match[0] if match else OTHER)

    def refusal_for(self, request: str, categories: Sequence[str], seed: int) -> str:
        """The reply to a request; the same for the same request and seed.

        Args:
            request: the user's turn to refuse.
            categories: the guard's categories, the likeliest first; may be empty.
            seed: for the choice among the topic's replies.
        """
        replies = self.topics[self.topic(request, categories)].replies
        digest = hashlib.sha256(f"{seed}\n{request}".encode("utf-8", "surrogatepass")).digest()
        return replies[int.from_bytes(digest[:8]) % len(replies)]

    def _find(self, category: str) -> tuple[str, bool] | None:
        """The topic of a category ("S10", "Hate", "S10: Hate"), and whether others share it."""
        whole = _normal(category)
        for name in (re.sub(r"^[so]\d+ (?=.)", "", whole), whole):
            for topic, entry in self.topics.items():
                if name in entry.broad:
                    return topic, True
                if name == _normal(topic) or name in entry.aliases:
                    return topic, False
        return None

    def _by_words(self, request: str) -> str | None:
        """The topic with the most votes: one for each word of a keyword in the request."""
        text = f" {_normal(request)} "
        votes = {
            name: sum(len(k.split()) for k in topic.keywords if _occurs(k, text))
            for name, topic in self.topics.items()
        }
        best = max(votes, key=lambda name: votes[name])  # the first of equals
        return best if votes[best] else None


@cache
def embedded_refusals() -> Refusals:
    """The refusals that come with FedRAI."""
    return load_refusals(EMBEDDED)


def load_refusals(path: Path) -> Refusals:
    """Read and check a file of refusals.

    A user's file must have a table `other`. Aliases and keywords that a table lacks are those of
    the embedded table of the same name.

    Raises:
        DataError: the file cannot be read, or a table is not valid.
    """
    try:
        tables = read_toml(path, "utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the refusals {path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise DataError(f"{path.name} is not TOML in UTF-8 ({error})") from error
    defaults = {} if path == EMBEDDED else embedded_refusals().topics
    topics = {name: _topic(path.name, name, table, defaults) for name, table in tables.items()}
    if OTHER not in topics:
        raise DataError(f"{path.name} has no table [{OTHER}]", hint="it answers all other topics")
    return Refusals(topics)


def _topic(file: str, name: str, table: object, defaults: Mapping[str, Topic]) -> Topic:
    if not isinstance(table, dict):
        raise DataError(
            f"{file}: {name} is not a table", hint=f"write [{name}] and its replies below"
        )
    if unknown := sorted(table.keys() - KEYS):
        raise DataError(f"{file}: [{name}] has no key {unknown[0]!r}", hint=f"keys: {sorted(KEYS)}")
    replies = _strings(file, name, "replies", table)
    if len(set(replies)) < max(LEAST, len(replies)):
        raise DataError(
            f"{file}: [{name}] has {len(set(replies))} different replies of {len(replies)},"
            f" expected {LEAST} or more and no repetition",
            hint="from a single sentence, a model learns to give it to any request",
        )
    base = defaults.get(name, Topic(()))
    words = {key: tuple(map(_normal, _strings(file, name, key, table))) for key in KEYS & {*table}}
    return Topic(
        replies,
        frozenset(words.get("aliases", base.aliases)),
        frozenset(words.get("broad", base.broad)),
        words.get("keywords", base.keywords),
    )


def _strings(file: str, name: str, key: str, table: Mapping[str, Any]) -> tuple[str, ...]:
    values = table.get(key, [])
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise DataError(f"{file}: {key} of [{name}] must be a list of texts that are not blank")
    return tuple(value.strip() for value in values)


def _normal(text: str) -> str:
    """Lower case, words separated by one space, without `and` and `&`."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    ending = "*" if plain.endswith("*") else ""
    return " ".join(w for w in re.findall(r"[^\W_]+", plain) if w != "and") + ending


def _occurs(keyword: str, text: str) -> bool:
    return (f" {keyword[:-1]}" if keyword.endswith("*") else f" {keyword} ") in text
