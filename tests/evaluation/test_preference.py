"""Preferences: pairs against plain transformers, ties, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedrai.errors import EvaluationError
from fedrai.evaluation.preference import Accuracy, Choice, Preferences, prefer
from fedrai.evaluation.suites import Item
from fedrai.model import LanguageModel
from fedrai.rates import Rate

TALK = "May I ask?\n\nAssistant: Please.\n\nHuman: Is it far?"
ITEMS = [
    Item(0, "Why?", "helpful", chosen="Because.", rejected="No."),
    Item(1, TALK, "honest", chosen="I do not know", rejected="Two miles, or three at most"),
    Item(2, "Räume?", "honest", chosen="Äh 🏔️", rejected="x" * 40),
    Item(3, "Which?", "other", chosen="This", rejected="That, and the other one as well"),
    Item(4, "Same?", "other", chosen="equal", rejected="equal"),
]
TURNS = [
    {"role": "user", "content": "May I ask?"}, {"role": "assistant", "content": "Please."},
    {"role": "user", "content": "Is it far?"},
]  # fmt: skip


@pytest.fixture
def base(tiny: LanguageModel) -> Iterator[LanguageModel]:
    with tiny.using(None):
        yield tiny


@torch.no_grad()
def by_transformers(folder: Path, turns: list[dict[str, str]], answer: str) -> tuple[float, int]:
    """Log-probability of an answer with its end token, and their number; one row, no padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    requests = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    before = tokenizer(requests, add_special_tokens=False)["input_ids"]
    after = tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    places = range(len(before) - 1, len(before) + len(after) - 1)
    values = [logits[place, token].item() for place, token in zip(places, after, strict=True)]
    return sum(values), len(after)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_pairs_are_those_of_plain_transformers(base, tiny_model, batch_size):
    result = prefer(base, ITEMS, batch_size=batch_size).choices
    for item, choice in zip(ITEMS, result, strict=True):
        requests = TURNS if item.number == 1 else [{"role": "user", "content": item.prompt}]
        chosen, chosen_tokens = by_transformers(tiny_model, requests, item.chosen)
        rejected, rejected_tokens = by_transformers(tiny_model, requests, item.rejected)
        assert choice.chosen == pytest.approx(chosen, abs=1e-4)
        assert choice.rejected == pytest.approx(rejected, abs=1e-4)
        assert (choice.chosen_tokens, choice.rejected_tokens) == (chosen_tokens, rejected_tokens)
        assert choice.summed == pytest.approx(chosen - rejected, abs=2e-4)
        means = chosen / chosen_tokens - rejected / rejected_tokens
        assert choice.normalised == pytest.approx(means, abs=1e-4)
    assert (result[0].number, result[0].category) == (0, "helpful")


def test_an_untrained_model_prefers_short_answers_by_sum(base):
    result = prefer(base, ITEMS)
    rate = result.summed.rate
    assert (rate.successes, rate.scored, rate.unscored) == (3, 5, 0)  # items 1, 2 and 3
    assert result.summed.ties == result.normalised.ties == 1
    assert result.costs.to_json()["evaluation"]["tokens"] > 0


def test_the_adapter_counts_and_no_gradient_is_kept(tiny):
    generator = torch.Generator().manual_seed(1)
    random = {n: torch.randn(p.shape, generator=generator) for n, p in tiny.parameters.items()}
    before = tiny.adapter()
    for parameter in tiny.parameters.values():
        parameter.grad = None  # of tests that trained the shared model
    tiny.load_adapter(random)
    tuned = prefer(tiny, ITEMS[:1]).choices[0]
    with tiny.using(None):
        plain = prefer(tiny, ITEMS[:1]).choices[0]
    tiny.load_adapter(before)
    assert abs(tuned.chosen - plain.chosen) > 0.1
    assert all(p.grad is None for p in tiny.parameters.values())


def test_pairs_that_do_not_fit_are_unscored_and_never_truncated(base):
    long = Item(9, "Why?", "other", chosen="y" * 300, rejected="no")  # the context is 256
    result = prefer(base, [ITEMS[0], long, ITEMS[3]])
    assert result.choices[1] == Choice(9, "other", None, None, 0, 0)
    assert (result.summed.rate.scored, result.summed.rate.unscored) == (2, 1)
    alone = prefer(base, [ITEMS[3]]).choices[0]
    assert result.choices[2].chosen == pytest.approx(alone.chosen, abs=1e-4)
    none = prefer(base, [long])
    assert none.summed.rate.value is None
    assert prefer(base, []).summed.rate.value is None
    tight = prefer(base, [ITEMS[0]], max_length=5)
    assert tight.summed.rate.unscored == 1


def test_rates_ties_and_categories_by_hand(tiny):
    costs = prefer(tiny, []).costs
    result = Preferences(
        (
            Choice(0, "a", -4.0, -6.0, 4, 2),  # sum: right; per token -1 against -3: right
            Choice(1, "a", -6.0, -4.0, 6, 2),  # sum: wrong; per token -1 against -2: right
            Choice(2, "b", -4.0, -4.0, 2, 4),  # sum: tie; per token -2 against -1: wrong
            Choice(3, "b", None, None, 0, 0),
        ),
        costs,
    )
    parts = result.by_category()
    assert result.summed == Accuracy(Rate(1, 3, 1), 1)
    assert result.normalised == Accuracy(Rate(2, 3, 1), 0)
    assert parts["a"].normalised == Accuracy(Rate(2, 2, 0), 0)
    assert parts["b"].summed == Accuracy(Rate(0, 1, 1), 1)


def test_items_that_are_no_pairs_are_errors(tiny):
    with pytest.raises(EvaluationError, match="item 5 does not have two answers"):
        prefer(tiny, [Item(5, "secret-text", chosen="a")])


def test_progress_is_reported_and_may_interrupt(base):
    calls: list[tuple[int, int]] = []
    prefer(base, ITEMS[:3], batch_size=4, on_batch=lambda done, of: calls.append((done, of)))
    assert calls == [(4, 6), (6, 6)]

    def stop(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prefer(base, ITEMS, on_batch=stop)
