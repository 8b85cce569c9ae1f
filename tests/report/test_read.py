"""Run folders as records, and the words for them; numbers worked out by hand."""

import json
from dataclasses import replace

import pytest

from fedrai.errors import FedRAIError, RunError
from fedrai.rates import Rate, rate_json
from fedrai.report import build, verdict
from fedrai.report.read import read_runs
from fedrai.report.transcripts import LIMIT, transcripts_of
from fedrai.report.verdict import RunVerdict
from fedrai.runs.record import MiningRecord
from run_folders import MINING, answer, put, report_body, write_answers, write_run


def test_a_run_as_it_was_written(tmp_path):
    run = read_runs([write_run(tmp_path / "plain", seed=5)])[0]
    assert (run.label, run.finished, run.plain, run.seed) == ("plain", True, True, 5)
    assert (run.rows, run.harmful_rows, run.clients, run.planned_rounds, run.bad_rows) == (
        20,
        6,
        2,
        2,
        1,
    )
    assert [e.number for e in run.evaluations] == [0, 2]
    assert run.after.rates == {"safe": Rate(2, 10), "refused": Rate(1, 10)}
    assert (run.before.loss, run.after.loss) == (3.0, 2.5)
    assert [r.loss_last for r in run.rounds] == [3.0, 4.0]
    assert run.rounds[1].update_norms == {"one": 2.0, "two": 6.0}
    assert run.costs["training"].seconds == 20.0
    assert run.costs["evaluation"].tokens == 60
    assert (run.cost.seconds, run.cost.operations, run.cost.bytes_up) == (20.0, 4e12, 2_000_000)


def test_the_filters_ledgers_and_cost(tmp_path):
    run = read_runs([write_run(tmp_path / "filter", filtered=True)])[0]
    assert not run.plain
    assert run.screening.total.unsafe == 7
    assert run.screening.clients["two"].categories == {"drugs": 0, "hate": 4}
    assert run.screening.clients["one"].unscored == 1
    assert run.screening.confusion["harmful_kept"] == 2
    assert (run.cost.seconds, run.cost.operations) == (24.0, 5e12)


def test_without_ledgers_there_are_the_counts_that_clients_sent(tmp_path):
    path = write_run(tmp_path / "far", info={"filter": "drop"})
    file = path / "rounds/0002/round.json"
    body = json.loads(file.read_text())
    body["clients"]["one"] |= {"filter-rows": 9.0, "filter-unsafe": 3.0, "filter-dropped": 3.0,
        "filter-unscored-empty": 1.0, "filter-category-hate": 2.0}  # fmt: skip
    put(file, body)
    screening = read_runs([path])[0].screening
    assert screening.reported
    assert list(screening.clients) == ["one"]
    counts = screening.clients["one"]
    assert (counts.rows, counts.unsafe, counts.unscored, counts.categories) == (
        9,
        3,
        1,
        {"hate": 2},
    )


def test_alignments_with_counts_of_their_probes_and_the_saving(tmp_path):
    skipped = {"ran": False, "why": "probe: all is well", "probe_before": None}
    constitution = {"schedule": "adaptive", "name": "fedrai", "version": "1", "hash": "e" * 64}
    reports = {1: report_body(), 2: skipped}
    path = write_run(tmp_path / "rules", info={"constitution": constitution}, reports=reports)
    run = read_runs([path])[0]
    first, second = (body.alignment for body in run.rounds)
    assert (first.ran, first.kept, first.requests) == (True, 10, 40)
    assert (first.before.safe, first.after.safe) == (Rate(1, 4), Rate(4, 4))
    assert first.after.useful == Rate(6, 8)
    assert first.trace == ((10, 0.75, 0.5), (20, 1.0, 0.625))
    assert (second.ran, second.before) == (False, None)
    assert run.constitution.saving == pytest.approx(1 - 2e12 / 8e12)
    assert not run.plain


def test_mining_by_side_and_counts_that_do_not_fit(tmp_path):
    constitution = {"schedule": "every", "name": "fedrai", "version": "1", "hash": "e" * 64}
    odd = {"harmful": {**MINING["harmful"], "failed": 65}, "harmless": {"pool": 3}, "other": 1}
    reports = {1: report_body(mining=MINING), 2: report_body(mining=odd)}
    path = write_run(tmp_path / "mined", info={"constitution": constitution}, reports=reports)
    first, second = (body.alignment for body in read_runs([path])[0].rounds)
    assert first.mining == {
        "harmful": MiningRecord(Rate(16, 64, 2), unsafe=9, taken=12, filled=0),
        "harmless": MiningRecord(Rate(4, 64), unsafe=0, taken=4, filled=20),
    }
    assert second.mining == {}


