"""What goes through critique and revision, and what comes of it: the server's own text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the server asks the aggregated model.

    Attributes:
        prompt: the text.
        category: hazard category (of `ledger.CATEGORIES`) it asks for, or that it only resembles;
            empty if not known.
        source: where it comes from ("harmbench", "look-alikes", a file's name).
        kind: of a harmless request, how it resembles a harmful one ("homonym", "prevention" ...);
            empty for ordinary and for harmful ones.
        harmful: whether it should be declined.
        answer: a reference answer, where the source has one.
    """

    prompt: str
    category: str = ""
    source: str = ""
    kind: str = ""
    harmful: bool = True
    answer: str = ""


class Outcome(StrEnum):
    """What became of a request, or of one try."""

    KEPT = "kept"
    """The revision passed all checks."""

    ALREADY_SAFE = "already-safe"
    """The first answer declines well: kept for SFT as it is, but there is no pair to prefer."""

    UNSAFE = "unsafe"
    """The guard finds the revision unsafe."""

    COMPLIES = "complies"
    """The refusal judge finds that the revision goes along with the request."""

    REFUSES = "refuses"
    """The refusal judge finds that a harmless request is declined."""

    DEGENERATE = "degenerate"
    """Empty, cut off, loops, or repeats the request, the critique or a demonstration."""

    CANNED = "canned"
    """The same words as many revisions before it."""

    UNJUDGED = "unjudged"
    """The guard has no verdict: never trained on."""

    NO_ANSWER = "no-answer"
    """A remote critic gave none in the end."""


TRAINED = (Outcome.KEPT, Outcome.ALREADY_SAFE)
"""Outcomes whose revision is trained on."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One critique and revision.

    Attributes:
        principle: id of the principle it goes by.
        critique: what the critic says of the answer before it.
        revision: the answer in place of it.
    """

    principle: str
    critique: str
    revision: str


@dataclass(frozen=True, slots=True)
class RevisionRecord:
    """One request with its answers and verdicts.

    Attributes:
        request: what was asked.
        first: the model's first answer.
        first_refuses: what the refusal judge says of it ("refusal", "compliance", "unscored").
        first_unsafe: the guard's probability that it is unsafe; None where it has no verdict.
        drafts: the chain of the last try, oldest first.
        revision: the revision that is trained on; None where none passed.
        unsafe: the guard's probability for that revision.
        tries: how many chains were sampled.
        outcome: what became of it.
        failed: outcomes of the tries that did not pass, in order.
    """

    request: Request
    first: str
    first_refuses: str
    first_unsafe: float | None
    drafts: tuple[Draft, ...]
    revision: str | None
    unsafe: float | None
    tries: int
    outcome: Outcome
    failed: tuple[Outcome, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RevisionRecord:
        """The record that `to_json` wrote."""
        parts = {
            "request": Request(**value["request"]),
            "drafts": tuple(Draft(**draft) for draft in value["drafts"]),
            "outcome": Outcome(value["outcome"]),
            "failed": tuple(Outcome(name) for name in value["failed"]),
        }
        return cls(**value | parts)
