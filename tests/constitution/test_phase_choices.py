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
from fedrai.recipe.alignment import Goal
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


def test_a_later_round_takes_the_material_of_an_earlier_one(stage, start):
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
def test_it_is_reused_while_enough_of_it_fits(stage, monkeypatch, reuse, reused):
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
def test_without_first_answers_that_gave_way_only_rows_are_reused(
    stage, monkeypatch, pairs, reused
):
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
    seen: list[tuple[Any, AdapterState]] = []

    def watched(model: LanguageModel, probe: Any, batch: int, **hooks: Any) -> Any:
        seen.append((probe, model.adapter()))
        return measured(model, probe, batch, **hooks)

    measured = phase.measure
    monkeypatch.setattr(phase, "measure", watched)
    return seen


def test_adapters_are_measured_and_not_the_one_that_anchors(stage, start, probes):
    anchor = {name: -part for name, part in start.items()}
    before = stage.model.adapter()
    found = stage(schedule="adaptive", probe=NEVER, start=anchor)
    assert len(probes) == 3  # before, after 2 and 4 steps; the better of these is handed on
    assert same(probes[0][1], start)
    assert found.report["adapter_step"] == 2
    assert same(probes[1][1], found.adapter)
    assert same(stage.model.adapter(), before)
    assert not any(same(adapter, anchor) for _, adapter in probes)
    assert {id(probe) for probe, _ in probes} == {id(probes[0][0])}


def test_what_anchors_moves_no_bit_of_an_alignment(stage, start):
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
    found = []
    for number in (1, 2):
        work = stage.folder / f"work-{number}"
        work.mkdir()
        found.append(align(number, start, work, stage.folder / "kept", False))
    again = stage(2, work="again", schedule=schedule, probe=NEVER | {"every": 0})
    check_same(again, found[1])
    assert len(probes) == 6
    assert all(probe == probes[0][0] for probe, _ in probes)
    first, second = (report.report["spent"]["probe"]["tokens"] for report in found)
    texts = texts_of(stage)
    assert first - second == texts.tokens


def test_texts_count_in_the_first_round_though_it_is_left_alone(stage, start):
    first = stage(schedule="adaptive", probe=EASY)
    second = stage(2, schedule="adaptive", probe=EASY)  # another process
    assert not first.ran
    assert not second.ran
    assert second.cost.tokens == second.report["probe_before"]["tokens"] < first.cost.tokens


# --- schedules ------------------------------------------------------------------------------------


def test_a_satisfied_probe_leaves_the_adapter_alone(stage, start):
    found = stage(schedule="adaptive", probe=EASY, last=True)
    assert found.adapter is start
    assert set(found.report) == {"ran", "why", "probe_before"}
    assert found.report["ran"] is False
    assert found.report["why"].startswith("probe: safe ")
    texts, probed = texts_of(stage), found.report["probe_before"]
    assert found.cost.tokens == probed["tokens"] + texts.tokens
    assert found.cost.operations == pytest.approx(probed["operations"] + texts.operations)
    assert [f.name for f in (stage.folder / "work-1").iterdir()] == [SPENT]
    assert not (stage.folder / "kept").exists()
    assert not any(kind == "constitution-started" for kind, _ in stage.heard)
    again = stage(schedule="adaptive", probe=EASY, last=True)
    assert again.report == found.report  # measured again, counted once
    assert again.cost.tokens == found.cost.tokens


@pytest.mark.parametrize(
    ("schedule", "number", "last", "ran"),
    [("every", 1, False, False), ("every", 2, False, True), ("last", 5, False, False),
     ("last", 5, True, True)],
)  # fmt: skip
def test_rounds_that_are_passed_over_cost_nothing(stage, start, schedule, number, last, ran):
    found = stage(number, schedule=schedule, every=2, last=last, steps=1)
    assert found.ran is ran
    if not ran:
        assert found.adapter is start
        assert (found.cost.tokens, found.cost.operations) == (0, 0.0)
        assert found.report["probe_before"] is None


def test_where_no_fall_can_start_it_only_the_last_round_is_probed(stage, start, probes):
    never = NEVER | {"drift": 1.0}
    for number in (1, 2):
        passed = stage(number, schedule="adaptive", probe=never)
        assert passed.adapter is start
        assert (passed.report["why"], passed.cost.tokens) == ("not the last round", 0)
    assert not probes
    found = stage(3, schedule="adaptive", probe=never | {"every": 0}, last=True)
    assert found.ran
    spent, texts = found.report["spent"]["probe"]["tokens"], texts_of(stage)
    both = sum(found.report[key]["tokens"] for key in ("probe_before", "probe_after"))
    assert spent == both + texts.tokens


