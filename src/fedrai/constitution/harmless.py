"""Harmless requests, answered by the model that is aligned, against over-refusal and forgetting.

Its own answers move it least. Where it refuses for no reason or talks nonsense, the base model
without the adapter answers, then the source's reference answer stands in; what none of them can
answer is dropped and counted. Every answer passes the same checks, whoever gave it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fedrai.constitution.records import Request
from fedrai.errors import RunError
from fedrai.evaluation.refusal import Reply, judge
from fedrai.guards.base import Guard
from fedrai.model import LanguageModel
from fedrai.model.generate import generate
from fedrai.records import Message

By = Literal["model", "base", "reference"]
Flaw = Literal["refuses", "degenerate", "unsafe", "unjudged"]
"""Why an answer does not do: it refuses; it is empty, cut off, loops or repeats the request; the
guard finds it unsafe; the guard has no verdict."""

CUT_SLACK = 2  # tokens by which the ids of a decoded answer may be fewer than were generated
LEAST_WORDS = 4  # of an answer that had to be trimmed
LOOP_WORDS, LOOPS = 6, 3  # as many words in a row, said as many times, are a loop


@dataclass(frozen=True, slots=True)
class HarmlessAnswer:
    """One harmless request and its answer.

    Attributes:
        request: what was asked.
        answer: what passed the checks; None where nothing did, and the request is dropped.
        refused: the model's own needless refusal, if it gave one.
        by: whose answer it is; None where there is none.
        failed: what was wrong with the answers before it, in order.
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


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers in the order of the requests, and what was done for them now.

    Attributes:
        answers: one for every request, the dropped ones too.
        tokens: that went through models, without those of answers that were passed in.
        operations: floating-point operations, counted from shapes.
        seconds: wall time.
    """

    answers: tuple[HarmlessAnswer, ...]
    tokens: int
    operations: float
    seconds: float


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
class _Work:
    """How answers are had and checked, and what that took."""

    model: LanguageModel
    guard: Guard | None
    threshold: float
    batch_size: int
    max_new_tokens: int
    tokens: int = 0
    operations: float = 0.0


def answer(
    requests: Sequence[Request],
    *,
    model: LanguageModel,
    guard: Guard | None = None,
    threshold: float = 0.5,
    base_only: bool = False,
    reference_share: float = 0.0,
    seed: int,
    batch_size: int,
    max_new_tokens: int,
    kept: Sequence[HarmlessAnswer] = (),
    on_answers: Callable[[Sequence[HarmlessAnswer]], None] = lambda _: None,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
    on_cost: Callable[[int, float], None] = lambda _tokens, _operations: None,
) -> Answered:
    """Answer harmless requests, greedily, in chunks of `batch_size`.

    Args:
        requests: harmless ones; with a reference answer where the source has one.
        model: answers as it stands, that is with the adapter that is in it.
        guard: judges request and answer together; None: answers are not judged.
        threshold: probability from which an answer is unsafe.
        base_only: only the base model answers, never the model as it stands.
        reference_share: part, 0 to 1, of the requests with a reference answer for which that is
            tried first; which ones depends on seed and request alone.
        seed: of that choice.
        batch_size: requests of a chunk.
        max_new_tokens: longest answer; what it cuts is trimmed to the last whole sentence.
        kept: what `on_answers` got of these requests before an interruption, in order.
        on_answers: called after every chunk with its answers; may raise to stop.
        on_progress: called with (requests done, of how many).
        on_cost: called after each chunk with the tokens and operations of this call so far.

    Returns:
        All answers, those of `kept` first; the same bits as without an interruption.

    Raises:
        RunError: `kept` is not a beginning of this work.
        GuardError: the guard as a whole cannot work.
    """
    _begins(kept, requests, batch_size)
    since = time.perf_counter()
    work = _Work(model, guard, threshold, batch_size, max_new_tokens)
    answers = list(kept)
    while len(answers) < len(requests):
        part = [_Open(r) for r in requests[len(answers) : len(answers) + batch_size]]
        _answer_chunk(work, part, base_only, _chosen(part, reference_share, seed))
        done = [entry.closed() for entry in part]
        answers += done
        on_answers(done)
        on_cost(work.tokens, work.operations)
        on_progress(len(answers), len(requests))
    return Answered(tuple(answers), work.tokens, work.operations, time.perf_counter() - since)


def _begins(kept: Sequence[HarmlessAnswer], requests: Sequence[Request], size: int) -> None:
    """Raise unless answers are those of the first chunks of requests."""
    whole = len(kept) == len(requests) or (len(kept) < len(requests) and len(kept) % size == 0)
    same = all(entry.request == request for entry, request in zip(kept, requests, strict=False))
    if not whole or not same:
        raise RunError(
            f"the {len(kept)} harmless answers to go on from are not the first ones of these"
            f" {len(requests)} requests in chunks of {size}",
            hint="start this alignment again, without its harmless answers",
        )


def _chosen(part: Sequence[_Open], share: float, seed: int) -> list[_Open]:
    """The requests whose reference answer is tried first."""

    def drawn(request: Request) -> float:
        digest = hashlib.sha256(json.dumps([seed, request.prompt]).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    return [entry for entry in part if entry.request.answer and drawn(entry.request) < share]


def _answer_chunk(
    work: _Work, part: Sequence[_Open], base_only: bool, referenced: Sequence[_Open]
) -> None:
    """Answer the requests of a chunk, by one source after the other."""
    _by_reference(work, referenced)
    if not base_only:
        _by_model(work, _left(part), "model")
    with work.model.using(None):
        _by_model(work, _left(part), "base")
    tried = {id(entry) for entry in referenced}
    _by_reference(work, [entry for entry in _left(part) if id(entry) not in tried])


def _left(part: Iterable[_Open]) -> list[_Open]:
    return [entry for entry in part if entry.answer is None]


def _by_reference(work: _Work, part: Iterable[_Open]) -> None:
    having = [entry for entry in part if entry.request.answer]
    _take(work, having, [entry.request.answer.strip() for entry in having], "reference")


def _by_model(work: _Work, part: Sequence[_Open], by: By) -> None:
    if not part:
        return
    found = generate(
        work.model,
        [[Message("user", entry.request.prompt)] for entry in part],
        max_new_tokens=work.max_new_tokens,
        batch_size=work.batch_size,
    )
    work.tokens += found.prompt_tokens + found.new_tokens
    work.operations += found.operations
    whole = [_whole(work, text) for text in found.answers]
    if by == "model":
        for entry, text in zip(part, whole, strict=True):
            entry.refused = text if judge(text) is Reply.REFUSAL else None
    _take(work, part, whole, by)


def _whole(work: _Work, text: str) -> str:
    """The answer without the sentence that the token limit cut; empty if too little is left."""
    ids = work.model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < work.max_new_tokens - CUT_SLACK:
        return text
    kept = trimmed(text)
    return kept if kept == text or len(kept.split()) >= LEAST_WORDS else ""


def _take(work: _Work, part: Sequence[_Open], texts: Sequence[str], by: By) -> None:
    """Take the texts that pass the checks as answers, and note what is wrong with the others."""
    flaws = _flaws(work, [entry.request.prompt for entry in part], texts)
    for entry, text, flaw in zip(part, texts, flaws, strict=True):
        if flaw:
            entry.failed.append(flaw)
        else:
            entry.answer, entry.by = text, by


def _flaws(work: _Work, prompts: Sequence[str], texts: Sequence[str]) -> list[Flaw | None]:
    found: list[Flaw | None] = [flaw(p, t) for p, t in zip(prompts, texts, strict=True)]
    rest = [i for i, problem in enumerate(found) if problem is None]
    if work.guard is None or not rest:
        return found
    turns = [(Message("user", prompts[i]), Message("assistant", texts[i])) for i in rest]
    judged = work.guard.judge(turns)
    work.tokens += judged.tokens
    work.operations += judged.operations
    for i, verdict in zip(rest, judged.verdicts, strict=True):
        if verdict.probability is None:
            found[i] = "unjudged"
        elif verdict.probability >= work.threshold:
            found[i] = "unsafe"
    return found


def flaw(request: str, text: str) -> Flaw | None:
    """What the text of an answer shows to be wrong with it, without a guard."""
    reply = judge(text)
    if reply is Reply.REFUSAL:
        return "refuses"
    words, asked = _words(text), _words(request)
    if reply is Reply.UNSCORED or words == asked or _loops(words):
        return "degenerate"
    return None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _loops(words: Sequence[str]) -> bool:
    runs = Counter(tuple(words[i : i + LOOP_WORDS]) for i in range(len(words) - LOOP_WORDS + 1))
    return max(runs.values(), default=0) >= LOOPS


_END = re.compile(r"""[.!?…]+["'”’)\]*]*(?=\s|$)""")
_NUMBER = re.compile(r"\s*(?:[-*•]\s*)?(?:\d{1,3}|[A-Za-z])")  # of an item, before its full stop


def trimmed(text: str) -> str:
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
