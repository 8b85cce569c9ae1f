"""Alignment against TRL's DPOTrainer, against a plain loop written out here, and its promises."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch.nn.functional import kl_div, logsigmoid

from fedrai.errors import DataError, ModelError, RunError
from fedrai.model import AdapterState, LanguageModel, LoadOptions, Lora, load
from fedrai.recipe.alignment import Objective
from fedrai.records import Message, Tokens
from fedrai.runs.costs import generation_operations, training_operations
from fedrai.testing import tiny_tokenizer
from fedrai.training.losses import preference_loss
from fedrai.training.prefer import (
    AlignHooks,
    AlignSettings,
    AlignStep,
    PreferencePair,
    align,
    log_probabilities,
)
from fedrai.training.sft import SftSettings, batch_numbers, label_count, train

RATE = 2e-4
TRIPLES = [
    ("How far is it?", "Two miles.", "No idea, and I do not care."),
    ("And by train?", "An hour or so, if it runs.", "No."),
    ("Why?", "Because.", "Why not?"),
    ("Name a colour that is neither red nor blue, please.", "Green.", "Red, or is it blue?"),
    ("What comes after three?", "Four.", "Two."),
    ("Say it again, slowly.", "F-o-u-r.", "Four! Four! Four!"),
    ("Hm", "Indeed, and there is more to be said about it.", "Hm"),
    ("Is it late?", "Not yet.", "It is far too late for that, my friend."),
]


def tokens(model: LanguageModel, prompt: str, answer: str) -> Tokens:
    row = model.chat.train_tokens([Message("user", prompt), Message("assistant", answer)], 256)
    end = len(row.mask) - row.mask[::-1].index(True)
    return Tokens(row.ids[:end], row.mask[:end])  # TRL has no tokens behind an answer


@pytest.fixture(scope="module")
def pairs(tiny: LanguageModel) -> list[PreferencePair]:
    return [PreferencePair(tokens(tiny, p, good), tokens(tiny, p, bad)) for p, good, bad in TRIPLES]


@pytest.fixture(scope="module")
def rows(pairs: list[PreferencePair]) -> list[Tokens]:
    return [pair.chosen for pair in pairs]


@pytest.fixture(scope="module")
def start(tiny: LanguageModel) -> AdapterState:
    return drawn(tiny, 0)


def drawn(model: LanguageModel, seed: int) -> AdapterState:
    """An adapter whose both factors matter."""
    generator = torch.Generator().manual_seed(seed)
    return {n: 0.2 * torch.randn(p.shape, generator=generator) for n, p in model.parameters.items()}


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


HOOKS = ("on_step", "every", "stop", "on_state", "resume")


def run(model, start, rows, pairs, objective=None, **options):
    hooks = AlignHooks(**{name: options.pop(name) for name in HOOKS if name in options})
    settings = {
        "steps": 3,
        "rows_per_step": 2 if rows else 0,
        "pairs_per_step": 3 if pairs else 0,
        "learning_rate": lambda _: RATE,
        "seed": 0,
    }
    goal = objective or Objective()
    chosen = AlignSettings(objective=goal, **(settings | options))
    return align(model, start, rows, pairs, chosen, hooks)


def fast(_: int) -> float:
    return 1e-2


def distance(a: AdapterState, b: AdapterState) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def same(a: AdapterState, b: AdapterState) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def numbers(step: AlignStep) -> tuple:
    """All that a step reports but its seconds."""
    values = {name: getattr(step, name) for name in AlignStep.__slots__}
    return tuple(value for name, value in values.items() if name != "seconds")


def pair_lengths(pairs: list[PreferencePair]) -> list[int]:
    longest = [max(len(pair.chosen.ids), len(pair.rejected.ids)) for pair in pairs]
    return [-(-length // 16) * 16 for length in longest]


# --- the oracle -----------------------------------------------------------------------------------

RENAMED = "ignore:`.*gradient_checkpointing.*is deprecated:FutureWarning"  # transformers on TRL


def trl_trainer(model: LanguageModel, pairs: list[PreferencePair], folder: Path, **options: object):
    """TRL's trainer over pairs in the given order; its reference is the adapter in the model."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

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
        "per_device_train_batch_size": len(pairs),
        "dataloader_pin_memory": False,
        "optim": "adamw_torch",
    }
    text = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    trainer = DPOTrainer(
        model.peft,
        args=DPOConfig(**(settings | options)),
        train_dataset=text,
        processing_class=model.tokenizer,
    )
    trainer.train_dataset = Dataset.from_list([in_parts(pair) for pair in pairs])
    return trainer


