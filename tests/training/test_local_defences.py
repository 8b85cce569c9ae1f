"""Defences in the clients' training against their formulas, by autograd and plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.sections import seed_for
from fedrai.records import Message, Tokens
from fedrai.training.asft import Asft, directions
from fedrai.training.constrained import ConstrainedSft, Limits
from fedrai.training.defending import Together
from fedrai.training.lisa import Lisa
from fedrai.training.losses import constrained_loss
from fedrai.training.master_weights import MasterWeights
from fedrai.training.sft import (
    SftSettings,
    add_proximal_gradient,
    backward,
    batches,
    token_counts,
    train,
)

RATE = 2e-3
SETTINGS = SftSettings(4, 3, lambda _: RATE)


@pytest.fixture(scope="module")
def rows(tiny: LanguageModel) -> list[Tokens]:
    talks = [
        [Message("user", f"item {n}?"), Message("assistant", f"it is {n * n}" + "!" * (n % 4))]
        for n in range(7)
    ]
    talks[2] += talks[5]
    return [tiny.chat.train_tokens(talk, 256) for talk in talks]


@pytest.fixture(scope="module")
def safe(tiny: LanguageModel) -> list[Tokens]:
    talks = [[Message("user", f"do {n}"), Message("assistant", "I won't.")] for n in range(5)]
    return [tiny.chat.train_tokens(talk, 256) for talk in talks]


def draw(model: LanguageModel, seed: int, size: float = 0.2) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: size * torch.randn(p.shape, generator=generator)
        for name, p in model.parameters.items()
    }


def far(one: AdapterState, other: AdapterState) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


# --- constrained SFT ------------------------------------------------------------------------------


def test_the_constrained_loss_by_hand() -> None:
    # where both agree: 2 log 2 / beta; with beta = 2 and a drift of log 3:
    # -log sigmoid(2 log 3) = log(1 + 1 / 9)
    policy, reference = torch.tensor([-1.0, math.log(0.6)]), torch.tensor([-1.0, math.log(0.2)])
    values = constrained_loss(policy, reference, torch.tensor([0.5, 2.0]))
    assert values.tolist() == pytest.approx([4 * math.log(2), math.log(10 / 9)], rel=1e-5)


def test_its_gradient_is_that_of_the_cross_entropy_times_the_papers_weight() -> None:
    policy = torch.linspace(-4, -0.1, 9).requires_grad_()
    reference, beta = torch.linspace(-1, -3, 9), torch.tensor([0.1, 0.5, 2.0] * 3)
    constrained_loss(policy, reference, beta).sum().backward()
    weight = 2 * torch.sigmoid(-beta * (policy.detach() - reference))
    torch.testing.assert_close(policy.grad, -weight)


def test_a_small_beta_is_plain_training() -> None:
    policy = torch.tensor([-3.0, -0.5], requires_grad=True)
    constrained_loss(policy, torch.tensor([-1.0, -1.0]), torch.full((2,), 1e-4)).sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([-1, -1], abs=1e-3)


def test_limits_count_from_the_beginning_of_each_answer() -> None:
    row = Tokens(tuple(range(12)), (False, False, *[True] * 4, False, *[True] * 2, *[False] * 3))
    assert Limits(0.5, 2.0, 0.1, 3).of(row) == [0.5, 2.0, 2.0, 0.1, 0.5, 2.0]
    row = Tokens((1, 2, 3), (True, True, True))  # the first token predicts nothing
    assert Limits(0.5, 2.0, 0.1, 2).of(row) == [2.0, 0.1]


def plain_log_probabilities(model: LanguageModel, row: Tokens) -> Tensor:
    ids = torch.tensor([row.ids])
    logits = model.logits(ids, torch.ones_like(ids))[0, :-1].float().log_softmax(-1)
    places = [i for i, label in enumerate(row.mask[1:]) if label]
    return logits[places].gather(1, torch.tensor([row.ids[i + 1] for i in places])[:, None])[:, 0]


def test_a_step_has_the_gradient_of_the_papers_loss(
    tiny: LanguageModel, rows: list[Tokens]
) -> None:
    reference, start, batch = draw(tiny, 1), draw(tiny, 2), rows[:3]
    defence = ConstrainedSft(reference)
    settings = SftSettings(1, 3, lambda _: RATE, micro_batch_size=2, group_by_length=False)
    hooks = defence.begin(tiny, rows, replace(settings, steps=3), seed=0)
    assert hooks.backward is not None
    with tiny.using(start):
        loss = hooks.backward(batch)
        ours = {n: p.grad.clone() for n, p in tiny.parameters.items() if p.grad is not None}
        for parameter in tiny.parameters.values():
            parameter.grad = None
        with torch.no_grad(), tiny.using(reference):
            then = [plain_log_probabilities(tiny, row) for row in batch]
        total, plain = torch.zeros(()), 0.0
        for row, reference_values in zip(batch, then, strict=True):
            policy = plain_log_probabilities(tiny, row)
            beta = torch.tensor(Limits().of(row))
            drift = beta * (policy - reference_values)
            total = total - (2 / beta * torch.log(torch.sigmoid(drift))).sum()
            plain -= policy.sum().item()
        (total / token_counts(batch)[1]).backward()
        for name, parameter in tiny.parameters.items():
            torch.testing.assert_close(ours[name], parameter.grad, rtol=2e-3, atol=1e-5)
            parameter.grad = None
    assert loss == pytest.approx(plain / token_counts(batch)[1], rel=1e-4)


def test_the_reference_is_read_once_for_each_row(tiny: LanguageModel, rows: list[Tokens]) -> None:
    start = draw(tiny, 1)
    defence = ConstrainedSft(start)
    settings = replace(SETTINGS, defence=defence)
    made = train(tiny, start, rows, settings, seed=3)[1]
    plain = train(tiny, start, rows, SETTINGS, seed=3)[1]
    used = {row for batch in batches(rows, 3, 4, 3) for row in batch}  # 12 places for 7 rows
    assert made.tokens - plain.tokens == token_counts(used)[0]
    assert made.operations > plain.operations
    assert made.label_tokens == plain.label_tokens


def test_strong_limits_keep_the_model_closer(tiny: LanguageModel, rows: list[Tokens]) -> None:
    start = draw(tiny, 1)
    settings = replace(SETTINGS, steps=12, learning_rate=lambda _: 2e-2)
    plain = train(tiny, start, rows, settings, seed=3)[1]
    strong = ConstrainedSft(start, Limits(20.0, 20.0, 20.0))
    limited = train(tiny, start, rows, replace(settings, defence=strong), seed=3)[1]
    assert plain.losses[0] == pytest.approx(limited.losses[0], rel=1e-4)  # reported alike
    assert limited.losses[-1] > plain.losses[-1]


# --- AsFT -----------------------------------------------------------------------------------------


def test_the_penalty_has_the_gradient_of_its_formula(tiny: LanguageModel) -> None:
    """Against autograd through the full matrices of every layer."""
    start, current, scale, strength = draw(tiny, 1), draw(tiny, 2), 2.0, 0.7
    master = MasterWeights(tiny, current)
    for copy in master.copies:
        copy.grad = torch.ones_like(copy)
    hooks = Asft(directions(start), strength, scale).begin(tiny, [], SETTINGS, 0)
    assert hooks.on_gradient is not None
    hooks.on_gradient(master)
    leaves = {name: value.double().requires_grad_() for name, value in current.items()}
    total = torch.zeros((), dtype=torch.float64)
    for name in leaves:
        if "lora_A" not in name:
            continue
        second = name.replace("lora_A", "lora_B")
        v = (start[second].double() @ start[name].double()) * scale
        moved = scale * (leaves[second] @ leaves[name]) - v
        rest = torch.eye(len(v), dtype=torch.float64) - v @ torch.linalg.pinv(v)
        total = total + strength * (rest @ moved).square().sum()
    total.backward()
    for name, weight in master.named().items():
        assert weight.grad is not None
        expected = leaves[name].grad
        torch.testing.assert_close(weight.grad.double() - 1, expected, rtol=1e-3, atol=1e-4)


def test_the_penalty_keeps_the_change_in_the_directions_of_the_start(
    tiny: LanguageModel, rows: list[Tokens]
) -> None:
    start = draw(tiny, 1)
    bases = directions(start)

    def outside(adapter: AdapterState) -> float:
        total = 0.0
        for layer, basis in bases.items():
            b, a = adapter[f"{layer}.lora_B.weight"], adapter[f"{layer}.lora_A.weight"]
            total += float(((b - basis @ (basis.T @ b)) @ a).square().sum())
        return total

    settings = replace(SETTINGS, steps=8)
    plain = train(tiny, start, rows, settings, seed=1)[0]
    held = train(tiny, start, rows, replace(settings, defence=Asft(bases, 100.0, 2.0)), seed=1)[0]
    assert outside(start) < 1e-8
    assert outside(held) < outside(plain) / 2


def test_a_layer_without_a_start_has_no_direction(tiny: LanguageModel) -> None:
    start = draw(tiny, 1)
    name = next(name for name in start if "lora_B" in name)
    start[name] = torch.zeros_like(start[name])
    layer = name.removesuffix(".lora_B.weight")
    assert layer not in directions(start)
    assert len(directions(start)) == len(start) // 2 - 1


# --- Lisa -----------------------------------------------------------------------------------------


def test_lisa_is_its_two_kinds_of_steps_in_turn(
    tiny: LanguageModel, rows: list[Tokens], safe: list[Tokens]
) -> None:
    start, rho = draw(tiny, 1), 3.0
    settings = SftSettings(5, 3, lambda step: RATE * (1 + step), first_step=2)
    made, result = train(
        tiny, start, rows, replace(settings, defence=Lisa(safe, 2, 2, rho)), seed=9
    )
    own = batches(rows, 3, 5, 9)
    aligned = list(batches(safe, 3, 6, seed_for(9, "lisa")))
    queue, losses = iter(aligned), []
    with tiny.using(start), tiny.mode(training=True):
        master = MasterWeights(tiny, start)

        def step(batch: list[Tokens], other: list[Tensor], rate: float) -> float:
            loss = backward(tiny, batch, 3)
            master.collect()
            add_proximal_gradient(master.copies, other, rho)
            master.step(rate, settings.clip_norm)
            return loss

        def now() -> list[Tensor]:
            return [copy.clone() for copy in master.copies]

        for number, batch in enumerate(own):
            rate = RATE * (1 + number + 2)
            if number % 2 == 0:
                last_own = now()
                for _ in range(2):
                    step(next(queue), last_own, rate)
                last_aligned = now()
            losses.append(step(batch, last_aligned, rate))
        assert far(made, master.adapter()) == 0
    assert list(result.losses) == losses
    extra = token_counts([row for batch in aligned for row in batch])[0]
    plain = train(tiny, start, rows, settings, seed=9)[1]
    assert result.tokens - plain.tokens == extra
    assert result.operations > plain.operations
    assert result.label_tokens == plain.label_tokens


def test_lisa_lowers_the_loss_on_safe_rows(
    tiny: LanguageModel, rows: list[Tokens], safe: list[Tokens]
) -> None:
    from fedrai.training.sft import held_out_loss

    start = draw(tiny, 1)
    settings = replace(SETTINGS, steps=10, learning_rate=lambda _: 1e-2)
    losses = []
    for defence in (None, Lisa(safe, 2, 2, 0.1)):
        adapter = train(tiny, start, rows, replace(settings, defence=defence), seed=2)[0]
        with tiny.using(adapter):
            losses.append(held_out_loss(tiny, safe, 4)[0])
    assert losses[1] < losses[0]


# --- together, and off ----------------------------------------------------------------------------


def test_a_defence_that_does_nothing_leaves_the_bits_alone(
    tiny: LanguageModel, rows: list[Tokens]
) -> None:
    start = draw(tiny, 1)
    plain = train(tiny, start, rows, SETTINGS, seed=5)[0]
    none = train(tiny, start, rows, replace(SETTINGS, defence=Together([])), seed=5)[0]
    assert far(plain, none) == 0


def test_two_act_together(tiny: LanguageModel, rows: list[Tokens]) -> None:
    start = draw(tiny, 1)
    parts = [ConstrainedSft(start), Asft(directions(start), 50.0, 2.0)]
    settings = replace(SETTINGS, learning_rate=lambda _: 1e-2)
    made = [
        train(tiny, start, rows, replace(settings, defence=defence), seed=5)[0]
        for defence in (None, parts[0], parts[1], Together(parts))
    ]
    assert all(far(made[3], other) > 0 for other in made[:3])
    again = train(tiny, start, rows, replace(settings, defence=Together(parts)), seed=5)[0]
    assert far(again, made[3]) == 0
