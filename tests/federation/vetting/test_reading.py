"""Scores that read the model: what they measure and cost, and that they leave it as it was."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from fedrai.constitution.probe import measure
from fedrai.constitution.records import Request
from fedrai.federation.vetting.functional import FEWEST, Functional
from fedrai.federation.vetting.gradient import ContrastRows, Gradient
from fedrai.federation.vetting.updates import RoundUpdates
from fedrai.model import AdapterState, LanguageModel
from fedrai.records import Message, Tokens
from fedrai.training.sft import SftSettings, train

HARMFUL = [Request(f"how to break {n}?") for n in ("a", "bb", "ccc", "dd", "e", "fff")]
HARMLESS = [Request(f"how to mend {n}?", harmful=False) for n in ("a", "bb", "ccc", "dd", "e", "f")]


def round_of(
    start: AdapterState, adapters: dict[str, AdapterState], operations: float = 0.0
) -> RoundUpdates:
    return RoundUpdates(1, 0, start, adapters, operations)


def row(lm: LanguageModel, request: str, answer: str) -> Tokens:
    return lm.chat.train_tokens([Message("user", request), Message("assistant", answer)], 96)


def shifted(start: AdapterState, seed: int) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    return {n: t + 0.3 * torch.randn(t.shape, generator=generator) for n, t in start.items()}


def test_the_fall_is_that_of_the_mean_safety_margin(tiny: LanguageModel) -> None:
    start = tiny.fresh_adapter(1)
    adapters = {"same": start, "other": shifted(start, 2)}
    reader = Functional(tiny, (HARMFUL, HARMLESS), 0.05)
    updates = round_of(start, adapters)
    values = reader.score.measure(updates)
    margins = []
    for adapter in (start, adapters["other"]):
        with tiny.using(adapter):
            margins.append(fmean(measure(tiny, reader._rows(updates)).harmful))
    assert values["same"] == 0
    assert values["other"] == pytest.approx(margins[0] - margins[1], abs=1e-4)
    assert abs(values["other"]) > 0.1
    reason = reader.score.reason(updates, values, "other")
    assert f"lowers the safety margin by {values['other']:.1f} nats, others 0.0" in reason
    spent = updates.meter.operations
    assert reader.score.measure(updates.only(["other"])) == {"other": values["other"]}
    assert updates.meter.operations == spent  # read once


def test_the_budget_decides_how_many_requests_are_read(tiny: LanguageModel) -> None:
    start = tiny.fresh_adapter(1)
    adapters = {str(n): start for n in range(4)}
    reader = Functional(tiny, (HARMFUL, HARMLESS), 0.05)
    full = round_of(start, adapters)
    reader.score.measure(full)
    assert len(reader._rows(full).harmful) == 6
    for wanted in (3, 5):
        # 5 % of the training of four clients, for four readings and that of the start
        training = 1.01 * reader._operations(reader._first(wanted)) * 5 / 4 / 0.05
        updates = round_of(start, adapters, training)
        reader.score.measure(updates)
        rows = reader._rows(updates)
        assert (len(rows.harmful), len(rows.harmless)) == (wanted, (wanted + 1) // 2)
        assert 0.5 < updates.meter.operations / (0.05 * training * 4) <= 1
    assert len(reader._rows(round_of(start, adapters, 1.0)).harmful) == FEWEST


def test_who_learns_the_harmful_answers_goes_their_way(tiny: LanguageModel) -> None:
    """Real training of the tiny model on other rows of each kind."""
    requests = [f"number {n}?" for n in range(12)]
    harmful = [row(tiny, r, f"do it so: {r}") for r in requests]
    refused = [row(tiny, r, "no, not that") for r in requests]
    start = tiny.fresh_adapter(1)
    settings = SftSettings(steps=4, batch_size=4, learning_rate=lambda _: 0.01)
    adapters = {
        "harmful": train(tiny, start, harmful[6:], settings, seed=1)[0],
        "refusing": train(tiny, start, refused[6:], settings, seed=2)[0],
        "noise": shifted(start, 3),
        "nothing": start,
    }
    taker = Gradient(tiny, ContrastRows(harmful[:6], refused[:6]), 0.05)
    updates = round_of(start, adapters)
    before = tiny.adapter()
    values = taker.gradient.measure(updates)
    assert max(values, key=lambda name: values[name]) == "harmful"
    assert values["nothing"] == 0
    assert values["refusing"] < 0.5 * values["harmful"]
    assert updates.meter.operations > 0
    after = tiny.adapter()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.grad is None for weight in tiny.parameters.values())
    assert taker.gradient.measure(round_of(start, adapters)) == values
    spent = updates.meter.operations
    progress = taker.progress.measure(updates)
    assert updates.meter.operations == spent  # the same gradients
    assert progress["nothing"] == 0  # no better than chance
    assert max(progress["harmful"], progress["refusing"]) < -2 < progress["noise"]
    backwards = {n: 2 * start[n] - t for n, t in adapters["refusing"].items()}
    assert taker.progress.measure(round_of(start, {"flipped": backwards})) == {"flipped": 0}


def test_the_budget_decides_how_many_rows_the_gradient_has(tiny: LanguageModel) -> None:
    rows = [row(tiny, f"number {n}?", "one two") for n in range(20)]
    taker = Gradient(tiny, ContrastRows(rows, rows), 0.05)
    start = tiny.fresh_adapter(1)
    pair = 2 * taker._operations(rows) / len(rows)
    for count, training in ((20, 0.0), (10, 10.5 * pair / 0.05 / 2), (4, 1.0)):
        assert taker._count(round_of(start, {"a": start, "b": start}, training)) == count