def in_parts(pair: PreferencePair) -> dict[str, list[int]]:
    begin = pair.chosen.mask.index(True)
    return {
        "prompt_ids": list(pair.chosen.ids[:begin]),
        "chosen_ids": list(pair.chosen.ids[begin:]),
        "rejected_ids": list(pair.rejected.ids[begin:]),
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


KINDS = [
    ("sigmoid", 0.1, 0.0, "sigmoid", 8),
    ("sigmoid", 0.7, 0.0, "sigmoid", 8),
    ("ipo", 0.3, 0.0, "ipo", 8),
    ("robust", 0.2, 0.1, "robust", 8),
    ("sigmoid", 0.2, 0.1, "aot", 1),  # of one pair: TRL 1.16 smooths labels there, not in sigmoid
]


@pytest.mark.filterwarnings(RENAMED)
@pytest.mark.parametrize(("kind", "beta", "smoothing", "theirs", "size"), KINDS)
def test_loss_rewards_and_margins_are_trls(
    keen, fresh, pairs, start, tmp_path, kind, beta, smoothing, theirs, size
):
    fresh.load_adapter(start)
    trainer = trl_trainer(
        fresh, pairs, tmp_path, beta=beta, loss_type=theirs, label_smoothing=smoothing,
        per_device_train_batch_size=size,
    )  # fmt: skip
    moved = drawn(keen, 1)
    fresh.load_adapter(moved)
    losses = [trainer.compute_loss(trainer.model, b).item() for b in trainer.get_train_dataloader()]
    metrics = trainer._metrics["eval" if not trainer.model.training else "train"]

    sides = [[pair.chosen for pair in pairs], [pair.rejected for pair in pairs]]
    with torch.no_grad():
        keen.load_adapter(start)
        reference = [log_probabilities(keen, side) for side in sides]
        keen.load_adapter(moved)
        policy = [log_probabilities(keen, side) for side in sides]
    rewards = [beta * (p - r) for p, r in zip(policy, reference, strict=True)]
    if kind == "ipo":
        counts = [torch.tensor([label_count(row) for row in side]) for side in sides]
        policy = [p / c for p, c in zip(policy, counts, strict=True)]
        reference = [r / c for r, c in zip(reference, counts, strict=True)]
    ours = preference_loss(policy, reference, beta=beta, kind=kind, smoothing=smoothing)
    assert ours.mean().item() == pytest.approx(mean(losses), abs=1e-4)
    for name, reward in zip(("chosen", "rejected"), rewards, strict=True):
        assert reward.mean().item() == pytest.approx(mean(metrics[f"rewards/{name}"]), abs=1e-4)
    assert (rewards[0] - rewards[1]).mean().item() == pytest.approx(
        mean(metrics["rewards/margins"]), abs=1e-4
    )
    assert (rewards[0] - rewards[1]).abs().min() > 1e-3  # the adapters differ


@pytest.mark.filterwarnings(RENAMED)
@pytest.mark.parametrize(
    ("kind", "smoothing", "theirs", "micro", "decay", "clip"),
    [
        ("sigmoid", 0.0, "sigmoid", 4, 0.0, 1.0),
        ("sigmoid", 0.0, "sigmoid", 2, 0.1, 0.05),
        ("ipo", 0.0, "ipo", 4, 0.0, 1.0),
        ("sigmoid", 0.1, "aot", 1, 0.0, 1.0),
    ],
)
def test_training_on_pairs_is_trls(
    keen, fresh, pairs, start, tmp_path, capsys, kind, smoothing, theirs, micro, decay, clip
):
    steps, size = 5, 4
    plan = batch_numbers(pair_lengths(pairs), size, steps, 7 + 1)
    order = [pairs[i] for i in chain.from_iterable(plan)]
    fresh.load_adapter(start)
    trainer = trl_trainer(
        fresh, order, tmp_path, beta=0.3, loss_type=theirs, label_smoothing=smoothing,
        per_device_train_batch_size=micro, gradient_accumulation_steps=size // micro,
        max_steps=steps, learning_rate=1e-3, lr_scheduler_type="constant", weight_decay=decay,
        max_grad_norm=clip,
    )  # fmt: skip
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    goal = Objective(beta=0.3, kind=kind, smoothing=smoothing)
    ours, result = run(
        keen, start, [], pairs, goal, steps=steps, pairs_per_step=size, seed=7,
        learning_rate=lambda _: 1e-3, weight_decay=decay, clip_norm=clip,
    )  # fmt: skip
    assert [s.loss for s in result.steps] == pytest.approx([e["loss"] for e in logged], abs=1e-4)
    margins = [entry["rewards/margins"] for entry in logged]
    assert [s.margin for s in result.steps] == pytest.approx(margins, rel=1e-4, abs=1e-4)
    accuracies = [entry["rewards/accuracies"] for entry in logged][1:]
    assert [s.accuracy for s in result.steps][1:] == accuracies
    assert distance(ours, fresh.adapter()) < 1e-4
    assert distance(ours, start) > 2e-3


@pytest.mark.filterwarnings(RENAMED)
def test_rows_and_pairs_together_are_trls(keen, fresh, pairs, rows, start, tmp_path, capsys):
    """TRL adds the cross-entropy of the chosen answers; here these are the rows."""
    fresh.load_adapter(start)
    trainer = trl_trainer(
        fresh, pairs, tmp_path, beta=0.2, loss_type=["sigmoid", "sft"], loss_weights=[1.5, 0.5],
        max_steps=4, learning_rate=1e-3, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    goal = Objective(sft=0.5, preference=1.5, beta=0.2)
    ours, result = run(
        keen, start, rows, pairs, goal, steps=4, rows_per_step=8, pairs_per_step=8,
        learning_rate=lambda _: 1e-3,
    )  # fmt: skip
    assert [s.loss for s in result.steps] == pytest.approx(logged, abs=1e-4)
    assert distance(ours, fresh.adapter()) < 1e-4
    assert distance(ours, start) > 2e-3


# --- a plain loop ---------------------------------------------------------------------------------


def plain_log_softmax(model: LanguageModel, row: Tokens) -> torch.Tensor:
    """Of all words before each label token, from the model's own logits, without padding."""
    logits = model.base(input_ids=torch.tensor([row.ids])).logits[0, :-1].float()
    return logits[torch.tensor(row.mask[1:])].log_softmax(-1)


def plain_log_probabilities(model: LanguageModel, row: Tokens) -> torch.Tensor:
    targets = torch.tensor(row.ids[1:])[torch.tensor(row.mask[1:])]
    return plain_log_softmax(model, row).gather(1, targets[:, None])[:, 0]


def plain_alignment(model, start, rows, pairs, goal: Objective, *, steps, rate):
    """AdamW on the model's own parameters, all rows and pairs at every step, DPO written out."""
    model.load_adapter(start)
    anchored = [*rows, *(pair.chosen for pair in pairs)]
    with torch.no_grad():
        before = [plain_log_softmax(model, row) for row in anchored]
        ratios = [plain_ratio(model, pair) for pair in pairs]
    weights = list(model.parameters.values())
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        sft = -torch.cat([plain_log_probabilities(model, row) for row in rows]).mean()
        preference = torch.stack(
            [
                -logsigmoid(goal.beta * (plain_ratio(model, pair) - ratio))
                for pair, ratio in zip(pairs, ratios, strict=True)
            ]
        ).mean()
        kl = torch.cat(
            [
                kl_div(plain_log_softmax(model, row), old, reduction="none", log_target=True).sum(1)
                for row, old in zip(anchored, before, strict=True)
            ]
        ).mean()
        loss = goal.sft * sft + goal.preference * preference + goal.kl * kl
        loss.backward()
        optimiser.step()
        losses.append((loss.item(), sft.item(), preference.item(), kl.item()))
    trained = model.adapter()
    optimiser.zero_grad()
    return trained, losses


def plain_ratio(model: LanguageModel, pair: PreferencePair, by_token: bool = False) -> torch.Tensor:
    chosen, rejected = (plain_log_probabilities(model, row) for row in (pair.chosen, pair.rejected))
    return chosen.mean() - rejected.mean() if by_token else chosen.sum() - rejected.sum()


def test_all_terms_together_are_those_of_a_plain_loop(keen, rows, pairs, start):
    goal = Objective(sft=0.7, preference=1.3, kl=2.0, beta=0.4)
    some, couples = rows[:3], pairs[2:6]
    expected, losses = plain_alignment(keen, start, some, couples, goal, steps=4, rate=1e-3)
    ours, result = run(
        keen, start, some, couples, goal, steps=4, rows_per_step=3, pairs_per_step=4,
        learning_rate=lambda _: 1e-3, clip_norm=1e9, micro_batch_tokens=150,
    )  # fmt: skip
    figures = [(s.loss, s.sft, s.preference, s.kl) for s in result.steps]
    assert list(chain(*figures)) == pytest.approx(list(chain(*losses)), abs=1e-4)
    assert distance(ours, expected) < 1e-5
    assert distance(ours, start) > 2e-3
    assert result.steps[-1].kl > 1e-4


def test_log_probabilities_are_those_of_the_models_own_logits(keen, rows, start):
    keen.load_adapter(start)
    with torch.no_grad():
        expected = [plain_log_probabilities(keen, row).sum().item() for row in rows]
        ours = log_probabilities(keen, rows).tolist()
    assert ours == pytest.approx(expected, abs=1e-3)
    assert max(ours) - min(ours) > 10


# --- agreement with SFT ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_alone_are_trained_as_in_training(tiny_model, rows, pairs, start, dtype):
    model = load(str(tiny_model), Lora(rank=4), LoadOptions(dtype=dtype))
    options = {"steps": 5, "learning_rate": lambda s: RATE / (s + 1)}
    options |= {"weight_decay": 0.1, "clip_norm": 0.05}
    expected, numbers = train(model, start, rows, SftSettings(batch_size=3, **options), seed=3)
    ours, result = run(
        model, start, rows, pairs, rows_per_step=3, pairs_per_step=0, seed=3, **options
    )
    assert same(ours, expected)
    assert tuple(step.loss for step in result.steps) == numbers.losses
    assert (result.tokens, result.label_tokens) == (numbers.tokens, numbers.label_tokens)
    assert {step.preference for step in result.steps} == {None}


def test_a_row_may_come_twice_in_a_step(tiny, rows, start):
    expected, _ = train(tiny, start, rows[:2], SftSettings(2, 5, lambda _: RATE), seed=0)
    ours, result = run(tiny, start, rows[:2], [], steps=2, rows_per_step=5)
    assert same(ours, expected)
    assert result.label_tokens > 2 * sum(map(label_count, rows[:2]))


# --- the reference --------------------------------------------------------------------------------


class Passes:
    """Rows and width of every pass through the model."""

    def __init__(self, model: LanguageModel) -> None:
        self.sizes: list[tuple[int, int]] = []
        body = model.base.get_decoder()
        self.hook = body.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _module, _args, given) -> None:
        self.sizes.append(tuple(given["input_ids"].shape))

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


@pytest.mark.parametrize(
    ("kl", "before", "each"),
    [(0.0, [8, 8], [2, 6]), (0.5, [8, 8, 8], [2, 6])],  # sequences of each pass
)
def test_the_reference_is_read_once(tiny, rows, pairs, start, kl, before, each):
    with Passes(tiny) as passes:
        run(tiny, start, rows, pairs, Objective(kl=kl), steps=20)
    assert [size for size, _ in passes.sizes] == before + 20 * each


def test_only_pairs_that_are_drawn_are_read(tiny, pairs, start):
    with Passes(tiny) as passes:
        run(tiny, start, [], pairs, steps=2, pairs_per_step=1)
    assert [size for size, _ in passes.sizes] == [4, 2, 2]


def test_margins_begin_at_nothing(tiny, rows, pairs, start):
    """The reference is the start: no margin, no divergence, and the loss of a coin."""
    _, result = run(tiny, start, rows, pairs, Objective(kl=1.0), steps=2, learning_rate=fast)
    first, second = result.steps
    assert first.margin == pytest.approx(0, abs=1e-5)
    assert first.preference == pytest.approx(math.log(2), abs=1e-5)
    assert first.kl == pytest.approx(0, abs=1e-6)
    assert abs(second.margin) > 1e-3
    assert second.kl > 1e-5


def test_tokens_and_operations_count_the_reference_too(tiny, rows, pairs, start):
    goal = Objective(kl=1.0)
    _, result = run(tiny, start, rows, pairs, goal, steps=1, rows_per_step=8, pairs_per_step=8)
    both = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    through = [*rows, *both]
    count, labels = sum(len(row.ids) for row in through), sum(map(label_count, through))
    anchored = 2 * sum(map(label_count, rows))  # rows, and the chosen answers, which are the same
    shape = tiny.shape()
    learnt = training_operations(shape, count, labels, count / 24)
    learnt += anchored * 6 * shape.output_weights
    read = generation_operations(shape, count - labels, labels, count / 24)
    assert (result.tokens, result.label_tokens) == (2 * count, 2 * labels)
    assert result.steps[0].tokens == count
    assert result.steps[0].operations == learnt
    assert result.operations == learnt + read
    assert result.seconds > result.steps[0].seconds > 0


# --- micro-batches, dropout -----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 130, 400, 10**6])
def test_micro_batches_change_nothing_but_rounding(tiny, rows, pairs, start, limit):
    goal, sizes = Objective(kl=0.5, beta=0.5), {"rows_per_step": 8, "pairs_per_step": 8}
    whole, expected = run(tiny, start, rows, pairs, goal, **sizes)
    with Passes(tiny) as passes:
        parts, result = run(tiny, start, rows, pairs, goal, micro_batch_tokens=limit, **sizes)
    assert distance(whole, start) > 4e-4
    assert distance(whole, parts) < 2e-5
    for ours, theirs in zip(result.steps, expected.steps, strict=True):
        assert numbers(ours)[2:7] == pytest.approx(numbers(theirs)[2:7], abs=1e-5)
    assert all(n * width <= limit or n <= 2 for n, width in passes.sizes)
    assert (len(passes.sizes) == 4 * (8 + 8)) is (limit == 1)  # row by row, pair by pair


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_is_off(tiny_model, tiny, rows, pairs, start, checkpointing):
    model = load(
        str(tiny_model),
        Lora(rank=4, dropout=0.5),
        LoadOptions(dtype="float32", gradient_checkpointing=checkpointing),
    )
    calls: list[int] = []
    layer = model.base.get_decoder().layers[0].self_attn
    hook = layer.register_forward_pre_hook(lambda *_: calls.append(1))
    ours, _ = run(model, start, rows, pairs)
    hook.remove()
    expected, _ = run(tiny, start, rows, pairs)
    assert distance(ours, expected) < 1e-6
    assert len(calls) == 2 + 3 * 2 * (1 + checkpointing)  # the reference has no backward pass
    assert not model.peft.training


# --- to stop and to go on -------------------------------------------------------------------------


def restless(model: LanguageModel):
    """A caller that uses the model between steps and leaves another adapter in it."""

    def look(_: int) -> bool:
        model.load_adapter(model.fresh_adapter(5))
        torch.manual_seed(99)
        with model.mode(training=False):
            model.logits(torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.long))
        return False

    return look


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resumed_alignment_ends_in_the_same_bits(tiny_model, rows, pairs, start, dtype):
    model = load(str(tiny_model), Lora(rank=4, dropout=0.2), LoadOptions(dtype=dtype))
    files: list[bytes] = []
    options = {"steps": 7, "every": 2, "weight_decay": 0.1, "learning_rate": lambda s: 1e-3 * s}
    goal = Objective(kl=0.5)
    whole, result = run(model, start, rows, pairs, goal, **options)
    before = model.adapter()
    interrupted, _ = run(
        model, start, rows, pairs, goal, stop=restless(model),
        on_state=lambda state: files.append(pack(state)), **options,
    )  # fmt: skip
    assert same(whole, interrupted)
    assert same(model.adapter(), before)
    assert len(files) == 3
    for file in files:
        again, rest = run(model, start, rows, pairs, goal, resume=unpack(file), **options)
        assert same(whole, again)
        assert [numbers(s) for s in rest.steps] == [numbers(s) for s in result.steps]
        assert (rest.tokens, rest.operations) == (result.tokens, result.operations)


