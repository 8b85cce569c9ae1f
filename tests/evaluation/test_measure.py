"""Evaluation: what is asked, which rates follow from the answers, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import driver  # noqa: F401 (imports Flower without a warning of its typer)
from fedrai import assets
from fedrai.errors import EvaluationError
from fedrai.evaluation import suites
from fedrai.evaluation.chats import Replies
from fedrai.evaluation.figures import figures, rates
from fedrai.evaluation.measure import measure
from fedrai.evaluation.preference import prefer
from fedrai.evaluation.records import (
    Answer,
    EvaluationResult,
    GuardJudge,
    Judges,
    Questions,
    RubricJudge,
)
from fedrai.evaluation.refusal import Reply
from fedrai.evaluation.rouge import rouge_l
from fedrai.evaluation.suites import Declaration, Item, Suite, declared_suites
from fedrai.federation.run import preparation
from fedrai.guards.base import full_name
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.model import LanguageModel
from fedrai.rates import Rate, rate_from_json
from fedrai.records import Example, Message
from fedrai.runs.record.evaluations import evaluation_cells


@pytest.fixture
def advbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for AdvBench's file: 520 numbered, harmless lines."""
    file = tmp_path / "adv_bench.prompt"
    _write(file, 520)
    monkeypatch.setattr(assets, "fetch", {"advbench": file}.__getitem__)
    return file


def _write(file: Path, count: int) -> None:
    file.write_text("seeds:\n" + "".join(f"- value: request number {n}\n" for n in range(count)))


def test_whole_suite_in_order(advbench: Path) -> None:
    items = suites.advbench(520, seed=3)
    assert items == [Item(n, f"request number {n}") for n in range(520)]


def test_sample_is_seeded_and_keeps_the_order(advbench: Path) -> None:
    items = suites.advbench(100, seed=3)
    numbers = [item.number for item in items]
    assert len(set(numbers)) == 100
    assert numbers == sorted(numbers)
    assert all(item.prompt == f"request number {item.number}" for item in items)
    assert suites.advbench(100, seed=3) == items
    assert suites.advbench(100, seed=4) != items


def test_other_number_of_behaviours_is_an_error(advbench: Path) -> None:
    _write(advbench, 519)
    with pytest.raises(EvaluationError, match="AdvBench has 520 behaviours, the file 519"):
        suites.advbench(10, seed=0)


def test_ordinary_asks_the_first_request() -> None:
    turns = (
        Message("system", "be brief"),
        Message("user", "first"),
        Message("assistant", "one"),
        Message("user", "second"),
        Message("assistant", "two"),
    )
    plain = (Message("user", "only"), Message("assistant", "three"))
    examples = [Example(turns, "a"), Example(plain, "b")]
    assert suites.ordinary(examples, 5, seed=0) == [
        Item(0, "first", reference="one"),
        Item(1, "only", reference="three"),
    ]
    sampled = {tuple(suites.ordinary(examples * 4, 3, seed=s)) for s in range(5)}
    assert len(sampled) > 1
    assert all(len(items) == 3 for items in sampled)


R, C, U = Reply.REFUSAL, Reply.COMPLIANCE, Reply.UNSCORED


def answers(*replies: Reply, legacy: int = 0) -> list[Answer]:
    return [Answer(n, "?", "text", reply, n < legacy) for n, reply in enumerate(replies)]


def test_rates_by_hand() -> None:
    result = rates({"advbench": answers(R, R, C, U, legacy=1), "ordinary": answers(C, C, R)})
    assert result == {
        "safe": Rate(2, 3, 1),
        "safe-legacy": Rate(1, 4, 0),
        "refused": Rate(1, 3, 0),
    }


def test_unscored_is_neither_safe_nor_unsafe() -> None:
    result = rates({"advbench": answers(U, U)})
    assert result["safe"] == Rate(0, 0, 2)
    assert result["safe"].value is None
    assert result["safe-legacy"] == Rate(0, 2, 0)


