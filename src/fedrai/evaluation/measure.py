"""Safety and usefulness of a model as it stands: ask, judge, count.

Safety: the share of harmful requests that are refused, by our refusal rule and by the legacy
keyword score. Beside it, always: the share of ordinary instructions that are refused, and the loss
on held-out answers, since a model that refuses everything is safe and worthless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrai.costs import Cost, Ledger, training_operations
from fedrai.evaluation.legacy import legacy_safe
from fedrai.evaluation.refusal import Reply, judge
from fedrai.evaluation.statistics import Rate, rate, rate_json
from fedrai.evaluation.suites import Item
from fedrai.generate import generate
from fedrai.model import LanguageModel
from fedrai.records import Message, Tokens
from fedrai.train import held_out_loss

LOSS_BATCH = 16


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked, and how answers are made."""

    harmful: Sequence[Item]
    ordinary: Sequence[Item]
    held_out: Sequence[Tokens]
    max_new_tokens: int
    batch_size: int
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and its verdicts."""

    number: int
    prompt: str
    answer: str
    reply: Reply
    legacy: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return {
            "number": self.number,
            "prompt": self.prompt,
            "answer": self.answer,
            "reply": self.reply.value,
            "legacy": self.legacy,
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """The outcome of an evaluation.

    Attributes:
        answers: by suite ("advbench", "ordinary").
        held_out_loss: mean cross-entropy per label token, in nats; `None` without held-out rows.
        held_out_tokens: how many label tokens that is.
        costs: what it took, by phase.
    """

    answers: Mapping[str, Sequence[Answer]]
    held_out_loss: float | None
    held_out_tokens: int
    costs: Ledger


def measure(
    model: LanguageModel,
    questions: Questions,
    on_progress: Callable[[str, int, int], None] = lambda _suite, _done, _of: None,
) -> Measured:
    """Evaluate the model with its adapter as it stands.

    Args:
        model: the model.
        questions: what is asked.
        on_progress: called with (suite, answers done, of how many); may raise to stop.
    """
    ledger = Ledger()
    answers = {}
    suites = {"advbench": questions.harmful, "ordinary": questions.ordinary}
    for suite, items in suites.items():
        if items:
            with ledger.measure("evaluation"):
                answers[suite] = _ask(model, suite, items, questions, ledger, on_progress)
    loss, labels = None, 0
    if questions.held_out:
        with ledger.measure("evaluation"):
            loss, labels = held_out_loss(model, questions.held_out, LOSS_BATCH)
        tokens = sum(len(row.ids) for row in questions.held_out)
        operations = training_operations(
            model.shape(), tokens, labels, tokens / len(questions.held_out)
        )
        ledger.add("evaluation", Cost(tokens=tokens, operations=operations / 2))
    return Measured(answers, loss, labels, ledger)


def _ask(
    model: LanguageModel,
    suite: str,
    items: Sequence[Item],
    questions: Questions,
    ledger: Ledger,
    on_progress: Callable[[str, int, int], None],
) -> list[Answer]:
    made = generate(
        model,
        [[Message("user", item.prompt)] for item in items],
        max_new_tokens=questions.max_new_tokens,
        batch_size=questions.batch_size,
        temperature=questions.temperature,
        top_p=questions.top_p,
        seed=questions.seed,
        on_batch=lambda done, of: on_progress(suite, done, of),
    )
    ledger.add(
        "evaluation",
        Cost(tokens=made.prompt_tokens + made.new_tokens, operations=made.operations),
    )
    return [
        Answer(item.number, item.prompt, text, judge(text), legacy_safe(text))
        for item, text in zip(items, made.answers, strict=True)
    ]


def rates(answers: Mapping[str, Sequence[Answer]]) -> dict[str, Rate]:
    """The rates that can be formed: `safe`, `safe-legacy`, `refused` (ordinary instructions).

    An unscored answer (empty or broken) is neither safe nor unsafe in `safe`; the legacy score has
    no such state and counts it as unsafe.
    """
    found = {}
    if "advbench" in answers:
        found["safe"] = rate(_refused(a) for a in answers["advbench"])
        found["safe-legacy"] = rate(a.legacy for a in answers["advbench"])
    if "ordinary" in answers:
        found["refused"] = rate(_refused(a) for a in answers["ordinary"])
    return found


def _refused(answer: Answer) -> bool | None:
    return None if answer.reply is Reply.UNSCORED else answer.reply is Reply.REFUSAL


def figures(measured: Measured) -> dict[str, Any]:
    """The figures of an evaluation as plain values: counts, intervals, loss, costs."""
    return {
        "rates": {name: rate_json(value) for name, value in rates(measured.answers).items()},
        "held_out_loss": measured.held_out_loss,
        "held_out_tokens": measured.held_out_tokens,
        "costs": measured.costs.to_json(),
    }
