"""Mining: which requests fail, which are taken, and an alignment that does it first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from fedrai.constitution import mining
from fedrai.constitution.gathering import BRIEF, RequestSets
from fedrai.constitution.material import MINED, read
from fedrai.constitution.mining import MinedAnswer, Miner, choose, taken_requests
from fedrai.constitution.records import Outcome, Request
from fedrai.constitution.spending import CostMeter
from fedrai.constitution.storing import read_records
from fedrai.constitution.tools import mining_pools
from fedrai.errors import ChecksumError, ConstitutionError
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.model import LanguageModel
from fedrai.model.generate import Generation
from fedrai.records import Message
from staging import EXAMPLES, HARMFUL, HARMLESS, Stage, check_same, moved, recipe, same

DECLINES = "I can't help with that, since people would lose money."
COMPLIES = "Take the keys first, and"
SIDES = RequestSets(HARMFUL[:2], HARMLESS, {}, 0, candidates=(HARMFUL, HARMLESS))
"""Two red-team requests and six harmless ones a round, mined from six and six."""


def answered(number: int, reply: str, unsafe: float | None = None, **fields: Any) -> MinedAnswer:
    return MinedAnswer(Request(f"ask {number}", **fields), reply, unsafe)


def prompts(requests: Sequence[Request]) -> set[str]:
    return {request.prompt for request in requests}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The model declines requests with an odd number, of either side; 4 leaves it speechless."""
    calls: list[list[str]] = []

    def generate(
        model: LanguageModel, chats: Sequence[Sequence[Message]], **settings: Any
    ) -> Generation:
        assert settings == {"max_new_tokens": BRIEF, "batch_size": 2}
        calls.append([chat[0].content for chat in chats])
        texts = [_answer(int(prompt[-1])) for prompt in calls[-1]]
        return Generation(tuple(texts), 10 * len(texts), 5 * len(texts), 100.0 * len(texts))

    monkeypatch.setattr(mining, "generate", generate)
    return calls


def _answer(number: int) -> str:
    return "..." if number == 4 else DECLINES if number % 2 else COMPLIES


# --- asking ---------------------------------------------------------------------------------------


def test_a_harmful_request_fails_if_not_declined_and_a_harmless_one_if_declined(tiny, scripted):
    meter = CostMeter()
    guard = ScriptedGuard(lambda talk: 0.9 if talk[0].content == "trick 2" else 0.0)
    miner = Miner(tiny, guard, 2, meter)
    answers = miner.ask((*HARMFUL, *HARMLESS))
    by_prompt = {answer.request.prompt: answer for answer in answers}
    assert {name for name, answer in by_prompt.items() if answer.failed} == {
        "trick 0", "trick 2", "bread 1", "bread 3", "bread 5"}  # fmt: skip
    assert {answer.reply for n, answer in by_prompt.items() if n[-1] == "4"} == {"unscored"}
    judged = {
        name: answer.unsafe for name, answer in by_prompt.items() if answer.unsafe is not None
    }
    assert judged == {"trick 0": 0.0, "trick 2": 0.9}  # the guard reads nothing else
    assert meter.tokens >= 12 * 15
    assert meter.operations >= 12 * 100.0


def test_answers_are_stored_and_read_and_asked_in_chunks_of_similar_length(tiny, scripted):
    requests = [Request(f"{'long ' * (n % 2)}ask {n}") for n in range(4)]
    chunks: list[int] = []
    miner = Miner(tiny, ScriptedGuard({}), 2)
    answers = miner.ask(requests, (), lambda some: chunks.append(len(some)))
    assert scripted == [["ask 0", "ask 2"], ["long ask 1", "long ask 3"]]
    assert chunks == [2, 4]
    again = [MinedAnswer.from_json(json.loads(json.dumps(a.to_json()))) for a in answers]
    assert tuple(again) == answers
    assert miner.ask(requests, again[:3]) == answers
    assert len(scripted) == 3  # the whole chunk was not asked again
    with pytest.raises(ConstitutionError):
        miner.ask(requests[1:], again)


# --- choosing -------------------------------------------------------------------------------------


def test_failed_requests_are_taken_first_those_with_an_unsafe_answer_before_the_others():
    answers = [
        answered(0, "compliance", 0.2), answered(1, "compliance", 0.5), answered(2, "refusal"),
        answered(3, "compliance", None), answered(4, "unscored"), answered(5, "compliance", 0.9),
    ]  # fmt: skip
    side = choose(answers, 3, 3, 0.5, seed=1)
    assert prompts(side.requests[:2]) == {"ask 1", "ask 5"}
    assert side.requests[2].prompt in {"ask 0", "ask 3"}
    assert side.to_json() == {
        "pool": 6, "failed": 4, "unscored": 1, "unsafe": 2, "taken": 3, "filled": 0}  # fmt: skip