def test_a_state_is_a_copy(tiny, rows, pairs, start):
    states: list[dict] = []
    bytes_then: list[bytes] = []

    def keep(state: dict) -> None:
        states.append(state)
        bytes_then.append(pack(state))

    run(tiny, start, rows, pairs, every=1, on_state=keep)
    assert [pack(state) for state in states] == bytes_then
    assert len(set(bytes_then)) == 3
    run(tiny, start, rows, pairs, resume=states[0])
    assert pack(states[0]) == bytes_then[0]


def test_stop_is_asked_and_ends_it(tiny, rows, pairs, start):
    calls: list[int] = []

    def stop(step: int) -> bool:
        calls.append(step)
        return step == 6

    states: list[dict] = []
    options = {"steps": 9, "every": 3}
    before = tiny.adapter()
    ended, result = run(tiny, start, rows, pairs, stop=stop, on_state=states.append, **options)
    assert calls == [3, 6]
    assert [step.step for step in result.steps] == [1, 2, 3, 4, 5, 6]
    assert distance(before, tiny.adapter()) == 0
    calls.clear()
    again, _ = run(tiny, start, rows, pairs, stop=stop, resume=states[1], **options)
    assert calls == [6]  # so that a run killed while it was asked ends the same
    assert same(ended, again)