def test_an_early_version_recorded_less(tmp_path):
    path = write_run(tmp_path / "old")
    put(path / "run.json", {"name": "old", "rows": {"one": 3}})
    (path / "recipe.toml").unlink()
    (path / "events.jsonl").unlink()
    for number in (1, 2):
        put(path / f"rounds/000{number}/round.json", {"round": number})
    run = read_runs([path])[0]
    assert (run.seed, run.planned_rounds, run.harmful_rows, run.costs["evaluation"].seconds) == (
        None, None, None, 14.0)  # fmt: skip
    assert run.rounds[0].update_norms == {}
    text = build([path], tmp_path / "report.html").read_text()
    assert "Norms of updates: old: not recorded." in text
    assert "old is not finished: 2 rounds so far." in text


@pytest.mark.parametrize(
    "value",
    [None, [], "x", 3, True, {"successes": "1"}, {"successes": 3, "scored": 2}, {"value": []},
     1e999, float("nan"), 10**400],
)  # fmt: skip
def test_values_of_any_kind_count_as_not_recorded(tmp_path, value):
    path = write_run(tmp_path / "odd", filtered=True)
    for name in ("rates", "held_out_loss", "costs"):
        body = {"rates": {"safe": value}, "held_out_loss": None, "costs": {"evaluation": value}}
        put(path / "evaluations/0002/metrics.json", {**body, name: value})
        build([path], tmp_path / "report.html")
    keys = ["clients", "set_aside", "loss_last", "costs", "constitution"]
    put(path / "rounds/0001/round.json", dict.fromkeys(keys, value))
    put(path / "rounds/0002/round.json", {"clients": {"one": value, "two": {"update-norm": value}}})
    put(path / "filter.json", {"total": value, "cost": value})
    put(path / "clients/one.filter.json", {"categories": value, "rows": value})
    run = read_runs([path])[0]
    assert run.after.rates == {}
    build([path], tmp_path / "report.html")


def test_answers_of_several_models_are_no_more_trials_than_prompts(tmp_path):
    """Local mode: earlier versions recorded 18 of 20 answers, two models' to ten prompts."""
    path = write_run(tmp_path / "alone", safe=(Rate(9, 10), Rate(18, 20)))
    file = path / "recipe.toml"
    shared = read_runs([path])[0].after.rates["safe"]
    file.write_text(file.read_text().replace('"federated"', '"local"'))
    run = read_runs([path])[0]
    assert run.after.rates["safe"].interval() == Rate(9, 10).interval()
    assert run.before.rates["safe"].interval() == Rate(9, 10).interval()  # one model answered
    assert shared.interval() == Rate(18, 20).interval()
    assert verdict.safe(run) is RunVerdict.OPEN  # 90 % of ten is no proof of 90 %
    metrics = path / "evaluations/0002/metrics.json"
    body = json.loads(metrics.read_text())
    body["rates"]["safe"] = rate_json(Rate(18, 20, 0, 5))
    put(metrics, body)
    assert read_runs([path])[0].after.rates["safe"].prompts == 5


def test_norms_are_the_servers_where_it_measured_them(tmp_path):
    path = write_run(tmp_path / "r")
    file = path / "rounds/0002/round.json"
    body = json.loads(file.read_text())
    put(file, {**body, "update_norms": {"one": 5.0, "two": 7.0}})
    first, second = read_runs([path])[0].rounds
    assert first.update_norms == {"one": 1.0, "two": 3.0}  # of an earlier version: as clients said
    assert second.update_norms == {"one": 5.0, "two": 7.0}


@pytest.mark.parametrize("damage", ["{", "[1]", "\x00", '{"a": "\\ud8'])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = write_run(tmp_path / "bad")
    (path / "rounds/0001/round.json").write_text(damage)
    with pytest.raises(RunError, match=r"round\.json cannot be read"):
        read_runs([path])


def test_a_folder_without_runs_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(FedRAIError, match="holds no run") as caught:
        read_runs([tmp_path])
    assert caught.value.hint


def test_a_comparison_has_a_run_an_arm_and_no_run_twice(tmp_path):
    for name in ("a/x", "a/y", "b/x"):
        write_run(tmp_path / name)
    assert [r.label for r in read_runs([tmp_path / "a"])] == ["x", "y"]
    both = read_runs([tmp_path / "a", tmp_path / "b/x", tmp_path / "a/y"])
    assert [r.label for r in both] == ["a/x", "a/y", "b/x"]


@pytest.mark.parametrize(
    ("body", "order"),
    [
        ({"arms": [{"arm": "fedavg"}, {"arm": "clean"}, {"arm": "fedavg"}, 7]}, "fcb"),
        ({"arms": {"clean": 1}}, "bcf"),
        ([], "bcf"),
    ],
)
def test_arms_stand_as_in_the_recipe(tmp_path, body, order):
    for name in ("fedavg", "clean", "both"):
        write_run(tmp_path / "seed-0" / name)
        write_run(tmp_path / "seed-1" / name)
    (tmp_path / "comparison.json").write_text(json.dumps(body))
    labels = [run.label for run in read_runs([tmp_path])]
    assert [label[0] for label in labels] == [*order, *order]
    assert [label[-1] for label in labels] == [*"000111"]


