"""The local loop against TRL's SFTTrainer and against a plain loop written out here."""

import math
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from fedrai.model import AdapterState, LanguageModel, LoadOptions, Lora, load
from fedrai.model.batching import collate
from fedrai.model.parts import Part
from fedrai.records import Message, Tokens, TrainingStep
from fedrai.testing import tiny_tokenizer
from fedrai.training.sft import (
    SftSettings,
    batches,
    held_out_loss,
    label_count,
    learning_rates,
    summed_loss,
    train,
)

RATE = 2e-4  # AdamW makes of a gradient near 0 a whole step, whatever the rounding: small steps
SENTENCES = [
    ("How far is it?", "Two miles."),
    ("And by train?", "An hour or so, if it runs."),
    ("Why?", "Because."),
    ("Name a colour that is neither red nor blue, please.", "Green 🙂."),
    ("What comes after three?", "Four."),
    ("Say it again, slowly.", "F-o-u-r."),
    ("Hm", "Indeed, and there is more to be said about it."),
    ("Is it late?", "Not yet."),
]


@pytest.fixture(scope="module")
def rows(tiny: LanguageModel) -> list[Tokens]:
    """Rows of unlike lengths; one has two assistant turns."""
    talks = [[Message("user", q), Message("assistant", a)] for q, a in SENTENCES]
    talks[2] += talks[7]
    return [tiny.chat.train_tokens(talk, 256) for talk in talks]


@pytest.fixture(scope="module")
def start(tiny: LanguageModel) -> AdapterState:
    """An adapter whose both factors matter."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: 0.2 * torch.randn(p.shape, generator=generator) for name, p in tiny.parameters.items()
    }


def run(model: LanguageModel, start: AdapterState, rows: list[Tokens], **options: object):
    call = {name: options.pop(name) for name in ("seed", "on_step") if name in options}
    settings = {"steps": 3, "batch_size": 4, "learning_rate": lambda _: RATE}
    return train(model, start, rows, SftSettings(**(settings | options)), **({"seed": 0} | call))


def distance(a: AdapterState, b: AdapterState) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def rms_distance(a: AdapterState, b: AdapterState) -> float:
    """The root of the mean square: one number whose gradient is near 0 may differ by a step."""
    return torch.cat([(a[name] - b[name]).flatten() for name in a]).square().mean().sqrt().item()


def labels_of(rows: list[Tokens]) -> int:
    return sum(label_count(row) for row in rows)


def plain_loss(model: LanguageModel, rows: list[Tokens]) -> torch.Tensor:
    """Summed cross-entropy from the model's own logits, row by row, without padding."""
    total = torch.zeros(())
    for row in rows:
        logits = model.base(input_ids=torch.tensor([row.ids])).logits[0, :-1]
        wanted = torch.tensor(row.mask[1:])
        targets = torch.tensor(row.ids[1:])
        total = total + cross_entropy(logits[wanted], targets[wanted], reduction="sum")
    return total


def plain_training(
    model, start, rows, *, steps, batch_size, rate, decay=0.0, clip=1e9, mu=0.0, seed=0
):
    """AdamW on the model's own parameters; FedProx as a term of the loss."""
    model.load_adapter(start)
    weights = list(model.parameters.values())
    anchor = [w.detach().clone() for w in weights]
    optimiser = torch.optim.AdamW(weights, weight_decay=decay)
    for number, batch in enumerate(batches(rows, batch_size, steps, seed)):
        optimiser.param_groups[0]["lr"] = rate(number)
        optimiser.zero_grad()
        loss = plain_loss(model, batch) / labels_of(batch)
        pull = sum(((w - a) ** 2).sum() for w, a in zip(weights, anchor, strict=True))
        (loss + mu / 2 * pull).backward()
        torch.nn.utils.clip_grad_norm_(weights, clip)
        optimiser.step()
    trained = model.adapter()
    optimiser.zero_grad()
    return trained


# --- the oracle -----------------------------------------------------------------------------------


RENAMED = "ignore:`gradient_checkpointing.*is deprecated:FutureWarning"  # transformers on TRL


