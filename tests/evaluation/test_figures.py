"""Which figures follow from answers: names, counts, thresholds, what is not there."""

from __future__ import annotations

from typing import Any

import pytest

from fedrai.evaluation.figures import figures, rates
from fedrai.evaluation.preference import Choice, Preferences
from fedrai.evaluation.records import (
    Answer,
    EvaluationResult,
    GuardJudge,
    Judges,
    asks_for_harm,
    pool,
)
from fedrai.evaluation.refusal import Reply
from fedrai.evaluation.rubric import Grade, Grades
from fedrai.evaluation.suites import Declaration, Suite, declared_suites
from fedrai.rates import Rate, rate_from_json, wilson
from fedrai.runs.costs import Ledger

R, C, U = Reply.REFUSAL, Reply.COMPLIANCE, Reply.UNSCORED
GUARD = GuardJudge("words@1", 0.5, lambda *_: pytest.fail("asked"))


def answer(number: int, reply: Reply, legacy: bool = False, **more: Any) -> Answer:
    return Answer(number, "?", "text", reply, legacy, **more)


def suite(name: str, declaration: Declaration | None = None) -> Suite:
    return Suite(declaration or declared_suites()[name], (), 3, "here", "00", False)


def own(name: str, direction: Any) -> Suite:
    return suite("", Declaration(name, name, "", "", "refusal", "refused", direction, 0))


def measured(answers: dict[str, list[Answer]], **more: Any) -> EvaluationResult:
    return EvaluationResult(answers, None, 0, Ledger(), **more)


THREE = [answer(0, R, True, guard=0.1), answer(1, C, True, guard=0.5), answer(2, U, guard=None)]


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (suite("harmbench"), ("harmbench-safe", "harmbench-safe-legacy", "harmbench-safe-guard")),
        (suite("do-not-answer"),
         ("do-not-answer-safe", "do-not-answer-safe-legacy", "do-not-answer-safe-guard")),
        (suite("jailbreakbench"),
         ("jailbreakbench-safe", "jailbreakbench-safe-legacy", "jailbreakbench-safe-guard")),
        (suite("strongreject"),
         ("strongreject-safe", "strongreject-safe-legacy", "strongreject-safe-guard")),
        (suite("xstest-unsafe"), ("xstest-unsafe-refused", "xstest-unsafe-refused-legacy",
                                  "xstest-unsafe-safe-guard")),
        (suite("xstest-safe"), ("xstest-safe-refused", "xstest-safe-refused-legacy")),
        (own("mine", "up"), ("mine-safe", "mine-safe-legacy", "mine-safe-guard")),
        (own("mine", "down"), ("mine-refused", "mine-refused-legacy")),
        (own("mine", "none"), ("mine-refused", "mine-refused-legacy", "mine-safe-guard")),
        (suite("mt-bench"), ()),
    ],
)  # fmt: skip
def test_names_and_counts_of_the_rates_of_a_suite(found: Suite, names: tuple[str, ...]) -> None:
    """One refusal of two; the legacy score has no third state; a guard's threshold is unsafe."""
    expected = dict(zip(names, (Rate(1, 2, 1), Rate(2, 3, 0), Rate(1, 2, 1)), strict=False))
    name = found.declaration.name
    assert rates({name: THREE}, [found], Judges(guard=GUARD)) == expected
    if names:
        assert asks_for_harm(found.declaration) is (len(names) == 3)


def test_advbench_has_the_names_it_always_had() -> None:
    answers = {"advbench": THREE, "ordinary": [answer(0, R)]}
    assert set(rates(answers)) == {"safe", "safe-legacy", "refused"}
    assert set(rates(answers, (), Judges(guard=GUARD))) == {
        "safe", "safe-legacy", "safe-guard", "refused",
    }  # fmt: skip
    assert set(rates(answers, (), Judges(rule=False))) == {"safe-legacy"}


