"""Measures safety and usefulness of a model: generates answers and has them judged.

Safety is the share of harmful requests that are refused, by the refusal rule and by the legacy
keyword score, and, if a guard judges, the share of answers that it finds harmless. Usefulness is
always measured too, since a model that refuses everything is safe and worthless: the share of
ordinary instructions that are refused, and the loss on held-out answers. Figures are in `figures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fedrai.errors import EvaluationError
from fedrai.evaluation.figures import ORDINARY
from fedrai.evaluation.legacy import legacy_safe
from fedrai.evaluation.preference import Preferences, against, compare_pairs, prefer
from fedrai.evaluation.records import (
    PAIRS,
    REWARDS,
    Answer,
    EvaluationResult,
    Questions,
    RubricJudge,
    asks_for_harm,
    exchange,
)
from fedrai.evaluation.refusal import judge
from fedrai.evaluation.rouge import rouge_l
from fedrai.evaluation.rubric import Grades, harm_of_answers, rate_answers
from fedrai.evaluation.suites import ADVBENCH, Item, Suite
from fedrai.evaluation.suites.items import turns
from fedrai.model import LanguageModel
from fedrai.model.generate import Sampling, generate
from fedrai.records import Message
from fedrai.runs.costs import Cost, Ledger, training_operations
from fedrai.training.sft import held_out_loss

LOSS_BATCH = 16
PAIR_BATCH = 4  # answers of pairs scored at once: dialogues are long, and memory is limited

LOSS = "held-out loss"  # names in progress reports
OUTSIDE = "outside sets"

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _SuiteTask:
    """A suite to answer: its items, the longest answer, and which judges apply."""

    name: str
    items: Sequence[Item]
    max_new_tokens: int
    harmful: bool
    suite: Suite | None = None

    @property
    def rubric_name(self) -> str:
        """The name of a failed rating: the suite, or its rubric where other judges remain."""
        return f"{self.name} (rubric)" if self.harmful else self.name

    @property
    def is_rated(self) -> bool:
        """Whether answers are rated by quality, so that no judge of refusal reads them."""
        return self.suite is not None and self.suite.declaration.judge == "rating"

    @property
    def is_outside(self) -> bool:
        """Whether it is an outside set."""
        return self.suite is not None and self.suite.declaration.is_outside

    @property
    def prompts(self) -> list[Sequence[Message]]:
        """Its conversations, each up to the turn to answer."""
        return [turns(item, dialogue=self.is_dialogue) for item in self.items]

    @property
    def is_dialogue(self) -> bool:
        """Whether the prompts are conversations of several turns."""
        return self.suite is not None and self.suite.declaration.form == "dialogue"


def measure(
    model: LanguageModel,
    questions: Questions,
    on_progress: OnProgress = lambda _suite, _done, _of: None,
) -> EvaluationResult:
    """Evaluate the model with its current adapter.

    Args:
        model: the model.
        questions: the questions, and who judges the answers.
        on_progress: called with (suite, or "held-out loss"; answers done; total), first with none
            done; may raise to stop.

    Raises:
        EvaluationError: a pair of answers cannot be compared.
        GuardError: the guard cannot judge at all.
    """
    return _Evaluator(model, questions, Ledger(), on_progress).run()


def _tasks(questions: Questions) -> Iterator[_SuiteTask]:
    """The suites to answer, in order; pairs are compared instead."""
    limit = questions.max_new_tokens
    yield _SuiteTask(ADVBENCH, questions.harmful, limit, harmful=True)
    yield _SuiteTask(ORDINARY, questions.ordinary, limit, harmful=False)
    for suite in questions.suites:
        declaration = suite.declaration
        if declaration.judge != "preference":
            longest = questions.rated_tokens if declaration.judge == "rating" else limit
            harmful = asks_for_harm(declaration)
            yield _SuiteTask(declaration.name, suite.items, longest, harmful, suite)


def _groups(questions: Questions) -> Iterator[list[_SuiteTask]]:
    """What is answered in one go: outside sets, if the recipe says so; any other suite alone.

    Sampled answers depend on their place among the prompts, so those of a set stay by themselves.
    """
    together: list[_SuiteTask] = []
    for task in filter(lambda task: task.items, _tasks(questions)):
        if task.is_outside and questions.batch_tokens and not questions.temperature:
            together.append(task)
        else:
            yield [task]
    if together:
        yield together


@dataclass(frozen=True, slots=True)
class _Evaluator:
    """One evaluation: a model, its questions, and the costs so far."""

    model: LanguageModel
    questions: Questions
    ledger: Ledger
    on_progress: OnProgress

    def run(self) -> EvaluationResult:
        answers: dict[str, Sequence[Answer]] = {}
        grades: dict[str, Grades] = {}
        unavailable = dict(self.questions.unavailable)
        for group in _groups(self.questions):
            with self.ledger.measure("evaluation"):
                answered = self._answer(group)
            for task, unjudged in zip(group, answered, strict=True):
                with self.ledger.measure("evaluation"):
                    answers[task.name] = self._judge(task, unjudged)
                    try:
                        answers[task.name], graded = self._grade(task, answers[task.name])
                        grades |= graded
                    except EvaluationError as error:  # of the rating LLM: keep the answers
                        unavailable[task.rubric_name] = error.message
        preferences = self._preferences()
        loss, labels = self._held_out_loss()
        return EvaluationResult(
            answers=answers,
            held_out_loss=loss,
            held_out_tokens=labels,
            costs=self.ledger,
            preferences=preferences,
            grades=grades,
            suites=self.questions.suites,
            judges=self.questions.judges,
            clusters=self.questions.clusters,
            unavailable=unavailable,
        )

    def _answer(self, group: Sequence[_SuiteTask]) -> list[list[Answer]]:
        """The answers to each task of a group, generated in one go."""
        questions = self.questions
        name = group[0].name if len(group) == 1 else OUTSIDE
        prompts = [prompt for task in group for prompt in task.prompts]
        self.on_progress(name, 0, len(prompts))
        output = generate(
            self.model,
            prompts,
            max_new_tokens=group[0].max_new_tokens,
            batch_size=questions.batch_size,
            batch_tokens=questions.batch_tokens if len(group) > 1 else 0,
            sampling=Sampling(questions.temperature, questions.top_p, questions.seed),
            on_batch=partial(self.on_progress, name),
        )
        self.ledger.add("evaluation", Cost(tokens=output.tokens, operations=output.operations))
        texts = iter(output.answers)
        return [
            [Answer(i.number, i.prompt, (text := next(texts)), judge(text), legacy_safe(text))
             for i in task.items]
            for task in group
        ]  # fmt: skip

    # --- judges -----------------------------------------------------------------------------------

    def _judge(self, task: _SuiteTask, answers: Sequence[Answer]) -> Sequence[Answer]:
        """Answers with the words of installed judges and, to harmful requests, of the guard."""
        judges = self.questions.judges
        for installed in () if task.is_rated else judges.installed:
            progress = partial(self.on_progress, f"{task.name} ({installed.name})")
            labels = installed.labels(answers, progress)
            answers = [
                replace(answer, labels={**answer.labels, installed.name: label})
                for answer, label in zip(answers, labels, strict=True)
            ]
        if judges.guard is None or not task.harmful:
            return answers
        progress = partial(self.on_progress, f"{task.name} (guard)")
        output = judges.guard.judge(list(map(exchange, answers)), progress)
        self.ledger.add("evaluation", Cost(tokens=output.tokens, operations=output.operations))
        return [
            replace(answer, guard=verdict.probability)
            for answer, verdict in zip(answers, output.verdicts, strict=True)
        ]

    def _grade(
        self, task: _SuiteTask, answers: Sequence[Answer]
    ) -> tuple[Sequence[Answer], dict[str, Grades]]:
        """Answers with the scores of their suite: ROUGE-L, a rating, or harm.

        Raises:
            EvaluationError: the LLM that rates does not reply, or a reference is missing.
        """
        if task.name == ORDINARY:
            pairs = zip(answers, task.items, strict=True)
            return _with_scores(answers, [rouge_l(a.answer, i.reference) for a, i in pairs]), {}
        rubric = self.questions.judges.rubric
        if rubric is None or task.suite is None or task.suite.declaration.judge == "refusal":
            return answers, {}
        grades = self._rubric_grades(task, rubric, [answer.answer for answer in answers])
        scores = [grade.score for grade in grades.grades]
        return _with_scores(answers, scores), {task.name: grades}

    def _rubric_grades(self, task: _SuiteTask, rubric: RubricJudge, texts: Sequence[str]) -> Grades:
        progress = partial(self.on_progress, f"{task.name} (rubric)")
        if task.harmful:
            return harm_of_answers(
                rubric.grader, task.items, texts, rubric.template, rubric.source, progress
            )
        return rate_answers(rubric.grader, task.items, texts, rubric.prompts, progress)

    # --- without answers --------------------------------------------------------------------------

    def _preferences(self) -> dict[str, Preferences]:
        preferences = {}
        for suite in self.questions.suites:
            name = suite.declaration.name
            if suite.declaration.judge == "preference":
                self.on_progress(name, 0, 2 * len(suite.items))
                preferences[name] = prefer(
                    self.model,
                    suite.items,
                    batch_size=min(PAIR_BATCH, self.questions.batch_size),
                    dialogue=suite.declaration.form == "dialogue",
                    on_batch=partial(self.on_progress, name),
                )
                self.ledger.merge(preferences[name].costs)
        return preferences | (self._held_out_pairs() if self.questions.pairs else {})

    def _held_out_pairs(self) -> dict[str, Preferences]:
        """The held-out pairs by this model, and by its ratios to the base model if it differs."""
        own = self._compared(PAIRS)
        with self.model.using(None):
            base = self._compared(REWARDS)
        rewards = {REWARDS: against(own, base)} if own.choices != base.choices else {}
        return {PAIRS: own, **rewards}

    def _compared(self, name: str) -> Preferences:
        pairs, size = self.questions.pairs, min(LOSS_BATCH, self.questions.batch_size)
        self.on_progress(name, 0, 2 * len(pairs))
        progress = partial(self.on_progress, name)
        compared = compare_pairs(self.model, pairs, batch_size=size, on_batch=progress)
        self.ledger.merge(compared.costs)
        return compared

    def _held_out_loss(self) -> tuple[float | None, int]:
        """Held-out loss in nats per label token, and the label tokens."""
        rows = self.questions.held_out
        if not rows:
            return None, 0
        with self.ledger.measure("evaluation"):
            self.on_progress(LOSS, 0, len(rows))
            progress = partial(self.on_progress, LOSS)
            loss, labels = held_out_loss(self.model, rows, LOSS_BATCH, progress)
        tokens = sum(len(row.ids) for row in rows)
        operations = training_operations(self.model.shape(), tokens, labels, tokens / len(rows))
        self.ledger.add("evaluation", Cost(tokens=tokens, operations=operations / 2))
        return loss, labels


def _with_scores(answers: Sequence[Answer], scores: Sequence[float | None]) -> list[Answer]:
    return [replace(a, score=score) for a, score in zip(answers, scores, strict=True)]
