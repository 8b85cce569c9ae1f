"""An arm's figures over its seeds and differences between arms; numbers worked out by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from compared_runs import answers, evaluation, read_runs, run
from fedrai.errors import EvaluationError
from fedrai.rates import rate, rate_json
from fedrai.report.comparing.differences import differences, reference_arm
from fedrai.report.comparing.figures import arms, start
from fedrai.report.comparing.reading import read
from fedrai.report.comparing.writing import compare_runs

T, F = True, False
Z2 = 1.959963984540054**2
LOCAL = '[federation]\nmode = "local"\nrounds = 1\n'


def figures(*plan):
    """Figures of the first arm."""
    return arms(read(plan))[0].figures


def test_one_seed_has_wilsons_interval(tmp_path: Path) -> None:
    results = figures(run(tmp_path / "fedavg", [T] * 10, loss=2.5))
    safe = results["safe"]
    assert (safe.value, safe.high, safe.kind, safe.seeds, safe.count) == (1.0, 1.0, "wilson", 1, 10)
    assert safe.low == pytest.approx(10 / (10 + Z2))  # Wilson's lower end of n of n is n / (n + z2)
    assert (results["held-out-loss"].value, results["held-out-loss"].low) == (2.5, None)
    assert "both-sides" not in results


def test_several_seeds_have_the_bootstrap_of_seeds_and_prompts(tmp_path: Path) -> None:
    """Two seeds, one prompt, 0 and 1: resamples are 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    plan = [run(tmp_path / f"seed-{n}/arm", [bool(n)], seed=n, loss=2.0 + n) for n in (0, 1)]
    results = figures(*plan)
    safe = results["safe"]
    assert (safe.value, safe.low, safe.high, safe.kind, safe.seeds) == (0.5, 0, 1, "bootstrap", 2)
    loss = results["held-out-loss"]
    assert (loss.value, loss.low, loss.high, loss.kind) == (2.5, 2.0, 3.0, "range")


def test_seeds_that_were_asked_other_prompts_each_count_their_own(tmp_path: Path) -> None:
    one = run(tmp_path / "seed-0/arm", [T, T, F, F])
    other = run(tmp_path / "seed-1/arm", [T, T, T], seed=1)
    moved = [{**row, "number": 50 + n, "prompt": f"new {n}"} for n, row in
             enumerate(answers([T, T, T]))]  # fmt: skip
    evaluation(other.path / "evaluations/0001", [T, T, T], rows={"advbench": moved})
    safe = figures(one, other)["safe"]
    assert (safe.value, safe.kind, safe.count, safe.unscored) == (0.75, "bootstrap", 7, 0)


def test_both_sides_is_the_harmonic_mean_and_unscored_answers_are_counted(tmp_path: Path) -> None:
    safe, xstest = [T] * 8 + [F] * 2, [T, F, F, F, None]
    results = figures(run(tmp_path / "arm", safe, xstest))
    assert results["both-sides"].value == pytest.approx(2 * 0.8 * 0.75 / (0.8 + 0.75))
    assert results["xstest-safe-refused"].unscored == results["both-sides"].unscored == 1


def test_answers_that_do_not_add_up_to_the_figure_give_no_interval(tmp_path: Path) -> None:
    plan = [run(tmp_path / f"seed-{n}/arm", [T, F], seed=n) for n in (0, 1)]
    (plan[0].path / "evaluations/0001/advbench.jsonl").write_text("")
    safe = figures(*plan)["safe"]
    assert (safe.value, safe.low, safe.high, safe.kind) == (0.5, 0.5, 0.5, "range")
    assert read(plan)[0].after.outcomes.keys() == {"refused"}


def test_a_guards_threshold_follows_from_how_many_were_safe(tmp_path: Path) -> None:
    refused = [T, T, F, F]
    guard = {"safe-guard": rate_json(rate([T, F, T, T]))}
    rows = {"advbench": answers(refused, guard=[0.1, 0.9, 0.2, 0.3])}
    one = run(tmp_path / "arm", refused, rates=guard, rows=rows)
    outcomes = read([one])[0].after.outcomes["safe-guard"]
    assert [outcomes[key] for key in sorted(outcomes)] == [1, 0, 1, 1]