def test_clusters_count_once() -> None:
    """Three near-duplicates that are refused and one other that is not: 3 of 4, but 1 of 2."""
    asked = [answer(0, R), answer(3, R), answer(5, R), answer(9, C)]
    found = figures(measured({"advbench": asked}, clusters={0: 0, 3: 0, 5: 0, 9: 1}))
    assert found["rates"]["safe"]["value"] == 0.75
    assert (found["clusters"]["value"], found["clusters"]["clusters"]) == (0.5, 2)
    assert found["clusters"]["low"] < 0.5 < found["clusters"]["high"]


def test_disagreement_of_all_pairs_of_judges() -> None:
    asked = [
        answer(0, R, True, guard=0.0), answer(1, R, False, guard=0.9),
        answer(2, C, True, guard=0.9), answer(3, C, False, guard=0.2),
    ]  # fmt: skip
    found = figures(measured({"advbench": asked}, judges=Judges(guard=GUARD)))["disagreement"]
    assert set(found) == {"rule-legacy", "rule-guard", "legacy-guard"}
    assert all(table["kappa"] == 0 for table in found.values())
    assert {k: found["rule-guard"][k] for k in ("both", "first", "second", "neither")} == {
        "both": 1, "first": 1, "second": 1, "neither": 1,
    }  # fmt: skip


def test_both_sides_is_the_harmonic_mean() -> None:
    """AdvBench 3/4 safe, XSTest's safe prompts 1/2 answered: 2 * 3/4 * 1/2 / (5/4) = 0.6."""
    answers = {
        "advbench": [answer(n, R if n < 3 else C) for n in range(4)],
        "xstest-safe": [answer(0, R), answer(1, C), answer(2, U)],
    }
    found = figures(measured(answers, suites=[suite("xstest-safe")]))
    assert found["both_sides"]["value"] == pytest.approx(0.6)
    assert found["rates"]["xstest-safe-refused"]["value"] == 0.5
    alone = measured({"advbench": answers["advbench"]})
    assert figures(alone)["both_sides"] is None


def test_scores_by_hand() -> None:
    pairs = Preferences(
        (
            Choice(0, "helpful", -1.0, -2.0, 1, 1),  # right both ways
            Choice(1, "helpful", -6.0, -4.0, 6, 2),  # right by token only
            Choice(2, "honest", -3.0, -3.0, 1, 1),  # a tie
            Choice(3, "honest", None, None, 0, 0),  # too long
        ),
        Ledger(),
    )
    replies = [Grade(0, "writing", 4.0, "", "x"), Grade(1, "writing", 9.0, "", "x"),
               Grade(2, "math", None, "unparsed", "x")]  # fmt: skip
    grades = Grades(tuple(replies), "fedrai", 30, {})
    ordinary = [answer(0, C, score=0.5), answer(1, C, score=0.25), answer(2, C, score=None)]
    found = figures(
        measured(
            {"ordinary": ordinary}, preferences={"hhh": pairs}, grades={"mt-bench": grades},
            suites=[suite("hhh"), suite("mt-bench")],
        )
    )["scores"]  # fmt: skip
    assert list(found) == ["hhh", "hhh-normalised", "mt-bench", "rouge-l"]
    keys = ("value", "count", "unscored", "ties")
    assert [found["hhh"][k] for k in keys] == [pytest.approx(1 / 3), 3, 1, 1]
    assert [found["hhh-normalised"][k] for k in keys] == [pytest.approx(2 / 3), 3, 1, 1]
    assert found["hhh"]["categories"]["helpful"]["value"] == 0.5
    rated = found["mt-bench"]
    assert (rated["value"], rated["count"], rated["unscored"], rated["unparsed"]) == (6.5, 2, 1, 1)
    assert rated["categories"] == {"writing": 6.5, "math": None}
    assert (found["rouge-l"]["value"], found["rouge-l"]["unscored"]) == (0.375, 1)


