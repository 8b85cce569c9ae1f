"""What tests of alignments share."""

from pathlib import Path

import pytest
import torch

from fedrai.model import AdapterState, LanguageModel
from staging import Stage


@pytest.fixture
def start(tiny: LanguageModel) -> AdapterState:
    generator = torch.Generator().manual_seed(3)
    fresh = tiny.fresh_adapter(0)
    return {n: p + 0.1 * torch.randn(p.shape, generator=generator) for n, p in fresh.items()}


@pytest.fixture
def stage(tiny: LanguageModel, start: AdapterState, tmp_path: Path) -> Stage:
    return Stage(tiny, start, tmp_path)
