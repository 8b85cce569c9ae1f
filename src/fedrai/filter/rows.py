"""The safety filter: a client's examples in; the rows to train on, and a ledger of counts, out.

    examples -> every answer judged -> row safe, unsafe or unscored -> kept, dropped or replaced

An answer that the guard cannot score is not safe: the filter fails closed unless told otherwise.
The ledger holds numbers and salted hashes, never the text of a row or its line. Only
`FilterLedger.counts` may leave the client, with noise (`add_noise`) if the client asks for
differential privacy. Does not protect against a client that lies about its filter.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Literal

from fedrai.data.embedded.refusals import OTHER, Refusals, embedded_refusals
from fedrai.errors import GuardError
from fedrai.filter.ledger import BINS, CATEGORIES, PROBLEMS, DeclaredHarm, FilterLedger
from fedrai.filter.pairs import PairMode, counts_of, first_judged, swapped
from fedrai.guards.base import (
    Conversation,
    Guard,
    OnProgress,
    Part,
    VerdictBatch,
    full_name,
    part_of,
    unsafest,
)
from fedrai.guards.cache import VerdictCache, conversation_key, judge
from fedrai.records import Example, Message, Verdict

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
        refusals: "replace": the answers that take their place; None: those of the package.
        experiment: whether `Example.harmful` is known, so that the ledger can count by it.
        pairs: "drop" and "replace": what becomes of a pair whose chosen answer is unsafe.
    """

    threshold: float
    mode: Mode = "drop"
    part: Part = "pair"
    unscored: Literal["drop", "keep"] = "drop"
    replaced: float = 1.0
    refusals: Refusals | None = None
    experiment: bool = False
    pairs: PairMode = "drop"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:  # nor NaN, under which nothing would be unsafe
            raise ValueError(f"a threshold must be from 0 to 1, got {self.threshold}")


