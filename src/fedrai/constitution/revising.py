"""Critique and revision of the model's own answers (arXiv 2212.08073, section 3.1), verified.

    request -> first answer -> critique -> revision -> checks -> kept, or tried again

A request is tried with one draw of principle and demonstrations after the other: greedily the first
time, then sampled, until a revision passes all checks of `verifying` or the tries are used up. The
exchange is a chat of whole turns. Requests are worked on in fixed chunks; a chunk depends on its
requests, its place and the openings of what was kept before, so that a run which was interrupted
goes on after its last whole chunk to the same bits.

Does not load requests, choose a model or train; whether a try passes never depends on its critique.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedrai.constitution.chunk import Settings, Work, revise_chunk
from fedrai.constitution.critics import CriticModel, LocalCritic
from fedrai.constitution.document import Constitution
from fedrai.constitution.records import Outcome, Request, RevisionRecord
from fedrai.constitution.verifying import Checks, Openings
from fedrai.errors import ConstitutionError
from fedrai.model import LanguageModel

__all__ = ["Revised", "Settings", "revise", "whole_chunks"]


@dataclass(frozen=True, slots=True)
class Revised:
    """All records, and what they took. Whatever is not of the records is of this call alone.

    Attributes:
        records: one for each request, in their order.
        outcomes: how many records have each outcome.
        tries: how many of the kept ones took so many chains.
        failed: how many chains failed for each reason, over all records.
        flaws: what was wrong with degenerate revisions.
        problems: why a critic had no answer.
        tokens: that went through models and guard.
        operations: floating-point operations of both, counted from shapes.
        seconds: wall time.
    """

    records: tuple[RevisionRecord, ...]
    outcomes: Mapping[Outcome, int]
    tries: Mapping[int, int]
    failed: Mapping[Outcome, int]
    flaws: Mapping[str, int]
    problems: Mapping[str, int]
    tokens: int
    operations: float
    seconds: float


def revise(
    requests: Sequence[Request],
    *,
    constitution: Constitution,
    model: LanguageModel,
    critic: CriticModel,
    checks: Checks,
    settings: Settings,
    seed: int,
    kept: Sequence[RevisionRecord] = (),
    on_records: Callable[[Sequence[RevisionRecord]], None] = lambda _records: None,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
    on_cost: Callable[[int, float], None] = lambda _tokens, _operations: None,
) -> Revised:
    """Let the model answer requests, and the critic criticise and revise, until revisions pass.

    Args:
        requests: what is asked.
        constitution: principles and demonstrations.
        model: gives the first answers, with its adapter as it stands.
        critic: criticises and revises.
        checks: what a revision must pass.
        settings: sizes and tries.
        seed: of draws and sampling.
        kept: records of an earlier call with the same arguments; whole chunks of them are taken
            over, what is left is done again.
        on_records: gets the records of each chunk when it is done.
        on_progress: called with (requests done, of how many), also within a chunk; may raise.
        on_cost: called after each chunk with the tokens and operations of this call so far.

    Raises:
        ConstitutionError: `kept` is of other requests, or the critic as a whole cannot answer.
        GuardError: the guard as a whole cannot work.
    """
    began = time.perf_counter()
    records = list(whole_chunks(kept, requests, settings.batch_size))
    openings = Openings((r.revision or "" for r in records if r.outcome is Outcome.KEPT), checks)
    first = LocalCritic(model, settings.batch_size)
    work = Work(constitution, first, critic, checks, settings, seed, openings, lambda: None)
    for start in range(len(records), len(requests), settings.batch_size):
        work.tell = lambda done=start: on_progress(done, len(requests))  # type: ignore[misc]
        fresh = revise_chunk(work, requests[start : start + settings.batch_size], start)
        records.extend(fresh)
        on_records(fresh)
        on_cost(work.tokens, work.operations)
        on_progress(len(records), len(requests))
    return _account(records, work, time.perf_counter() - began)


def whole_chunks(
    kept: Sequence[RevisionRecord], requests: Sequence[Request], size: int
) -> Sequence[RevisionRecord]:
    """The records of whole chunks at the beginning of the requests.

    Raises:
        ConstitutionError: they are of other requests.
    """
    if len(kept) > len(requests) or any(
        record.request != asked for record, asked in zip(kept, requests, strict=False)
    ):
        raise ConstitutionError(
            f"the {len(kept)} records at hand are not of these {len(requests)} requests",
            hint="begin again without them; another list of requests needs other records",
        )
    return kept if len(kept) == len(requests) else kept[: len(kept) - len(kept) % size]


def _account(records: Iterable[RevisionRecord], work: Work, seconds: float) -> Revised:
    done = tuple(records)
    return Revised(
        done,
        Counter(record.outcome for record in done),
        Counter(record.tries for record in done if record.outcome is Outcome.KEPT),
        Counter(outcome for record in done for outcome in record.failed),
        work.flaws,
        work.problems,
        work.tokens,
        work.operations,
        seconds,
    )
