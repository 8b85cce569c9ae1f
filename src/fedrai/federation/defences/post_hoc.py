"""`post-hoc`: train the aggregated adapter on safe answers that the start gave itself.

After "Emerging Safety Attack and Defense in Federated Instruction Tuning of Large Language Models"
(arXiv 2406.10630), as we read it: the server makes its own safe data with an aligned model and
trains the aggregated one on them after each round. Here the aligned model is the start, so nothing
is needed from outside. It answers harmful and harmless requests greedily, once in a run. Of the
harmful ones the answers that decline are kept, of the harmless ones whole and fluent ones that do
not; in equal numbers, as long as both last, so that the training does not teach to decline
everything.

Answers are kept in the run folder, chunk by chunk. A resumed training starts over from the same
seed and ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fedrai.constitution.chunks import in_chunks
from fedrai.constitution.harmless import flaw, without_cut
from fedrai.constitution.records import Request
from fedrai.constitution.storing import read_records, write_records
from fedrai.evaluation.refusal import Reply, judge
from fedrai.federation.defences.base import OnProgress, Outcome, Task, ignore
from fedrai.federation.defences.rows import tokenized
from fedrai.model import AdapterState, LanguageModel
from fedrai.model.generate import generate
from fedrai.recipe.sections import seed_for
from fedrai.records import Message, Tokens
from fedrai.runs.costs import Cost
from fedrai.training.sft import SftSettings, train

CHUNK = 16  # requests that are answered at once


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the start."""

    request: Request
    answer: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Answer:
        """The answer that `to_json` wrote."""
        return cls(Request(**value["request"]), str(value["answer"]))


@dataclass(slots=True)
class PostHoc:
    """Training on the start's own safe answers.

    Attributes:
        model: the base model.
        start: the adapter that answers.
        requests: harmful and harmless requests.
        settings: of the training.
        seed: the recipe's.
        max_new_tokens: longest answer.
        max_length: longest row, in tokens.
        file: where answers are kept.
        on_progress: told of answers and steps; may raise to stop.
    """

    model: LanguageModel
    start: AdapterState
    requests: Sequence[Request]
    settings: SftSettings
    seed: int
    max_new_tokens: int
    max_length: int
    file: Path
    on_progress: OnProgress = ignore
    _spent: Cost = field(default_factory=Cost)

    def after(self, task: Task) -> Outcome:
        """The trained adapter.

        Raises:
            RunError, ChecksumError: kept answers are damaged.
        """
        self._spent = Cost()
        rows, report = self._rows()
        if not rows:
            return Outcome(task.adapter, report, self._spent)
        adapter, result = train(
            self.model, task.adapter, rows, self.settings,
            seed=seed_for(self.seed, "post-hoc", task.number),
            on_step=lambda step: self.on_progress("training", step.step, step.steps),
        )  # fmt: skip
        cost = self._spent + Cost(tokens=result.tokens, operations=result.operations)
        ends = {"loss_first": result.losses[0], "loss_last": result.losses[-1]}
        return Outcome(adapter, {**report, "steps": len(result.losses), **ends}, cost)

    def _rows(self) -> tuple[list[Tokens], dict[str, Any]]:
        """Rows to train on, and the counts of the answers."""
        answers = [
            replace(one, answer=without_cut(self.model, one.answer, self.max_new_tokens))
            for one in self._answers()
        ]
        harmful, harmless = safe_answers(answers)
        chats = [_chat(answer) for answer in (*harmful, *harmless)]
        rows = tokenized(self.model, chats, self.max_length)
        counts = {"asked": len(self.requests), "declined": len(harmful), "helped": len(harmless)}
        return rows, {"rows": len(rows), **counts}

    def _answers(self) -> Sequence[Answer]:
        done = read_records(self.file, Answer)
        if len(done) == len(self.requests):
            return done
        with self.model.using(self.start):
            return in_chunks(self.requests, CHUNK, done, self._chunk, self._keep)

    def _chunk(self, requests: Sequence[Request], _start: int) -> list[Answer]:
        prompts = [[Message("user", request.prompt)] for request in requests]
        made = generate(
            self.model, prompts, max_new_tokens=self.max_new_tokens, batch_size=len(prompts)
        )
        self._spent = self._spent + Cost(tokens=made.tokens, operations=made.operations)
        return [Answer(*pair) for pair in zip(requests, made.answers, strict=True)]

    def _keep(self, answers: Sequence[Answer]) -> None:
        write_records(self.file, answers)
        self.on_progress("answers", len(answers), len(self.requests))


def safe_answers(answers: Sequence[Answer]) -> tuple[list[Answer], list[Answer]]:
    """Harmful requests that were declined and harmless ones with a good answer, as many of each."""
    harmful = [a for a in answers if a.request.harmful and judge(a.answer) is Reply.REFUSAL]
    harmless = [
        a for a in answers if not a.request.harmful and flaw(a.request.prompt, a.answer) is None
    ]
    if harmful and harmless:
        size = min(len(harmful), len(harmless))
        return harmful[:size], harmless[:size]
    return harmful, harmless


def _chat(answer: Answer) -> list[Message]:
    return [Message("user", answer.request.prompt), Message("assistant", answer.answer)]
