"""A client's training on answers and pairs: the parts that it is made of, and the dense formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.alignment import Objective
from fedrai.records import Message, PreferencePair, Tokens, TrainingStep
from fedrai.training import local, sft
from fedrai.training.pair_settings import PairSettings
from fedrai.training.prefer import AlignHooks, AlignSettings, align
from fedrai.training.prefer.reference import AlignmentData
from fedrai.training.prefer.tokens import pair_tokens
from fedrai.training.sft import SftSettings

BETA = 0.5
GOAL = Objective(sft=0, preference=1, beta=BETA)
DPO = PairSettings(steps=3, learning_rate=lambda _: 0.02, objective=GOAL)
SETTINGS = SftSettings(steps=2, batch_size=2, learning_rate=lambda _: 0.01, pairs=DPO)


def turns(*texts: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(roles[n % 2], text) for n, text in enumerate(texts))


@pytest.fixture
def pairs(tiny: LanguageModel) -> list[PreferencePair]:
    sides = [("ab?", "yes", "no no"), ("And cd?", "ok then", "hm"), ("x", "one", "two"),
             ("Why?", "so", "never")]  # fmt: skip
    return [
        pair_tokens(tiny.chat, turns(prompt, good), turns(prompt, bad), 1, 96)
        for prompt, good, bad in sides
    ]


@pytest.fixture
def answers(tiny: LanguageModel) -> list[Tokens]:
    return [tiny.chat.train_tokens(turns(f"Say {n}", "fine " * n), 96) for n in range(1, 5)]


def adapter(tiny: LanguageModel, seed: int) -> AdapterState:
    """An adapter that changes the model: no factor is zero."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: part + 0.3 * torch.rand(part.shape, generator=generator)
        for name, part in tiny.fresh_adapter(seed).items()
    }


def same(one: AdapterState, other: AdapterState) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def dense(model: LanguageModel, row: Tokens) -> torch.Tensor:
    """The log-probability of a row's label tokens, from all logits."""
    ids = torch.tensor([row.ids])
    chances = model.logits(ids, torch.ones_like(ids)).float().log_softmax(-1)[0]
    return sum(chances[n - 1, row.ids[n]] for n in range(1, len(row.ids)) if row.mask[n])


@torch.no_grad()
def dense_loss(
    model: LanguageModel, policy: AdapterState, reference: AdapterState | None,
    pairs: list[PreferencePair],
) -> float:  # fmt: skip
    """-log sigmoid(beta ((log pi/ref)(chosen) - (log pi/ref)(rejected))), by hand."""
    values = []
    for state in (policy, reference):
        with model.using(state), model.mode(training=False):
            values.append([(dense(model, p.chosen), dense(model, p.rejected)) for p in pairs])
    margins = [BETA * ((pc - pr) - (rc - rr)) for (pc, pr), (rc, rr) in zip(*values, strict=True)]
    return sum(math.log1p(math.exp(-float(m))) for m in margins) / len(margins)


def test_without_pairs_it_is_sft_to_the_bit(tiny: LanguageModel, answers: list[Tokens]) -> None:
    start = adapter(tiny, 1)
    found, result = local.train(tiny, start, answers, SETTINGS, seed=3)
    expected, plain = sft.train(tiny, start, answers, SETTINGS, seed=3)
    assert same(found, expected)
    assert result.preference is None
    assert result.losses == plain.losses


def test_pairs_alone_are_the_alignments_loop_to_the_bit(
    tiny: LanguageModel, pairs: list[PreferencePair]
) -> None:
    start = adapter(tiny, 1)
    found, result = local.train(tiny, start, pairs, replace(SETTINGS, steps=0), seed=3)
    goal = AlignSettings(GOAL, 3, 0, 2, lambda _: 0.02, 3)
    expected, figures = align(tiny, start, [], pairs, goal, AlignHooks())
    assert same(found, expected)
    assert result.losses == ()
    assert result.preference is not None
    assert result.preference.losses == tuple(step.loss for step in figures.steps)
    later = figures.steps[1:]  # the second half of three steps
    assert result.preference.margin == pytest.approx(sum(s.margin or 0 for s in later) / 2)
    assert result.tokens == figures.tokens