def test_scores_are_paired_by_item_and_keep_their_own_interval(tmp_path: Path) -> None:
    def arm(name: str, seed: int, chosen: list[float]):
        pairs = [{"number": n, "category": "", "chosen": c, "rejected": -4.0, "chosen_tokens": 2,
                  "rejected_tokens": 4} for n, c in enumerate(chosen)]  # fmt: skip
        right = sum(c > -4 for c in chosen) / len(chosen)
        score = {"value": right, "low": 0.1, "high": 0.9, "count": len(chosen), "unscored": 0}
        return run(tmp_path / f"seed-{seed}" / name, [T], seed=seed, scores={"hhh": score},
                   rows={"hhh": pairs})  # fmt: skip

    theirs, ours = arm("fedavg", 0, [-5.0] * 6 + [-3.0]), arm("both", 0, [-3.0] * 7)
    gaps = {one.measure: one for one in differences(read_runs(theirs, ours), "fedavg")}
    assert arms(read_runs(ours))[0].figures["hhh"].kind == "recorded"
    assert gaps["hhh"].figure.value == pytest.approx(6 / 7)
    assert gaps["hhh"].p == (2 / 2**6,)
    more = arm("both", 1, [-3.0, -5.0, -5.0, -5.0, -5.0, -5.0, -5.0])
    several = arms(read_runs(ours, more))[0].figures["hhh"]
    assert (several.value, several.kind) == (pytest.approx(4 / 7), "bootstrap")


def test_a_score_of_answers_has_no_mcnemar_even_where_all_are_0(tmp_path: Path) -> None:
    rows = [{**row, "score": 0.0} for row in answers([F] * 4, "o")]
    score = {"value": 0.0, "low": 0.0, "high": 0.0, "count": 4, "unscored": 0}
    plan = [
        run(tmp_path / name, [T], ordinary=[F] * 4, scores={"rouge-l": score},
            rows={"ordinary": rows})
        for name in ("fedavg", "both")
    ]  # fmt: skip
    gaps = {one.measure: one for one in differences(read(plan), "fedavg")}
    assert (gaps["rouge-l"].figure.value, gaps["rouge-l"].p) == (0, ())
    assert gaps["refused"].p == (1.0,)


def test_what_runs_start_from_is_the_first_evaluation(tmp_path: Path) -> None:
    base = start(read_runs(run(tmp_path / "arm", [T, T])))
    assert (base.arm, base.figures["safe"].value) == ("base model", 0.0)


def test_cost_is_compared_with_plain_fedavg_of_the_same_seed(tmp_path: Path) -> None:
    plan = []
    for seed, operations in ((0, 2e12), (1, 4e12)):
        under = tmp_path / f"seed-{seed}"
        plan.append(run(under / "clean", [T], seed=seed, operations=9e12, harmful=0))
        plan.append(run(under / "fedavg", [T], seed=seed, operations=operations))
        filtered = {"total": None, "cost": {"operations": 1e12}, "skipped": ""}
        plan.append(run(under / "filter", [T], seed=seed, operations=operations, filtered=filtered))
    by_arm = {arm.arm: arm.figures for arm in arms(read(plan))}
    assert by_arm["filter"]["tflop"].value == 4.0
    assert by_arm["filter"]["overhead"].value == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert (by_arm["filter"]["overhead"].low, by_arm["filter"]["overhead"].high) == (0.25, 0.5)
    assert by_arm["fedavg"]["overhead"].value == 0
    assert (by_arm["fedavg"]["megabytes"].value, by_arm["fedavg"]["seconds"].value) == (3.0, 1.0)


# --- differences ----------------------------------------------------------------------------------


def test_each_seed_has_its_own_exact_p(tmp_path: Path) -> None:
    plan = []
    for seed, ours in ((0, [T] * 6 + [F] * 4), (1, [T] * 10)):
        plan.append(run(tmp_path / f"seed-{seed}/fedavg", [F] * 10, seed=seed))
        plan.append(run(tmp_path / f"seed-{seed}/both", ours, seed=seed))
    gaps = {one.measure: one for one in differences(read(plan), "fedavg")}
    safe = gaps["safe"]
    assert safe.figure.value == pytest.approx(0.8)
    assert safe.p == (2 / 2**6, 2 / 2**10)
    assert (safe.verdict, safe.seeds, safe.within_noise) == ("higher", (0, 1), False)
    assert (gaps["refused"].figure.value, gaps["refused"].verdict) == (0, "within noise")
    assert (gaps["held-out-loss"].verdict, gaps["held-out-loss"].p) == ("not tested", ())


