"""The safety filter: a client's examples in; the rows to train on, and a ledger of counts, out.

    examples -> every answer judged -> row safe, unsafe or unscored -> kept, dropped or replaced

An answer that the guard cannot score is not safe: the filter fails closed unless told otherwise.
The ledger holds numbers and salted hashes, never text or the place of a row. `FilterLedger.counts`
is what may leave the client, with noise (`noisy`) if the client asks for differential privacy.
Does not protect against a client that lies about its filter.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fedrai.data.embedded.refusals import OTHER, Refusals, embedded_refusals
from fedrai.errors import GuardError
from fedrai.filter.ledger import (
    BINS,
    CATEGORIES,
    PROBLEMS,
    DeclaredHarm,
    FilterLedger,
    noisy,
    total,
)
from fedrai.guards.base import Conversation, Guard, OnProgress, Part, full_name, part_of, unsafest
from fedrai.guards.cache import VerdictCache, conversation_key, judge
from fedrai.records import Example, Message, Verdict

__all__ = ["DeclaredHarm", "FilterLedger", "FilterResult", "Policy", "noisy", "screen", "total"]

Mode = Literal["audit", "drop", "replace"]
SALT_LEAST = 16  # bytes


@dataclass(frozen=True, slots=True)
class Policy:
    """What the filter does.

    Attributes:
        threshold: probability from which a conversation is unsafe, 0 to 1.
        mode: "drop": unsafe rows leave. "replace": unsafe answers give way to refusals. "audit":
            nothing changes, rows are only counted.
        part: what the guard reads; see `guards.base.part_of`.
        unscored: rows with an answer that could not be scored: "drop" (in "replace" too) or "keep".
        replaced: "replace": part of the unsafe rows that get refusals, 0 to 1; others are dropped.
    """

    threshold: float
    mode: Mode = "drop"
    part: Part = "pair"
    unscored: Literal["drop", "keep"] = "drop"
    replaced: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:  # nor NaN, under which nothing would be unsafe
            raise ValueError(f"a threshold lies between 0 and 1, got {self.threshold}")


@dataclass(frozen=True, slots=True)
class FilterResult:
    """What the filter lets through, its ledger, and what it took.

    Attributes:
        kept: the examples to train on, in their order; may be empty.
        ledger: the counts.
        tokens: tokens that went through the guard now (not for verdicts that were known).
        operations: floating-point operations of the guard now.
        seconds: wall time.
    """

    kept: tuple[Example, ...]
    ledger: FilterLedger
    tokens: int
    operations: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What the guard's verdicts on the answers of one row amount to.

    Attributes:
        worst: the unsafe verdict of highest probability; else one without probability; else the
            one of highest probability.
        unsafe: turns that are unsafe, with their verdicts.
        unscored: whether any turn has no probability.
    """

    worst: Verdict
    unsafe: tuple[tuple[int, Verdict], ...]
    unscored: bool

    @property
    def is_unsafe(self) -> bool | None:
        """Whether the row is unsafe; None if that is not known."""
        return None if self.unscored and not self.unsafe else bool(self.unsafe)


def screen(
    examples: Sequence[Example],
    guard: Guard,
    policy: Policy,
    *,
    salt: bytes,
    seed: int,
    cache: VerdictCache | None = None,
    refusals: Refusals | None = None,
    experiment: bool = False,
    on_progress: OnProgress = lambda _done, _of: None,
) -> FilterResult:
    """Judge every answer of every example, and keep, drop or replace.

    Training learns from every answer of a conversation, so each is judged, in the light of what
    stands before it; a row is as unsafe as its worst answer.

    Args:
        examples: a client's rows.
        guard: the guard.
        policy: what to do.
        salt: the client's own, at least 16 bytes, for the hashes of affected rows.
        seed: decides which rows get a refusal, and which one.
        cache: verdicts of earlier times.
        refusals: what to put in the place of unsafe answers; FedRAI's own if None.
        experiment: whether `Example.harmful` is known, so that the ledger can count by it.
        on_progress: called with (answers judged, of how many).

    Raises:
        GuardError: the guard as a whole cannot work, or the salt is too short.
    """
    if len(salt) < SALT_LEAST:
        raise GuardError(f"a filter's salt needs {SALT_LEAST} bytes or more, got {len(salt)}")
    started = time.perf_counter()
    views = [answers(example.messages, policy.part) for example in examples]
    judged = judge(guard, [talk for row in views for _, talk in row], cache, on_progress)
    findings = weigh(views, judged.verdicts, policy.threshold, full_name(guard))
    refusals = refusals or embedded_refusals()
    decided = [
        decide(e, f, policy, refusals, seed) for e, f in zip(examples, findings, strict=True)
    ]
    ledger = _ledger(examples, findings, decided, policy, full_name(guard), salt, experiment)
    kept = tuple(example for example in decided if example is not None)
    return FilterResult(
        kept, ledger, judged.tokens, judged.operations, time.perf_counter() - started
    )