def test_figures_that_were_not_measured_are_absent() -> None:
    found = figures(measured({}, unavailable={"strongreject": "no source"}))
    assert found["unavailable"] == {"strongreject": "no source"}
    assert (found["rates"], found["scores"], found["clusters"], found["disagreement"]) == (
        {}, {}, None, {},
    )  # fmt: skip


def test_no_text_of_a_row_is_in_the_figures() -> None:
    verdicts = Answer(0, "canary-asked", "canary-said", C, False, 0.5, 1.0)
    grades = Grades((Grade(0, "math", 1.0, "", "canary-reply"),), "fedrai", 1, {})
    whole = measured({"advbench": [verdicts], "mt-bench": [verdicts]}, grades={"mt-bench": grades},
                     suites=[suite("mt-bench")], clusters={0: 0})  # fmt: skip
    assert "canary" not in str(figures(whole))
    assert whole.rows()["advbench"] == [verdicts.to_json()]


def test_several_models_are_pooled_and_each_prompt_of_a_cluster_counts() -> None:
    one = measured({"advbench": [answer(0, R)]}, clusters={0: 0})
    other = measured({"advbench": [answer(0, C)]}, clusters={0: 0})
    found = figures(pool([one, other]))
    assert found["rates"]["safe"]["scored"] == 2
    assert (found["clusters"]["value"], found["clusters"]["clusters"]) == (0.5, 1)
    assert pool([one]) is one


def test_a_prompt_that_twenty_models_answered_is_one_trial() -> None:
    """Ten prompts, nine refused by all twenty models: the interval is that of nine of ten."""
    each = [answer(n, C if n == 9 else R, n != 9, guard=0.9 if n == 9 else 0.1) for n in range(10)]
    parts = {"advbench": each, "ordinary": each, "xstest-safe": each}
    more = {"judges": Judges(guard=GUARD), "suites": [suite("xstest-safe")]}
    alone = measured(parts, clusters={n: n for n in range(10)}, **more)
    many = figures(pool([alone] * 20))
    once = figures(alone)
    names = {"safe", "safe-legacy", "safe-guard", "refused", "xstest-safe-refused",
             "xstest-safe-refused-legacy"}  # fmt: skip
    assert set(many["rates"]) == names
    for name in names:
        found = many["rates"][name]
        assert (found["successes"], found["scored"], found["prompts"]) == (180, 200, 10)
        assert (found["low"], found["high"]) == pytest.approx((0.5958, 0.9821), abs=1e-4)
        assert rate_from_json(found).interval() == (found["low"], found["high"])
        assert "prompts" not in once["rates"][name]
        assert once["rates"][name]["low"] == pytest.approx(found["low"])
    assert many["both_sides"] == pytest.approx(once["both_sides"])
    assert many["clusters"] == once["clusters"]


def test_shares_of_prompts_by_hand() -> None:
    """Two models: prompt 0 refused by both, 1 by one, 2 by neither, 3 by the one that is scored."""
    one = measured({"advbench": [answer(n, r) for n, r in enumerate([R, R, C, R])]})
    other = measured({"advbench": [answer(n, r) for n, r in enumerate([R, C, C, U])]})
    found = rates(pool([one, other]).answers)["safe"]
    assert found == Rate(4, 7, 1, 4)
    assert found.interval() == wilson(4 / 7 * 4, 4, 0.95)


def test_pairs_that_several_models_compared_are_one_trial_each() -> None:
    choices = tuple(Choice(n, "", -1.0, -2.0 if n else -0.5, 1, 1) for n in range(4))
    joined = Preferences.joined([Preferences(choices, Ledger())] * 5)
    assert joined.summed.rate == Rate(15, 20, 0, 4)
    assert joined.summed.rate.interval() == Rate(3, 4).interval()
    assert Preferences(choices, Ledger()).summed.rate == Rate(3, 4)
