"""Answers: the same in any batch, the same as transformers', and drawn as they should be."""

import pytest
import torch

from fedrai.model import AdapterState, LanguageModel
from fedrai.model.generate import Sampling, generate
from fedrai.records import Message

QUESTIONS = [
    "How far is it?", "Why?", "Name a colour, please, that is neither red nor blue.", "Hm",
    "And by train?", "x" * 60, "What comes after three?", "Is it late?", "", "Räume 🏔️?",
    "One", "One two", "One two three", "One two three four", "One two three four five", "Why?",
]  # fmt: skip
PROMPTS = [[Message("user", question)] for question in QUESTIONS]
TALK = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]


@pytest.fixture(scope="module")
def adapter(tiny: LanguageModel) -> AdapterState:
    """Large enough that every prompt gets an answer of its own."""
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(p.shape, generator=generator) for n, p in tiny.parameters.items()}


@pytest.fixture
def model(
    tiny: LanguageModel, adapter: AdapterState, monkeypatch: pytest.MonkeyPatch
) -> LanguageModel:
    """The tiny model; answers are the ids themselves, and a tenth of all tokens end an answer."""
    tiny.load_adapter(adapter)
    monkeypatch.setattr(tiny, "stop_ids", set(range(3, len(tiny.tokenizer), 10)))
    monkeypatch.setattr(tiny.chat, "decode", lambda ids: " ".join(map(str, ids)))
    return tiny


def answers(
    model: LanguageModel,
    prompts=PROMPTS,
    *,
    limit: int = 20,
    batch_size: int = 4,
    **sampling: float,
) -> list[list[int]]:
    generation = generate(
        model, prompts, max_new_tokens=limit, batch_size=batch_size, sampling=Sampling(**sampling)
    )
    return [[int(i) for i in answer.split()] for answer in generation.answers]


def by_transformers(model: LanguageModel, prompt: list[Message], limit: int = 20) -> list[int]:
    ids = torch.tensor([model.chat.prompt_ids(prompt)])
    out = model.base.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=sorted(model.stop_ids),
        pad_token_id=model.pad_id,
    )
    ids_after = out[0, ids.shape[1] :].tolist()
    return ids_after[:-1] if ids_after[-1] in model.stop_ids else ids_after


# --- greedy ---------------------------------------------------------------------------------------


def test_greedy_answers_are_those_of_transformers(model):
    prompts = [*PROMPTS, TALK]
    ours = answers(model, prompts, batch_size=5)
    assert ours == [by_transformers(model, prompt) for prompt in prompts]
    assert len({tuple(a) for a in ours}) >= 8
    assert len({len(a) for a in ours}) >= 4  # some stop early, at unlike lengths


@pytest.mark.parametrize("size", [2, 5, 16])
def test_greedy_answers_do_not_depend_on_the_batch(model, size):
    alone = generate(model, PROMPTS, max_new_tokens=20, batch_size=1)
    assert generate(model, PROMPTS, max_new_tokens=20, batch_size=size) == alone


def test_a_batch_holds_no_more_tokens_than_it_may(model):
    """Padding included: two rows of the longest prompt's length would be too many."""
    longest = max(len(model.chat.prompt_ids(prompt)) for prompt in PROMPTS)
    done = []
    answers = generate(
        model, PROMPTS, max_new_tokens=2, batch_size=6, batch_tokens=2 * longest - 1,
        on_batch=lambda d, _n: done.append(d),
    ).answers  # fmt: skip
    assert done[-2:] == [len(PROMPTS) - 1, len(PROMPTS)]  # the longest is alone
    assert answers == generate(model, PROMPTS, max_new_tokens=2, batch_size=6).answers


def test_answers_come_in_the_order_of_the_prompts(model):
    forwards = answers(model)
    assert answers(model, PROMPTS[::-1]) == forwards[::-1]
    assert forwards[1] == forwards[15]  # the same question


def test_the_adapter_counts(model, adapter):
    ours = answers(model)
    with model.using(None):
        base = answers(model)
        assert base == [by_transformers(model, prompt) for prompt in PROMPTS]
    assert base != ours
    assert answers(model) == ours


def test_stop_tokens_end_an_answer(model, monkeypatch):
    monkeypatch.setattr(model, "stop_ids", set())
    endless = answers(model)
    assert {len(a) for a in endless} == {20}
    stop = endless[0][3]
    monkeypatch.setattr(model, "stop_ids", {stop})
    for free, stopped in zip(endless, answers(model), strict=True):
        assert stopped == (free[: free.index(stop)] if stop in free else free)
    first = {a[0] for a in endless}
    monkeypatch.setattr(model, "stop_ids", first)
    generation = generate(model, PROMPTS, max_new_tokens=20, batch_size=4)
    assert generation.answers == ("",) * 16
    assert generation.new_tokens == 0


