"""Requests, and the records of their critique and revision: the server's own text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the aggregated model.

    Attributes:
        prompt: the text.
        category: hazard category (of `ledger.CATEGORIES`) of the request, or the one that it only
            resembles; empty if not known.
        source: its source ("harmbench", "look-alikes", a file's name).
        kind: for a harmless request, how it resembles a harmful one ("homonym", "prevention" ...);
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
    """The outcome of a request, or of one try."""

    KEPT = "kept"
    """The revision passed all checks."""

    ALREADY_SAFE = "already-safe"
    """The first answer declines well: used for SFT as it is, but makes no preference pair."""

    UNSAFE = "unsafe"
    """The guard judges the revision unsafe."""

    COMPLIES = "complies"
    """The refusal judge says that the revision complies with the request."""

    REFUSES = "refuses"
    """The refusal judge says that a harmless request is declined."""

    DEGENERATE = "degenerate"
    """Empty, cut off, loops, or repeats the request, the critique or a demonstration."""

    CANNED = "canned"
    """It begins like many revisions before it."""

    UNJUDGED = "unjudged"
    """The guard has no verdict: never trained on."""

    NO_ANSWER = "no-answer"
    """The critic had no answer."""


TRAINED = (Outcome.KEPT, Outcome.ALREADY_SAFE)
"""Outcomes with a revision to train on."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One critique and revision.

    Attributes:
        principle: id of its principle.
        critique: critique of the answer before it.
        revision: the new answer.
    """

    principle: str
    critique: str
    revision: str


@dataclass(frozen=True, slots=True)
class RevisionRecord:
    """One request with its answers and verdicts.

    Attributes:
        request: the request.
        first: the model's first answer.
        first_refuses: verdict of the refusal judge ("refusal", "compliance", "unscored").
        first_unsafe: the guard's probability that it is unsafe; None without a verdict.
        drafts: the chain of the last try, oldest first.
        revision: the revision that is trained on; None if none passed.
        unsafe: the guard's probability for that revision.
        tries: number of sampled chains.
        outcome: what became of the request.
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

    @property
    def accepted(self) -> str:
        """The revision that is trained on; empty if there is none."""
        return self.revision or "" if self.outcome in TRAINED else ""

    @property
    def is_better(self) -> bool:
        """Whether the revision is preferred to the first answer, which does not decline as well."""
        declines = self.request.harmful and self.first_refuses == "refusal"
        return self.outcome is Outcome.KEPT and bool(self.revision) and not declines

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
