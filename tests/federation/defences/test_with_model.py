"""The server's defences that need the model: Antidote, post-hoc training, RESTA's unaligned one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedrai.constitution.records import Request
from fedrai.federation.defences import Task, Tools, build, post_hoc
from fedrai.federation.defences.antidote import Antidote, importance, prune
from fedrai.federation.defences.post_hoc import Answer, PostHoc, safe_answers
from fedrai.federation.defences.rows import read_rows
from fedrai.federation.defences.unaligned import Unaligned
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.sections import Defence
from fedrai.records import Message, Tokens
from fedrai.training.sft import SftSettings, summed_loss, token_counts, train


@pytest.fixture(scope="module")
def rows(tiny: LanguageModel) -> list[Tokens]:
    talks = [[Message("user", f"item {n}?"), Message("assistant", f"is {n}")] for n in range(3)]
    return [tiny.chat.train_tokens(talk, 256) for talk in talks]


def draw(model: LanguageModel, seed: int, size: float = 0.2) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: size * torch.randn(p.shape, generator=generator)
        for name, p in model.parameters.items()
    }


def write_rows(folder: Path, count: int = 6) -> Path:
    file = folder / "rows.jsonl"
    rows = [{"prompt": f"item {n}?", "response": f"it is {n}"} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# --- antidote -------------------------------------------------------------------------------------


def test_pruning_by_hand() -> None:
    adapter = {"a": torch.tensor([[5.0, 6.0]]), "b": torch.tensor([[7.0], [8.0]])}
    target = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0], [4.0]])}
    scores = {"a": torch.tensor([[0.1, 9.0]]), "b": torch.tensor([[3.0], [0.0]])}
    pruned, count = prune(adapter, target, scores, 0.5)
    assert (pruned["a"].tolist(), pruned["b"].tolist(), count) == ([[5, 2]], [[3], [8]], 2)
    pruned, count = prune(adapter, target, scores, 0.99)
    assert (pruned["a"].tolist(), count) == ([[1, 2]], 3)
    pruned, count = prune(adapter, target, {n: 0 * s for n, s in scores.items()}, 0.5)
    assert (pruned["a"].tolist(), count) == ([[5, 6]], 0)  # nothing is to blame


def test_importance_is_the_mean_of_each_rows_product(
    tiny: LanguageModel, rows: list[Tokens]
) -> None:
    adapter, target = draw(tiny, 1), draw(tiny, 2)
    scores, loss = importance(tiny, adapter, target, rows)
    want = {name: torch.zeros_like(t) for name, t in adapter.items()}
    total = 0.0
    with tiny.using(adapter):
        for row in rows:
            ids = torch.tensor([row.ids])
            logits = tiny.logits(ids, torch.ones_like(ids))[0, :-1].log_softmax(-1)
            labels = torch.tensor(row.mask[1:])
            picked = logits.gather(1, ids[0, 1:, None])[:, 0][labels]
            gradients = torch.autograd.grad(-picked.mean(), list(tiny.parameters.values()))
            total -= picked.sum().item()
            for name, gradient in zip(tiny.parameters, gradients, strict=True):
                want[name] += ((adapter[name] - target[name]) * gradient).abs() / len(rows)
    for name in want:
        torch.testing.assert_close(scores[name], want[name], rtol=2e-3, atol=1e-6)
    assert loss == pytest.approx(total / token_counts(rows)[1], rel=1e-4)
    assert all(p.grad is None for p in tiny.parameters.values())


def test_antidote_raises_the_harmful_loss_more_than_random_pruning(
    tiny: LanguageModel, rows: list[Tokens]
) -> None:
    start = draw(tiny, 1)
    settings = SftSettings(20, 3, lambda _: 0.01)
    adapter = train(tiny, start, rows, settings, seed=0)[0]
    made = Antidote(tiny, rows, 0.2, start).after(Task(1, adapter, adapter))
    generator = torch.Generator().manual_seed(1)
    noise = {name: torch.rand(t.shape, generator=generator) for name, t in adapter.items()}
    random = prune(adapter, start, noise, 0.2)[0]

    def loss(state: AdapterState) -> float:
        with tiny.using(state), torch.no_grad():
            return summed_loss(tiny, rows).item() / token_counts(rows)[1]

    assert loss(adapter) < loss(random) < loss(made.adapter)
    assert made.report["pruned"] == int(0.2 * made.report["weights"])
    assert made.report["harmful_loss"] == pytest.approx(loss(adapter), rel=1e-4)
    assert made.cost.tokens == token_counts(rows)[0]
    assert made.cost.operations > 0


# --- post-hoc -------------------------------------------------------------------------------------


def answer(text: str, *, harmful: bool, prompt: str = "How?") -> Answer:
    return Answer(Request(prompt, harmful=harmful), text)


def test_safe_answers_are_as_many_refusals_as_good_answers() -> None:
    declined = [answer("I can't help with that request.", harmful=True) for _ in range(3)]
    complied = [answer("First, take the left road and then walk on.", harmful=True)]
    good = [answer("Take the left road and then walk on.", harmful=False)]
    refused = [answer("I can't help with that request.", harmful=False)]
    empty = [answer("", harmful=False)]
    assert safe_answers([*declined, *complied, *good, *refused, *empty]) == (declined[:1], good)
    assert safe_answers(declined) == (declined, [])
    assert safe_answers(complied) == ([], [])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the chunks that the start answers; the tiny model's own answers mean nothing."""
    sizes: list[int] = []
    real = post_hoc.generate

    def generate(model, prompts, **options):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        sizes.append(len(prompts))
        made = real(model, prompts, **options)
        texts = [
            "I can't help with that." if "bad" in p[0].content else "Yes, go on to the left."
            for p in prompts
        ]
        return replace(made, answers=tuple(texts))

    monkeypatch.setattr(post_hoc, "generate", generate)
    return sizes