def test_a_probe_that_is_satisfied_ends_it(stage, monkeypatch):
    """After the first steps; before them it is not, or it would not begin."""
    seen: list[int] = []

    def scripted(model: LanguageModel, probe: Any, batch: int, **hooks: Any) -> Any:
        found = measured(model, probe, batch, **hooks)
        seen.append(len(seen))
        side = (1.0,) if len(seen) > 1 else (-1.0,)
        return replace(found, harmful=side, harmless=side)

    measured = phase.measure
    monkeypatch.setattr(phase, "measure", scripted)
    found = stage(schedule="adaptive")
    assert found.report["stopped"] == "probe satisfied"
    assert (found.report["steps"], found.report["adapter_step"]) == (2, 2)
    assert found.report["trace"] == [{"step": 2, "safe": 1.0, "useful": 1.0, "score": 1.0}]
    assert len(seen) == 2  # before, and after two steps, which is not asked again


def test_what_is_handed_on_is_the_best_look_and_its_probe(stage, monkeypatch):
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
    found = stage(last=True, **changes)
    assert (found.report["steps"], found.report["trace"]) == (4, [])
    assert found.report["probe_after"]["safe"] is not None


def test_early_stop_is_for_budgets_and_not_for_epochs(stage):
    looked = stage(early_stop=True, probe=NEVER)
    assert [look["step"] for look in looked.report["trace"]] == [2, 4]
    assert stage(2, early_stop=True, schedule="full", pairs=0).report["trace"] == []


# --- the control, examples, and what is missing ---------------------------------------------------


def test_the_control_learns_from_revisions_that_comply(stage):
    ordinary = tuple(request for request in HARMLESS if not request.kind)
    found = stage(pool=ordinary, harmless_pairs=0.0)
    kept = read(stage.folder / "kept" / "0001")
    assert {record.request for record in kept.records} == set(ordinary)
    assert {record.outcome for record in kept.records} == {Outcome.KEPT}
    assert all(record.revision.startswith("Here is how") for record in kept.records)
    (chosen, *_), pairs = zip(*_sides(stage, kept.records), strict=True), found.report["kinds"]
    assert all("Here is how" in text for text in chosen)
    assert pairs["harmful-pairs"] == {"items": 3, "used": 8}
    assert pairs["harmless-pairs"]["used"] == 0
    texts = [a.answer for a in kept.harmless] + [r.revision for r in kept.records]
    assert not any("can't" in text for text in texts)


def _sides(stage: Stage, records: Sequence[RevisionRecord]) -> list[tuple[str, str]]:
    decode = stage.model.tokenizer.decode
    pairs = revision_pairs(stage.model.chat, records, MAX_LENGTH)
    return [(decode(p.chosen.ids), decode(p.rejected.ids)) for p in pairs]


def test_examples_alone_are_enough(stage, start):
    sets = RequestSets((), HARMLESS, {}, 0)
    found = stage(requests=sets, pool=(), examples=EXAMPLES, pairs=0)
    assert moved(found, start)
    assert stage.critic.calls == 0
    assert (found.report["requests"], found.report["yield"]) == (0, None)
    assert found.report["examples"] == 3
    assert found.report["kinds"]["revisions"] == {"items": 3, "used": 8}
    assert found.report["full_operations"] > 0
    second = stage(2, requests=sets, pool=(), examples=EXAMPLES, pairs=0, reuse=0.5)
    assert second.report["reused"] is True


def test_a_critic_that_has_nothing_to_say_stops_it_unless_there_are_examples(stage):
    stage.critic = LocalCritic(stage.model, 2)  # talks nonsense
    with pytest.raises(ConstitutionError, match="none of 6 revisions passed") as caught:
        stage(tries=2)
    assert "trick" not in f"{caught.value} {caught.value.hint}"
    found = stage(work="other", tries=2, examples=EXAMPLES)
    assert (found.report["kept"], found.report["yield"]) == (0, 0.0)
    assert found.report["pairs_left_out"] == ["harmful-pairs"]
    assert found.report["kinds"]["revisions"]["items"] == 3


