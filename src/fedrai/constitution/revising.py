"""Critique and revision of the model's own answers (arXiv 2212.08073, section 3.1), verified.

    request -> first answer -> critique -> revision -> checks -> kept, or another try

A request is tried with one draw of principle and demonstrations after another: greedily the first
time, then sampled, until a revision passes all checks of `verifying` or the tries are used up. The
exchange is a chat of whole turns. All chains of a round go to the critic together.

Requests are answered in chunks of a fixed size. Every random number comes from the seed, the
request's place in the list and the round; so a chunk depends on its requests, its place and the
openings of the revisions kept before it, and an interrupted run resumes after its last whole chunk
to the same bits.

Does not load requests, choose a model or train. Whether a try passes never depends on its critique.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from fedrai.constitution.chunks import in_chunks, whole_chunks
from fedrai.constitution.critics import CriticModel, LocalCritic
from fedrai.constitution.demonstrating import draw_demonstrations, drawn_number, fill_request, lead
from fedrai.constitution.document import Constitution, Demonstration, Principle
from fedrai.constitution.records import TRAINED, Draft, Outcome, Request, RevisionRecord
from fedrai.constitution.spending import CostMeter
from fedrai.constitution.verifying import (
    CheckResult,
    Checks,
    Openings,
    RevisionContext,
    pair,
    readable,
    trim_to_sentence,
    verify,
)
from fedrai.evaluation.refusal import judge
from fedrai.guards.base import Conversation
from fedrai.model import LanguageModel
from fedrai.model.generate import Sampling
from fedrai.recipe.alignment import RevisionSettings
from fedrai.records import Message

NOTHING = "(nothing)"  # stands for an empty answer: chat templates want a text
NO_CRITIQUE = "The answer could be better."  # stands for an empty critique


@dataclass(slots=True)
class Reviser:
    """Answers, criticises and revises.

    Attributes:
        constitution: principles and demonstrations.
        model: generates the first answers with its current adapter.
        critic: criticises and revises.
        checks: what a revision must pass.
        settings: sizes and tries.
        seed: for draws and sampling.
        meter: counts the use of models and guard.
        on_progress: called with (requests done, of how many), also within a chunk; may raise to
            stop.
        flaws: counts what was wrong with degenerate revisions.
        problems: counts why the critic had no answer.
    """

    constitution: Constitution
    model: LanguageModel
    critic: CriticModel
    checks: Checks
    settings: RevisionSettings
    seed: int
    meter: CostMeter = field(default_factory=CostMeter)
    on_progress: Callable[[int, int], None] = lambda _done, _of: None
    flaws: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    _openings: Openings = field(init=False)
    _on_batch: Callable[[], None] = field(init=False)

    def revise(
        self,
        requests: Sequence[Request],
        done: Sequence[RevisionRecord] = (),
        on_chunk: Callable[[Sequence[RevisionRecord]], None] = lambda _records: None,
    ) -> tuple[RevisionRecord, ...]:
        """Let the model answer requests, and the critic revise, until revisions pass.

        Args:
            requests: what is asked.
            done: records of an earlier call with the same settings; its whole chunks are taken
                over, the rest is done again.
            on_chunk: called after each chunk with all records so far.

        Returns:
            One record for each request, in their order.

        Raises:
            ConstitutionError: `done` is of other requests, or the critic as a whole cannot answer.
            GuardError: the guard as a whole cannot work.
        """
        size = self.settings.batch_size
        done = whole_chunks(done, requests, size)
        kept = (record.revision or "" for record in done if record.outcome is Outcome.KEPT)
        self._openings = Openings(kept, self.checks)

        def chunk(part: Sequence[Request], start: int) -> list[RevisionRecord]:
            self._on_batch = partial(self.on_progress, start, len(requests))
            return _revise_chunk(self, part, start)

        def after(records: Sequence[RevisionRecord]) -> None:
            on_chunk(records)
            self.on_progress(len(records), len(requests))

        return in_chunks(requests, size, done, chunk, after)


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
    final: CheckResult | None = None  # KEPT, ALREADY_SAFE or NO_ANSWER: the case is closed


@dataclass(slots=True)
class _Chain:
    """Critiques and revisions of one case under way."""

    case: _Case
    principles: tuple[Principle, ...]
    demonstrations: tuple[Demonstration, ...]
    drafts: tuple[Draft, ...] = ()
    lost: bool = False  # the critic had no answer


def _revise_chunk(
    reviser: Reviser, requests: Sequence[Request], start: int
) -> list[RevisionRecord]:
    """Records of the requests of a chunk, which starts at a place of the list."""
    settings = reviser.settings
    cases = _first_answers(reviser, requests, start)
    attempt = 0
    while open_cases := [c for c in cases if c.final is None and c.tries < settings.tries]:
        chains = [chain for case in open_cases for chain in _chains(reviser, case, attempt)]
        for step in range(settings.revisions):
            _draft(reviser, [c for c in chains if not c.lost], step, (start, attempt))
        _check(reviser, chains)
        attempt += 1
    return [_record(case) for case in cases]


def _first_answers(reviser: Reviser, requests: Sequence[Request], start: int) -> list[_Case]:
    model = LocalCritic(reviser.model, reviser.settings.batch_size)
    chats = [(Message("user", request.prompt),) for request in requests]
    answers = _answers(reviser, model, chats, reviser.settings.max_new_tokens)
    texts = [(trim_to_sentence(answer or "") or answer or "").strip() for answer in answers]
    judged = reviser.checks.guard.judge(
        [pair(r.prompt, t) for r, t in zip(requests, texts, strict=True)]
    )
    reviser.meter.add(judged)
    cases = [
        _Case(start + i, request, text, verdict.probability)
        for i, (request, text, verdict) in enumerate(
            zip(requests, texts, judged.verdicts, strict=True)
        )
    ]
    for case, answer in zip(cases, answers, strict=True):
        case.final = _without_a_try(case, answer, reviser.checks)
    return cases


def _without_a_try(case: _Case, answer: str | None, checks: Checks) -> CheckResult | None:
    """What closes a case before any try: no first answer, or one that declines well."""
    if answer is None:
        return CheckResult("", Outcome.NO_ANSWER)
    if not case.request.harmful or case.unsafe is None:
        return None
    result = readable(case.first, RevisionContext(case.request.prompt), topical=checks.on_topic)
    safe = result.outcome is Outcome.KEPT and case.unsafe < checks.threshold
    return CheckResult(result.text, Outcome.ALREADY_SAFE, case.unsafe) if safe else None


def _chains(reviser: Reviser, case: _Case, attempt: int) -> list[_Chain]:
    """The chains of a round: as many as there are principles and tries left."""
    settings = reviser.settings
    count = min(settings.principles, settings.tries - case.tries)
    draw = drawn_number(reviser.seed, "principles", attempt)
    principles = reviser.constitution.draw(
        draw, case.index, settings.principles * settings.revisions, case.request.category
    )
    case.tries += count

    def demonstrations(number: int) -> tuple[Demonstration, ...]:
        return draw_demonstrations(
            case.request,
            reviser.constitution,
            settings.demonstrations,
            reviser.seed,
            (case.index, attempt * settings.principles + number),
        )

    return [
        _Chain(case, _by_step(principles, n, settings), demonstrations(n)) for n in range(count)
    ]


def _by_step(
    principles: Sequence[Principle], number: int, settings: RevisionSettings
) -> tuple[Principle, ...]:
    """The principles of a chain, step by step: no two chains share one while there are enough."""
    steps = (number + step * settings.principles for step in range(settings.revisions))
    return tuple(principles[step % len(principles)] for step in steps)


def _draft(reviser: Reviser, chains: Sequence[_Chain], step: int, place: tuple[int, int]) -> None:
    """One critique and revision of every chain."""
    chats = [_critique_chat(reviser, chain, step) for chain in chains]
    settings, critic = reviser.settings, reviser.critic
    answers = _answers(reviser, critic, chats, settings.critique_tokens, (*place, step, 0))
    critiques = [
        trim_to_sentence(text or "") or (text or "").strip() or NO_CRITIQUE for text in answers
    ]
    chats = [
        (
            *chat,
            Message("assistant", critique),
            Message(
                "user", fill_request(c.principles[step].revision_request, c.case.request.prompt)
            ),
        )
        for chat, critique, c in zip(chats, critiques, chains, strict=True)
    ]
    answered = [i for i, critique in enumerate(answers) if critique is not None]
    open_chats, place_now = [chats[i] for i in answered], (*place, step, 1)
    texts = _answers(reviser, critic, open_chats, settings.max_new_tokens, place_now)
    revisions = dict(zip(answered, texts, strict=True))
    for i, chain in enumerate(chains):
        revision = revisions.get(i)
        chain.lost = revision is None
        draft = Draft(chain.principles[step].id, critiques[i], revision or "")
        chain.drafts = (*chain.drafts, *(() if chain.lost else (draft,)))


def _critique_chat(reviser: Reviser, chain: _Chain, step: int) -> Conversation:
    """The chat up to the critique request."""
    principle, request = chain.principles[step], chain.case.request.prompt
    own_words = reviser.constitution.asks_in_own_words
    answer = chain.drafts[-1].revision if chain.drafts else chain.case.first
    return (
        *lead(chain.demonstrations, principle, own_words=own_words),
        Message("user", request),
        Message("assistant", answer.strip() or NOTHING),
        Message("user", fill_request(principle.critique_request, request)),
    )


def _answers(
    reviser: Reviser,
    critic: CriticModel,
    chats: Sequence[Conversation],
    max_new_tokens: int,
    place: tuple[int, ...] = (0, 0),
) -> tuple[str | None, ...]:
    """Answers to chats; those of the first round, whose place has a 0 second, are greedy."""
    if not chats:
        return ()
    settings, seed = reviser.settings, drawn_number(reviser.seed, *place)
    sampling = Sampling(settings.temperature, settings.top_p, seed)
    if place[1] == 0:
        sampling = Sampling(seed=seed)
    answers = critic.answer(chats, max_new_tokens, sampling, lambda *_: reviser._on_batch())
    reviser.meter.add(answers)
    reviser.problems.update(answers.problems)
    return answers.answers


# --- checks ---------------------------------------------------------------------------------------


def _check(reviser: Reviser, chains: Sequence[_Chain]) -> None:
    """Check the last revision of every chain; of each case the safest that passes is kept."""
    ended = [chain for chain in chains if not chain.lost]
    texts, contexts = [c.drafts[-1].revision for c in ended], [_context(c) for c in ended]
    results = verify(texts, contexts, reviser.checks, reviser.meter)
    by_chain = {id(chain): result for chain, result in zip(ended, results, strict=True)}
    reviser.flaws.update(result.flaw for result in results if result.flaw)
    by_case: dict[int, list[tuple[_Chain, CheckResult]]] = {}
    for chain in chains:
        result = by_chain.get(id(chain), CheckResult("", Outcome.NO_ANSWER))
        by_case.setdefault(chain.case.index, []).append((chain, result))
    for tries in by_case.values():
        _close(reviser, tries)


def _context(chain: _Chain) -> RevisionContext:
    principle, request = chain.principles[-1], chain.case.request
    requests = (
        fill_request(principle.critique_request, ""),
        fill_request(principle.revision_request, ""),
    )
    critique = chain.drafts[-1].critique
    return RevisionContext(
        request.prompt, request.harmful, chain.demonstrations, critique, requests
    )


def _close(reviser: Reviser, tries: Sequence[tuple[_Chain, CheckResult]]) -> None:
    """Keep the safest revision of a case that passes, or note why none did."""
    case = tries[0][0].case
    case.drafts = tries[-1][0].drafts or case.drafts
    outcomes = [result.outcome for _, result in tries]
    passed = [i for i, outcome in enumerate(outcomes) if outcome is Outcome.KEPT]
    for i in sorted(passed, key=lambda i: (tries[i][1].unsafe or 0.0, i)):
        chain, result = tries[i]
        if not reviser._openings.is_canned(result.text):
            case.final, case.drafts = result, chain.drafts
            reviser._openings.add(result.text)
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