def test_a_state_of_something_else_is_refused(tiny, tiny_model, rows, pairs, start):
    states: list[dict] = []
    run(tiny, start, rows, pairs, every=1, on_state=states.append)
    state = states[0]
    name = next(name for name in state if name.startswith("exp_avg."))
    wider = load(str(tiny_model), Lora(rank=8), LoadOptions(dtype="float32"))
    wrong = [
        {n: t for n, t in state.items() if n != name},
        {n: t for n, t in state.items() if n != "history"},
        state | {"more": torch.zeros(1)},
        state | {name: state[name][:1]},
    ]
    for other in wrong:
        with pytest.raises(RunError, match="of another adapter"):
            run(tiny, start, rows, pairs, resume=other)
    with pytest.raises(RunError, match="of another adapter"):
        run(wider, wider.fresh_adapter(0), rows, pairs, resume=state)
    with pytest.raises(RunError, match="of 4 steps"):
        run(tiny, start, rows, pairs, resume=state, steps=4)


def test_an_interrupt_goes_through_and_leaves_no_gradient(tiny, rows, pairs, start):
    def breaks(_module, _args) -> None:
        if torch.is_grad_enabled():
            calls.append(1)
        if len(calls) == 4:  # the pairs of the second step, after the backward pass of its rows
            raise KeyboardInterrupt

    calls: list[int] = []
    expected, _ = run(tiny, start, rows, pairs)
    hook = tiny.base.get_decoder().register_forward_pre_hook(breaks)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, start, rows, pairs)
    hook.remove()
    assert not tiny.peft.training
    assert any(p.grad is not None for p in tiny.parameters.values())
    again, _ = run(tiny, start, rows, pairs)
    assert same(expected, again)


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [
        Objective(sft=0.0),
        Objective(sft=0.0, smoothing=0.1),
        Objective(sft=0.0, kind="ipo", beta=0.5),
        Objective(),
    ],
    ids=["sigmoid", "smoothed", "ipo", "with rows"],
)
def test_preferences_are_learnt(keen, rows, pairs, objective):
    some, begin = rows if objective.sft else [], keen.fresh_adapter(0)
    options = {"rows_per_step": len(some), "pairs_per_step": 8, "steps": 40, "learning_rate": fast}
    trained, result = run(keen, begin, some, pairs, objective, **options)
    first, last = result.steps[0], result.steps[-1]
    assert last.preference < 0.6 * first.preference
    assert last.margin > 0.5
    assert last.accuracy == 1.0 or objective.kind == "ipo"
    before, after = ratios(keen, begin, pairs), ratios(keen, trained, pairs)
    if objective.kind == "ipo":  # whose ratios are of means over tokens
        before, after = ratios(keen, begin, pairs, True), ratios(keen, trained, pairs, True)
        assert after == pytest.approx([then + 1 for then in before], abs=0.3)  # 1 / (2 beta)
    assert all(now > then for now, then in zip(after, before, strict=True))
    if some:
        assert last.sft < 0.5 * first.sft


