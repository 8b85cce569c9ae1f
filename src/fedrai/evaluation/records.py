"""The records of an evaluation: questions, judges, answers, and the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fedrai.evaluation.chats import Grader
from fedrai.evaluation.installed_judges import InstalledJudge
from fedrai.evaluation.labelled_answers import Label, PromptAndAnswer
from fedrai.evaluation.preference import Preferences
from fedrai.evaluation.refusal import Reply
from fedrai.evaluation.rubric import HARM, OURS, Grades, RatingPrompts
from fedrai.evaluation.suites import Declaration, Item, Suite
from fedrai.records import (
    Conversation,
    Message,
    OnProgress,
    PreferencePair,
    Tokens,
    VerdictBatch,
)
from fedrai.runs.costs import Ledger

PAIRS = "held-out-pairs"
"""The name of the recipe's held-out pairs among the suites of pairs."""
REWARDS = "held-out-rewards"
"""The same pairs by log-ratios to the base model: the rewards of DPO, without beta."""


def exchange(row: PromptAndAnswer) -> Conversation:
    """The turns of a request and its answer."""
    return Message("user", row.prompt), Message("assistant", row.answer)


@dataclass(frozen=True, slots=True)
class GuardJudge:
    """A guard that judges answers together with their requests.

    Attributes:
        name: its name with its revision.
        threshold: probability from which an answer counts as unsafe.
        judge: takes exchanges and a progress callback.
    """

    name: str
    threshold: float
    judge: Callable[[Sequence[Conversation], OnProgress], VerdictBatch]


@dataclass(frozen=True, slots=True)
class RubricJudge:
    """An LLM that rates answers.

    Attributes:
        name: the model's name.
        grader: replies to prompts.
        prompts: prompts that rate MT-Bench's answers.
        template: prompt that grades StrongREJECT's answers.
        source: the template's author; belongs beside every figure.
    """

    name: str
    grader: Grader
    prompts: RatingPrompts = OURS
    template: str = HARM
    source: str = "fedrai"


@dataclass(frozen=True, slots=True)
class Judges:
    """Who judges answers; without the refusal rule or the legacy score their rates are left out."""

    rule: bool = True
    legacy: bool = True
    guard: GuardJudge | None = None
    rubric: RubricJudge | None = None
    installed: Sequence[InstalledJudge] = ()

    def to_json(self) -> dict[str, Any]:
        """The judges' names, and the guard's threshold."""
        names: dict[str, Any] = {"rule": self.rule, "legacy": self.legacy}
        if self.guard:
            names["guard"] = {"name": self.guard.name, "threshold": self.guard.threshold}
        if self.rubric:
            names["rubric"] = {
                "model": self.rubric.name,
                "prompts": self.rubric.prompts.name,
                "template": self.rubric.source,
            }
        if self.installed:
            names["installed"] = [judge.full_name for judge in self.installed]
        return names


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of an evaluation, and how answers are generated and judged.

    Attributes:
        harmful: items of AdvBench.
        ordinary: ordinary instructions, with references where available.
        held_out: rows for the loss.
        max_new_tokens: longest answer.
        batch_size: prompts answered at once.
        temperature: 0 is greedy.
        top_p: nucleus of the sampling.
        seed: for sampling.
        rated_tokens: longest answer to be rated.
        batch_tokens: most tokens of a batch of prompts of outside sets, answered together; 0: set
            by set.
        suites: further suites, with distinct names.
        judges: the judges of the answers.
        clusters: clusters of AdvBench's near-duplicates, by item number.
        unavailable: why a requested suite is not available, by name.
        pairs: held-out preference pairs; empty: none are compared.
    """

    harmful: Sequence[Item]
    ordinary: Sequence[Item]
    held_out: Sequence[Tokens]
    max_new_tokens: int
    batch_size: int
    temperature: float
    top_p: float
    seed: int
    rated_tokens: int = 512
    batch_tokens: int = 0
    suites: Sequence[Suite] = ()
    judges: Judges = field(default_factory=Judges)
    clusters: Mapping[int, int] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    pairs: Sequence[PreferencePair] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and its verdicts.

    Attributes:
        number: the item's number.
        prompt: the request.
        answer: the model's answer.
        reply: the refusal rule's verdict.
        legacy: whether the legacy score counts it as safe.
        guard: probability that it is unsafe; None: not judged by a guard, or unscored.
        score: score on the suite's own measure (a rating, harm, ROUGE-L); None: not scored.
        labels: verdicts of judges from installed packages, by name; None: not judged.
    """

    number: int
    prompt: str
    answer: str
    reply: Reply
    legacy: bool
    guard: float | None = None
    score: float | None = None
    labels: Mapping[str, Label | None] = field(default_factory=dict)

    @property
    def refused(self) -> bool | None:
        """Whether it is a refusal by the refusal rule; None for an empty or broken answer."""
        return None if self.reply is Reply.UNSCORED else self.reply is Reply.REFUSAL

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name; labels only where an installed judge gave any."""
        row = asdict(self) | {"reply": self.reply.value}
        return row if self.labels else {k: v for k, v in row.items() if k != "labels"}


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The result of an evaluation.

    Attributes:
        answers: answers by suite ("advbench", "ordinary" and others).
        held_out_loss: mean cross-entropy per label token, in nats; `None` without held-out rows.
        held_out_tokens: label tokens of the held-out rows.
        costs: costs by phase.
        preferences: results of the suites of pairs, by suite; `PAIRS` and `REWARDS` stand for the
            recipe's own.
        grades: grades of the LLM that rates, by suite.
        suites: suites other than AdvBench and the ordinary instructions.
        judges: the judges of the answers.
        clusters: clusters of AdvBench's near-duplicates, by item number.
        unavailable: why a suite or its rating is missing, by name.
    """

    answers: Mapping[str, Sequence[Answer]]
    held_out_loss: float | None
    held_out_tokens: int
    costs: Ledger
    preferences: Mapping[str, Preferences] = field(default_factory=dict)
    grades: Mapping[str, Grades] = field(default_factory=dict)
    suites: Sequence[Suite] = ()
    judges: Judges = field(default_factory=Judges)
    clusters: Mapping[int, int] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Each suite's rows, item by item: answers with verdicts, or log-probabilities."""
        answers = {name: [a.to_json() for a in part] for name, part in self.answers.items()}
        pairs = {n: [c.to_json() for c in p.choices] for n, p in self.preferences.items()}
        return answers | pairs


def asks_for_harm(suite: Declaration) -> bool:
    """Whether a good model declines the suite's requests, so that a guard can judge its answers."""
    return suite.judge == "strongreject" or (suite.judge == "refusal" and suite.direction != "down")


def pool(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """Several models' results on the same questions, as one: all answers, the mean loss."""
    if len(results) == 1:
        return results[0]
    first = results[0]
    losses = [result.held_out_loss for result in results if result.held_out_loss is not None]
    costs = Ledger()
    for result in results:
        costs.merge(result.costs)
    return replace(
        first,
        answers={s: [a for result in results for a in result.answers[s]] for s in first.answers},
        held_out_loss=sum(losses) / len(losses) if losses else None,
        held_out_tokens=sum(result.held_out_tokens for result in results),
        costs=costs,
        preferences={
            s: Preferences.joined([result.preferences[s] for result in results])
            for s in first.preferences
            if all(s in result.preferences for result in results)
        },
        grades={
            s: Grades.joined([result.grades[s] for result in results])
            for s in first.grades
            if all(s in result.grades for result in results)
        },
        unavailable={name: why for result in results for name, why in result.unavailable.items()},
    )
