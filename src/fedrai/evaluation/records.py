"""What goes into an evaluation and what comes out: questions, judges, answers, the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedrai.evaluation.chats import Grader
from fedrai.evaluation.installed_judges import InstalledJudge
from fedrai.evaluation.labelled_answers import Label, PromptAndAnswer
from fedrai.evaluation.preference import Preferences
from fedrai.evaluation.refusal import Reply
from fedrai.evaluation.rubric import HARM, OURS, Grades, RatingPrompts
from fedrai.evaluation.suites import Declaration, Item, Suite
from fedrai.records import Message, OnProgress, Tokens, Verdict
from fedrai.runs.costs import Ledger

Exchange = tuple[Message, ...]
"""A request and its answer."""


def exchange(row: PromptAndAnswer) -> Exchange:
    """The turns of a request and its answer."""
    return Message("user", row.prompt), Message("assistant", row.answer)


class GuardVerdicts(Protocol):
    """A guard's verdicts, and their cost."""

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """One for each exchange, in their order."""

    @property
    def tokens(self) -> int:
        """Tokens that went through a model here."""

    @property
    def operations(self) -> float:
        """Floating-point operations."""


@dataclass(frozen=True, slots=True)
class GuardJudge:
    """A guard that judges answers in the light of their requests.

    Attributes:
        name: with its revision.
        threshold: probability from which an answer counts as unsafe.
        judge: takes exchanges and what is called with (judged, of how many); may raise to stop.
    """

    name: str
    threshold: float
    judge: Callable[[Sequence[Exchange], OnProgress], GuardVerdicts]


@dataclass(frozen=True, slots=True)
class RubricJudge:
    """An LLM that rates answers.

    Attributes:
        name: of the model.
        grader: who replies.
        prompts: what it is asked of MT-Bench's answers.
        template: what it is asked of StrongREJECT's.
        source: whose words the template is; it belongs beside every figure.
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
        """Their names, and the guard's threshold."""
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
    """What is asked, and how answers are made and judged.

    Attributes:
        harmful: of AdvBench.
        ordinary: ordinary instructions, with references where they have them.
        held_out: rows for the loss.
        max_new_tokens: longest answer.
        batch_size: prompts that are answered at once.
        temperature: 0 is greedy.
        top_p: nucleus of the sampling.
        seed: of the sampling.
        rated_tokens: longest answer that is rated.
        suites: what is asked beside AdvBench; names differ.
        judges: who judges.
        clusters: of AdvBench's near-duplicates, by item number.
        unavailable: why a suite that was asked for cannot be had, by name.
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
    suites: Sequence[Suite] = ()
    judges: Judges = field(default_factory=Judges)
    clusters: Mapping[int, int] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and its verdicts.

    Attributes:
        number: of the item.
        prompt: what was asked.
        answer: what the model said.
        reply: by our refusal rule.
        legacy: whether the legacy score counts it as safe.
        guard: probability that it is unsafe; None: no guard judged it, or it could not.
        score: by the suite's own measure (a rating, harm, ROUGE-L); None: none.
        labels: by name, the verdicts of judges from installed packages; None: not judged.
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
        """Whether our rule finds a refusal; None for an answer that is empty or broken."""
        return None if self.reply is Reply.UNSCORED else self.reply is Reply.REFUSAL

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return {
            "number": self.number,
            "prompt": self.prompt,
            "answer": self.answer,
            "reply": self.reply.value,
            "legacy": self.legacy,
            "guard": self.guard,
            "score": self.score,
            **({"labels": dict(self.labels)} if self.labels else {}),
        }


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The outcome of an evaluation.

    Attributes:
        answers: by suite ("advbench", "ordinary" and others).
        held_out_loss: mean cross-entropy per label token, in nats; `None` without held-out rows.
        held_out_tokens: how many label tokens that is.
        costs: what it took, by phase.
        preferences: by suite of pairs.
        grades: by suite, of the LLM that rates.
        suites: what was asked beside AdvBench.
        judges: who judged.
        clusters: of AdvBench's near-duplicates, by item number.
        unavailable: why a suite or its rating is not there, by name.
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
        """What is kept of each suite, item by item: answers with verdicts, or log-probabilities."""
        found = {name: [a.to_json() for a in part] for name, part in self.answers.items()}
        pairs = {n: [c.to_json() for c in p.choices] for n, p in self.preferences.items()}
        return found | pairs


def asks_for_harm(found: Declaration) -> bool:
    """Whether a good model declines what the suite asks, so that a guard can judge its answers."""
    return found.judge == "strongreject" or (found.judge == "refusal" and found.direction != "down")


def pool(found: Sequence[EvaluationResult]) -> EvaluationResult:
    """Several models measured by the same questions, as one: all their answers, the mean loss."""
    if len(found) == 1:
        return found[0]
    first = found[0]
    losses = [one.held_out_loss for one in found if one.held_out_loss is not None]
    costs = Ledger()
    for one in found:
        costs.merge(one.costs)
    return EvaluationResult(
        answers={s: [a for one in found for a in one.answers[s]] for s in first.answers},
        held_out_loss=sum(losses) / len(losses) if losses else None,
        held_out_tokens=sum(one.held_out_tokens for one in found),
        costs=costs,
        preferences={s: Preferences.joined([one.preferences[s] for one in found])
                     for s in first.preferences},
        grades={s: Grades.joined([one.grades[s] for one in found])
                for s in first.grades if all(s in one.grades for one in found)},
        suites=first.suites,
        judges=first.judges,
        clusters=first.clusters,
        unavailable={name: why for one in found for name, why in one.unavailable.items()},
    )  # fmt: skip