def ratios(model, adapter, pairs: list[PreferencePair], by_token: bool = False) -> list[float]:
    """Log-ratio of chosen to rejected of each pair."""
    model.load_adapter(adapter)
    with torch.no_grad():
        return [plain_ratio(model, pair, by_token).item() for pair in pairs]


def test_the_other_way_round_is_learnt_the_other_way_round(keen, pairs):
    turned = [PreferencePair(pair.rejected, pair.chosen) for pair in pairs]
    options = {"steps": 20, "learning_rate": fast, "pairs_per_step": 8}
    start = keen.fresh_adapter(0)
    trained, _ = run(keen, start, [], turned, Objective(), **options)
    before, after = ratios(keen, start, pairs), ratios(keen, trained, pairs)
    assert all(now < then for now, then in zip(after, before, strict=True))


def test_the_divergence_pulls_back(keen, rows, pairs):
    """The stronger the pull, the nearer the model stays to its start, and the less it learns."""
    reached = []
    for kl in (0.0, 1.0, 30.0):
        goal = Objective(kl=kl or 1e-9)  # measured, without weight
        _, result = run(
            keen, keen.fresh_adapter(0), rows, pairs, goal, steps=30, rows_per_step=8,
            pairs_per_step=8, learning_rate=fast,
        )  # fmt: skip
        reached.append((result.steps[-1].kl, -result.steps[-1].sft, result.steps[-1].margin))
    for values in zip(*reached, strict=True):
        assert list(values) == sorted(values, reverse=True)
    assert reached[2][0] < 0.2 * reached[0][0]