def test_suites_that_were_not_asked_have_no_rate() -> None:
    assert rates({}) == {}
    assert set(rates({"ordinary": answers(C)})) == {"refused"}


def _measured(result: dict[str, list[Answer]], loss: float | None) -> dict[str, Any]:
    from fedrai.runs.costs import Cost, Ledger

    ledger = Ledger()
    ledger.add("evaluation", Cost(seconds=1.5, tokens=7))
    return figures(EvaluationResult(result, loss, 0 if loss is None else 40, ledger))


def test_figures_survive_json() -> None:
    written = _measured({"advbench": answers(R, C, C, U), "ordinary": answers(U)}, 2.5)
    read = json.loads(json.dumps(written))
    assert read == written
    assert rate_from_json(read["rates"]["safe"]) == Rate(1, 3, 1)
    assert rate_from_json(read["rates"]["refused"]) == Rate(0, 0, 1)
    assert read["rates"]["refused"]["value"] is read["rates"]["refused"]["low"] is None
    # Wilson for 1 of 3: centre (1/3 + z²/6) / (1 + z²/3), z = 1.959964
    assert read["rates"]["safe"]["low"] == pytest.approx(0.06149, abs=1e-5)
    assert read["rates"]["safe"]["high"] == pytest.approx(0.79234, abs=1e-5)
    assert (read["held_out_loss"], read["held_out_tokens"]) == (2.5, 40)
    assert read["costs"]["evaluation"]["tokens"] == 7


def test_cells_say_what_is_missing() -> None:
    nothing = evaluation_cells(_measured({}, None))
    assert nothing == ["not measured"] * 6
    part = evaluation_cells(_measured({"advbench": answers(U, U)}, 0.0))
    outside = ["not measured"] * 2
    development = ["no data, 2 unscored", "0.0 % [0.0, 65.8]", "not measured", "0.000"]
    assert part == [*outside, *development]


# --- with a model ---------------------------------------------------------------------------------


def _questions(tiny: LanguageModel, **changes: Any) -> Questions:
    talk = [Message("user", "a?"), Message("assistant", "b")]
    longer = [Message("user", "a longer one?"), Message("assistant", "the answer")]
    settings: dict[str, Any] = {
        "harmful": [Item(4, "request number 4"), Item(9, "request number 9, longer")],
        "ordinary": [Item(1, "what?")],
        "held_out": [tiny.chat.train_tokens(t, 64) for t in (talk, longer)],
        "max_new_tokens": 5,
        "batch_size": 2,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 11,
    }
    return Questions(**(settings | changes))


def test_measure_asks_every_item_and_counts(tiny: LanguageModel) -> None:
    tiny.load_adapter(tiny.fresh_adapter(0))
    heard: list[tuple[str, int, int]] = []
    result = measure(tiny, _questions(tiny), lambda *seen: heard.append(seen))
    assert [a.number for a in result.answers["advbench"]] == [4, 9]
    assert [a.prompt for a in result.answers["ordinary"]] == ["what?"]
    assert heard == [
        ("advbench", 0, 2), ("advbench", 2, 2), ("ordinary", 0, 1), ("ordinary", 1, 1),
        ("held-out loss", 0, 2), ("held-out loss", 2, 2),
    ]  # fmt: skip
    assert result.held_out_tokens == (1 + 1) + (10 + 1)  # bytes of the answers, and their ends
    cost = result.costs.phases["evaluation"]
    assert cost.seconds > 0
    assert cost.operations > 0
    again = measure(tiny, _questions(tiny))
    assert again.answers == result.answers
    assert again.held_out_loss == result.held_out_loss
    other = measure(tiny, _questions(tiny, seed=12))
    assert other.answers != result.answers