def test_answers_come_first_and_the_reference_is_the_rounds(
    tiny: LanguageModel, pairs: list[PreferencePair], answers: list[Tokens]
) -> None:
    """The first loss of the pairs is that of the adapter after SFT, against the round's start."""
    start, one = adapter(tiny, 1), replace(SETTINGS, batch_size=4)
    rows = [answers[0], *pairs, *answers[1:]]
    steps: list[TrainingStep] = []
    found, result = local.train(tiny, start, rows, one, seed=3, on_step=steps.append)
    between, plain = sft.train(tiny, start, answers, one, seed=3)
    assert result.losses == plain.losses
    assert result.preference is not None
    expected = dense_loss(tiny, between, start, pairs)
    assert result.preference.losses[0] == pytest.approx(expected, abs=1e-5)
    assert abs(expected - math.log(2)) > 1e-3
    assert [(s.step, s.steps) for s in steps] == [(n, 5) for n in range(1, 6)]
    with tiny.using(start):
        assert not same(found, between)


@pytest.mark.parametrize("has_start", [True, False])
def test_the_reference_may_be_the_runs_start(
    tiny: LanguageModel, pairs: list[PreferencePair], has_start: bool
) -> None:
    """An adapter, or the base model alone."""
    start, first = adapter(tiny, 1), adapter(tiny, 2) if has_start else None
    goal = replace(DPO, from_start=True, start=first)
    settings = replace(SETTINGS, batch_size=4, steps=0, pairs=goal)
    _, result = local.train(tiny, start, pairs, settings, seed=3)
    assert result.preference is not None
    expected = dense_loss(tiny, start, first, pairs)
    assert result.preference.losses[0] == pytest.approx(expected, abs=1e-5)
    assert abs(expected - math.log(2)) > 1e-3


def test_micro_batches_change_nothing_but_rounding(
    tiny: LanguageModel, pairs: list[PreferencePair]
) -> None:
    start, whole = adapter(tiny, 1), replace(SETTINGS, batch_size=4, steps=0)
    found = [
        local.train(tiny, start, pairs, replace(whole, micro_batch_size=size), seed=3)[1].preference
        for size in (0, 1)
    ]
    one, other = (result.losses for result in found if result is not None)
    assert one == pytest.approx(other, abs=1e-3)
    goal = AlignSettings(GOAL, 1, 0, 4, lambda _: 0.02, 3, micro_batch_pairs=1)
    parts = AlignmentData(tiny, [], pairs, goal).pair_parts(range(4))
    assert [len(part) for part in parts] == [1, 1, 1, 1]


def test_a_frozen_factor_stays_and_the_terms_of_rules_act(
    tiny: LanguageModel, pairs: list[PreferencePair]
) -> None:
    start = adapter(tiny, 1)
    plain = replace(SETTINGS, steps=0)
    frozen, _ = local.train(tiny, start, pairs, replace(plain, frozen="A"), seed=3)
    moved = {name for name in start if not torch.equal(frozen[name], start[name])}
    assert moved == {name for name in start if name.endswith("lora_B.weight")}
    without, _ = local.train(tiny, start, pairs, plain, seed=3)
    # SCAFFOLD: with plain steps of one learning rate, each also goes -rate * correction
    correction = {name: torch.full_like(part, 0.25) for name, part in start.items()}
    one = replace(plain, pairs=replace(DPO, steps=1))
    base, _ = local.train(tiny, start, pairs, one, seed=3)
    turned, _ = local.train(tiny, start, pairs, replace(one, correction=correction), seed=3)
    for name in start:
        assert torch.allclose(turned[name], base[name] - 0.02 * 0.25, atol=1e-6)
    # FedProx: pulled to the adapter that the round began with
    pulled, _ = local.train(tiny, start, pairs, replace(plain, proximal_mu=1e3), seed=3)
    distances = [
        sum(float((state[name] - start[name]).square().sum()) for name in start)
        for state in (pulled, without)
    ]
    assert distances[0] < distances[1]


def test_rates_are_summed_over_both_trainings() -> None:
    both = replace(SETTINGS, steps=2, pairs=replace(DPO, steps=3, first_step=6))
    assert both.rate_sum == pytest.approx(2 * 0.01 + 3 * 0.02)
    late = replace(DPO, learning_rate=lambda step: float(step), first_step=6)
    assert late.rate_sum == 6 + 7 + 8


def test_only_the_answers_of_a_pair_are_labels(tiny: LanguageModel) -> None:
    """Earlier answers, which both share, are not."""
    before = turns("hi", "hello there", "and?")
    sides = [(*before, Message("assistant", text)) for text in ("good", "bad!")]
    pair = pair_tokens(tiny.chat, *sides, 3, 200)
    for row, text in ((pair.chosen, "good"), (pair.rejected, "bad!")):
        labelled = [i for i, is_label in zip(row.ids, row.mask, strict=True) if is_label]
        assert tiny.chat.decode(labelled) == text
    assert local.labels_of(pair) == sum(pair.chosen.mask) + sum(pair.rejected.mask)