def test_rows_may_be_mere_anchors(keen, rows, pairs):
    """With no SFT, rows still hold the model to what it said of them."""
    couples, others = pairs[:4], rows[4:]
    options = {"steps": 30, "rows_per_step": 4, "pairs_per_step": 4, "learning_rate": fast}
    moved = []
    for kl in (1e-9, 30.0):
        start = keen.fresh_adapter(0)
        goal = Objective(sft=0.0, kl=kl)
        trained, _ = run(keen, start, others, couples, goal, **options)
        with torch.no_grad():
            keen.load_adapter(start)
            before = log_probabilities(keen, others)
            keen.load_adapter(trained)
            moved.append((log_probabilities(keen, others) - before).abs().mean().item())
    assert moved[1] < 0.5 * moved[0]


def test_the_seed_decides_the_order(tiny, rows, pairs, start):
    first, _ = run(tiny, start, rows, pairs, seed=3)
    again, _ = run(tiny, start, rows, pairs, seed=3)
    other, _ = run(tiny, start, rows, pairs, seed=4)
    assert same(first, again)
    assert distance(first, other) > 1e-5


# --- output layers that do more than one product --------------------------------------------------


@pytest.fixture(scope="module")
def cohere(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """Its logits are scaled, so that they cannot be had from hidden states."""
    from transformers import CohereConfig, CohereForCausalLM

    folder = tmp_path_factory.mktemp("models") / "cohere"
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = CohereConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, initializer_range=0.3, logit_scale=5.0,
    )  # fmt: skip
    CohereForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(str(folder), Lora(rank=2), LoadOptions(dtype="float32"))