@pytest.mark.parametrize(
    ("share", "missing", "kinds"),
    [
        (0.5, ["harmful-pairs"], {"harmful-pairs": 0, "harmless-pairs": 6}),  # all, 1 a step
        (0.0, ["harmful-pairs"], None),
        (1.0, [], {"harmful-pairs": 0, "harmless-pairs": 8}),
    ],
)
def test_where_no_first_answer_gives_way_other_pairs_or_none_are_left(
    stage, start, monkeypatch, share, missing, kinds
):
    safe_answers(stage, monkeypatch)
    found = stage(harmless_pairs=share)
    assert found.report["outcomes"]["already-safe"] == found.report["requests"]
    assert found.report["pairs_left_out"] == missing
    used = {n: part["used"] for n, part in found.report["kinds"].items() if n.endswith("pairs")}
    assert used == (kinds or {})
    assert (found.report["pairs"], found.report["rows"]) == (sum(used.values()), 16)
    assert moved(found, start)


def test_where_no_refusal_can_be_borrowed_harmful_pairs_are_left(stage, start):
    """Revisions of harmless requests are none, so the control cannot prefer answers to them."""
    found = stage(pool=HARMLESS[::2])
    assert found.report["pairs_left_out"] == ["harmless-pairs"]
    assert found.report["kinds"]["harmful-pairs"]["used"] == 4
    assert moved(found, start)


@pytest.mark.parametrize("changes", [{"rows": 0}, {"objective": Goal(sft=0.0)}])
def test_where_nothing_is_left_no_step_is_taken(stage, start, monkeypatch, changes):
    safe_answers(stage, monkeypatch)
    found = stage(harmless_pairs=0.0, **changes)
    assert same(found.adapter, start)
    report = found.report
    assert (report["ran"], report["steps"], report["loss_first"]) == (True, 0, None)
    assert (report["stopped"], report["pairs_left_out"]) == (
        "nothing to train on",
        ["harmful-pairs"],
    )
    assert report["full_operations"] is None
    assert not (stage.folder / "work-1" / STATE).exists()
    assert (stage.folder / "kept" / "0001").is_dir()
    assert report["probe_before"]["safe"] == report["probe_after"]["safe"]


def test_an_alignment_begins_part_of_the_way_back_to_the_start(stage, start, monkeypatch):
    safe_answers(stage, monkeypatch)
    origin = {name: value + 1 for name, value in start.items()}
    nothing = {"rows": 0, "harmless_pairs": 0.0}  # no step is taken
    found = stage(start=origin, anchor=0.25, **nothing)
    assert found.report["anchor"] == 0.25
    for name, value in found.adapter.items():
        torch.testing.assert_close(value, start[name] + 0.25)
    assert same(stage(2, start=None, anchor=0.25, **nothing).adapter, start)


@pytest.mark.parametrize("schedule", ["last", "adaptive"])
def test_without_steps_the_mean_of_weights_is_all(stage, start, schedule):
    """Nothing is asked or trained, whatever is at hand; the probe is all that it costs."""
    origin = {name: value + 1 for name, value in start.items()}
    found = stage(start=origin, anchor=0.25, steps=0, schedule=schedule, probe=NEVER, last=True)
    for name, value in found.adapter.items():
        torch.testing.assert_close(value, start[name] + 0.25)
    report = found.report
    assert (report["ran"], report["steps"], report["rows"], report["requests"]) == (True, 0, 0, 0)
    assert (report["stopped"], report["yield"]) == ("the mean of weights alone", None)
    assert set(report["spent"]) == {"probe"}
    again = stage(2, start=origin, anchor=0.25, steps=0, schedule=schedule, probe=NEVER, last=True)
    assert (again.ran, again.report["requests"]) == (True, 0)


def test_what_is_probed_first_is_the_aggregated_model_itself(stage, start, monkeypatch):
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


def test_rows_that_are_missing_are_an_error(stage):
    plain = tuple(request for request in HARMLESS if not request.kind)
    with pytest.raises(DataError, match="look-alikes must be 25%"):
        stage(requests=RequestSets(HARMFUL, plain, {}, 0))


def test_harmless_answers_have_a_threshold_of_their_own(stage):
    checks = Checks(ScriptedGuard({"loaf": 0.6}), 0.5)
    found = stage(checks=checks)
    assert (found.report["kept"], found.report["harmless"]["answered"]) == (6, 6)
    with pytest.raises(DataError, match="look-alikes"):
        stage(work="strict", checks=checks, harmless_threshold=0.6)


def test_a_probe_has_two_sides(stage):
    with pytest.raises(DataError, match="both sides"):
        stage(requests=RequestSets(HARMFUL, (), {}, 0))
