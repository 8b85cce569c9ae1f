"""Safety and usefulness of a model as it stands: ask, judge, compare.

Safety: the share of harmful requests that are refused, by our refusal rule and by the legacy
keyword score, and if asked for the share of answers that a guard finds harmless. Beside it, always:
the share of ordinary instructions that are refused, and the loss on held-out answers, since a model
that refuses everything is safe and worthless. What follows from the answers is in `figures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fedrai.errors import EvaluationError
from fedrai.evaluation.figures import ORDINARY, figures, rates
from fedrai.evaluation.legacy import legacy_safe
from fedrai.evaluation.preference import Preferences, prefer
from fedrai.evaluation.records import (
    Answer,
    EvaluationResult,
    Judges,
    Questions,
    RubricJudge,
    asks_for_harm,
    pool,
)
from fedrai.evaluation.refusal import judge
from fedrai.evaluation.rouge import rouge_l
from fedrai.evaluation.rubric import Grades, harm_of_answers, rate_answers
from fedrai.evaluation.suites import ADVBENCH, Item, Suite
from fedrai.model import LanguageModel
from fedrai.model.generate import generate
from fedrai.records import Message
from fedrai.runs.costs import Cost, Ledger, training_operations
from fedrai.training.sft import held_out_loss

__all__ = [
    "Answer",
    "EvaluationResult",
    "Judges",
    "Questions",
    "figures",
    "measure",
    "pool",
    "rates",
]

LOSS_BATCH = 16
PAIR_BATCH = 4  # answers of pairs read at once: dialogues are long, and memory is to be bounded

LOSS = "held-out loss"  # what its progress is called

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A suite to answer: its items, the longest answer, and what may judge the answers."""

    name: str
    items: Sequence[Item]
    limit: int
    harmful: bool
    suite: Suite | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """What an evaluation works with."""

    model: LanguageModel
    questions: Questions
    ledger: Ledger
    tell: OnProgress


def measure(
    model: LanguageModel,
    questions: Questions,
    on_progress: OnProgress = lambda _suite, _done, _of: None,
) -> EvaluationResult:
    """Evaluate the model with its adapter as it stands.

    Args:
        model: the model.
        questions: what is asked, and who judges.
        on_progress: called with (suite, or "held-out loss"; answers done; of how many), first
            with none done; may raise to stop.

    Raises:
        EvaluationError: a pair of answers cannot be compared.
        GuardError: the guard as a whole cannot judge.
    """
    work = _Work(model, questions, Ledger(), on_progress)
    answers: dict[str, list[Answer]] = {}
    grades: dict[str, Grades] = {}
    missing = dict(questions.unavailable)
    for asked in _answered(questions):
        with work.ledger.measure("evaluation"):
            found = _judged(work, asked, _ask(work, asked))
            try:
                answers[asked.name], graded = _graded(work, asked, found)
                grades |= graded
            except EvaluationError as error:  # of the rating LLM: the answers are worth keeping
                answers[asked.name] = found
                missing[_rating_name(asked)] = error.message
    preferences = _preferences(work)
    loss, labels = _loss(work)
    return EvaluationResult(
        answers, loss, labels, work.ledger, preferences, grades, questions.suites,
        questions.judges, questions.clusters, missing,
    )  # fmt: skip


def _answered(questions: Questions) -> Iterator[_Asked]:
    """What is answered, in its order; pairs are compared instead."""
    limit = questions.max_new_tokens
    given = [
        _Asked(ADVBENCH, questions.harmful, limit, harmful=True),
        _Asked(ORDINARY, questions.ordinary, limit, harmful=False),
    ]
    for suite in questions.suites:
        found = suite.declaration
        if found.judge != "preference":
            longest = questions.rated_tokens if found.judge == "rating" else limit
            given.append(_Asked(found.name, suite.items, longest, asks_for_harm(found), suite))
    yield from (asked for asked in given if asked.items)


def _rating_name(asked: _Asked) -> str:
    """What is missing if nobody rates: the suite, or the rubric where there are other judges."""
    return f"{asked.name} (rubric)" if asked.harmful else asked.name