def test_an_output_layer_that_scales_is_learnt_through(cohere, rows, pairs):
    assert not cohere.fused
    start = drawn(cohere, 0)
    cohere.load_adapter(start)
    with torch.no_grad():
        expected = [plain_log_probabilities(cohere, row).sum().item() for row in rows]
        assert log_probabilities(cohere, rows).tolist() == pytest.approx(expected, rel=1e-4)
    goal = Objective(sft=0.5)
    ours, _ = run(
        cohere, start, rows[:3], pairs[:4], goal, rows_per_step=3, pairs_per_step=4, clip_norm=1e9
    )
    plain, _ = plain_alignment(cohere, start, rows[:3], pairs[:4], goal, steps=3, rate=RATE)
    moved = torch.cat([(ours[n] - plain[n]).abs().flatten() for n in ours])
    assert distance(ours, start) > 4e-4
    assert moved.mean() < 1e-6


def test_a_divergence_that_cannot_be_had_is_an_error(cohere, rows):
    with pytest.raises(ModelError, match="output layer") as caught:
        run(cohere, drawn(cohere, 0), rows, [], Objective(kl=0.1))
    assert "KL" in caught.value.hint


# --- errors ---------------------------------------------------------------------------------------


def test_what_cannot_be_learnt_from_is_refused(tiny, rows, pairs, start):
    blank = Tokens(rows[0].ids, (False,) * len(rows[0].ids))
    wrong = [
        ([rows[0], blank], [], "row 2 of 2 has no label token"),
        (
            [],
            [pairs[0], PreferencePair(rows[0], blank)],
            "pair 2 of 2: an answer has no label token",
        ),
        ([], [PreferencePair(rows[0], rows[1])], "pair 1 of 1: the prompts are not the same"),
        ([], [PreferencePair(rows[0], rows[0])], "pair 1 of 1: the answers are the same"),
    ]
    for some, couples, message in wrong:
        with pytest.raises(DataError) as caught:
            run(tiny, start, some, couples)
        assert caught.value.message == message
        assert caught.value.hint


