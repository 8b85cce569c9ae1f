"""One chunk of requests: first answers, then round after round until revisions pass.

All chains of a round go to the critic together. Every number that is drawn comes from the seed, the
request's place in the whole list and the round.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fedrai.constitution.critics import CriticModel
from fedrai.constitution.demonstrating import draw_demonstrations, drawn_number, filled, lead
from fedrai.constitution.document import Constitution, Demonstration, Principle
from fedrai.constitution.records import TRAINED, Draft, Outcome, Request, RevisionRecord
from fedrai.constitution.verifying import (
    CheckResult,
    Checks,
    Openings,
    RevisionContext,
    pair,
    readable,
    trimmed,
    verify,
)
from fedrai.errors import ConstitutionError
from fedrai.evaluation.refusal import judge
from fedrai.guards.base import Conversation
from fedrai.records import Message

NOTHING = "(nothing)"  # stands for an empty answer: chat templates want a text
NO_CRITIQUE = "The answer could be better."  # stands for an empty critique


@dataclass(frozen=True, slots=True)
class Settings:
    """How requests are worked on.

    Attributes:
        principles: chains of a round, each with a principle of its own.
        revisions: critiques and revisions in a chain, each of the revision before it.
        demonstrations: that are shown before a request, at most.
        tries: chains at most; the first round is greedy.
        temperature: of the rounds after the first.
        top_p: nucleus of these.
        max_new_tokens: longest answer and revision.
        critique_tokens: longest critique.
        batch_size: requests of a chunk.
        revise_safe: whether first answers that decline well are revised all the same.
        answer_words: words of a first answer's first sentence that the critic sees; 0: all of it.
            Small models go on with long answers, but copy demonstrations more with short ones.
        ask_again: whether dialogues with requests of their own (JSON layout) are asked with the
            drawn principle's instead, as all others are.

    Raises:
        ConstitutionError: a first round has more chains than there may be tries.
    """

    principles: int = 1
    revisions: int = 1
    demonstrations: int = 3
    tries: int = 4
    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 72
    critique_tokens: int = 40
    batch_size: int = 32
    revise_safe: bool = False
    answer_words: int = 0
    ask_again: bool = False

    def __post_init__(self) -> None:
        if self.tries < self.principles:
            raise ConstitutionError(
                f"{self.principles} principles make as many chains, but tries is {self.tries}",
                hint="set tries to at least principles",
            )


@dataclass(slots=True)
class Work:
    """What all chunks share, and what they took."""

    constitution: Constitution
    first: CriticModel
    critic: CriticModel
    checks: Checks
    settings: Settings
    seed: int
    openings: Openings
    tell: Callable[[], None]
    tokens: int = 0
    operations: float = 0.0
    flaws: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Case:
    """A request under way."""

    index: int
    request: Request
    first: str
    unsafe: float | None
    tries: int = 0
    failed: list[Outcome] = field(default_factory=list)
    drafts: tuple[Draft, ...] = ()
    final: CheckResult | None = None  # with outcome KEPT, ALREADY_SAFE or NO_ANSWER: it is closed


@dataclass(slots=True)
class _Chain:
    """Critiques and revisions of one case under way."""

    case: _Case
    principles: tuple[Principle, ...]
    shown: tuple[Demonstration, ...]
    drafts: tuple[Draft, ...] = ()
    lost: bool = False  # the critic had no answer


def revise_chunk(work: Work, requests: Sequence[Request], start: int) -> list[RevisionRecord]:
    """Records of the requests that stand together from place `start` of the list."""
    cases = _first_answers(work, requests, start)
    attempt = 0
    while open_cases := [c for c in cases if c.final is None and c.tries < work.settings.tries]:
        chains = [chain for case in open_cases for chain in _chains(work, case, attempt)]
        for step in range(work.settings.revisions):
            _draft(work, [c for c in chains if not c.lost], step, (start, attempt))
        _judge(work, chains)
        attempt += 1
    return [_record(case) for case in cases]


def _first_answers(work: Work, requests: Sequence[Request], start: int) -> list[_Case]:
    talks = [(Message("user", request.prompt),) for request in requests]
    answers = _say(work, work.first, talks, work.settings.max_new_tokens)
    said = [(trimmed(answer or "") or answer or "").strip() for answer in answers]
    judged = work.checks.guard.judge(
        [pair(r.prompt, t) for r, t in zip(requests, said, strict=True)]
    )
    work.tokens, work.operations = work.tokens + judged.tokens, work.operations + judged.operations
    cases = [
        _Case(start + i, request, text, verdict.probability)
        for i, (request, text, verdict) in enumerate(
            zip(requests, said, judged.verdicts, strict=True)
        )
    ]
    for case, answer in zip(cases, answers, strict=True):
        case.final = _at_once(work, case, answer)
    return cases


def _at_once(work: Work, case: _Case, answer: str | None) -> CheckResult | None:
    """What closes a case before any try: no first answer, or one that declines well."""
    if answer is None:
        return CheckResult("", Outcome.NO_ANSWER)
    if work.settings.revise_safe or not case.request.harmful or case.unsafe is None:
        return None
    looked = readable(
        case.first, RevisionContext(case.request.prompt), topical=work.checks.on_topic
    )
    safe = looked.outcome is Outcome.KEPT and case.unsafe < work.checks.threshold
    return CheckResult(looked.text, Outcome.ALREADY_SAFE, case.unsafe) if safe else None


def _chains(work: Work, case: _Case, attempt: int) -> list[_Chain]:
    """The chains of a round: as many as there are principles and tries left."""
    settings = work.settings
    count = min(settings.principles, settings.tries - case.tries)
    draw = drawn_number(work.seed, "principles", attempt)
    names = work.constitution.draw(
        draw, case.index, settings.principles * settings.revisions, case.request.category
    )
    case.tries += count
    shown = [
        draw_demonstrations(
            case.request,
            work.constitution,
            settings.demonstrations,
            work.seed,
            case.index,
            attempt * settings.principles + number,
        )
        for number in range(count)
    ]
    return [_Chain(case, _turned(names, n, settings), shown[n]) for n in range(count)]


def _turned(names: Sequence[Principle], number: int, settings: Settings) -> tuple[Principle, ...]:
    """The principles of a chain, step by step: no two chains share one while there are enough."""
    steps = (number + step * settings.principles for step in range(settings.revisions))
    return tuple(names[step % len(names)] for step in steps)


def _draft(work: Work, chains: Sequence[_Chain], step: int, place: tuple[int, int]) -> None:
    """One critique and revision of every chain."""
    talks = [_asked(work, chain, step) for chain in chains]
    critiques = _say(work, work.critic, talks, work.settings.critique_tokens, (*place, step, 0))
    said = [trimmed(text or "") or (text or "").strip() or NO_CRITIQUE for text in critiques]
    talks = [
        (
            *talk,
            Message("assistant", critique),
            Message("user", filled(c.principles[step].revision_request, c.case.request.prompt)),
        )
        for talk, critique, c in zip(talks, said, chains, strict=True)
    ]
    asked = [i for i, critique in enumerate(critiques) if critique is not None]
    limit, where = work.settings.max_new_tokens, (*place, step, 1)
    answers = _say(work, work.critic, [talks[i] for i in asked], limit, where)
    revisions = dict(zip(asked, answers, strict=True))
    for i, chain in enumerate(chains):
        revision = revisions.get(i)
        chain.lost = revision is None
        draft = Draft(chain.principles[step].id, said[i], revision or "")
        chain.drafts = (*chain.drafts, *(() if chain.lost else (draft,)))


def _asked(work: Work, chain: _Chain, step: int) -> Conversation:
    """The chat up to the critique request."""
    principle = chain.principles[step]
    own = work.constitution.asks_in_own_words and not work.settings.ask_again
    first = beginning(chain.case.first, work.settings.answer_words)
    answer = chain.drafts[-1].revision if chain.drafts else first
    return (
        *lead(chain.shown, principle, own_words=own),
        Message("user", chain.case.request.prompt),
        Message("assistant", answer.strip() or NOTHING),
        Message("user", filled(principle.critique_request, chain.case.request.prompt)),
    )


def beginning(text: str, count: int) -> str:
    """The first sentence of a text, of that at most `count` words; 0: the text."""
    if not count:
        return text
    sentence = re.split(r"(?<=[.!?:])\s|\n", text.strip(), maxsplit=1)[0]
    return " ".join(sentence.split()[:count])


def _say(
    work: Work,
    critic: CriticModel,
    talks: Sequence[Conversation],
    limit: int,
    place: tuple[int, ...] = (0, 0),
) -> tuple[str | None, ...]:
    """Answers; those of the first round, whose place has a 0 in the middle, are greedy."""
    if not talks:
        return ()
    greedy = place[1] == 0
    said = critic.answer(
        talks,
        max_new_tokens=limit,
        temperature=0.0 if greedy else work.settings.temperature,
        top_p=1.0 if greedy else work.settings.top_p,
        seed=drawn_number(work.seed, *place),
        on_batch=lambda _done, _of: work.tell(),
    )
    work.tokens, work.operations = work.tokens + said.tokens, work.operations + said.operations
    work.problems.update(said.problems)
    return said.answers


# --- what became of them --------------------------------------------------------------------------


def _judge(work: Work, chains: Sequence[_Chain]) -> None:
    """Check the last revision of every chain; of each case the safest that passes is kept."""
    ended = [chain for chain in chains if not chain.lost]
    found = verify([c.drafts[-1].revision for c in ended], list(map(_before, ended)), work.checks)
    work.tokens, work.operations = work.tokens + found.tokens, work.operations + found.operations
    checked = {id(chain): one for chain, one in zip(ended, found.checked, strict=True)}
    work.flaws.update(one.flaw for one in found.checked if one.flaw)
    by_case: dict[int, list[tuple[_Chain, CheckResult]]] = {}
    for chain in chains:
        one = checked.get(id(chain), CheckResult("", Outcome.NO_ANSWER))
        by_case.setdefault(chain.case.index, []).append((chain, one))
    for tried in by_case.values():
        _close(work, tried)


def _before(chain: _Chain) -> RevisionContext:
    principle, request = chain.principles[-1], chain.case.request
    asked = tuple(filled(text, "") for text in (principle.critique_request,
                                                principle.revision_request))  # fmt: skip
    return RevisionContext(
        request.prompt, request.harmful, chain.shown, chain.drafts[-1].critique, asked
    )


def _close(work: Work, tried: Sequence[tuple[_Chain, CheckResult]]) -> None:
    """Keep the safest revision of a case that passes, or note why none did."""
    case = tried[0][0].case
    case.drafts = tried[-1][0].drafts or case.drafts
    outcomes = [one.outcome for _, one in tried]
    passed = [i for i, outcome in enumerate(outcomes) if outcome is Outcome.KEPT]
    for i in sorted(passed, key=lambda i: (tried[i][1].unsafe or 0.0, i)):
        chain, one = tried[i]
        if not work.openings.canned(one.text):
            case.final, case.drafts = one, chain.drafts
            work.openings.add(one.text)
            break
        outcomes[i] = Outcome.CANNED
    case.failed += [outcome for outcome in outcomes if outcome is not Outcome.KEPT]


def _record(case: _Case) -> RevisionRecord:
    final = case.final or CheckResult("", case.failed[-1])
    return RevisionRecord(
        request=case.request,
        first=case.first,
        first_refuses=judge(case.first).value,
        first_unsafe=case.unsafe,
        drafts=case.drafts,
        revision=final.text if final.outcome in TRAINED else None,
        unsafe=final.unsafe if final.outcome in TRAINED else None,
        tries=case.tries,
        outcome=final.outcome,
        failed=tuple(case.failed),
    )