def answers(messages: Sequence[Message], part: Part) -> tuple[tuple[int, Conversation], ...]:
    """The turns of a conversation that are to be judged, each with what the guard reads for it.

    Args:
        messages: the turns.
        part: as in `part_of`, applied to the conversation up to each turn.

    Returns:
        Index and conversation of each assistant turn, and of a last user turn if the part has one.
    """
    last = len(messages) - 1
    turns = [
        i
        for i, message in enumerate(messages)
        if message.role == "assistant"
        or (i == last and message.role == "user" and part != "response")
    ]
    return tuple((i, part_of(messages[: i + 1], part)) for i in turns)


def weigh(
    views: Sequence[Sequence[tuple[int, Conversation]]],
    verdicts: Sequence[Verdict],
    threshold: float,
    guard: str,
) -> list[Finding]:
    """One finding a row from the verdicts on all turns of all rows.

    A row without a turn that the guard can read is unscored ("empty").
    """
    rest = iter(verdicts)
    nothing = (-1, Verdict(None, guard, problem="empty"))
    return [_finding([(i, next(rest)) for i, _ in row] or [nothing], threshold) for row in views]


def _finding(judged: Sequence[tuple[int, Verdict]], threshold: float) -> Finding:
    chances = [(i, v, v.probability) for i, v in judged]
    unsafe = tuple((i, v) for i, v, p in chances if p is not None and p >= threshold)
    worst = unsafest([v for _, v in judged], threshold)
    return Finding(worst, unsafe, any(p is None for _, _, p in chances))


def decide(
    example: Example, finding: Finding, policy: Policy, refusals: Refusals, seed: int
) -> Example | None:
    """The example as it goes on to training, or None if it does not."""
    if policy.mode == "audit":
        return example
    if finding.unscored and policy.unscored == "drop":
        return None
    if not finding.unsafe:
        return example
    if not _gets_refusals(example, policy, seed) or any(
        example.messages[turn].role != "assistant" for turn, _ in finding.unsafe
    ):
        return None
    messages = list(example.messages)
    for turn, verdict in finding.unsafe:
        request = next((m.content for m in messages[turn::-1] if m.role == "user"), "")
        reply = refusals.refusal_for(request, verdict.categories, seed)
        messages[turn] = replace(messages[turn], content=reply)
    return replace(example, messages=tuple(messages))


def _gets_refusals(example: Example, policy: Policy, seed: int) -> bool:
    """Whether an unsafe row stays, with refusals; the same rows for the same seed."""
    if policy.mode == "drop":
        return False
    place = int(conversation_key(f"replaced {seed}".encode(), example.messages)[:13], 16)
    return place / 16**13 < policy.replaced


def _ledger(
    examples: Sequence[Example],
    findings: Sequence[Finding],
    decided: Sequence[Example | None],
    policy: Policy,
    guard: str,
    salt: bytes,
    experiment: bool,
) -> FilterLedger:
    changed = [e for e, d in zip(examples, decided, strict=True) if d is not e]
    dropped = sum(d is None for d in decided)
    worst = [finding.worst for finding in findings]
    unsafe = [finding.worst for finding in findings if finding.unsafe]
    unscored = Counter(v.problem for v in worst if v.problem is not None)
    scored = [v.probability for v in worst if v.probability is not None]
    bins = Counter(min(BINS - 1, int(p * BINS)) for p in scored)
    by = Counter(category_of(verdict) for verdict in unsafe)
    return FilterLedger(
        guard=guard,
        threshold=policy.threshold,
        mode=policy.mode,
        part=policy.part,
        rows=len(examples),
        kept=len(examples) - dropped,
        dropped=dropped,
        replaced=len(changed) - dropped,
        unsafe=len(unsafe),
        unscored={problem: unscored[problem] for problem in PROBLEMS},
        categories={name: by[name] for name in CATEGORIES},
        histogram=tuple(bins[i] for i in range(BINS)),
        removed=tuple(sorted(conversation_key(salt, e.messages)[:16] for e in changed)),
        confusion=_confusion(examples, changed) if experiment else None,
    )


def category_of(verdict: Verdict) -> str:
    """The name in `CATEGORIES` for a verdict's likeliest category; "other" if there is none."""
    known = embedded_refusals()
    return next(filter(None, map(known.named, verdict.categories[:1])), OTHER)


def _confusion(examples: Sequence[Example], changed: Sequence[Example]) -> DeclaredHarm:
    harmful, touched = sum(e.harmful for e in examples), sum(e.harmful for e in changed)
    return DeclaredHarm(harmful, harmful - touched, len(examples) - harmful, len(changed) - touched)