def test_a_label_on_the_first_token_alone_is_none(tiny, start):
    with pytest.raises(DataError, match="no label token"):
        run(tiny, start, [Tokens((5, 6), (True, False))], [])


def test_missing_rows_and_pairs_are_errors(tiny, rows, pairs, start):
    with pytest.raises(DataError, match="got 8 and 0"):
        run(tiny, start, rows, [], pairs_per_step=1)
    with pytest.raises(DataError, match="got 0 and 8"):
        run(tiny, start, [], pairs, rows_per_step=1)
    for some, couples in ((0, 0), (-1, 2), (2, -1)):
        with pytest.raises(ValueError, match="a step needs rows or pairs"):
            run(tiny, start, rows, pairs, rows_per_step=some, pairs_per_step=couples)


def test_a_loss_that_is_not_finite_is_an_error(tiny, rows, pairs, start):
    with pytest.raises(ModelError, match=r"the loss of step 2 of 3 is nan") as caught:
        run(tiny, start, rows, pairs, learning_rate=lambda _: math.inf)
    assert "learning_rate" in caught.value.hint


@pytest.mark.parametrize(
    "values",
    [
        {"sft": -1.0},
        {"kl": math.inf},
        {"preference": math.nan},
        {"sft": 0.0, "preference": 0.0},
        {"beta": 0.0},
        {"kind": "ipo", "smoothing": 0.1},
    ],
)
def test_objectives_out_of_range_are_errors(values):
    with pytest.raises(ValueError, match=r"sft|kl|preference|beta|smoothing"):
        Objective(**values)


def test_random_steps_do_not_sort_kinds_apart():
    lengths = [10] * 20 + [60] * 20  # two kinds of rows that differ in length
    grouped, mixed = (list(batch_numbers(lengths, 8, 5, 3, group)) for group in (16, 1))
    pure = [sum(len({lengths[i] for i in step}) == 1 for step in plan) for plan in (grouped, mixed)]
    assert pure[0] >= 4
    assert pure[1] == 0
    assert sorted(i for step in mixed for i in step) == list(range(40))  # one pass, each row once