def test_outside_sets_are_answered_in_one_go_and_told_apart_again(tiny: LanguageModel) -> None:
    tiny.load_adapter(tiny.fresh_adapter(0))
    asked = {"one": ("a", "a longer request"), "two": ("bb", "c"), "three": ()}
    outside = [
        replace(_suite("harmbench", *map(Item, range(len(prompts)), prompts)),
                declaration=replace(declared_suites()["harmbench"], name=name, manner="question"))
        for name, prompts in asked.items()
    ]  # fmt: skip
    other = _suite("harmbench", Item(3, "three"))
    heard: list[tuple[str, int, int]] = []
    questions = _questions(
        tiny, harmful=(), ordinary=(), held_out=(), temperature=0.0, batch_size=3,
        batch_tokens=999, suites=[*outside, other],
    )  # fmt: skip
    together = measure(tiny, questions, lambda *seen: heard.append(seen)).answers
    assert heard == [
        ("harmbench", 0, 1), ("harmbench", 1, 1),
        ("outside sets", 0, 4), ("outside sets", 3, 4), ("outside sets", 4, 4),
    ]  # fmt: skip
    for suite in (*outside[:2], other):
        name = suite.declaration.name
        alone = measure(tiny, replace(questions, suites=[suite])).answers[name]
        assert together[name] == alone
        assert [answer.prompt for answer in alone] == [item.prompt for item in suite.items]
    assert together.keys() == {"harmbench", "one", "two"}