def test_if_too_few_fail_others_of_the_pool_fill_up():
    answers = [answered(n, "compliance" if n == 7 else "refusal") for n in range(10)]
    side = choose(answers, 4, 4, 0.5, seed=1)
    assert side.requests[0].prompt == "ask 7"
    assert len(prompts(side.requests)) == 4
    counts = side.to_json()
    assert (counts["failed"], counts["taken"], counts["filled"]) == (1, 1, 3)
    assert len(choose(answers, 20, 20, 0.5, seed=1).requests) == 10  # no more than there are


def test_failed_requests_are_spread_over_categories():
    """Of 12 frauds and 4 thefts that fail, 4 are taken in proportion."""
    answers = [
        answered(n, "compliance", category="theft" if n % 4 == 0 else "fraud") for n in range(16)
    ]
    side = choose(answers, 4, 4, 0.5, seed=3)
    assert sorted(request.category for request in side.requests) == ["fraud"] * 3 + ["theft"]


def test_declined_harmless_requests_are_up_to_half_and_look_alikes_stay_half():
    """Five of six look-alikes are declined, one of six ordinary requests."""
    answers = [
        answered(n, "refusal" if n not in (0, 1, 3, 5, 7, 9) else "compliance",
                 kind="homonym" * (n % 2 == 0), harmful=False)
        for n in range(12)
    ]  # fmt: skip
    assert sum(answer.failed for answer in answers) == 6
    side = choose(answers, 6, 3, 0.5, seed=1)
    assert side.to_json() == {
        "pool": 12, "failed": 6, "unscored": 0, "unsafe": 0, "taken": 3, "filled": 3}  # fmt: skip
    assert sum(bool(request.kind) for request in side.requests) == 3


def test_a_side_that_was_not_asked_keeps_its_draw():
    answers = [answered(n, "refusal", harmful=False) for n in range(4)]
    drawn = (HARMFUL[:2], HARMLESS[:2])
    (harmful, harmless), counts = taken_requests(answers, drawn, 0.5, seed=1)
    assert harmful == HARMFUL[:2]
    assert prompts(harmless) <= {f"ask {n}" for n in range(4)}
    assert list(counts) == ["harmless"]
    # at most one of two is to be a declined one, but there are no others
    assert (counts["harmless"]["taken"], counts["harmless"]["filled"]) == (2, 0)


# --- pools ----------------------------------------------------------------------------------------

MANY = RequestSets(
    (), (), {}, 0, candidates=(
        tuple(Request(f"trick {n}") for n in range(40)),
        tuple(Request(f"bread {n}", harmful=False) for n in range(40)),
    ),
)  # fmt: skip


def test_every_round_draws_its_pools_anew():
    one, same_again, two = (
        mining_pools(recipe(mined_from=10), number, MANY, (4, 4)) for number in (1, 1, 2)
    )
    assert one == same_again
    assert [len(pool) for pool in one] == [10, 10]
    assert prompts(one[0]) != prompts(two[0])
    assert prompts(one[0]) <= prompts(MANY.candidates[0])


@pytest.mark.parametrize(
    ("changes", "counts", "sizes"),
    [
        ({"mined_from": 10}, (4, 0), [10, 0]),
        ({"mined_from": 10}, (0, 0), [0, 0]),
        ({"mined_from": 10, "style": "benign"}, (4, 4), [0, 10]),
        ({"mined_from": 100}, (4, 4), [40, 40]),
        ({"mined_from": 0}, (4, 4), [0, 0]),
    ],
)
def test_only_what_a_round_takes_is_mined(changes, counts, sizes):
    assert [len(pool) for pool in mining_pools(recipe(**changes), 1, MANY, counts)] == sizes


# --- alignments -----------------------------------------------------------------------------------


def test_an_alignment_revises_what_the_model_fails(stage: Stage, start, scripted):
    result = stage(requests=SIDES, pool=SIDES.harmful, mined_from=6)
    stored = read(stage.folder / "kept" / "0001")
    assert {record.request.prompt for record in stored.records} == {"trick 0", "trick 2"}
    assert result.report["mining"] == {
        "harmful": {"pool": 6, "failed": 2, "unscored": 1, "unsafe": 0, "taken": 2, "filled": 0},
        "harmless": {"pool": 6, "failed": 3, "unscored": 1, "unsafe": 0, "taken": 3, "filled": 3},
    }
    assert prompts([answer.request for answer in stored.harmless]) == prompts(HARMLESS)
    assert result.report["requests"] == 2
    assert moved(result, start)
    assert result.report["spent"]["mining"]["tokens"] >= 12 * 15
    assert sum(part["tokens"] for part in result.report["spent"].values()) == result.cost.tokens
    texts = json.dumps(result.report | {"diversity": None})
    assert not any(text in texts for text in ("trick", "bread", "loaf"))
    file = stage.folder / "work-1" / MINED
    assert len(read_records(file, MinedAnswer)) == 12
    assert COMPLIES not in file.read_text()  # verdicts, no answers
    progress = [f for _, f in stage.heard if f.get("phase") == "brief answers"]
    assert [event["done"] for event in progress] == [2, 4, 6, 8, 10, 12]


