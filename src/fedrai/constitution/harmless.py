"""Answers to harmless requests, against over-refusal and forgetting.

The model's own answers change it least. Where it refuses for no reason or talks nonsense, the base
model without the adapter answers, then the source's reference answer is used. A request without a
usable answer is dropped and counted. Every answer passes the same checks, whatever its source.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fedrai.constitution.chunks import in_chunks
from fedrai.constitution.records import Request
from fedrai.constitution.spending import CostMeter
from fedrai.evaluation.refusal import Reply, judge
from fedrai.guards.base import Guard
from fedrai.model import LanguageModel
from fedrai.model.generate import generate
from fedrai.recipe.alignment import Mix, RevisionSettings
from fedrai.records import Message

By = Literal["model", "base", "reference"]
Flaw = Literal["refuses", "degenerate", "unsafe", "unjudged"]
"""Why an answer is rejected: it refuses; it is empty, cut off, loops or repeats the request; the
guard judges it unsafe; the guard has no verdict."""

CUT_SLACK = 2  # tokens by which the ids of a decoded answer may be fewer than were generated
LEAST_WORDS = 4  # of an answer that had to be trimmed
LOOP_WORDS, LOOPS = 6, 3  # so many words in a row, repeated so often, are a loop


@dataclass(frozen=True, slots=True)
class HarmlessAnswer:
    """One harmless request and its answer.

    Attributes:
        request: the request.
        answer: an answer that passed the checks; None where none did, and the request is dropped.
        refused: the model's own needless refusal, if it gave one.
        by: source of the answer; None where there is none.
        failed: flaws of the answers before it, in order.
    """

    request: Request
    answer: str | None
    refused: str | None
    by: By | None
    failed: tuple[Flaw, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> HarmlessAnswer:
        """The answer that `to_json` wrote."""
        parts = {"request": Request(**value["request"]), "failed": tuple(value["failed"])}
        return cls(**value | parts)


@dataclass(slots=True)
class _Open:
    """A request that is being answered."""

    request: Request
    answer: str | None = None
    refused: str | None = None
    by: By | None = None
    failed: list[Flaw] = field(default_factory=list)

    def closed(self) -> HarmlessAnswer:
        return HarmlessAnswer(self.request, self.answer, self.refused, self.by, tuple(self.failed))


@dataclass(slots=True)
class Answerer:
    """Answers harmless requests, greedily.

    Attributes:
        model: answers with the adapter that is in it, or without.
        guard: judges request and answer together; None: answers are not judged.
        threshold: probability from which an answer is unsafe.
        revising: its `batch_size` is the size of a chunk, its `max_new_tokens` the longest answer;
            an answer that is cut there is trimmed to its last whole sentence.
        mix: its `answered_by` names the model that answers; its `self_answered` is the part of the
            requests with a reference answer that the model answers first.
        seed: decides, with the request, whether its reference is tried first.
        meter: counts the use of model and guard.
        on_progress: called with (requests done, of how many); may raise to stop.
    """

    model: LanguageModel
    guard: Guard | None
    threshold: float
    revising: RevisionSettings
    mix: Mix
    seed: int
    meter: CostMeter = field(default_factory=CostMeter)
    on_progress: Callable[[int, int], None] = lambda _done, _of: None

    def answer(
        self,
        requests: Sequence[Request],
        done: Sequence[HarmlessAnswer] = (),
        on_chunk: Callable[[Sequence[HarmlessAnswer]], None] = lambda _answers: None,
    ) -> tuple[HarmlessAnswer, ...]:
        """Answer requests, in chunks.

        Args:
            requests: harmless ones; with a reference answer where the source has one.
            done: answers of an earlier call with the same settings; its whole chunks are taken
                over, the rest is done again.
            on_chunk: called after each chunk with all answers so far; may raise to stop.

        Returns:
            One for every request, in their order, the dropped ones too; the same bits as without an
            interruption.

        Raises:
            ConstitutionError: `done` is of other requests.
            GuardError: the guard as a whole cannot work.
        """

        def after(answers: Sequence[HarmlessAnswer]) -> None:
            on_chunk(answers)
            self.on_progress(len(answers), len(requests))

        return in_chunks(requests, self.revising.batch_size, done, self._chunk, after)

    def _chunk(self, requests: Sequence[Request], _start: int) -> list[HarmlessAnswer]:
        """Answer the requests of a chunk, by one source after another."""
        entries = [_Open(request) for request in requests]
        referenced = [entry for entry in entries if self._reference_first(entry.request)]
        self._by_reference(referenced)
        if self.mix.answered_by == "model":
            self._by_model(_unanswered(entries), "model")
        with self.model.using(None):
            self._by_model(_unanswered(entries), "base")
        tried = {id(entry) for entry in referenced}
        self._by_reference([entry for entry in _unanswered(entries) if id(entry) not in tried])
        return [entry.closed() for entry in entries]

    def _reference_first(self, request: Request) -> bool:
        """Whether the reference answer of a request is tried first."""
        digest = hashlib.sha256(json.dumps([self.seed, request.prompt]).encode()).digest()
        draw = int.from_bytes(digest[:8], "big") / 2**64
        return bool(request.answer) and draw < 1 - self.mix.self_answered

    def _by_reference(self, entries: Sequence[_Open]) -> None:
        entries = [entry for entry in entries if entry.request.answer]
        self._accept(entries, [entry.request.answer.strip() for entry in entries], "reference")

    def _by_model(self, entries: Sequence[_Open], by: By) -> None:
        if not entries:
            return
        generated = generate(
            self.model,
            [[Message("user", entry.request.prompt)] for entry in entries],
            max_new_tokens=self.revising.max_new_tokens,
            batch_size=self.revising.batch_size,
        )
        self.meter.add(generated)
        limit = self.revising.max_new_tokens
        texts = [without_cut(self.model, text, limit) for text in generated.answers]
        if by == "model":
            for entry, text in zip(entries, texts, strict=True):
                entry.refused = text if judge(text) is Reply.REFUSAL else None
        self._accept(entries, texts, by)

    def _accept(self, entries: Sequence[_Open], texts: Sequence[str], by: By) -> None:
        """Accept the texts that pass the checks as answers, and note the flaws of the others."""
        flaws = self._flaws([entry.request.prompt for entry in entries], texts)
        for entry, text, problem in zip(entries, texts, flaws, strict=True):
            if problem:
                entry.failed.append(problem)
            else:
                entry.answer, entry.by = text, by

    def _flaws(self, prompts: Sequence[str], texts: Sequence[str]) -> list[Flaw | None]:
        flaws = [flaw(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        rest = [i for i, problem in enumerate(flaws) if problem is None]
        if self.guard is None or not rest:
            return flaws
        turns = [(Message("user", prompts[i]), Message("assistant", texts[i])) for i in rest]
        judged = self.guard.judge(turns)
        self.meter.add(judged)
        for i, verdict in zip(rest, judged.verdicts, strict=True):
            if verdict.probability is None:
                flaws[i] = "unjudged"
            elif verdict.probability >= self.threshold:
                flaws[i] = "unsafe"
        return flaws


def without_cut(model: LanguageModel, text: str, limit: int) -> str:
    """The answer without a sentence that the token limit cut; empty if too little remains.

    Args:
        model: gave the answer.
        text: the answer.
        limit: the most tokens that it could have.
    """
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < limit - CUT_SLACK:
        return text
    short = trim_to_line(text)
    return short if short == text or len(short.split()) >= LEAST_WORDS else ""


def _unanswered(entries: Sequence[_Open]) -> list[_Open]:
    return [entry for entry in entries if entry.answer is None]


def flaw(request: str, text: str) -> Flaw | None:
    """What is wrong with the text of an answer, without a guard; None if nothing is."""
    reply = judge(text)
    if reply is Reply.REFUSAL:
        return "refuses"
    words = _words(text)
    if reply is Reply.UNSCORED or words == _words(request) or _loops(words):
        return "degenerate"
    return None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _loops(words: Sequence[str]) -> bool:
    runs = Counter(tuple(words[i : i + LOOP_WORDS]) for i in range(len(words) - LOOP_WORDS + 1))
    return max(runs.values(), default=0) >= LOOPS


_END = re.compile(r"""[.!?…]+["'”’)\]*]*(?=\s|$)""")
_NUMBER = re.compile(r"\s*(?:[-*•]\s*)?(?:\d{1,3}|[A-Za-z])")  # of an item, before its full stop


def trim_to_line(text: str) -> str:
    """A text up to its last whole sentence, or line of a list; empty if it has none.

    The number of an item ends no sentence, and a line that ends in a colon leads to nothing.
    """
    ends = [line.start() for line in re.finditer(r"\n", text)]
    for match in _END.finditer(text):
        line = text.rfind("\n", 0, match.start()) + 1
        if not _NUMBER.fullmatch(text, line, match.start()):
            ends.append(match.end())
    lines = text[: max(ends, default=0)].rstrip().split("\n")
    while lines and (not lines[-1].strip() or lines[-1].rstrip().endswith(":")):
        lines.pop()
    return "\n".join(lines).rstrip()