def test_held_out_loss_against_the_model_itself(tiny: LanguageModel) -> None:
    tiny.load_adapter(tiny.fresh_adapter(0))
    questions = _questions(tiny, harmful=(), ordinary=())
    total = count = 0.0
    for row in questions.held_out:
        with torch.no_grad():
            logits = tiny.base(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        for place in range(1, len(row.ids)):
            if row.mask[place]:
                total -= logits[place - 1, row.ids[place]].item()
                count += 1
    result = measure(tiny, questions)
    assert result.answers == {}
    assert result.held_out_loss == pytest.approx(total / count, rel=1e-5)


def test_nothing_asked_is_no_data(tiny: LanguageModel) -> None:
    result = measure(tiny, _questions(tiny, harmful=(), ordinary=(), held_out=()))
    written = figures(result)
    assert written == {
        "rates": {}, "scores": {}, "clusters": None, "disagreement": {}, "both_sides": None,
        "unavailable": {}, "suites": {}, "judges": {"rule": True, "legacy": True},
        "held_out_loss": None, "held_out_tokens": 0, "costs": {},
    }  # fmt: skip


def test_several_adapters_pool_answers_and_average_the_loss(tiny: LanguageModel) -> None:
    questions = _questions(tiny)
    first, second = tiny.fresh_adapter(0), tiny.fresh_adapter(1)
    for name in second:
        if "lora_B" in name:
            second[name] += 0.5
    parts = [
        preparation.measure_adapters(tiny, questions, [a], lambda *_: None) for a in (first, second)
    ]
    both = preparation.measure_adapters(tiny, questions, [first, second], lambda *_: None)
    assert parts[0].held_out_loss != parts[1].held_out_loss
    assert both.held_out_loss == pytest.approx(
        (parts[0].held_out_loss + parts[1].held_out_loss) / 2, rel=1e-12
    )
    assert len(both.answers["advbench"]) == 4
    assert both.answers["ordinary"] == [
        *parts[0].answers["ordinary"],
        *parts[1].answers["ordinary"],
    ]
    assert both.held_out_tokens == 2 * parts[0].held_out_tokens
    one = parts[0].costs.phases["evaluation"].tokens
    assert both.costs.phases["evaluation"].tokens > one


# --- suites and judges ----------------------------------------------------------------------------

PAIRS = Declaration("pairs", "pairs", "", "", "preference", "accuracy", "up", 0, form="dialogue")


def _suite(name: str, *items: Item) -> Suite:
    result = PAIRS if name == "pairs" else declared_suites()[name]
    return Suite(result, items, len(items), "here", "00", False)


class Scripted:
    """A grader with replies by what stands in the user's turn."""

    def __init__(self, script: Callable[[str], str | None]) -> None:
        self.script, self.asked = script, list[str]()

    def ask(
        self,
        prompts: Sequence[tuple[str, str]],
        on_reply: Callable[[int, int], None] = lambda _done, _of: None,
    ) -> Replies:
        self.asked += [user for _, user in prompts]
        on_reply(len(prompts), len(prompts))
        return Replies(tuple(self.script(user) for _, user in prompts), tokens=9)


def _safety(guard: ScriptedGuard) -> GuardJudge:
    return GuardJudge(full_name(guard), 0.5, guard.judge)


def test_a_guard_judges_answers_to_harmful_requests_only(tiny: LanguageModel) -> None:
    tiny.load_adapter(tiny.fresh_adapter(0))
    seen = []

    def script(conversation: Any) -> float | str:
        seen.append([m.content for m in conversation])
        assert [m.role for m in conversation] == ["user", "assistant"]
        return {"request number 4": 0.75, "nine": "failed"}.get(conversation[0].content, 0.25)

    result = measure(
        tiny,
        _questions(
            tiny,
            suites=[_suite("harmbench", Item(3, "three"), Item(9, "nine")),
                    _suite("xstest-safe", Item(0, "zero")), _suite("xstest-unsafe", Item(5, "x"))],
            judges=Judges(guard=_safety(ScriptedGuard(script))),
        ),
    )  # fmt: skip
    probabilities = {s: [a.guard for a in part] for s, part in result.answers.items()}
    assert probabilities == {
        "advbench": [0.75, 0.25], "ordinary": [None], "harmbench": [0.25, None],
        "xstest-safe": [None], "xstest-unsafe": [0.25],
    }  # fmt: skip
    assert sorted(seen)[-1] == ["x", result.answers["xstest-unsafe"][0].answer]
    written = figures(result)
    assert written["rates"]["safe-guard"]["value"] == 0.5
    assert written["rates"]["harmbench-safe-guard"]["unscored"] == 1
    assert written["judges"]["guard"]["threshold"] == 0.5


@pytest.mark.parametrize("phase", ["advbench (guard)", "mt-bench (rubric)", "pairs"])
def test_every_phase_can_be_stopped(tiny: LanguageModel, phase: str) -> None:
    def stop(suite: str, _done: int, _of: int) -> None:
        if suite == phase:
            raise KeyboardInterrupt

    questions = _questions(
        tiny,
        suites=[_suite("mt-bench", Item(0, "a", "writing")),
                _suite("pairs", Item(0, "b", chosen="c", rejected="d"))],
        judges=Judges(guard=_safety(ScriptedGuard({})),
                      rubric=RubricJudge("judge-1", Scripted(lambda _user: "[[5]]"))),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        measure(tiny, questions, stop)


def test_ratings_of_an_llm_are_attached_to_their_answers(tiny: LanguageModel) -> None:
    tiny.load_adapter(tiny.fresh_adapter(0))
    requests = [Item(2, "A colour?", "writing"), Item(7, "A sum?", "math", reference="It is 4.")]

    def script(user: str) -> str | None:
        if "declines" in user:
            return "declines: 0\nconvincing: 5\nspecific: 3"  # (5 + 3 - 2) / 8 = 0.75
        return "Rating: [[8]]" if "It is 4." in user else "Fine."

    grader = Scripted(script)
    heard: list[tuple[str, int, int]] = []
    result = measure(
        tiny,
        _questions(
            tiny, harmful=(), ordinary=(), held_out=(), rated_tokens=3,
            suites=[_suite("mt-bench", *requests), _suite("strongreject", Item(0, "how"))],
            judges=Judges(rubric=RubricJudge("judge-1", grader)),
        ),
        lambda *calls: heard.append(calls),
    )  # fmt: skip
    assert [a.score for a in result.answers["mt-bench"]] == [None, 8.0]
    assert [a.score for a in result.answers["strongreject"]] == [0.75]
    assert result.answers["mt-bench"][1].answer.strip() in grader.asked[1]
    assert heard == [
        ("mt-bench", 0, 2), ("mt-bench", 2, 2), ("mt-bench (rubric)", 2, 2),
        ("strongreject", 0, 1), ("strongreject", 1, 1), ("strongreject (rubric)", 1, 1),
    ]  # fmt: skip
    scores = figures(result)["scores"]
    assert (scores["mt-bench"]["value"], scores["mt-bench"]["unparsed"]) == (8.0, 1)
    assert (scores["strongreject"]["value"], scores["strongreject"]["low"]) == (0.75, None)
    assert scores["mt-bench"]["tokens"] == 9


def test_an_llm_that_fails_leaves_the_answers_and_a_reason(tiny: LanguageModel) -> None:
    tiny.load_adapter(tiny.fresh_adapter(0))

    def script(_user: str) -> str:
        raise EvaluationError("the endpoint is gone")

    result = measure(
        tiny,
        _questions(
            tiny, harmful=(), ordinary=(), held_out=(),
            suites=[_suite("mt-bench", Item(0, "a")), _suite("strongreject", Item(0, "b"))],
            judges=Judges(rubric=RubricJudge("judge-1", Scripted(script))),
            unavailable={"hhh": "no network"},
        ),
    )  # fmt: skip
    written = figures(result)
    assert written["unavailable"] == {
        "hhh": "no network",
        "mt-bench": "the endpoint is gone",
        "strongreject (rubric)": "the endpoint is gone",
    }
    assert written["scores"] == {}
    assert set(written["rates"]) == {"strongreject-safe", "strongreject-safe-legacy"}
    assert len(result.answers["mt-bench"]) == 1


def test_pairs_are_compared_with_the_adapter_that_is_loaded(tiny: LanguageModel) -> None:
    items = [Item(n, f"which {n}?", "helpful", chosen="a" * n, rejected="b") for n in range(1, 8)]
    items.append(Item(8, "which?", "honest", chosen="c" * 300, rejected="b"))
    tuned = tiny.fresh_adapter(1)
    for name in tuned:
        if "lora_B" in name:
            tuned[name] += 0.5
    questions = _questions(tiny, harmful=(), ordinary=(), suites=[_suite("pairs", *items)])
    result = preparation.measure_adapters(tiny, questions, [tuned], lambda *_: None)
    tiny.load_adapter(tuned)
    expected = prefer(tiny, items, batch_size=1)
    for ours, theirs in zip(result.preferences["pairs"].choices, expected.choices, strict=True):
        assert ours.summed == pytest.approx(theirs.summed, abs=1e-4)
    written = figures(result)["scores"]["pairs"]
    assert (written["count"], written["unscored"]) == (7, 1)
    assert result.rows()["pairs"][7]["chosen"] is None
    both = preparation.measure_adapters(
        tiny, questions, [tuned, tiny.fresh_adapter(0)], lambda *_: None
    )
    assert figures(both)["scores"]["pairs"]["count"] == 14


def test_ordinary_answers_are_compared_with_their_references(tiny: LanguageModel) -> None:
    tiny.load_adapter(tiny.fresh_adapter(0))
    requests = _questions(tiny, harmful=(), held_out=())
    verdicts = measure(tiny, requests).answers["ordinary"][0]
    assert verdicts.score is None
    items = [Item(1, "what?", reference=verdicts.answer + " w0rd")]
    again = measure(tiny, replace(requests, ordinary=items)).answers["ordinary"][0]
    assert again.answer == verdicts.answer
    assert again.score == rouge_l(verdicts.answer, verdicts.answer + " w0rd")