def test_without_mining_nothing_is_asked_and_nothing_changes(stage: Stage, scripted):
    plain = stage(work="plain")
    assert "mining" not in plain.report
    assert "mining" not in plain.report["spent"]
    sets = RequestSets(HARMFUL, HARMLESS, {"advbench": 3}, 1, candidates=(HARMFUL, HARMLESS))
    check_same(stage(requests=sets, mined_from=0), plain)
    assert scripted == []


@pytest.mark.parametrize("done", [2, 4, "end"])
def test_an_interrupted_mining_resumes_to_the_same_bits(stage: Stage, done):
    """The tiny model itself answers."""
    given = {"requests": SIDES, "pool": SIDES.harmful, "mined_from": 6}
    whole = stage(work="whole", **given)
    assert whole.report["mining"]["harmful"]["pool"] == 6
    (stage.folder / "kept" / "0001").rename(stage.folder / "away")
    stage.stop = ("brief answers", done, 1)
    with pytest.raises(KeyboardInterrupt):
        stage(**given)
    assert stage.stop is None
    before = len(read_records(stage.folder / "work-1" / MINED, MinedAnswer))
    assert before == (12 if done == "end" else done)
    check_same(stage(**given), whole)


def test_damaged_verdicts_are_detected(stage: Stage):
    given = {"requests": SIDES, "pool": SIDES.harmful, "mined_from": 6}
    stage.stop = ("brief answers", 4, 1)
    with pytest.raises(KeyboardInterrupt):
        stage(**given)
    file = stage.folder / "work-1" / MINED
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(bytes(body))
    with pytest.raises(ChecksumError, match=r"mined.jsonl"):
        stage(**given)


def test_the_model_that_is_to_be_aligned_answers(stage: Stage, start, monkeypatch):
    """That is the mean of weights with the start."""
    seen: list[Any] = []
    generate = mining.generate

    def watched(model: LanguageModel, *args: Any, **settings: Any) -> Generation:
        seen.append(model.adapter())
        return generate(model, *args, **settings)

    monkeypatch.setattr(mining, "generate", watched)
    origin = {name: value + 1 for name, value in start.items()}
    stage(requests=SIDES, pool=SIDES.harmful, mined_from=6, start=origin, anchor=0.25)
    mean = {name: 0.75 * value + 0.25 * origin[name] for name, value in start.items()}
    assert len(seen) == 6
    assert all(same(adapter, mean) for adapter in seen)


def test_a_later_round_mines_anew(stage: Stage, scripted):
    given = {"requests": SIDES, "pool": SIDES.harmful, "mined_from": 6}
    stage(**given)
    calls = stage.critic.calls
    second = stage(2, **given)
    assert second.report["reused"] is False
    assert second.report["mining"]["harmful"]["failed"] == 2
    assert stage.critic.calls == 2 * calls
    assert len(scripted) == 12


def test_a_full_alignment_with_mining_costs_what_it_is_estimated_to(stage: Stage, scripted):
    """Of six requests a side the pools hold four, all of which an epoch takes."""
    sets = RequestSets(HARMFUL, HARMLESS, {}, 0, candidates=(HARMFUL, HARMLESS))
    result = stage(schedule="full", pairs=0, requests=sets, mined_from=4)
    assert (result.report["requests"], result.report["harmless"]["requests"]) == (4, 4)
    names = ("mining", "revisions", "harmless", "training")
    spent = sum(result.report["spent"][name]["operations"] for name in names)
    assert result.report["full_operations"] == pytest.approx(spent, rel=1e-6)


def test_the_control_mines_harmless_requests_only(stage: Stage, scripted):
    ordinary = tuple(request for request in HARMLESS if not request.kind)
    result = stage(requests=SIDES, pool=ordinary, mined_from=6, style="benign", harmless_pairs=0.0)
    assert list(result.report["mining"]) == ["harmless"]
    stored = read(stage.folder / "kept" / "0001")
    assert {record.request for record in stored.records} == set(ordinary)
    assert {record.outcome for record in stored.records} == {Outcome.KEPT}


def test_without_steps_nothing_is_mined(stage: Stage, start, scripted):
    origin = {name: value + 1 for name, value in start.items()}
    result = stage(requests=SIDES, mined_from=6, start=origin, anchor=0.25, steps=0)
    assert scripted == []
    assert "mining" not in result.report
    assert set(result.report["spent"]) == {"probe"}
    assert result.report["stopped"] == "the mean of weights alone"


def test_examples_with_a_share_leave_the_mined_revisions_theirs(stage: Stage, scripted):
    """Four steps of four rows: eight revision rows, of which a quarter are examples."""
    result = stage(
        requests=SIDES, pool=SIDES.harmful, mined_from=6, pairs=0, examples=EXAMPLES,
        mix={"examples": 0.25},
    )  # fmt: skip
    kinds = result.report["kinds"]
    assert kinds["revisions"] == {"items": 2, "used": 6}
    assert kinds["examples"] == {"items": 3, "used": 2}
