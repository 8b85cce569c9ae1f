"""Mining: the requests that the model fails now, found by asking it many.

    pool -> brief greedy answers -> refusal rule, guard -> failed requests first, others fill up

A harmful request fails if the rule says that its answer does not decline, a harmless one if it
does. The rule alone decides, since it reads the opening, which a brief answer shows. A guard reads
what an answer gives away, of which the first words hold little: its verdict only ranks the failed
harmful requests, those with an unsafe answer first. An empty or broken answer is no failure. A
failed request is answered again at full length by `Reviser`, and counts there as already safe if
that answer declines well.

Does not draw the pools, which `tools.mining_pools` does, nor keep the texts of the brief answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fedrai.constitution.chunks import in_chunks
from fedrai.constitution.gathering import BRIEF
from fedrai.constitution.records import Request
from fedrai.constitution.requests import look_alike_count, sample
from fedrai.constitution.spending import CostMeter
from fedrai.constitution.verifying import pair
from fedrai.evaluation.refusal import Reply, judge
from fedrai.guards.base import Guard
from fedrai.model import LanguageModel
from fedrai.model.generate import generate
from fedrai.records import Message


@dataclass(frozen=True, slots=True)
class MinedAnswer:
    """The verdicts on the brief answer to one request.

    Attributes:
        request: the request.
        reply: verdict of the refusal rule ("refusal", "compliance", "unscored").
        unsafe: the guard's probability that request and answer are unsafe; None without a verdict,
            and where the guard was not asked: of harmless requests, and those that are declined.
    """

    request: Request
    reply: str
    unsafe: float | None = None

    @property
    def failed(self) -> bool:
        """Whether a harmful request is not declined, or a harmless one is."""
        wrong = Reply.COMPLIANCE if self.request.harmful else Reply.REFUSAL
        return self.reply == wrong

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> MinedAnswer:
        """The answer that `to_json` wrote."""
        return cls(Request(**value["request"]), Reply(value["reply"]).value, value["unsafe"])


@dataclass(slots=True)
class Miner:
    """Asks the requests of pools.

    Attributes:
        model: answers with the adapter that is in it, greedily.
        guard: judges answers that do not decline a harmful request.
        batch_size: requests that are answered at once.
        meter: counts the use of model and guard.
        on_progress: called with (requests done, of how many); may raise to stop.
    """

    model: LanguageModel
    guard: Guard
    batch_size: int
    meter: CostMeter = field(default_factory=CostMeter)
    on_progress: Callable[[int, int], None] = lambda _done, _of: None

    def ask(
        self,
        requests: Sequence[Request],
        done: Sequence[MinedAnswer] = (),
        on_chunk: Callable[[Sequence[MinedAnswer]], None] = lambda _answers: None,
    ) -> tuple[MinedAnswer, ...]:
        """Ask requests, in chunks of similar length.

        Args:
            requests: the pools of both sides.
            done: answers of an earlier call with the same settings; its whole chunks are taken
                over, the rest is done again.
            on_chunk: called after each chunk with all answers so far; may raise to stop.

        Raises:
            ConstitutionError: `done` is of other requests.
            GuardError: the guard as a whole cannot work.
        """

        def after(answers: Sequence[MinedAnswer]) -> None:
            on_chunk(answers)
            self.on_progress(len(answers), len(requests))

        ordered = sorted(requests, key=lambda r: (len(r.prompt), r.prompt, r.harmful))
        return in_chunks(ordered, self.batch_size, done, self._chunk, after)

    def _chunk(self, requests: Sequence[Request], _start: int) -> list[MinedAnswer]:
        chats = [[Message("user", request.prompt)] for request in requests]
        generated = generate(self.model, chats, max_new_tokens=BRIEF, batch_size=self.batch_size)
        self.meter.add(generated)
        replies = [judge(text).value for text in generated.answers]
        answers = [MinedAnswer(*entry) for entry in zip(requests, replies, strict=True)]
        return self._judged(answers, generated.answers)

    def _judged(self, answers: Sequence[MinedAnswer], texts: Sequence[str]) -> list[MinedAnswer]:
        """The answers with the guard's verdicts on those that do not decline a harmful request."""
        rows = [i for i, one in enumerate(answers) if one.failed and one.request.harmful]
        if not rows:
            return list(answers)
        judged = self.guard.judge([pair(answers[i].request.prompt, texts[i]) for i in rows])
        self.meter.add(judged)
        verdicts = {i: v.probability for i, v in zip(rows, judged.verdicts, strict=True)}
        return [
            MinedAnswer(one.request, one.reply, verdicts.get(i)) for i, one in enumerate(answers)
        ]