def trl_trainer(model: LanguageModel, rows: list[Tokens], folder: Path, **options: object):
    """TRL's trainer over rows in the given order, on the CPU in float32."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    table = Dataset.from_dict(
        {
            "input_ids": [list(row.ids) for row in rows],
            "labels": [
                [i if marked else -100 for i, marked in zip(row.ids, row.mask, strict=True)]
                for row in rows
            ],
        }
    )
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "max_length": None,
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": len(rows),
        "dataloader_pin_memory": False,
        "optim": "adamw_torch",
    }
    args = SFTConfig(**(settings | options))
    return SFTTrainer(model.peft, args, train_dataset=table, processing_class=model.tokenizer)


@pytest.fixture(scope="module")
def keen_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with larger embeddings; with its own, no logit gets beyond 0.7."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("models") / "keen"
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    base.get_input_embeddings().weight.data *= 20
    base.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def keen(keen_folder: Path) -> LanguageModel:
    return load(str(keen_folder), Lora(rank=4), LoadOptions(dtype="float32"))


@pytest.fixture
def fresh(keen_folder: Path) -> LanguageModel:
    """A model of its own: TRL patches the one that it is given."""
    return load(str(keen_folder), Lora(rank=4), LoadOptions(dtype="float32"))


@pytest.mark.filterwarnings(RENAMED)
def test_the_loss_is_trls(keen, fresh, rows, start, tmp_path):
    keen.load_adapter(start)
    fresh.load_adapter(start)
    trainer = trl_trainer(fresh, rows, tmp_path)
    (batch,) = trainer.get_train_dataloader()
    theirs = trainer.compute_loss(trainer.model, batch).item()
    ours = summed_loss(keen, rows).item() / labels_of(rows)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert abs(ours - math.log(259)) > 1e-3  # not just the loss of a model that knows nothing


@pytest.mark.filterwarnings(RENAMED)
@pytest.mark.parametrize(
    ("schedule", "micro", "decay", "clip"),
    [("constant", 0, 0.0, 1.0), ("cosine", 2, 0.1, 0.05)],
    ids=["constant", "cosine, accumulated, decayed, clipped"],
)
def test_training_is_trls(keen, fresh, rows, start, tmp_path, capsys, schedule, micro, decay, clip):
    steps, size = 6, 4
    order = list(chain.from_iterable(batches(rows, size, steps, 5)))
    fresh.load_adapter(start)
    trainer = trl_trainer(
        fresh,
        order,
        tmp_path,
        per_device_train_batch_size=micro or size,
        gradient_accumulation_steps=size // (micro or size),
        max_steps=steps,
        learning_rate=1e-3,
        lr_scheduler_type=schedule,
        weight_decay=decay,
        max_grad_norm=clip,
    )
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    rate = learning_rates(1e-3, schedule=schedule, warmup_steps=0, total_steps=steps)
    ours, result = run(
        keen, start, rows, steps=steps, batch_size=size, micro_batch_size=micro, seed=5,
        learning_rate=rate, weight_decay=decay, clip_norm=clip,
    )  # fmt: skip
    assert result.losses == pytest.approx(logged, abs=1e-4)
    assert distance(ours, fresh.adapter()) < 1e-4
    assert distance(ours, start) > 2e-3


# --- the loss -------------------------------------------------------------------------------------


def test_padding_and_batches_do_not_change_the_loss(tiny, rows, start):
    tiny.load_adapter(start)
    with torch.no_grad():
        alone = sum(summed_loss(tiny, [row]).item() for row in rows)
        assert summed_loss(tiny, rows).item() == pytest.approx(alone, rel=1e-5)
        assert plain_loss(tiny, rows).item() == pytest.approx(alone, rel=1e-5)


def test_a_label_on_the_first_token_does_not_count(tiny, start):
    tiny.load_adapter(start)
    with torch.no_grad():
        marked = summed_loss(tiny, [Tokens((9, 8, 7), (True, False, True))])
        bare = summed_loss(tiny, [Tokens((9, 8, 7), (False, False, True))])
    assert marked == bare
    assert label_count(Tokens((9, 8, 7), (True, False, True))) == 1


def test_collate_by_hand():
    rows = [Tokens((5, 6, 7), (False, True, True)), Tokens((8,), (False,))]
    ids, mask, wanted = collate(rows, 1, torch.device("cpu"))
    rest = ids.shape[1] - 3  # padding up to a width that CPU kernels know
    assert ids.tolist() == [[5, 6, 7] + [1] * rest, [8, 1, 1] + [1] * rest]
    assert mask.tolist() == [[1, 1, 1] + [0] * rest, [1, 0, 0] + [0] * rest]
    assert wanted.sum(1).tolist() == [2, 0]
    assert wanted[0, :3].tolist() == [False, True, True]


def tiny_gemma2(vocabulary: int):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(
        Gemma2Config(**sizes(vocabulary), head_dim=8, final_logit_softcapping=0.5)
    )


def tiny_cohere(vocabulary: int):
    from transformers import CohereConfig, CohereForCausalLM

    return CohereForCausalLM(CohereConfig(**sizes(vocabulary), logit_scale=5.0))


def tiny_granite(vocabulary: int):
    from transformers import GraniteConfig, GraniteForCausalLM

    return GraniteForCausalLM(GraniteConfig(**sizes(vocabulary), logits_scaling=0.2))


def sizes(vocabulary: int) -> dict:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }


@pytest.mark.parametrize(
    ("make", "fused"), [(tiny_gemma2, True), (tiny_cohere, False), (tiny_granite, False)]
)
def test_output_layers_that_do_more_than_one_product(tmp_path, rows, make, fused):
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    make(len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load(str(tmp_path), Lora(rank=2), LoadOptions(dtype="float32"))
    assert model.fused is fused
    model.load_adapter({n: 0.1 * torch.randn(p.shape) for n, p in model.parameters.items()})
    gradients = []
    for loss in (summed_loss(model, rows), plain_loss(model, rows)):
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.parameters.items()})
        for parameter in model.parameters.values():
            parameter.grad = None
    assert summed_loss(model, rows).item() == pytest.approx(
        plain_loss(model, rows).item(), rel=1e-5
    )
    scale = max(g.abs().max().item() for g in gradients[0].values())
    assert distance(*gradients) < 1e-4 * scale


def test_held_out_loss_is_the_mean_over_labels(tiny, rows, start):
    tiny.load_adapter(start)
    with torch.no_grad():
        expected = plain_loss(tiny, rows).item() / labels_of(rows)
    for size in (1, 3, 100):
        loss, labels = held_out_loss(tiny, rows, size)
        assert labels == sum(len(a.encode()) + 1 for _, a in SENTENCES) + len("Not yet.") + 1
        assert loss == pytest.approx(expected, rel=1e-5)
    tiny.load_adapter(tiny.fresh_adapter(0))
    assert held_out_loss(tiny, rows, 3)[0] != pytest.approx(expected, rel=1e-3)


def test_held_out_loss_uses_no_dropout_and_leaves_no_gradient(tiny_model, rows, start):
    model = load(str(tiny_model), Lora(rank=4, dropout=0.5), LoadOptions(dtype="float32"))
    model.load_adapter(start)
    assert held_out_loss(model, rows, 4) == held_out_loss(model, rows, 4)
    assert all(p.grad is None for p in model.parameters.values())


# --- training -------------------------------------------------------------------------------------


def test_training_is_a_plain_loop_of_adamw(tiny, rows, start):
    rate = learning_rates(RATE, schedule="cosine", warmup_steps=1, total_steps=4)
    expected = plain_training(
        tiny, start, rows, steps=4, batch_size=3, rate=rate, decay=0.1, clip=0.05
    )
    trained, _ = run(
        tiny, start, rows, steps=4, batch_size=3,
        learning_rate=rate, weight_decay=0.1, clip_norm=0.05,
    )  # fmt: skip
    assert rms_distance(trained, expected) < 2e-7
    no_decay, _ = run(
        tiny, start, rows, steps=4, batch_size=3,
        learning_rate=rate, weight_decay=0.0, clip_norm=0.05,
    )  # fmt: skip
    assert rms_distance(no_decay, expected) > 1e-6


@pytest.mark.parametrize("mu", [0.5, 20.0])
def test_the_proximal_term_is_that_of_fedprox(tiny, rows, start, mu):
    def rate(_: int) -> float:
        return RATE

    expected = plain_training(tiny, start, rows, steps=3, batch_size=4, rate=rate, mu=mu)
    trained, _ = run(tiny, start, rows, proximal_mu=mu, clip_norm=1e9)
    free, _ = run(tiny, start, rows, clip_norm=1e9)
    assert distance(trained, expected) < 1e-5
    assert distance(trained, free) > 1e-4


def test_the_proximal_term_pulls_towards_the_start(tiny, rows, start):
    moved = []
    for mu in (0.0, 1.0, 100.0):
        trained, _ = run(
            tiny, start, rows, steps=20, proximal_mu=mu, clip_norm=1e9, learning_rate=lambda _: 1e-2
        )
        moved.append(sum(((trained[n] - start[n]) ** 2).sum().item() for n in start))
    assert moved[0] > 1.5 * moved[1] > 1.5 * 1.5 * moved[2]


def test_one_step_by_hand(tiny, rows, start):
    """AdamW's first step is the learning rate in the direction of the gradient's sign."""
    tiny.load_adapter(start)
    (plain_loss(tiny, rows) / labels_of(rows)).backward()
    gradients = {n: p.grad.clone() for n, p in tiny.parameters.items()}
    for parameter in tiny.parameters.values():
        parameter.grad = None
    trained, result = run(tiny, start, rows, steps=1, batch_size=8, clip_norm=1e9)
    for name, gradient in gradients.items():
        sure = gradient.abs() > 1e-5
        expected = start[name] - RATE * gradient.sign()
        assert sure.any()
        assert (trained[name] - expected)[sure].abs().max() < 1e-6
    assert result.label_tokens == labels_of(rows)
    assert result.tokens == sum(len(row.ids) for row in rows)


@pytest.mark.parametrize("micro", [1, 2, 3, 4])
def test_gradients_accumulate_over_micro_batches(tiny, rows, start, micro):
    whole, expected = run(tiny, start, rows)
    assert distance(whole, start) > 5e-4
    parts, result = run(tiny, start, rows, micro_batch_size=micro)
    assert distance(whole, parts) < 1e-5
    assert result.losses == pytest.approx(expected.losses, abs=1e-5)


def test_the_same_seed_gives_the_same_bits(tiny, rows, start):
    first, result = run(tiny, start, rows, seed=3)
    again, repeated = run(tiny, start, rows, seed=3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert result.losses == repeated.losses
    assert distance(first, run(tiny, start, rows, seed=4)[0]) > 1e-4


def test_dropout_follows_the_seed(tiny_model, rows, start):
    model = load(str(tiny_model), Lora(rank=4, dropout=0.3), LoadOptions(dtype="float32"))
    options = {"steps": 2, "batch_size": 1}  # of one row: nothing but dropout is random
    torch.manual_seed(1)
    first, _ = run(model, start, rows[:1], seed=3, **options)
    torch.manual_seed(2)
    again, _ = run(model, start, rows[:1], seed=3, **options)
    other, _ = run(model, start, rows[:1], seed=4, **options)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert distance(first, other) > 1e-4
    plain = load(str(tiny_model), Lora(rank=4), LoadOptions(dtype="float32"))
    assert distance(first, run(plain, start, rows[:1], **options)[0]) > 1e-4


def test_training_does_not_depend_on_what_was_in_the_model(tiny, rows, start):
    first, _ = run(tiny, start, rows)
    tiny.load_adapter(tiny.fresh_adapter(9))
    again, _ = run(tiny, start, rows)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_training_learns_what_can_be_learnt(keen, rows):
    trained, result = run(
        keen, keen.fresh_adapter(0), rows, steps=60, batch_size=8, learning_rate=lambda _: 3e-2
    )
    assert len(result.losses) == 60
    assert result.losses[-1] < 0.4 * result.losses[0]
    keen.load_adapter(trained)
    assert held_out_loss(keen, rows, 8)[0] < 0.4 * result.losses[0]


def test_training_leaves_the_model_and_the_start_as_they_were(tiny, rows, start):
    def weights() -> dict:
        return {name: p.clone() for name, p in tiny.base.named_parameters()}

    tiny.load_adapter(tiny.fresh_adapter(3))
    copy, before = {n: t.clone() for n, t in start.items()}, weights()
    trained, _ = run(tiny, start, rows)
    assert all(torch.equal(start[name], copy[name]) for name in copy)
    assert all(torch.equal(value, before[name]) for name, value in weights().items())
    assert {(t.dtype, t.device.type) for t in trained.values()} == {(torch.float32, "cpu")}
    assert distance(trained, start) > 0
    assert not tiny.peft.training


def test_small_steps_are_not_lost_in_bfloat16(tiny_model, rows, start):
    """The float32 master copy moves by steps that bfloat16 cannot hold."""
    model = load(str(tiny_model), Lora(rank=4), LoadOptions(dtype="bfloat16"))
    trained, _ = run(model, start, rows, steps=4, learning_rate=lambda _: 1e-6)
    moved = torch.cat([(trained[n] - start[n]).abs().flatten() for n in start])
    assert (moved > 0).float().mean() > 0.9
    assert moved.max() < 1e-5


def test_gradient_checkpointing_computes_the_same_twice(tiny_model, tiny, rows, start):
    model = load(
        str(tiny_model), Lora(rank=4), LoadOptions(dtype="float32", gradient_checkpointing=True)
    )
    calls = []
    layer = model.base.get_decoder().layers[0].self_attn
    hook = layer.register_forward_pre_hook(lambda *_: calls.append(1))
    saved, result = run(model, start, rows)
    hook.remove()
    plain, expected = run(tiny, start, rows)
    assert len(calls) == 2 * 3
    assert result.losses == pytest.approx(expected.losses, abs=1e-6)
    assert distance(saved, plain) < 1e-6


# --- steps ----------------------------------------------------------------------------------------


def test_every_step_is_reported(tiny, rows, start):
    reports: list[TrainingStep] = []
    _, result = run(tiny, start, rows, on_step=reports.append)
    assert [(s.step, s.steps) for s in reports] == [(1, 3), (2, 3), (3, 3)]
    assert tuple(s.loss for s in reports) == result.losses
    assert sum(s.tokens for s in reports) == result.tokens
    assert all(s.seconds > 0 for s in reports)
    assert result.operations > result.tokens * 2 * sum(p.numel() for p in tiny.parameters.values())


def test_an_interrupt_goes_through(tiny, rows, start):
    def stop(step: TrainingStep) -> None:
        if step.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny, start, rows, on_step=stop)
    assert not tiny.peft.training  # and leaves the model usable
    run(tiny, start, rows)


def test_a_later_training_goes_on_with_the_schedule(tiny, rows, start):
    calls: list[int] = []

    def rate(step: int) -> float:
        calls.append(step)
        return 1e-2 if step == 11 else 0.0

    trained, _ = run(tiny, start, rows, first_step=10, learning_rate=rate)
    assert set(calls) == {10, 11, 12}
    assert distance(trained, start) == pytest.approx(1e-2, rel=0.5)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_warm_up_rises_to_the_peak(schedule):
    at = learning_rates(8.0, schedule=schedule, warmup_steps=3, total_steps=11)
    assert [at(i) for i in range(4)] == [2.0, 4.0, 6.0, 8.0]


def test_the_cosine_ends_at_nothing():
    at = learning_rates(2.0, schedule="cosine", warmup_steps=2, total_steps=10)
    assert at(6) == pytest.approx(1.0)  # half way
    assert at(4) == pytest.approx(1 + math.cos(math.pi / 4))
    assert at(10) == pytest.approx(0.0, abs=1e-12)
    assert at(50) == pytest.approx(0.0, abs=1e-12)
    falling = [at(i) for i in range(2, 11)]
    assert falling == sorted(falling, reverse=True)


def test_a_constant_rate_stays():
    at = learning_rates(2.0, schedule="constant", warmup_steps=0, total_steps=10)
    assert {at(i) for i in range(30)} == {2.0}


# --- batches --------------------------------------------------------------------------------------


def some_rows(lengths: list[int]) -> list[Tokens]:
    return [Tokens((i,) * n, (True,) * n) for i, n in enumerate(lengths)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 99))
def test_a_pass_takes_every_row_once(lengths, size, seed):
    rows = some_rows(lengths)
    steps = 3 * len(rows)  # whole passes: size passes of len(rows) / size batches, three times
    drawn = [row for batch in batches(rows, size, steps, seed) for row in batch]
    assert len(drawn) == steps * size
    times = Counter(row.ids[0] for row in drawn)
    assert set(times) == set(range(len(rows)))
    assert max(times.values()) - min(times.values()) <= 1


@given(st.lists(st.integers(1, 50), min_size=2, max_size=40), st.integers(1, 9), st.integers(0, 99))
def test_batches_are_whole_sorted_and_seeded(lengths, size, seed):
    rows = some_rows(lengths)
    drawn = list(batches(rows, size, 7, seed))
    assert [len(batch) for batch in drawn] == [size] * 7
    for batch in drawn:
        assert [len(r.ids) for r in batch] == sorted(len(r.ids) for r in batch)
    assert drawn == list(batches(rows, size, 7, seed))
    assert drawn[:3] == list(batches(rows, size, 3, seed))


def test_batches_hold_rows_of_like_length_in_another_order_by_seed():
    rows = some_rows([1 + (7 * i) % 100 for i in range(100)])
    spans = [len(b[-1].ids) - len(b[0].ids) for b in batches(rows, 10, 10, 0)]
    assert max(spans) < 20  # without grouping about 80
    firsts = [[b[0].ids for b in batches(rows, 10, 10, seed)] for seed in range(4)]
    assert all(a != b for i, a in enumerate(firsts) for b in firsts[:i])
    assert firsts[0] != sorted(firsts[0], key=len)


def test_no_rows_is_an_error_and_not_an_endless_search():
    with pytest.raises(ValueError, match="no rows"):
        next(batches([], size=2, steps=1, seed=0))


# --- a part of the adapter ------------------------------------------------------------------------


@pytest.mark.parametrize("factor", ["A", "B"])
def test_a_frozen_factor_keeps_its_bits(
    tiny: LanguageModel, start: AdapterState, rows: list[Tokens], factor: str
) -> None:
    trained, _ = run(tiny, start, rows, frozen=factor, weight_decay=0.1)
    for name, tensor in trained.items():
        assert torch.equal(tensor, start[name]) == (f"lora_{factor}" in name)
    assert all(weight.requires_grad for weight in tiny.parameters.values())


def test_one_step_of_a_factor_is_that_of_both(
    tiny: LanguageModel, start: AdapterState, rows: list[Tokens]
) -> None:
    """The first gradient of B does not depend on what becomes of A."""
    both, _ = run(tiny, start, rows, steps=1, clip_norm=1e9)
    alone, _ = run(tiny, start, rows, steps=1, clip_norm=1e9, frozen="A")
    assert all(torch.equal(alone[n], both[n]) for n in alone if "lora_B" in n)


def test_ranks_that_a_client_lacks_stay_zero_and_change_nothing(
    tiny: LanguageModel, start: AdapterState, rows: list[Tokens]
) -> None:
    """A model of rank 4 with 2 zero ranks trains as a model of rank 2 would, to rounding."""
    part = Part(rank=2)
    shapes = {name: tuple(tensor.shape) for name, tensor in start.items()}
    padded = part.expanded(part.received(start), shapes)
    trained, figures = run(tiny, padded, rows, rank=2, weight_decay=0.1)
    whole, others = run(tiny, padded, rows, weight_decay=0.1)
    assert figures.losses == others.losses
    assert distance(trained, whole) == 0
    for name, tensor in trained.items():
        other_ranks = tensor[2:] if "lora_A" in name else tensor[:, 2:]
        assert not other_ranks.any()
        assert not torch.equal(part.cut(name, tensor), part.cut(name, padded[name]))


def test_ranks_that_are_held_stay_as_they_are(
    tiny: LanguageModel, start: AdapterState, rows: list[Tokens]
) -> None:
    trained, _ = run(tiny, start, rows, rank=1, weight_decay=0.1, proximal_mu=0.5)
    for name, tensor in trained.items():
        first = Part(rank=1).cut(name, tensor)
        assert not torch.equal(first, Part(rank=1).cut(name, start[name]))
        held = (tensor[1:], start[name][1:]) if "lora_A" in name else (
            tensor[:, 1:], start[name][:, 1:]
        )  # fmt: skip
        assert torch.equal(*held)