@dataclass(frozen=True, slots=True)
class FilterResult:
    """The rows that pass the filter, its ledger, and its cost.

    Attributes:
        kept: the examples to train on, in their order; may be empty.
        ledger: the counts.
        tokens: tokens that went through the guard now (none for cached verdicts).
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
    """The guard's verdicts on the answers of one row, taken together.

    Attributes:
        worst: the unsafe verdict of highest probability; else one without probability; else the
            one of highest probability.
        unsafe: numbers of the unsafe turns, with their verdicts.
        unscored: whether any turn has no probability.
    """

    worst: Verdict
    unsafe: tuple[tuple[int, Verdict], ...]
    unscored: bool

    @property
    def is_unsafe(self) -> bool | None:
        """Whether the row is unsafe; None if that is not known."""
        return None if self.unscored and not self.unsafe else bool(self.unsafe)


class SafetyFilter:
    """Judges every answer of examples, and keeps, drops or replaces them.

    Training learns from every answer of a conversation, so each is judged, in the light of what
    stands before it; a row is as unsafe as its worst answer.

    Args:
        guard: the guard.
        policy: what to do.
        salt: the client's own, at least 16 bytes, for the hashes of affected rows.
        cache: verdicts of earlier times.

    Raises:
        GuardError: the salt is too short.
    """

    def __init__(
        self, guard: Guard, policy: Policy, *, salt: bytes, cache: VerdictCache | None = None
    ) -> None:
        if len(salt) < SALT_LEAST:
            raise GuardError(f"a filter's salt needs {SALT_LEAST} bytes or more, got {len(salt)}")
        self._guard, self._policy, self._salt, self._cache = guard, policy, salt, cache

    def screen(
        self,
        examples: Sequence[Example],
        seed: int,
        on_progress: OnProgress = lambda _done, _of: None,
    ) -> FilterResult:
        """Screen a client's rows.

        Args:
            examples: the rows.
            seed: decides which rows get a refusal, and which one.
            on_progress: called with (answers judged, of how many).

        Raises:
            GuardError: the guard as a whole cannot work.
        """
        started = time.perf_counter()
        policy = self._policy
        findings, cost = self._find(examples, on_progress)
        outcomes = [decide(e, f, policy, seed) for e, f in zip(examples, findings, strict=True)]
        if policy.pairs == "swap" and policy.mode != "audit":
            more = self._swap(examples, findings, outcomes, on_progress)
            cost = replace(
                cost, tokens=cost.tokens + more.tokens, operations=cost.operations + more.operations
            )
        ledger = self._ledger(examples, findings, outcomes)
        kept = tuple(example for example in outcomes if example is not None)
        seconds = time.perf_counter() - started
        return FilterResult(kept, ledger, cost.tokens, cost.operations, seconds)

    def _find(
        self, examples: Sequence[Example], on_progress: OnProgress
    ) -> tuple[list[Finding], VerdictBatch]:
        policy = self._policy
        return find(
            [example.messages for example in examples],
            self._guard, policy.part, policy.threshold, self._cache, on_progress,
            [first_judged(example) for example in examples],
        )  # fmt: skip

    def _swap(
        self,
        examples: Sequence[Example],
        findings: Sequence[Finding],
        outcomes: list[Example | None],
        on_progress: OnProgress,
    ) -> VerdictBatch:
        """Give back pairs whose chosen answer is unsafe and whose rejected answer is safe."""
        unsafe = [n for n, e in enumerate(examples) if e.rejected and findings[n].unsafe]
        turned = [swapped(examples[n]) for n in unsafe]
        others, cost = self._find(turned, on_progress)
        for number, pair, finding in zip(unsafe, turned, others, strict=True):
            if finding.is_unsafe is False:
                outcomes[number] = pair
        return cost

    def _ledger(
        self,
        examples: Sequence[Example],
        findings: Sequence[Finding],
        outcomes: Sequence[Example | None],
    ) -> FilterLedger:
        changed = [e for e, outcome in zip(examples, outcomes, strict=True) if outcome is not e]
        dropped = sum(outcome is None for outcome in outcomes)
        pairs = counts_of(examples, (bool(f.unsafe) for f in findings), outcomes)
        turned = pairs.swapped if pairs else 0
        worst = [finding.worst for finding in findings]
        unsafe = [finding.worst for finding in findings if finding.unsafe]
        unscored = Counter(v.problem for v in worst if v.problem is not None)
        scored = [v.probability for v in worst if v.probability is not None]
        bins = Counter(min(BINS - 1, int(p * BINS)) for p in scored)
        by_category = Counter(map(category_of, unsafe))
        return FilterLedger(
            guard=full_name(self._guard),
            threshold=self._policy.threshold,
            mode=self._policy.mode,
            part=self._policy.part,
            rows=len(examples),
            kept=len(examples) - dropped,
            dropped=dropped,
            replaced=len(changed) - dropped - turned,
            unsafe=len(unsafe),
            unscored={problem: unscored[problem] for problem in PROBLEMS},
            categories={name: by_category[name] for name in CATEGORIES},
            histogram=tuple(bins[i] for i in range(BINS)),
            removed=tuple(sorted(conversation_key(self._salt, e.messages)[:16] for e in changed)),
            confusion=_declared_harm(examples, changed) if self._policy.experiment else None,
            pairs=pairs,
        )


def find(
    conversations: Sequence[Conversation],
    guard: Guard,
    part: Part,
    threshold: float,
    cache: VerdictCache | None,
    on_progress: OnProgress,
    firsts: Sequence[int] = (),
) -> tuple[list[Finding], VerdictBatch]:
    """One finding a conversation, and the verdicts on all its answers with their cost.

    Args:
        conversations: the conversations.
        guard: the guard.
        part: what it reads; see `part_of`.
        threshold: probability from which an answer is unsafe.
        cache: verdicts of earlier times.
        on_progress: called with (texts judged, of how many).
        firsts: the first turn of each that is judged; empty: all turns are.

    Raises:
        GuardError: the guard as a whole cannot work.
    """
    views = [
        [view for view in answers(conversation, part) if view[0] >= first]
        for conversation, first in zip(conversations, firsts or repeat(0), strict=False)
    ]
    batch = judge(guard, [talk for view in views for _, talk in view], cache, on_progress)
    return weigh(views, batch.verdicts, threshold, full_name(guard)), batch


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
    empty = (-1, Verdict(None, guard, problem="empty"))
    return [_finding([(i, next(rest)) for i, _ in row] or [empty], threshold) for row in views]


def _finding(judged: Sequence[tuple[int, Verdict]], threshold: float) -> Finding:
    chances = [(i, v, v.probability) for i, v in judged]
    unsafe = tuple((i, v) for i, v, p in chances if p is not None and p >= threshold)
    worst = unsafest([v for _, v in judged], threshold)
    return Finding(worst, unsafe, any(p is None for _, _, p in chances))


def decide(example: Example, finding: Finding, policy: Policy, seed: int) -> Example | None:
    """The example as it is trained on, or None if it is not."""
    if policy.mode == "audit":
        return example
    if finding.unscored and policy.unscored == "drop":
        return None
    if not finding.unsafe:
        return example
    if (
        example.rejected
        or not _gets_refusals(example, policy, seed)
        or any(example.messages[turn].role != "assistant" for turn, _ in finding.unsafe)
    ):
        return None
    messages = list(example.messages)
    for turn, verdict in finding.unsafe:
        reply = refusal_at(messages, turn, verdict, policy.refusals, seed)
        messages[turn] = replace(messages[turn], content=reply)
    return replace(example, messages=tuple(messages))


def refusal_at(
    messages: Sequence[Message], turn: int, verdict: Verdict, refusals: Refusals | None, seed: int
) -> str:
    """The refusal that takes the place of an unsafe answer, fitting the request before it."""
    request = next((m.content for m in messages[turn::-1] if m.role == "user"), "")
    return (refusals or embedded_refusals()).refusal_for(request, verdict.categories, seed)


def _gets_refusals(example: Example, policy: Policy, seed: int) -> bool:
    """Whether an unsafe row stays, with refusals; the same rows for the same seed."""
    if policy.mode == "drop":
        return False
    place = int(conversation_key(f"replaced {seed}".encode(), example.messages)[:13], 16)
    return place / 16**13 < policy.replaced


def category_of(verdict: Verdict) -> str:
    """The name in `CATEGORIES` for a verdict's likeliest category; "other" if there is none."""
    known = embedded_refusals()
    return next(filter(None, map(known.named, verdict.categories[:1])), OTHER)


def _declared_harm(examples: Sequence[Example], changed: Sequence[Example]) -> DeclaredHarm:
    harmful, affected = sum(e.harmful for e in examples), sum(e.harmful for e in changed)
    benign = len(examples) - harmful
    return DeclaredHarm(harmful, harmful - affected, benign, len(changed) - affected)