def method(model: LanguageModel, folder: Path, steps: int = 4) -> PostHoc:
    requests = [Request(f"bad {n}", harmful=True) for n in range(10)]
    requests += [Request(f"good {n}", harmful=False) for n in range(10)]
    settings = SftSettings(steps, 4, lambda _: 0.01)
    start = draw(model, 1)
    return PostHoc(model, start, requests, settings, 7, 8, 256, folder / "answers.jsonl")


def test_post_hoc_trains_on_kept_answers(
    tiny: LanguageModel, tmp_path: Path, asked: list[int]
) -> None:
    adapter = draw(tiny, 2)
    first = method(tiny, tmp_path)
    made = first.after(Task(1, adapter, adapter))
    assert asked == [16, 4]
    assert made.report["rows"] == 20
    assert (made.report["declined"], made.report["helped"], made.report["steps"]) == (10, 10, 4)
    assert made.report["loss_last"] < made.report["loss_first"]
    later = first.after(Task(2, adapter, adapter))
    assert asked == [16, 4]  # once in a run
    assert later.cost.tokens < made.cost.tokens
    assert not torch.equal(*(m.adapter[next(iter(adapter))] for m in (made, later)))
    fresh = method(tiny, tmp_path).after(Task(1, adapter, adapter))
    assert asked == [16, 4]
    assert all(torch.equal(fresh.adapter[n], made.adapter[n]) for n in adapter)
    assert fresh.report == made.report


def test_post_hoc_goes_on_after_the_last_whole_chunk(
    tiny: LanguageModel, tmp_path: Path, asked: list[int]
) -> None:
    adapter = draw(tiny, 2)
    whole = method(tiny, tmp_path / "a").after(Task(1, adapter, adapter))
    (tmp_path / "b").mkdir()
    lines = (tmp_path / "a/answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b/answers.jsonl").write_text("".join(lines[:16]))
    asked.clear()
    again = method(tiny, tmp_path / "b").after(Task(1, adapter, adapter))
    assert asked == [4]
    assert all(torch.equal(again.adapter[n], whole.adapter[n]) for n in adapter)


# --- resta with an unaligned adapter --------------------------------------------------------------


def test_the_unaligned_adapter_is_made_once_in_a_run(
    tiny: LanguageModel, tmp_path: Path, rows: list[Tokens]
) -> None:
    start = draw(tiny, 1)
    file = tmp_path / "defence" / "unaligned.safetensors"
    made, cost = Unaligned(tiny, start, rows, 6, 0.01, 3, file).adapter()
    again, later = Unaligned(tiny, start, rows, 6, 0.01, 3, file).adapter()
    assert all(torch.equal(made[n], again[n]) for n in start)
    assert cost.operations > 0 == later.operations

    def loss(state: AdapterState) -> float:
        with tiny.using(state), torch.no_grad():
            return summed_loss(tiny, rows).item()

    assert loss(made) < loss(start)


def test_the_recipe_builds_them_from_a_file(tiny: LanguageModel, tmp_path: Path) -> None:
    file, start, adapter = write_rows(tmp_path), draw(tiny, 1), draw(tiny, 2)
    tools = Tools(3, 2.0, start, tiny, 96, (), tmp_path / "defence")
    for method_, section in (
        ("antidote", {"antidote": {"rows": str(file), "count": 2, "share": 0.3}}),
        ("resta", {"resta": {"unaligned": "harmful", "rows": str(file), "steps": 2}}),
    ):
        defend = build(Defence.model_validate({"method": method_, **section}), tools)
        assert defend is not None
        done = defend(1, start, adapter)
        assert done.steps[0]["moved"] > 0
        assert done.cost.operations > 0
    assert (tmp_path / "defence" / "unaligned.safetensors").is_file()


def test_rows_are_a_seeded_sample(tiny: LanguageModel, tmp_path: Path) -> None:
    file = str(write_rows(tmp_path, 8))
    some, again, other = (read_rows(tiny, file, 3, seed, 96) for seed in (1, 1, 2))
    assert some == again != other
    assert len(read_rows(tiny, file, 0, 1, 96)) == 8