def test_the_exact_p_is_that_of_all_splits(tmp_path: Path) -> None:
    """Nine prompts on which the arms differ, eight for ours: all 2^9 splits counted one by one."""
    ours, theirs = [T] * 8 + [F], [F] * 8 + [T]
    plan = [run(tmp_path / "fedavg", theirs), run(tmp_path / "both", ours)]
    gap = {one.measure: one for one in differences(read(plan), "fedavg")}["safe"]
    uneven = sum(abs(2 * sum(split) - 9) >= 7 for split in product((0, 1), repeat=9))
    assert gap.p == (uneven / 2**9,)
    assert gap.verdict.endswith("(one seed)")


def test_only_prompts_that_both_were_asked_are_paired(tmp_path: Path) -> None:
    plan = [run(tmp_path / "fedavg", [F, F, T, T]), run(tmp_path / "both", [T, T, None])]
    gap = {one.measure: one for one in differences(read(plan), "fedavg")}["safe"]
    assert (gap.figure.value, gap.figure.count, gap.figure.unscored) == (1.0, 2, 1)
    assert gap.p == (0.5,)


def test_both_sides_differ_by_seed(tmp_path: Path) -> None:
    plan = [run(tmp_path / "fedavg", [T, F], [F, F]), run(tmp_path / "both", [T, T], [T, F])]
    gap = {one.measure: one for one in differences(read(plan), "fedavg")}["both-sides"]
    assert gap.figure.value == pytest.approx(2 * 1 * 0.5 / 1.5 - 2 * 0.5 * 1 / 1.5)
    assert gap.p == ()


def test_local_mode_is_a_mean_of_clients_without_a_test_of_pairs(tmp_path: Path) -> None:
    """Two clients answer two prompts each: TT and TF; Wilson's of 4 is too narrow."""
    clients = [*answers([T, T]), *answers([T, F])]
    local = run(tmp_path / "local", [T, T, T, F], settings=LOCAL, rows={"advbench": clients})
    runs = read_runs(run(tmp_path / "fedavg", [F, F]), local)
    arm = arms(runs)[1]
    assert (arm.label, arm.clients) == ("local (mean of clients)", 2)
    safe = arm.figures["safe"]
    assert (safe.value, safe.kind, safe.count) == (0.75, "bootstrap", 2)
    assert (safe.low, safe.high) == (0.5, 1.0)  # of prompts that are 1 and 1/2
    gap = {one.measure: one for one in differences(runs, "fedavg")}["safe"]
    assert (gap.figure.value, gap.p, gap.verdict) == (0.75, (), "higher (one seed)")


def test_the_reference_is_the_requested_or_the_plain_arm() -> None:
    assert reference_arm(["clean", "harmful", "both"]) == "harmful"
    assert reference_arm(["clean", "fedavg", "both"]) == "fedavg"
    assert reference_arm(["one", "two"]) == "one"
    assert reference_arm(["clean", "fedavg"], "clean") == "clean"
    with pytest.raises(EvaluationError, match="no arm 'x'"):
        reference_arm(["clean"], "x")


def test_outcomes_that_are_all_alike_are_no_certainty(tmp_path: Path) -> None:
    plan = [run(tmp_path / f"seed-{n}/arm", [T] * 8, seed=n) for n in (0, 1, 2)]
    safe = figures(*plan)["safe"]
    assert (safe.low, safe.high, safe.seeds) == (pytest.approx(8 / (8 + Z2)), 1.0, 3)


def test_nothing_scored_is_no_data_and_not_zero(tmp_path: Path) -> None:
    result = compare_runs([run(tmp_path / "arm", [None, None])])
    safe = result.arms[0].figures["safe"]
    assert (safe.value, safe.low, safe.unscored) == (None, None, 2)
    assert "no data, 2 unscored" in result.text("md")


def test_a_loss_that_is_not_a_number_leaves_no_mean(tmp_path: Path) -> None:
    """NaN is written as null, with the tokens that it is of; the other seed's loss is no mean."""
    plan = [
        run(tmp_path / "seed-0/arm", [T], loss=None),
        run(tmp_path / "seed-1/arm", [T], seed=1, loss=2.5),
    ]
    result = compare_runs(plan)
    assert result.arms[0].figures["held-out-loss"].value is None
    assert "not a number" in result.text("md")
    without = run(tmp_path / "without", [T], loss=None, held_out_tokens=0)
    assert "held-out-loss" not in figures(without)