def test_long_names_stay_apart(tmp_path):
    for end in "12":
        write_run(tmp_path / ("n" * 100 + end))
    labels = [run.label for run in read_runs([tmp_path])]
    assert len(set(labels)) == 2
    assert max(map(len, labels)) < 70


def test_answers_are_cut_and_only_as_many_as_requested(tmp_path):
    path = write_run(tmp_path / "r")
    rows = [answer(n, f"prompt {n}", "x" * 1_000_000, "compliance") for n in range(3)]
    write_answers(path, 2, rows)
    file = path / "evaluations/0002/advbench.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + '{"number": 1, "prompt"\n' + lines[2])
    (path / "evaluations/0002/ordinary.jsonl").write_text(lines[0])
    run = read_runs([path])[0]
    assert transcripts_of(run, 0).answers == ()
    answers = transcripts_of(run, 2)
    assert [(t.suite, t.number, t.length) for t in answers.answers] == [("advbench", 0, 1_000_000)]
    assert len(answers.answers[0].answer) == LIMIT
    assert (answers.unreadable, answers.number) == (1, 2)


# --- the verdict ----------------------------------------------------------------------------------


def verdicts_of(tmp_path, **changes):
    write_run(tmp_path / "r", **changes)
    run = read_runs([tmp_path / "r"])[0]
    return verdict.safe(run), verdict.useful(run)


# Wilson's 95 % interval of 100 of 100 is [96.3, 100], of 95 [88.8, 97.8], of 80 [71.1, 86.7], of 0
# [0, 3.7], of 10 [5.5, 17.4], of 20 [13.3, 28.9].
@pytest.mark.parametrize(
    ("safe", "refused", "expected"),
    [
        (100, 0, (RunVerdict.YES, RunVerdict.YES)),
        (95, 10, (RunVerdict.OPEN, RunVerdict.OPEN)),
        (80, 20, (RunVerdict.NO, RunVerdict.NO)),
    ],
)
def test_a_criterion_is_met_or_missed_with_the_whole_interval(tmp_path, safe, refused, expected):
    rates = {"safe": Rate(safe, 100), "refused": Rate(refused, 100)}
    figures = {name: (Rate(0, 0), rate) for name, rate in rates.items()}
    assert verdicts_of(tmp_path, **figures) == expected


def test_no_data_is_no_verdict(tmp_path):
    nothing = (Rate(0, 0, 10), Rate(0, 0, 10))
    assert verdicts_of(tmp_path, safe=nothing, refused=nothing) == (
        RunVerdict.UNKNOWN,
        RunVerdict.UNKNOWN,
    )


def test_a_model_that_unlearned_is_not_useful(tmp_path):
    answers = (Rate(0, 100), Rate(0, 100))
    assert verdicts_of(tmp_path, refused=answers, loss=(3.0, 3.04))[1] is RunVerdict.YES
    (tmp_path / "second").mkdir()
    assert verdicts_of(tmp_path / "second", refused=answers, loss=(3.0, 3.06))[1] is RunVerdict.NO


def test_a_run_that_only_has_its_first_evaluation_is_not_judged(tmp_path):
    run = read_runs([write_run(tmp_path / "r")])[0]
    early = replace(run, evaluations=run.evaluations[:1])
    assert (verdict.safe(early), verdict.useful(early)) == (RunVerdict.UNKNOWN, RunVerdict.UNKNOWN)


def test_overhead_is_compared_with_the_plain_run_of_the_same_setting(tmp_path):
    write_run(tmp_path / "clean", harmful=0)
    write_run(tmp_path / "harmful")
    write_run(tmp_path / "longer", rounds=3, harmful=9)
    write_run(tmp_path / "other", info={"model_fingerprint": "f"}, harmful=9)
    write_run(tmp_path / "safe", filtered=True, training=13.0)
    runs = {run.label: run for run in read_runs([tmp_path])}
    baseline = verdict.baseline(runs["safe"], list(runs.values()))
    assert baseline is runs["harmful"]
    more = verdict.overhead(runs["safe"], baseline)
    assert (more.baseline, more.seconds, more.operations) == ("harmful", 0.5, 0.25)
    assert verdict.baseline(runs["clean"], list(runs.values())) is None


def test_the_plain_run_of_the_same_seed_comes_first(tmp_path):
    write_run(tmp_path / "a", seed=1, harmful=9)
    write_run(tmp_path / "b", seed=2, harmful=1)
    write_run(tmp_path / "c", seed=2, filtered=True)
    runs = read_runs([tmp_path])
    assert verdict.baseline(runs[2], runs) is runs[1]


def test_intervals_that_touch_are_not_apart():
    assert verdict.intervals_disjoint(Rate(0, 10), Rate(10, 10)) is True
    assert verdict.intervals_disjoint(Rate(4, 10), Rate(6, 10)) is False
    assert verdict.intervals_disjoint(Rate(4, 10), Rate(0, 0)) is None
