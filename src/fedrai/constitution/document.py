"""A constitution as frozen records, and the draw of its principles for a request."""

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
    """One rule that answers are criticised and revised by.

    Attributes:
        id: short name, unique in its constitution.
        title: the principle in one line.
        look_for: what breaks it; empty in files of the JSON layout.
        critique_request: asks the model about its last answer.
        revision_request: asks it to write another in place of that answer.
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
    """One whole exchange, an example for the model before its own turn.

    Attributes:
        principle: id of its principle; empty if no principle has its requests.
        request: the user's request.
        answer: the first answer.
        critique_request: the principle's, or the dialogue's own.
        critique: what is wrong with the answer.
        revision_request: the principle's, or the dialogue's own.
        revision: the better answer.
        before: turns before the request, oldest first, an even number; usually none.
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
        """The exchange as a conversation: earlier turns, then six turns."""
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
        name: its name.
        version: the version in its file; empty in files of the JSON layout.
        principles: at least one; ids are unique.
        demonstrations: in the order of the file.
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
        """Whether its dialogues have requests of their own, as in the JSON layout."""
        return not self.version

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, with the hash."""
        return {"hash": self.hash, **asdict(self)}

    def principle(self, id_: str) -> Principle:
        """The principle of an id.

        Raises:
            ConstitutionError: not found.
        """
        for entry in self.principles:
            if entry.id == id_:
                return entry
        ids = ", ".join(entry.id for entry in self.principles)
        raise ConstitutionError(f"{self.name} has no principle {id_!r}", hint=f"it has: {ids}")

    @property
    def general(self) -> tuple[Principle, ...]:
        """The principles for any request, in the order of the file."""
        return tuple(entry for entry in self.principles if not entry.categories)

    def _of_categories(self, names: Iterable[str]) -> tuple[Principle, ...]:
        """The principles that name one of these categories, in the order of the file.

        Raises:
            ConstitutionError: a name is not in `ledger.CATEGORIES`.
        """
        categories = set(names)
        if not categories <= set(CATEGORIES):
            raise ConstitutionError(
                f"{len(categories - set(CATEGORIES))} of the requested categories do not exist",
                hint=f"categories: {', '.join(CATEGORIES)}",
            )
        return tuple(entry for entry in self.principles if categories & set(entry.categories))

    def draw(
        self, seed: int, request_index: int, count: int = 1, category: str = ""
    ) -> tuple[Principle, ...]:
        """Draw principles for one request, without replacement.

        Principles of the category come first, then general ones; if there are neither, any. Each
        group is ordered by SHA-256 over (seed, request, id): the order does not depend on the file
        or the Python version, and an added principle does not change the order of the others.

        Args:
            seed: for the draw.
            request_index: number of the request; each has its own draw.
            count: at least 1; fewer are returned if fewer apply.
            category: the request's, one of `ledger.CATEGORIES`; empty: not known to be unsafe.

        Raises:
            ConstitutionError: the count is below 1, or the category does not exist.
        """
        if count < 1:
            raise ConstitutionError(f"a draw needs a count of at least 1, got {count}")
        special = self._of_categories([category] if category else [])
        groups = [special, self.general] if special or self.general else [self.principles]
        ranked = [e for group in groups for e in sorted(group, key=_rank(seed, request_index))]
        return tuple(ranked[:count])


def _rank(seed: int, request_index: int) -> Callable[[Principle], bytes]:
    """The sort key of principles in the draw for one request."""

    def key(entry: Principle) -> bytes:
        return hashlib.sha256(json.dumps([seed, request_index, entry.id]).encode()).digest()

    return key
