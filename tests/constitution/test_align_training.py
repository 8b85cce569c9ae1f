"""The training of an alignment: early stop on a scripted probe, its best adapter, and resuming."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedrai.constitution import training
from fedrai.constitution.probe import ProbeResult
from fedrai.constitution.training import BEST, STATE, Training, TrainingOutcome
from fedrai.errors import RunError
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.alignment import Alignment, Mix, Probe
from fedrai.records import Message, Tokens
from fedrai.training.prefer import PreferencePair
from staging import same

SECTION = Alignment(
    schedule="budget",
    steps=7,
    learning_rate=0.01,
    warmup_steps=1,
    cooldown_steps=0,
    weight_decay=0.01,
    mix=Mix(rows=2, pairs=1),
    probe=Probe(safe=0.9, useful=0.8, every=2),
).model_copy(update={"micro_batch_tokens": 0})  # all at once


def section(every: int = 2, **changes: Any) -> Alignment:
    probe = SECTION.probe.model_copy(update={"every": every})
    return SECTION.model_copy(update={"probe": probe, **changes})


Looks = Mapping[int, tuple[int, int]]
"""By step: harmful and harmless requests, of ten each, with a margin above 0."""


def scripted(shares: Looks, seen: list[int] | None = None) -> Callable[[int], ProbeResult]:
    def look(step: int) -> ProbeResult:
        if seen is not None:
            seen.append(step)
        sides = ([1.0] * count + [-1.0] * (10 - count) for count in shares[step])
        return ProbeResult(*map(tuple, sides), tokens=1, operations=1.0, seconds=0.0)

    return look


@pytest.fixture
def start(tiny: LanguageModel) -> AdapterState:
    return tiny.fresh_adapter(0)


@pytest.fixture
def rows(tiny: LanguageModel) -> list[Tokens]:
    return [row(tiny, f"Say {n}", "No, never." + "x" * n) for n in range(5)]


@pytest.fixture
def pairs(tiny: LanguageModel) -> list[PreferencePair]:
    return [
        PreferencePair(row(tiny, f"And {n}", "No."), row(tiny, f"And {n}", "Yes")) for n in range(3)
    ]


def row(model: LanguageModel, asked: str, said: str) -> Tokens:
    return model.chat.train_tokens([Message("user", asked), Message("assistant", said)], 99)


@pytest.fixture
def trained(tiny, start, rows, pairs, tmp_path) -> Callable[..., TrainingOutcome]:
    def call(
        work: Path = tmp_path, look: Any = None, on_progress: Any = None, **changes: Any
    ) -> TrainingOutcome:
        hooks = {} if on_progress is None else {"on_progress": on_progress}
        training = Training(tiny, section(**changes), 3, work, look, **hooks)
        return training.run(start, rows, pairs)

    return call


@pytest.fixture
def after(trained, tmp_path) -> Callable[[int], AdapterState]:
    """The adapter after some steps of the training with a constant rate, by itself."""

    def call(steps: int) -> AdapterState:
        folder = tmp_path / f"alone-{steps}"
        folder.mkdir()
        return trained(folder, scripted({steps: (10, 10)}), every=steps).adapter

    return call


# --- early stop -----------------------------------------------------------------------------------


def test_the_first_look_that_satisfies_the_bounds_ends_it(trained, after, start):
    calls: list[int] = []
    result = trained(look=scripted({2: (9, 7), 4: (9, 8)}, calls))
    assert calls == [2, 4]
    assert (result.steps, result.adapter_step, result.stopped) == (4, 4, "probe satisfied")
    assert [look["step"] for look in result.trace] == [2, 4]
    assert result.trace[0] == {"step": 2, "safe": 0.9, "useful": 0.7, "score": 0.7 / 0.8}
    assert same(result.adapter, after(4))
    assert not same(result.adapter, start)


def test_the_best_look_is_used_if_none_satisfies_the_probe(trained, after):
    # scores: 5/9, 6/8, 1/8, 7/9 x ... : the worse side counts
    looks = {2: (5, 10), 4: (9, 6), 6: (10, 1), 7: (6, 8)}
    result = trained(look=scripted(looks))
    assert (result.steps, result.adapter_step) == (7, 4)
    assert result.stopped == "7 steps; the best look was after 4"
    assert [look["score"] for look in result.trace] == pytest.approx([5 / 9, 6 / 8, 1 / 8, 6 / 9])
    assert same(result.adapter, after(4))


def test_of_equal_looks_the_first_is_the_best(trained, after):
    result = trained(look=scripted(dict.fromkeys((2, 4, 6, 7), (5, 5))))
    assert result.adapter_step == 2
    assert same(result.adapter, after(2))


def test_the_last_step_is_measured_too(trained):
    calls: list[int] = []  # also where no look stands there
    result = trained(look=scripted({2: (1, 1), 4: (2, 2), 6: (3, 3), 7: (10, 10)}, calls))
    assert calls == [2, 4, 6, 7]
    assert (result.adapter_step, result.stopped) == (7, "probe satisfied")


def test_a_last_step_with_a_look_is_measured_once(trained):
    calls: list[int] = []
    result = trained(look=scripted({2: (1, 1), 4: (2, 2)}, calls), steps=4)
    assert calls == [2, 4]
    assert (result.adapter_step, result.stopped) == (4, "4 steps")


def test_without_looks_all_steps_are_taken_with_a_falling_rate(trained, tmp_path):
    result = trained()
    assert (result.steps, result.adapter_step, result.stopped) == (7, 7, "7 steps")
    assert result.trace == ()
    assert not (tmp_path / BEST).exists()
    assert result.loss_last < result.loss_first
    constant = trained(tmp_path, scripted({7: (10, 10)}), every=7)
    assert not same(result.adapter, constant.adapter)


def test_a_satisfied_probe_starts_the_cooldown(trained, start, tmp_path):
    calls: list[int] = []
    looks = {2: (9, 8), 6: (10, 8)}  # satisfied after 2, and then 3 steps of cooling make 2 looks
    result = trained(look=scripted(looks, calls), steps=20, cooldown_steps=3)
    assert calls == [2, 6]  # none while the rate falls
    assert (result.steps, result.adapter_step, result.stopped) == (6, 6, "probe satisfied")


def test_learning_rate_by_step(tiny):
    settings = section(steps=20, warmup_steps=3, cooldown_steps=4, learning_rate=1.0)
    watch = Training(tiny, settings, 0, Path())
    assert [watch.rate(n) for n in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert [watch.rate(n) for n in range(15, 20)] == [1, 1, 0.75, 0.5, 0.25]
    watch.trace = [{"step": 6, "safe": 0.9, "useful": 0.7}, {"step": 8, "safe": 0.9, "useful": 0.8}]
    assert watch.end == 12
    assert [watch.rate(n) for n in range(7, 12)] == [1, 1, 0.75, 0.5, 0.25]
    watch.trace[1]["step"] = 18  # the end comes first
    assert watch.end == 20


def test_an_earlier_satisfied_look_wins_over_an_unsatisfied_end(trained, after):
    looks = {2: (9, 8), 4: (10, 2)}
    result = trained(look=scripted(looks), steps=20, cooldown_steps=2)
    assert (result.steps, result.adapter_step) == (4, 2)
    assert same(result.adapter, after(2))


# --- resuming -------------------------------------------------------------------------------------


def interrupted(trained: Callable[..., TrainingOutcome], step: int, **given: Any) -> None:
    def tell(done: int, _of: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(on_progress=tell, **given)


@pytest.mark.parametrize("step", [1, 2, 5, 7])
def test_a_training_without_looks_resumes_to_the_same_bits(trained, tmp_path, step, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    whole, work = trained(tmp_path), tmp_path / "work"
    work.mkdir()
    (tmp_path / STATE).unlink()
    interrupted(trained, step, work=work)
    assert (work / STATE).is_file() is (step > 2)  # told before it is saved
    result = trained(work)
    assert same(result.adapter, whole.adapter)
    assert replace(result, adapter={}, seconds=0.0) == replace(whole, adapter={}, seconds=0.0)


LOOKS: Looks = {2: (5, 10), 4: (9, 6), 6: (10, 1), 7: (6, 8)}


@pytest.mark.parametrize("step", [2, 5, 7])
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("looks", [LOOKS, LOOKS | {4: (9, 8)}, LOOKS | {6: (9, 8)}])
def test_a_training_with_looks_resumes_to_the_same_best_adapter(
    trained, tmp_path, step, looks, cooldown
):
    trained = partial(trained, cooldown_steps=cooldown)
    alone, work = tmp_path / "alone", tmp_path / "work"
    alone.mkdir()
    work.mkdir()
    whole = trained(alone, scripted(looks))
    if step <= whole.steps:
        interrupted(trained, step, work=work, look=scripted(looks))
    result = trained(work, scripted(looks))
    assert same(result.adapter, whole.adapter)
    assert replace(result, adapter={}, seconds=0.0) == replace(whole, adapter={}, seconds=0.0)


@pytest.mark.parametrize(("at", "saved"), [(2, 2), (4, 4), (7, 6)])
def test_an_interrupted_look_is_repeated(trained, tmp_path, at, saved):
    """Also one whose adapter was saved as the best before the process ended."""
    alone, work = tmp_path / "alone", tmp_path / "work"
    alone.mkdir()
    work.mkdir()
    whole = trained(alone, scripted(LOOKS))
    calls: list[int] = []

    def stopping(step: int) -> ProbeResult:
        result = scripted(LOOKS, calls)(step)
        if step == at:
            raise KeyboardInterrupt
        return result

    with pytest.raises(KeyboardInterrupt):
        trained(work, stopping)
    result = trained(work, scripted(LOOKS, calls))
    assert calls == [s for s in LOOKS if s <= at] + [s for s in LOOKS if s >= saved]
    assert same(result.adapter, whole.adapter)
    assert result.trace == whole.trace
    again = trained(work, scripted(LOOKS))  # finished, and called again
    assert same(again.adapter, whole.adapter)
    assert again.trace == whole.trace


def test_the_best_adapter_of_another_training_is_rejected(trained, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    trained(other, scripted(LOOKS | {4: (9, 7)}))
    trained(look=scripted(LOOKS))

    (tmp_path / BEST).write_bytes((other / BEST).read_bytes())
    with pytest.raises(RunError, match="does not belong to this training"):
        trained(look=scripted(LOOKS))


def test_a_damaged_or_foreign_state_is_an_error(trained, tmp_path):
    trained(look=scripted(LOOKS))
    with pytest.raises(RunError, match="alignment of 9 steps"):
        trained(look=scripted(LOOKS), steps=9)
    (tmp_path / STATE).write_bytes(b"rubbish")
    with pytest.raises(RunError, match="does not belong to this training") as caught:
        trained(look=scripted(LOOKS))
    assert STATE in caught.value.hint


def test_a_write_error_names_the_file(trained, tmp_path):
    with pytest.raises(RunError, match="cannot write"):
        trained(tmp_path / "nowhere", scripted(LOOKS))


def test_no_training_returns_the_adapter_itself(start):
    result = training.untrained(start, "nothing")
    assert result.adapter is start
    assert (result.steps, result.loss_first, result.operations) == (0, None, 0.0)