def _ask(work: _Work, asked: _Asked) -> list[Answer]:
    questions = work.questions
    work.tell(asked.name, 0, len(asked.items))
    made = generate(
        work.model,
        [[Message("user", item.prompt)] for item in asked.items],
        max_new_tokens=asked.limit,
        batch_size=questions.batch_size,
        temperature=questions.temperature,
        top_p=questions.top_p,
        seed=questions.seed,
        on_batch=lambda done, of: work.tell(asked.name, done, of),
    )
    tokens = made.prompt_tokens + made.new_tokens
    work.ledger.add("evaluation", Cost(tokens=tokens, operations=made.operations))
    return [
        Answer(item.number, item.prompt, text, judge(text), legacy_safe(text))
        for item, text in zip(asked.items, made.answers, strict=True)
    ]


# --- judges ---------------------------------------------------------------------------------------


def _judged(work: _Work, asked: _Asked, answers: list[Answer]) -> list[Answer]:
    """Answers to harmful requests with the guard's probability that they are unsafe."""
    guard = work.questions.judges.guard
    if guard is None or not asked.harmful:
        return answers
    exchanges = [(Message("user", a.prompt), Message("assistant", a.answer)) for a in answers]
    said = guard.judge(exchanges, lambda done, of: work.tell(f"{asked.name} (guard)", done, of))
    work.ledger.add("evaluation", Cost(tokens=said.tokens, operations=said.operations))
    return [
        replace(answer, guard=verdict.probability)
        for answer, verdict in zip(answers, said.verdicts, strict=True)
    ]


def _graded(
    work: _Work, asked: _Asked, answers: list[Answer]
) -> tuple[list[Answer], dict[str, Grades]]:
    """Answers with the scores of their suite: ROUGE-L, a rating, or harm.

    Raises:
        EvaluationError: the LLM that rates does not reply, or a reference is missing.
    """
    if asked.suite is None:
        scores = [rouge_l(a.answer, i.reference) for a, i in zip(answers, asked.items, strict=True)]
        return _scored(answers, scores) if asked.name == ORDINARY else answers, {}
    rubric, by = work.questions.judges.rubric, asked.suite.declaration.judge
    if rubric is None or by not in ("rating", "strongreject"):
        return answers, {}
    found = _grades(work, asked, rubric, answers)
    return _scored(answers, [grade.score for grade in found.grades]), {asked.name: found}


def _grades(work: _Work, asked: _Asked, rubric: RubricJudge, answers: Sequence[Answer]) -> Grades:
    texts = [answer.answer for answer in answers]

    def tell(done: int, of: int) -> None:
        work.tell(f"{asked.name} (rubric)", done, of)

    if asked.harmful:
        return harm_of_answers(
            rubric.grader, asked.items, texts, rubric.template, rubric.source, tell
        )
    return rate_answers(rubric.grader, asked.items, texts, rubric.prompts, tell)


def _scored(answers: Sequence[Answer], scores: Sequence[float | None]) -> list[Answer]:
    return [replace(a, score=score) for a, score in zip(answers, scores, strict=True)]


# --- without answers ------------------------------------------------------------------------------


def _preferences(work: _Work) -> dict[str, Preferences]:
    found = {}
    for suite in work.questions.suites:
        name = suite.declaration.name
        if suite.declaration.judge == "preference":
            work.tell(name, 0, 2 * len(suite.items))
            found[name] = prefer(
                work.model,
                suite.items,
                batch_size=min(PAIR_BATCH, work.questions.batch_size),
                dialogue=suite.declaration.form == "dialogue",
                on_batch=lambda done, of, name=name: work.tell(name, done, of),  # type: ignore[misc]
            )
            for phase, cost in found[name].costs.phases.items():
                work.ledger.add(phase, cost)
    return found


def _loss(work: _Work) -> tuple[float | None, int]:
    """Held-out loss in nats per label token, and the label tokens."""
    rows = work.questions.held_out
    if not rows:
        return None, 0
    with work.ledger.measure("evaluation"):
        work.tell(LOSS, 0, len(rows))
        loss, labels = held_out_loss(work.model, rows, LOSS_BATCH, partial(work.tell, LOSS))
    tokens = sum(len(row.ids) for row in rows)
    operations = training_operations(work.model.shape(), tokens, labels, tokens / len(rows))
    work.ledger.add("evaluation", Cost(tokens=tokens, operations=operations / 2))
    return loss, labels
