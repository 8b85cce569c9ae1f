"""Costs: operations counted by hand for a tiny shape, and accounts that add up."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import torch

from fedrai.model import LanguageModel
from fedrai.runs import costs
from fedrai.runs.costs import Cost, Ledger, Shape, generation_operations, training_operations

RESIDENT = pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(),
    reason="elsewhere the peak is the whole process's, with CUDA it is the device's",
)
SHAPE = Shape(block_weights=100, adapter_weights=10, output_weights=50, layers=2, attention_size=8)


def test_training_operations_by_hand() -> None:
    # a token: 100 * (2 forward + 2 backward) + 10 * (2 + 4), and attention over 4 tokens on average
    # half of them seen: 2 layers * 8 wide * 2 products * 2 * 4 / 2 = 128 forward, twice backward
    token = 400 + 60 + 3 * 128
    label = 50 * 4
    assert training_operations(SHAPE, tokens=10, label_tokens=3, length=4) == 10 * token + 3 * label


def test_generation_operations_by_hand() -> None:
    # a token: (100 + 10) * 2 and attention over 6 tokens, half of them seen: 2 * 8 * 2 * 2 * 6 / 2
    token = 220 + 192
    assert generation_operations(SHAPE, prompt_tokens=5, new_tokens=2, length=6) == (
        7 * token + 2 * 50 * 2
    )


def test_zero_tokens_cost_zero() -> None:
    assert training_operations(SHAPE, 0, 0, 100) == 0
    assert generation_operations(SHAPE, 0, 0, 100) == 0


def test_shape_of_the_tiny_model(tiny: LanguageModel) -> None:
    # hidden 32, two layers: q 32x32, k and v 32x16, o 32x32, three of the MLP 32x64
    block = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    # LoRA of rank 4 on each: 4 * (inputs + outputs)
    adapter = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert tiny.shape() == Shape(block, adapter, 32 * len(tiny.tokenizer), 2, 32)


def test_costs_add_but_peaks_are_maxima() -> None:
    total = Cost(1, 2, 3, 40, 5, 6) + Cost(10, 20, 30, 4, 50, 60)
    assert total == Cost(11, 22, 33, 40, 55, 66)


def test_ledger_keeps_phases_apart() -> None:
    ledger = Ledger()
    ledger.add("training", Cost(seconds=1, tokens=10, peak_bytes=7))
    ledger.add("evaluation", Cost(seconds=5))
    ledger.add("training", Cost(seconds=2, tokens=1, peak_bytes=3))
    assert ledger.phases == {
        "training": Cost(seconds=3, tokens=11, peak_bytes=7),
        "evaluation": Cost(seconds=5),
    }
    assert Ledger(ledger.to_json()).phases == ledger.phases


@RESIDENT
def test_ledger_measures_time_and_memory_of_a_block() -> None:
    ledger = Ledger()
    with ledger.measure("work"):
        block = np.ones(8_000_000)  # 64 MB
        time.sleep(0.05)
        del block
    with pytest.raises(KeyError), ledger.measure("failed"):
        raise KeyError
    work = ledger.phases["work"]
    assert 0.05 <= work.seconds < 5
    assert work.peak_bytes > 64_000_000
    assert ledger.phases["failed"].seconds >= 0


@RESIDENT
def test_peak_starts_anew() -> None:
    block = np.ones(12_500_000)  # 100 MB
    high = costs.peak_bytes()
    del block
    costs.reset_peak()
    assert costs.peak_bytes() < high - 50_000_000
