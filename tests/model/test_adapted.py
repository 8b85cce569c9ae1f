"""Which adapter a model uses, within a block and after it."""

import pytest
import torch
from torch import Tensor

from fedrai.errors import ModelError
from fedrai.model import AdapterState, LanguageModel


def random_adapter(model: LanguageModel, seed: int) -> AdapterState:
    draw = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=draw) for n, p in model.parameters.items()}


@torch.no_grad()
def logits(model: LanguageModel) -> Tensor:
    ids = torch.tensor([[5, 6, 7, 8]])
    return model.logits(ids, torch.ones_like(ids))


@pytest.fixture
def own(tiny: LanguageModel) -> AdapterState:
    """The adapter that the model has outside of all blocks."""
    adapter = random_adapter(tiny, 1)
    tiny.load_adapter(adapter)
    return adapter


def same(one: AdapterState, other: AdapterState) -> bool:
    return all(torch.equal(part, other[name]) for name, part in one.items())


def test_an_adapter_is_in_the_model_within_the_block_only(tiny: LanguageModel, own: AdapterState):
    other = random_adapter(tiny, 2)
    before = logits(tiny)
    with tiny.using(other):
        assert same(tiny.adapter(), other)
        within = logits(tiny)
    assert same(tiny.adapter(), own)
    assert torch.equal(logits(tiny), before)
    assert not torch.equal(within, before)


def test_without_an_adapter_the_base_model_answers(tiny: LanguageModel, own: AdapterState):
    with tiny.using(tiny.fresh_adapter(0)):  # adds nothing
        base = logits(tiny)
    with tiny.using(None):
        assert torch.equal(logits(tiny), base)
    assert not torch.equal(logits(tiny), base)


def test_blocks_may_be_nested(tiny: LanguageModel, own: AdapterState):
    first, second = random_adapter(tiny, 2), random_adapter(tiny, 3)
    with tiny.using(first):
        outer = logits(tiny)
        with tiny.using(None):
            base = logits(tiny)
            with tiny.using(second):
                inner = logits(tiny)
            assert torch.equal(logits(tiny), base)
        assert torch.equal(logits(tiny), outer)
    with tiny.using(second):
        assert torch.equal(logits(tiny), inner)
    assert not torch.equal(inner, base)
    assert all(p.requires_grad for p in tiny.parameters.values())


def test_the_adapter_is_back_after_an_error(tiny: LanguageModel, own: AdapterState):
    with pytest.raises(KeyboardInterrupt), tiny.using(None), tiny.using(random_adapter(tiny, 2)):
        raise KeyboardInterrupt
    with pytest.raises(ModelError, match="does not fit"), tiny.using({}):
        pytest.fail("the block was entered")
    before = logits(tiny)
    assert same(tiny.adapter(), own)
    with tiny.using(own):
        assert torch.equal(logits(tiny), before)


def test_what_is_loaded_within_a_block_goes_with_it(tiny: LanguageModel, own: AdapterState):
    with tiny.using(None):
        tiny.load_adapter(random_adapter(tiny, 2))
    assert same(tiny.adapter(), own)