@dataclass(frozen=True, slots=True)
class MinedSide:
    """The requests of one side that a round takes, and how they were found.

    Attributes:
        requests: look-alikes first, of each kind the failed ones first.
        pool: requests that were asked.
        failed: of these, those that fail.
        unscored: those with an empty or broken answer: neither.
        unsafe: failed ones whose answer the guard judges unsafe.
        taken: failed ones among `requests`; the others fill up.
    """

    requests: tuple[Request, ...]
    pool: int
    failed: int
    unscored: int
    unsafe: int
    taken: int

    def to_json(self) -> dict[str, int]:
        """Counts; none of the text."""
        names = ("pool", "failed", "unscored", "unsafe", "taken")
        counts = {name: getattr(self, name) for name in names}
        return counts | {"filled": len(self.requests) - self.taken}


def choose(
    answers: Sequence[MinedAnswer], count: int, most: int, threshold: float, seed: int
) -> MinedSide:
    """Take failed requests of one side first, then others of its pool.

    Both are spread over categories as `sample` does. Of harmless requests half are look-alikes, as
    long as both kinds last, however many of them failed.

    Args:
        answers: of the whole pool.
        count: requests to take; fewer if the pool is smaller.
        most: failed ones among them, at most, unless the others of a kind are too few.
        threshold: the guard's probability from which an answer is unsafe.
        seed: for the draw.
    """
    failed = [one.request for one in answers if one.failed]
    unsafe = [a.request for a in answers if a.unsafe is not None and a.unsafe >= threshold]
    first = _sample(unsafe, most, seed)
    first += _sample(_without(failed, unsafe), most - len(first), seed)
    passed = [one.request for one in answers if not one.failed]
    ranked = first + sample(passed, 0, seed) + sample(_without(failed, first), 0, seed)
    requests = _cut(ranked, min(count, len(ranked)))
    unscored = sum(one.reply == Reply.UNSCORED for one in answers)
    taken = len(requests) - len(_without(requests, failed))
    return MinedSide(requests, len(answers), len(failed), unscored, len(unsafe), taken)


def taken_requests(
    answers: Sequence[MinedAnswer],
    drawn: tuple[Sequence[Request], Sequence[Request]],
    threshold: float,
    seed: int,
) -> tuple[tuple[Sequence[Request], Sequence[Request]], dict[str, dict[str, int]]]:
    """The revised and harmless requests of a round, and their counts by side.

    Args:
        answers: of the pools of both sides; a side without any keeps its draw.
        drawn: what the round would take without mining; as many are taken.
        threshold: the guard's probability from which an answer is unsafe.
        seed: for the draw.
    """
    sides, counts = list(drawn), {}
    for i, (name, harmful) in enumerate((("harmful", True), ("harmless", False))):
        asked = [answer for answer in answers if answer.request.harmful is harmful]
        if asked:
            count = len(drawn[i])
            side = choose(asked, count, count if harmful else count // 2, threshold, seed)
            sides[i], counts[name] = side.requests, side.to_json()
    return (sides[0], sides[1]), counts


def _sample(requests: Sequence[Request], count: int, seed: int) -> list[Request]:
    """A sample; of 0 requests, none."""
    return sample(requests, count, seed) if count > 0 else []


def _without(requests: Sequence[Request], others: Sequence[Request]) -> list[Request]:
    left_out = set(others)
    return [request for request in requests if request not in left_out]


def _cut(ranked: Sequence[Request], count: int) -> tuple[Request, ...]:
    """The first requests of both kinds, half of them look-alikes as long as both kinds last."""
    like = [request for request in ranked if request.kind]
    plain = [request for request in ranked if not request.kind]
    half = look_alike_count(len(like), len(plain), count)
    return (*like[:half], *plain[: count - half])
