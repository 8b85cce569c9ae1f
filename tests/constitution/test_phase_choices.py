"""Alignments round by round: what is reused, when one runs, and what happens to what is missing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedrai.constitution import phase
from fedrai.constitution.critics import LocalCritic
from fedrai.constitution.gathering import RequestSets
from fedrai.constitution.material import read
from fedrai.constitution.mixture import revision_pairs
from fedrai.constitution.probe import READ
from fedrai.constitution.records import Outcome, RevisionRecord
from fedrai.constitution.spending import SPENT
from fedrai.constitution.training import STATE
from fedrai.constitution.verifying import Checks
from fedrai.errors import ConstitutionError, DataError
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.model import AdapterState, LanguageModel
from fedrai.model.generate import Generation, generate
from fedrai.recipe.alignment import Objective
from fedrai.records import Message
from fedrai.training.likelihood import answer_likelihoods, pair_fit
from staging import (
    EASY,
    EXAMPLES,
    HARMFUL,
    HARMLESS,
    MAX_LENGTH,
    NEVER,
    Stage,
    check_same,
    moved,
    safe_answers,
    same,
)

# --- reuse ----------------------------------------------------------------------------------------


def test_a_later_round_reuses_the_material_of_an_earlier_one(stage, start):
    first = stage()
    calls = stage.critic.calls
    second = stage(2)
    assert stage.critic.calls == calls
    assert (first.report["reused"], second.report["reused"]) == (False, True)
    assert "revisions" not in second.report["spent"]
    assert second.report["kept"] == 6
    parts = first.report["spent"]
    generation = parts["revisions"]["operations"] + parts["harmless"]["operations"]
    training = second.report["spent"]["training"]["operations"] / 4 * 3  # an epoch has 3 steps
    assert second.report["full_operations"] == pytest.approx(generation + training, rel=1e-6)
    assert second.cost.operations < first.cost.operations
    assert not same(second.adapter, first.adapter)  # another order
    assert read(stage.folder / "kept" / "0002").records == read(stage.folder / "kept/0001").records
    third = stage(3)
    training = third.report["spent"]["training"]["operations"] / 4 * 3
    assert third.report["reused"] is True
    assert third.report["full_operations"] == pytest.approx(generation + training, rel=1e-6)


def floor_for(stage: Stage, share: float) -> float:
    """A floor that this share of the kept pairs reaches."""
    stage.model.load_adapter(stage.start)
    records = read(stage.folder / "kept" / "0001").records
    pairs = revision_pairs(stage.model.chat, records, MAX_LENGTH)
    values = sorted(
        answer_likelihoods(stage.model, [p.rejected for p in pairs]).values, reverse=True
    )
    count = round(share * len(values))
    return (values[count - 1] + values[count]) / 2


@pytest.mark.parametrize(("reuse", "reused"), [(0.5, True), (0.51, False)])
def test_material_is_reused_while_enough_of_it_fits(stage, monkeypatch, reuse, reused):
    stage(pairs=0)
    calls, floor = stage.critic.calls, floor_for(stage, 0.5)
    monkeypatch.setattr(
        phase, "pair_fit", lambda model, pairs, **given: pair_fit(model, pairs, floor, **given)
    )
    second = stage(2, reuse=reuse, pairs=0)
    assert second.report["reused"] is reused
    assert (stage.critic.calls == calls) is reused
    assert second.report["spent"]["fit"]["tokens"] > 0
    if not reused:
        stage.stop = ("harmless", 2, 1)
        with pytest.raises(KeyboardInterrupt):
            stage(2, work="again", reuse=reuse, pairs=0)
        check_same(stage(2, work="again", reuse=reuse, pairs=0), second)


def test_a_full_alignment_never_reuses(stage):
    stage(pairs=0)
    calls = stage.critic.calls
    assert stage(2, schedule="full", pairs=0).report["reused"] is False
    assert stage.critic.calls > calls


@pytest.mark.parametrize(("pairs", "reused"), [(0, True), (2, False)])
def test_without_unsafe_first_answers_only_rows_are_reused(stage, monkeypatch, pairs, reused):
    safe_answers(stage, monkeypatch)
    stage(reuse=0.5, pairs=pairs)
    assert stage(2, reuse=0.5, pairs=pairs).report["reused"] is reused


# --- the probe and its texts ----------------------------------------------------------------------


def texts_of(stage: Stage) -> Generation:
    """What the base model says to the requests of the probe."""
    talks = [[Message("user", r.prompt)] for side in stage.phase()._probe_requests for r in side]
    with stage.model.using(None):
        return generate(stage.model, talks, max_new_tokens=READ, batch_size=2)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, AdapterState]]:
    """Every probe, and the adapter that it measured."""
    calls: list[tuple[Any, AdapterState]] = []

    def watched(model: LanguageModel, probe: Any, batch: int, **hooks: Any) -> Any:
        calls.append((probe, model.adapter()))
        return measured(model, probe, batch, **hooks)

    measured = phase.measure
    monkeypatch.setattr(phase, "measure", watched)
    return calls


def test_the_probe_measures_adapters_but_not_its_anchor(stage, start, probes):
    anchor = {name: -part for name, part in start.items()}
    before = stage.model.adapter()
    result = stage(schedule="adaptive", probe=NEVER, start=anchor)
    assert len(probes) == 3  # before, after 2 and 4 steps; the better of these is handed on
    assert same(probes[0][1], start)
    assert result.report["adapter_step"] == 2
    assert same(probes[1][1], result.adapter)
    assert same(stage.model.adapter(), before)
    assert not any(same(adapter, anchor) for _, adapter in probes)
    assert {id(probe) for probe, _ in probes} == {id(probes[0][0])}


def test_the_anchor_of_the_probe_does_not_change_the_alignment(stage, start):
    """The adapter is in the model again before anything is answered or trained."""
    plain = stage(schedule="adaptive", early_stop=False, probe=NEVER | {"every": 0})
    (stage.folder / "kept" / "0001").rename(stage.folder / "away")
    anchor = {name: -part for name, part in start.items()}
    other = stage(work="other", schedule="adaptive", probe=NEVER | {"every": 0}, start=anchor)
    assert same(other.adapter, plain.adapter)
    assert other.report["spent"]["probe"] != plain.report["spent"]["probe"]
    for name in ("revisions", "harmless", "training"):
        assert other.report["spent"][name] == plain.report["spent"][name]


@pytest.mark.parametrize("schedule", ["budget", "adaptive"])
def test_rounds_and_processes_have_the_same_probe_and_its_texts_count_once(
    stage, start, probes, schedule
):
    """Of two rounds in one process, and of the second alone in another."""
    align = stage.phase(schedule=schedule, probe=NEVER | {"every": 0})
    result = []
    for number in (1, 2):
        work = stage.folder / f"work-{number}"
        work.mkdir()
        result.append(align(number, start, work, stage.folder / "kept", False))
    again = stage(2, work="again", schedule=schedule, probe=NEVER | {"every": 0})
    check_same(again, result[1])
    assert len(probes) == 6
    assert all(probe == probes[0][0] for probe, _ in probes)
    first, second = (report.report["spent"]["probe"]["tokens"] for report in result)
    texts = texts_of(stage)
    assert first - second == texts.tokens


def test_texts_count_in_the_first_round_even_if_it_is_not_aligned(stage, start):
    first = stage(schedule="adaptive", probe=EASY)
    second = stage(2, schedule="adaptive", probe=EASY)  # another process
    assert not first.ran
    assert not second.ran
    assert second.cost.tokens == second.report["probe_before"]["tokens"] < first.cost.tokens


# --- schedules ------------------------------------------------------------------------------------


def test_a_satisfied_probe_leaves_the_adapter_unchanged(stage, start):
    result = stage(schedule="adaptive", probe=EASY, last=True)
    assert result.adapter is start
    assert set(result.report) == {"ran", "why", "probe_before"}
    assert result.report["ran"] is False
    assert result.report["why"].startswith("probe: safe ")
    texts, probed = texts_of(stage), result.report["probe_before"]
    assert result.cost.tokens == probed["tokens"] + texts.tokens
    assert result.cost.operations == pytest.approx(probed["operations"] + texts.operations)
    assert [f.name for f in (stage.folder / "work-1").iterdir()] == [SPENT]
    assert not (stage.folder / "kept").exists()
    assert not any(kind == "constitution-started" for kind, _ in stage.heard)
    again = stage(schedule="adaptive", probe=EASY, last=True)
    assert again.report == result.report  # measured again, counted once
    assert again.cost.tokens == result.cost.tokens


@pytest.mark.parametrize(
    ("schedule", "number", "last", "ran"),
    [("every", 1, False, False), ("every", 2, False, True), ("last", 5, False, False),
     ("last", 5, True, True)],
)  # fmt: skip
def test_skipped_rounds_cost_nothing(stage, start, schedule, number, last, ran):
    result = stage(number, schedule=schedule, every=2, last=last, steps=1)
    assert result.ran is ran
    if not ran:
        assert result.adapter is start
        assert (result.cost.tokens, result.cost.operations) == (0, 0.0)
        assert result.report["probe_before"] is None


def test_with_a_drift_of_1_only_the_last_round_is_probed(stage, start, probes):
    never = NEVER | {"drift": 1.0}
    for number in (1, 2):
        passed = stage(number, schedule="adaptive", probe=never)
        assert passed.adapter is start
        assert (passed.report["why"], passed.cost.tokens) == ("not the last round", 0)
    assert not probes
    result = stage(3, schedule="adaptive", probe=never | {"every": 0}, last=True)
    assert result.ran
    spent, texts = result.report["spent"]["probe"]["tokens"], texts_of(stage)
    both = sum(result.report[key]["tokens"] for key in ("probe_before", "probe_after"))
    assert spent == both + texts.tokens


def test_a_satisfied_probe_ends_the_alignment(stage, monkeypatch):
    """After the first steps; before them it is not, or it would not begin."""
    calls: list[int] = []

    def scripted(model: LanguageModel, probe: Any, batch: int, **hooks: Any) -> Any:
        result = measured(model, probe, batch, **hooks)
        calls.append(len(calls))
        side = (1.0,) if len(calls) > 1 else (-1.0,)
        return replace(result, harmful=side, harmless=side)

    measured = phase.measure
    monkeypatch.setattr(phase, "measure", scripted)
    result = stage(schedule="adaptive")
    assert result.report["stopped"] == "probe satisfied"
    assert (result.report["steps"], result.report["adapter_step"]) == (2, 2)
    assert result.report["trace"] == [{"step": 2, "safe": 1.0, "useful": 1.0, "score": 1.0}]
    assert len(calls) == 2  # before, and after two steps, which is not asked again


def test_the_result_is_the_best_look_with_its_probe(stage, monkeypatch):
    """Not the last one, where the last one is worse."""
    sides = iter([-1.0, 1.0, -1.0])  # before, after two steps, after four

    def scripted(model: LanguageModel, probe: Any, batch: int, **hooks: Any) -> Any:
        side = (next(sides),)
        return replace(measured(model, probe, batch, **hooks), harmful=side, harmless=side)

    measured = phase.measure
    monkeypatch.setattr(phase, "measure", scripted)
    report = stage(last=True, early_stop=True, probe=NEVER).report
    assert [look["step"] for look in report["trace"]] == [2, 4]
    assert (report["steps"], report["adapter_step"]) == (4, 2)
    assert (report["probe_before"]["safe"], report["probe_after"]["safe"]) == (0.0, 1.0)


@pytest.mark.parametrize("changes", [{"schedule": "adaptive", "probe": {"every": 0}}, {}])
def test_without_looks_all_steps_are_taken(stage, changes):
    result = stage(last=True, **changes)
    assert (result.report["steps"], result.report["trace"]) == (4, [])
    assert result.report["probe_after"]["safe"] is not None


def test_early_stop_is_for_budgets_and_not_for_epochs(stage):
    looked = stage(early_stop=True, probe=NEVER)
    assert [look["step"] for look in looked.report["trace"]] == [2, 4]
    assert stage(2, early_stop=True, schedule="full", pairs=0).report["trace"] == []


# --- the control, examples, and what is missing ---------------------------------------------------


def test_the_control_learns_from_revisions_that_comply(stage):
    ordinary = tuple(request for request in HARMLESS if not request.kind)
    result = stage(pool=ordinary, harmless_pairs=0.0)
    stored = read(stage.folder / "kept" / "0001")
    assert {record.request for record in stored.records} == set(ordinary)
    assert {record.outcome for record in stored.records} == {Outcome.KEPT}
    assert all(record.revision.startswith("Here is how") for record in stored.records)
    (chosen, *_), pairs = zip(*_sides(stage, stored.records), strict=True), result.report["kinds"]
    assert all("Here is how" in text for text in chosen)
    assert pairs["harmful-pairs"] == {"items": 3, "used": 8}
    assert pairs["harmless-pairs"]["used"] == 0
    texts = [a.answer for a in stored.harmless] + [r.revision for r in stored.records]
    assert not any("can't" in text for text in texts)


def _sides(stage: Stage, records: Sequence[RevisionRecord]) -> list[tuple[str, str]]:
    decode = stage.model.tokenizer.decode
    pairs = revision_pairs(stage.model.chat, records, MAX_LENGTH)
    return [(decode(p.chosen.ids), decode(p.rejected.ids)) for p in pairs]


def test_examples_alone_are_enough(stage, start):
    sets = RequestSets((), HARMLESS, {}, 0)
    result = stage(requests=sets, pool=(), examples=EXAMPLES, pairs=0)
    assert moved(result, start)
    assert stage.critic.calls == 0
    assert (result.report["requests"], result.report["yield"]) == (0, None)
    assert result.report["examples"] == 3
    assert result.report["kinds"]["revisions"] == {"items": 3, "used": 8}
    assert result.report["full_operations"] > 0
    second = stage(2, requests=sets, pool=(), examples=EXAMPLES, pairs=0, reuse=0.5)
    assert second.report["reused"] is True


def test_a_useless_critic_is_an_error_unless_there_are_examples(stage):
    stage.critic = LocalCritic(stage.model, 2)  # talks nonsense
    with pytest.raises(ConstitutionError, match="none of 6 revisions passed") as caught:
        stage(tries=2)
    assert "trick" not in f"{caught.value} {caught.value.hint}"
    result = stage(work="other", tries=2, examples=EXAMPLES)
    assert (result.report["kept"], result.report["yield"]) == (0, 0.0)
    assert result.report["pairs_left_out"] == ["harmful-pairs"]
    assert result.report["kinds"]["revisions"]["items"] == 3


@pytest.mark.parametrize(
    ("share", "missing", "kinds"),
    [
        (0.5, ["harmful-pairs"], {"harmful-pairs": 0, "harmless-pairs": 6}),  # all, 1 a step
        (0.0, ["harmful-pairs"], None),
        (1.0, [], {"harmful-pairs": 0, "harmless-pairs": 8}),
    ],
)
def test_without_unsafe_first_answers_other_pairs_or_none_remain(
    stage, start, monkeypatch, share, missing, kinds
):
    safe_answers(stage, monkeypatch)
    result = stage(harmless_pairs=share)
    assert result.report["outcomes"]["already-safe"] == result.report["requests"]
    assert result.report["pairs_left_out"] == missing
    used = {n: part["used"] for n, part in result.report["kinds"].items() if n.endswith("pairs")}
    assert used == (kinds or {})
    assert (result.report["pairs"], result.report["rows"]) == (sum(used.values()), 16)
    assert moved(result, start)


def test_without_refusals_to_borrow_only_harmful_pairs_remain(stage, start):
    """Revisions of harmless requests are none, so the control cannot prefer answers to them."""
    result = stage(pool=HARMLESS[::2])
    assert result.report["pairs_left_out"] == ["harmless-pairs"]
    assert result.report["kinds"]["harmful-pairs"]["used"] == 4
    assert moved(result, start)


@pytest.mark.parametrize("changes", [{"rows": 0}, {"objective": Objective(sft=0.0)}])
def test_without_training_data_no_step_is_taken(stage, start, monkeypatch, changes):
    safe_answers(stage, monkeypatch)
    result = stage(harmless_pairs=0.0, **changes)
    assert same(result.adapter, start)
    report = result.report
    assert (report["ran"], report["steps"], report["loss_first"]) == (True, 0, None)
    assert (report["stopped"], report["pairs_left_out"]) == (
        "nothing to train on",
        ["harmful-pairs"],
    )
    assert report["full_operations"] is None
    assert not (stage.folder / "work-1" / STATE).exists()
    assert (stage.folder / "kept" / "0001").is_dir()
    assert report["probe_before"]["safe"] == report["probe_after"]["safe"]


def test_an_alignment_starts_from_the_mean_with_the_start(stage, start, monkeypatch):
    safe_answers(stage, monkeypatch)
    origin = {name: value + 1 for name, value in start.items()}
    nothing = {"rows": 0, "harmless_pairs": 0.0}  # no step is taken
    result = stage(start=origin, anchor=0.25, **nothing)
    assert result.report["anchor"] == 0.25
    for name, value in result.adapter.items():
        torch.testing.assert_close(value, start[name] + 0.25)
    assert same(stage(2, start=None, anchor=0.25, **nothing).adapter, start)


@pytest.mark.parametrize("schedule", ["last", "adaptive"])
def test_without_steps_only_the_mean_of_weights_is_computed(stage, start, schedule):
    """Nothing is asked or trained, whatever is at hand; the probe is all that it costs."""
    origin = {name: value + 1 for name, value in start.items()}
    result = stage(start=origin, anchor=0.25, steps=0, schedule=schedule, probe=NEVER, last=True)
    for name, value in result.adapter.items():
        torch.testing.assert_close(value, start[name] + 0.25)
    report = result.report
    assert (report["ran"], report["steps"], report["rows"], report["requests"]) == (True, 0, 0, 0)
    assert (report["stopped"], report["yield"]) == ("the mean of weights alone", None)
    assert set(report["spent"]) == {"probe"}
    again = stage(2, start=origin, anchor=0.25, steps=0, schedule=schedule, probe=NEVER, last=True)
    assert (again.ran, again.report["requests"]) == (True, 0)


def test_the_first_probe_measures_the_aggregated_model(stage, start, monkeypatch):
    probed: list[AdapterState] = []
    measured = phase.measure

    def seen(model, *args, **hooks):
        probed.append(model.adapter())
        return measured(model, *args, **hooks)

    monkeypatch.setattr(phase, "measure", seen)
    origin = {name: value + 1 for name, value in start.items()}
    for number, schedule in enumerate(("adaptive", "budget"), 1):
        probed.clear()
        stage(number, start=origin, anchor=0.5, schedule=schedule, last=True)
        assert same(probed[0], start)


def test_missing_rows_are_an_error(stage):
    plain = tuple(request for request in HARMLESS if not request.kind)
    with pytest.raises(DataError, match="look-alikes must be 25%"):
        stage(requests=RequestSets(HARMFUL, plain, {}, 0))


def test_harmless_answers_have_a_threshold_of_their_own(stage):
    checks = Checks(ScriptedGuard({"loaf": 0.6}), 0.5)
    result = stage(checks=checks)
    assert (result.report["kept"], result.report["harmless"]["answered"]) == (6, 6)
    with pytest.raises(DataError, match="look-alikes"):
        stage(work="strict", checks=checks, harmless_threshold=0.6)


def test_a_probe_has_two_sides(stage):
    with pytest.raises(DataError, match="both sides"):
        stage(requests=RequestSets(HARMFUL, (), {}, 0))