def test_length_and_counts(model, monkeypatch):
    monkeypatch.setattr(model, "stop_ids", set())
    generation = generate(model, PROMPTS, max_new_tokens=7, batch_size=4)
    assert {len(a.split()) for a in generation.answers} == {7}
    assert generation.new_tokens == 7 * 16
    assert generation.prompt_tokens == sum(len(model.chat.prompt_ids(p)) for p in PROMPTS)
    weights = model.shape().block_weights
    assert generation.operations > 2 * weights * (generation.prompt_tokens + generation.new_tokens)
    longer = answers(model, limit=12)
    assert [a[:7] for a in longer] == [[int(i) for i in a.split()] for a in generation.answers]


def test_text_has_no_special_tokens(tiny, adapter):
    tiny.load_adapter(adapter)
    for answer in generate(tiny, PROMPTS, max_new_tokens=20, batch_size=4).answers:
        assert "<|" not in answer
        assert answer == answer.strip()


def test_no_prompts(model):
    generation = generate(model, [], max_new_tokens=5, batch_size=4)
    assert (generation.answers, generation.prompt_tokens, generation.new_tokens) == ((), 0, 0)


def test_progress_is_told_and_may_interrupt(model):
    progress: list[tuple[int, int]] = []
    generate(
        model,
        PROMPTS,
        max_new_tokens=2,
        batch_size=6,
        on_batch=lambda d, n: progress.append((d, n)),
    )
    assert progress == [(6, 16), (12, 16), (16, 16)]

    def stop(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, PROMPTS, max_new_tokens=2, batch_size=6, on_batch=stop)


def test_no_gradient_is_kept(model):
    answers(model)
    assert all(p.grad is None for p in model.parameters.values())
    assert not model.peft.training


# --- sampled --------------------------------------------------------------------------------------


def test_sampled_answers_depend_on_the_seed_and_not_on_the_batch(model):
    options = {"temperature": 1.0, "top_p": 0.9, "limit": 12}
    first = answers(model, batch_size=1, seed=5, **options)
    for size in (2, 5, 16):
        assert answers(model, batch_size=size, seed=5, **options) == first
    other = answers(model, seed=6, **options)
    assert sum(a != b for a, b in zip(first, other, strict=True)) >= 8
    assert first[1] != first[15]  # the same question twice: each row has its own stream
    torch.manual_seed(99)
    assert answers(model, seed=5, **options) == first  # nothing else is random


def first_tokens(model: LanguageModel, count: int, **options: object) -> torch.Tensor:
    """How often each token comes first in answers to one prompt, (V,)."""
    prompts = [PROMPTS[1]] * count
    first = answers(model, prompts, limit=1, batch_size=1000, **options)
    return torch.bincount(torch.tensor(first).flatten(), minlength=len(model.tokenizer))


def probabilities(model: LanguageModel, temperature: float) -> torch.Tensor:
    ids = torch.tensor([model.chat.prompt_ids(PROMPTS[1])])
    with torch.no_grad():
        return (model.logits(ids, torch.ones_like(ids))[0, -1] / temperature).softmax(-1)


def chi_square(counts: torch.Tensor, expected: torch.Tensor, bins: int = 20) -> float:
    """Over the likeliest tokens, and all the others together; `bins` degrees of freedom."""
    top = expected.topk(bins).indices
    total = counts.sum()
    observed = torch.cat([counts[top], total[None] - counts[top].sum()])
    expected_counts = torch.cat([expected[top], 1 - expected[top].sum()[None]]) * total
    return float(((observed - expected_counts) ** 2 / expected_counts).sum())


LIKELY = 45.3  # chi-square of 20 degrees of freedom: 0.1 % lie above


@pytest.mark.parametrize("temperature", [0.05, 0.1])
def test_samples_follow_the_softmax_at_their_temperature(model, monkeypatch, temperature):
    monkeypatch.setattr(model, "stop_ids", set())
    counts = first_tokens(model, 4000, temperature=temperature, seed=1)
    assert counts.sum() == 4000
    assert chi_square(counts, probabilities(model, temperature)) < LIKELY
    assert chi_square(counts, probabilities(model, 1.5 * temperature)) > 2 * LIKELY


def test_a_small_nucleus_or_temperature_is_greedy(model):
    greedy = answers(model)
    assert answers(model, temperature=5.0, top_p=1e-6) == greedy
    assert answers(model, temperature=1e-4) == greedy


def test_the_nucleus_cuts_unlikely_tokens(model, monkeypatch):
    monkeypatch.setattr(model, "stop_ids", set())
    expected = probabilities(model, 0.05)
    ordered, order = expected.sort(descending=True)
    size = int((ordered.cumsum(0) < 0.6).sum()) + 1  # the fewest that reach 0.6
    assert 1 < size < 100
    nucleus = order[:size]
    counts = first_tokens(model, 3000, temperature=0.05, top_p=0.6, seed=2)
    assert counts[nucleus].sum() == 3000
    assert (counts[nucleus] > 0).float().mean() > 0.9
    within = torch.zeros_like(expected)
    within[nucleus] = expected[nucleus] / expected[nucleus].sum()
    observed, expected_counts = counts[nucleus], within[nucleus] * 3000
    spread = float(((observed - expected_counts) ** 2 / expected_counts).sum())
    assert spread < size + 6 * (2 * size) ** 0.5
