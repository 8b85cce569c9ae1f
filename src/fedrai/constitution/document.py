"""A constitution as frozen records, and which of its principles a request is judged by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from fedrai.errors import ConstitutionError
from fedrai.filter.ledger import CATEGORIES
from fedrai.records import Message


@dataclass(frozen=True, slots=True)
class Principle:
    """One thing that an answer is criticised and revised for.

    Attributes:
        id: short name, unique in its constitution.
        title: the principle in one line.
        look_for: what is wrong under it; empty in files of the JSON layout.
        critique_request: what the model is asked about its last answer.
        revision_request: what it is asked to write in place of that answer.
        categories: hazard categories (of `ledger.CATEGORIES`) it is drawn for; empty: any request.
    """

    id: str
    title: str
    look_for: str
    critique_request: str
    revision_request: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One whole exchange, to show a model the form before its own turn.

    Attributes:
        principle: id of the principle it shows; empty where the requests are nobody's.
        request: what the user asks.
        answer: the first answer.
        critique_request: the principle's, or the dialogue's own.
        critique: what is wrong with the answer.
        revision_request: the principle's, or the dialogue's own.
        revision: the better answer.
        before: turns before the request, oldest first, an even number; mostly none.
        form: the pattern it is written in; empty: the common one.
    """

    principle: str
    request: str
    answer: str
    critique_request: str
    critique: str
    revision_request: str
    revision: str
    before: tuple[Message, ...] = ()
    form: str = ""

    @property
    def turns(self) -> tuple[Message, ...]:
        """The exchange as a conversation: six turns, after those before it."""
        return (
            *self.before,
            Message("user", self.request),
            Message("assistant", self.answer),
            Message("user", self.critique_request),
            Message("assistant", self.critique),
            Message("user", self.revision_request),
            Message("assistant", self.revision),
        )


@dataclass(frozen=True, slots=True)
class Constitution:
    """Principles and demonstrations.

    Attributes:
        name: what people call it.
        version: as its file says; empty in files of the JSON layout.
        principles: at least one; ids are unique.
        demonstrations: in the order in which they are shown.
    """

    name: str
    version: str
    principles: tuple[Principle, ...]
    demonstrations: tuple[Demonstration, ...] = ()

    @property
    def hash(self) -> str:
        """SHA-256 in hex of all but the name, as canonical JSON (RFC 8785 for these values)."""
        body = asdict(self)
        del body["name"]
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def asks_in_own_words(self) -> bool:
        """Whether its dialogues come with requests of their own, as those of the JSON layout do."""
        return not self.version

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, with the hash."""
        return {"hash": self.hash, **asdict(self)}

    def principle(self, id_: str) -> Principle:
        """The principle of an id.

        Raises:
            ConstitutionError: there is none.
        """
        for entry in self.principles:
            if entry.id == id_:
                return entry
        known = ", ".join(entry.id for entry in self.principles)
        raise ConstitutionError(f"{self.name} has no principle {id_!r}", hint=f"it has: {known}")

    @property
    def general(self) -> tuple[Principle, ...]:
        """The principles for any request, in the order of the file."""
        return tuple(entry for entry in self.principles if not entry.categories)

    def _naming(self, names: Iterable[str]) -> tuple[Principle, ...]:
        """The principles that name one of these categories, in the order of the file.

        Raises:
            ConstitutionError: a name is not in `ledger.CATEGORIES`.
        """
        wanted = set(names)
        if not wanted <= set(CATEGORIES):
            raise ConstitutionError(
                f"{len(wanted - set(CATEGORIES))} of the categories asked for are none",
                hint=f"categories: {', '.join(CATEGORIES)}",
            )
        return tuple(entry for entry in self.principles if wanted & set(entry.categories))

    def draw(
        self, seed: int, request_index: int, count: int = 1, category: str = ""
    ) -> tuple[Principle, ...]:
        """Draw principles for one request, without replacement.

        Principles of the category come first, then general ones; where there are neither, any. The
        order within each group is that of SHA-256 over (seed, request, id): it depends neither on
        the order of the file nor on the Python version, and another principle moves no other.

        Args:
            seed: of the draw.
            request_index: which request; each has a draw of its own.
            count: how many, at least 1; fewer come back where fewer apply.
            category: of the request, one of `ledger.CATEGORIES`; empty: not known to be unsafe.

        Raises:
            ConstitutionError: the count is below 1, or there is no such category.
        """
        if count < 1:
            raise ConstitutionError(f"a draw needs a count of at least 1, got {count}")
        named = self._naming([category] if category else [])
        groups = [named, self.general] if named or self.general else [self.principles]
        ranked = [e for group in groups for e in sorted(group, key=_rank(seed, request_index))]
        return tuple(ranked[:count])


def _rank(seed: int, request_index: int) -> Callable[[Principle], bytes]:
    """Where each principle stands in the draw for one request."""

    def key(entry: Principle) -> bytes:
        return hashlib.sha256(json.dumps([seed, request_index, entry.id]).encode()).digest()

    return key
