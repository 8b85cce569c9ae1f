"""Sequence classifiers: small random ones, checked against a plain forward pass."""

import json
import math
import shutil
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.utils import logging

from fedrai.errors import GuardError
from fedrai.guards.kinds.classifier import ClassifierGuard, WindowSettings, load
from fedrai.guards.kinds.outputs import ClassifierLabels, classifier_labels
from fedrai.recipe.safety import Classifier
from fedrai.records import Message

LETTERS = [*string.ascii_lowercase, *string.digits, *"[]!?.,"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *[f"##{c}" for c in LETTERS]]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TOXIC = {0: "neutral", 1: "toxic"}
HOSTILE = ["🏔️ " * 40 + "a", "\x00a\x00", "\ud800 lone \udfff", "[SEP] [CLS] [MASK]",
           "a" * 100_000 + " a", "\u202eabc", "a b " * 25_000, "[PAD]" * 200]  # fmt: skip


def bert(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A random BERT with 32 positions and one token a letter."""
    torch.manual_seed(seed)
    base = {"vocab_size": len(WORDS), "max_position_embeddings": 32, "initializer_range": 0.5}
    config = BertConfig(**(SIZES | base | {"id2label": TOXIC} | settings))
    logging.disable_progress_bar()
    BertForSequenceClassification(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    BertTokenizer(vocab=vocabulary, model_max_length=10**30).save_pretrained(folder)
    return folder


def load_guard(
    folder: Path,
    *,
    name: str = "",
    max_length: int = 512,
    batch_tokens: int = 8192,
    **settings: Any,
) -> ClassifierGuard:
    table = {"kind": "classifier", "model": str(folder), "dtype": "float32"} | settings
    windows = WindowSettings(max_length=max_length, batch_tokens=batch_tokens)
    return load(Classifier.model_validate(table), windows, name=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("bert") / "tiny-toxic")


@pytest.fixture(scope="module")
def guard(folder: Path) -> ClassifierGuard:
    return load_guard(folder)


def talks(*texts: str) -> list[tuple[Message, ...]]:
    return [(Message("user", text),) for text in texts]


def chances(guard: ClassifierGuard, *texts: str) -> list[Any]:
    verdicts = guard.judge(talks(*texts)).verdicts
    return [v.problem if v.probability is None else v.probability for v in verdicts]


def plainly(folder: Path, *texts: str, pair: str | None = None) -> list[float]:
    """Softmax of the second label by transformers alone, one text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found = [model(**tokenizer(t, pair, return_tensors="pt")).logits for t in texts]
    return [float(logits.softmax(-1)[0, 1]) for logits in found]


# --- probabilities --------------------------------------------------------------------------------


def test_probabilities_are_those_of_a_plain_forward_pass(folder, guard):
    texts = ["abc", "the quick fox", "a", "zz top!", "one two three four five", "[ ]"]
    assert chances(guard, *texts) == pytest.approx(plainly(folder, *texts), abs=1e-6)
    assert max(chances(guard, *texts)) - min(chances(guard, *texts)) > 0.01


@pytest.mark.parametrize("budget", [1, 64, 100, 100_000])
def test_verdicts_do_not_depend_on_the_batch(folder, guard, budget):
    texts = [" ".join("abc"[i % 3] * (1 + 7 * i % 90)) for i in range(40)]
    other = load_guard(folder, batch_tokens=budget)
    assert chances(other, *texts) == pytest.approx(chances(guard, *texts), abs=1e-6)
    assert chances(other, *texts[::-1]) == pytest.approx(chances(guard, *texts)[::-1], abs=1e-6)
    assert other.revision == guard.revision


def test_the_batch_budget_counts_padding(folder, monkeypatch):
    guard = load_guard(folder, batch_tokens=64)
    seen: list[tuple[int, ...]] = []
    guard.model.register_forward_pre_hook(
        lambda _m, _a, inputs: seen.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    chances(guard, *["a"] * 5, *["a" * 28] * 3)
    assert seen == [(4, 16), (2, 32), (2, 32)]  # a batch is padded to its longest


def test_the_last_turn_counts_and_with_a_pair_its_request(folder, guard):
    talk = (Message("user", "why so"), Message("assistant", "no no"))
    assert guard.judge([talk]).verdicts[0].probability == pytest.approx(plainly(folder, "no no")[0])
    paired = load_guard(folder, pair=True)
    both = plainly(folder, "why so", pair="no no")[0]
    assert paired.judge([talk]).verdicts[0].probability == pytest.approx(both, abs=1e-6)
    longer = (Message("user", "z"), Message("assistant", "y"), Message("system", "x"), *talk)
    assert paired.judge([longer]).verdicts[0].probability == pytest.approx(both, abs=1e-6)
    for alone in ([talk[:1]], [talk[1:]]):
        assert paired.judge(alone).verdicts == ClassifierGuard.judge(paired, alone).verdicts
        text = alone[0][0].content
        assert paired.judge(alone).verdicts[0].probability == pytest.approx(
            plainly(folder, text)[0]
        )
    assert paired.revision != guard.revision


def test_progress_tokens_and_order(guard):
    told: list[tuple[int, int]] = []
    judged = guard.judge(talks("abcd", " ", "a" * 100, "ab"), lambda *seen: told.append(seen))
    assert told[-1] == (4, 4)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    windows = [32, 32, 32, 24]  # 30 letters, of which 4 are those of the window before
    assert judged.tokens == 6 + 4 + sum(windows)
    weights = 2 * (4 * 16 * 16 + 2 * 16 * 32) + 16 * 16 + 2 * 16
    assert judged.operations == 2.0 * weights * judged.tokens
    assert guard.judge([]).verdicts == ()


def test_many_conversations_go_through_in_chunks(guard, monkeypatch):
    monkeypatch.setattr("fedrai.guards.kinds.classifier.CHUNK", 3)
    texts = ["a", "", "b", "c", "", "", "", "", "", "d"]
    told: list[tuple[int, int]] = []
    verdicts = guard.judge(talks(*texts), lambda *seen: told.append(seen)).verdicts
    assert [v.problem for v in verdicts] == [None if t else "empty" for t in texts]
    assert [told[0], told[-1], len(told)] == [(3, 10), (10, 10), 4]
    alone = [chances(guard, t)[0] for t in texts]
    assert [v.probability or v.problem for v in verdicts] == pytest.approx(alone)


def test_progress_may_stop_it(guard):
    def stop(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guard.judge(talks("a"), stop)


# --- long and hostile texts -----------------------------------------------------------------------


def test_long_texts_are_judged_in_windows_and_the_unsafest_counts(folder, guard):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789" * 3
    text = " ".join(letters)
    parts = [" ".join(letters[i : i + 30]) for i in range(0, 104, 26)]
    assert len(parts[-1]) == 59
    wanted = plainly(folder, *parts)
    assert chances(guard, text)[0] == pytest.approx(max(wanted), abs=1e-6)
    assert max(wanted) - sorted(wanted)[-2] > 1e-4


@pytest.mark.parametrize("place", [0, 37, 500, 996])
def test_nothing_hides_behind_padding_text(guard, place):
    calm = min(string.ascii_lowercase, key=lambda c: chances(guard, " ".join(c * 30))[0])
    before = chances(guard, " ".join(calm * 1000))[0]
    loud = max(string.ascii_lowercase, key=lambda c: chances(guard, " ".join(c * 30))[0])
    # of 56 letters in a row, any windows of 30 that overlap by 4 hold 30 in one
    text = " ".join(calm * place + loud * 56 + calm * (1000 - place))
    assert chances(guard, text)[0] >= chances(guard, " ".join(loud * 30))[0] - 1e-6 > before


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_gets_one_verdict(guard, text):
    (found,) = chances(guard, text)
    assert 0 <= found <= 1


def test_what_leaves_nothing_to_judge_is_empty(guard):
    blind = ["", " \n", "\x00\x01", "\u200b", "🏔️" * 40, "a" * 100_000]  # [UNK] or nothing
    assert chances(guard, *blind) == ["empty"] * 6
    assert guard.judge([()]).verdicts[0].problem == "empty"
    talk = (Message("user", "a"), Message("assistant", " "))
    assert guard.judge([talk]).verdicts[0].problem == "empty"


def test_fifty_turns(guard):
    talk = tuple(Message("assistant" if i % 2 else "user", f"turn {i}") for i in range(50))
    assert guard.judge([talk]).verdicts[0].probability == pytest.approx(
        chances(guard, "turn 49")[0]
    )


def test_special_tokens_in_a_text_are_words(folder, guard):
    spelled = [WORDS.index(t) for t in ("[", "s", "##e", "##p", "]")]
    (window,) = guard._encode(talks("a[SEP]b")[0])
    assert window["input_ids"] == [2, 5, *spelled, 6, 3]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(torch.tensor([window["input_ids"]])).logits
    assert chances(guard, "a[SEP]b")[0] == pytest.approx(float(logits.softmax(-1)[0, 1]), abs=1e-6)


def test_a_tokenizer_that_knows_special_tokens_as_words(folder):
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(c, -3.0) for c in string.ascii_lowercase + "</>"]
    backend = Tokenizer(models.Unigram([*pieces, *letters], unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", cls_token="<s>", eos_token="</s>",
        sep_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=32,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    guard = ClassifierGuard(
        model, tokenizer, ClassifierLabels(("neutral", "toxic"), (1,), False),
        WindowSettings(pair=True, max_length=32, batch_tokens=64), name="x", fingerprint="0",
    )  # fmt: skip
    (window,) = guard._encode(talks("a</s>b")[0])
    assert window["input_ids"] == [0, 4, 5, 3, 6, 2]  # the spelled one is an unknown word
    talk = (Message("user", "a"), Message("assistant", "b</s>"))
    (window,) = guard._encode(talk)
    assert window["input_ids"] == [0, 4, 5, 2, 4, 6, 3, 2]


@pytest.mark.parametrize("size", [1, 9, 10, 11, 5000])
def test_a_long_request_leaves_room_for_the_answer(folder, size):
    paired = load_guard(folder, pair=True)
    talk = (Message("user", " ".join("z" * size)), Message("assistant", " ".join("a" * 60 + "b")))
    windows = list(paired._encode(talk))
    z, a, b = (WORDS.index(c) for c in "zab")
    for window in windows:
        ids = window["input_ids"]
        assert len(ids) <= 32
        assert min(size, 6) <= ids.count(z) <= 10
        assert window["token_type_ids"].count(1) == len(ids) - ids.index(3) - 1
    assert sum(w["input_ids"].count(b) for w in windows) == 1
    assert sum(w["input_ids"].count(a) for w in windows) >= 60
    assert paired.judge([talk]).verdicts[0].probability is not None


def test_roberta_has_fewer_places_than_positions(tmp_path):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate([*names, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )  # fmt: skip
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>", cls_token="<s>", sep_token="</s>",
    ).save_pretrained(tmp_path)  # fmt: skip
    config = RobertaConfig(
        **SIZES, vocab_size=len(names) + len(letters), max_position_embeddings=34, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, id2label={0: "BENIGN", 1: "INJECTION", 2: "JAILBREAK"},
        initializer_range=0.5, type_vocab_size=1,
    )  # fmt: skip
    torch.manual_seed(1)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    guard = load_guard(tmp_path)
    assert guard._length == 32
    texts = ["abc", "é </s> x", "a" * 30, "a" * 31, "b" * 1000, "\ud800", "🏔️"]
    assert all(0 <= p <= 1 for p in chances(guard, *texts))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = [0, *[len(names) + letters.index("a")] * 30, 2]
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits.softmax(-1)[0]
    assert chances(guard, "a" * 30)[0] == pytest.approx(float(wanted[1] + wanted[2]), abs=1e-6)


# --- labels ---------------------------------------------------------------------------------------


def config(*labels: str, kind: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(id2label=dict(enumerate(labels)), problem_type=kind)


@pytest.mark.parametrize(
    ("labels", "unsafe"),
    [
        (["LABEL_0", "LABEL_1"], (1,)), (["toxic", "non-toxic"], (0,)), (["nothate", "hate"], (1,)),
        (["BENIGN", "INJECTION", "JAILBREAK"], (1, 2)), (["Safe", "Un-Safe"], (1,)),
    ],
)  # fmt: skip
def test_unsafe_labels_are_told_by_their_names(labels, unsafe):
    assert classifier_labels(config(*labels)) == ClassifierLabels(tuple(labels), unsafe, False)


def test_several_labels_at_once():
    kind = "multi_label_classification"
    found = classifier_labels(config("toxic", "severe_toxic", "threat", kind=kind))
    assert (found.unsafe, found.multi) == ((0, 1, 2), True)
    logits = torch.tensor([[math.log(3), 0.0, math.log(9)]])
    values = found.chances(logits)[0].tolist()
    assert values == pytest.approx([0.75, 0.5, 0.9])
    assert found.probability(values) == pytest.approx(0.9)
    assert found.categories(values) == ("threat", "toxic")
    assert found.worse([0.1, 0.9, 0.2], [0.3, 0.1, 0.2]) == [0.3, 0.9, 0.2]
    assert classifier_labels(
        config("toxic")
    ).multi  # one output can only be a probability of its own


def test_labels_that_share_one_probability():
    found = classifier_labels(config("neutral", "hate", "threat"))
    values = found.chances(torch.tensor([[0.0, math.log(2), math.log(5)]]))[0].tolist()
    assert values == pytest.approx([0.125, 0.25, 0.625])
    assert found.probability(values) == pytest.approx(0.875)
    assert found.categories(values) == ("threat",)
    assert found.categories([0.6, 0.3, 0.1]) == ()
    assert found.worse([0.6, 0.3, 0.1], [0.5, 0.1, 0.4]) == [0.5, 0.1, 0.4]
    assert classifier_labels(config("LABEL_0", "LABEL_1")).categories([0.1, 0.9]) == ()


def test_labels_that_are_named():
    found = classifier_labels(config("joy", "anger", "Fear"), ["fear", "anger"])
    assert (found.unsafe, found.multi) == ((1, 2), False)
    assert classifier_labels(config("a", "b"), ["a", "b"], multi=True).unsafe == (0, 1)
    with pytest.raises(GuardError, match="no label 'rage'") as caught:
        classifier_labels(config("joy", "anger"), ["anger", "rage"])
    assert caught.value.hint == "its labels: joy, anger"


@pytest.mark.parametrize(
    "given",
    [(config("joy", "anger"), None), (config("toxic", "male"), None), (config("LABEL_0"), None),
     (config("LABEL_0", "LABEL_1", "LABEL_2"), None), (config("safe", "ok"), None),
     (config("toxic", "hate"), None), (config("a", "b"), ["a", "b"]), (config("a", "b"), [])],
)  # fmt: skip
def test_labels_that_are_not_known_are_an_error(given):
    with pytest.raises(
        GuardError, match="which of the classifier's labels mean unsafe: "
    ) as caught:
        classifier_labels(*given)
    assert "unsafe_labels" in caught.value.hint


def test_a_model_with_several_labels_at_once(tmp_path):
    names = {0: "toxic", 1: "threat"}
    bert(tmp_path, id2label=names, problem_type="multi_label_classification")
    guard = load_guard(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(**tokenizer("a b c", return_tensors="pt")).logits.sigmoid()[0].tolist()
    (verdict,) = guard.judge(talks("a b c")).verdicts
    assert verdict.probability == pytest.approx(max(wanted), abs=1e-6)
    likely = sorted((p, names[i]) for i, p in enumerate(wanted) if p > 0.5)
    assert verdict.categories == tuple(name for _, name in reversed(likely))


# --- loading --------------------------------------------------------------------------------------


def test_a_base_model_is_no_classifier(tmp_path, folder):
    BertForMaskedLM(BertConfig(**SIZES, vocab_size=len(WORDS))).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(GuardError, match="Classification are missing and would be random"):
        load_guard(tmp_path, unsafe_labels=["LABEL_1"])


def test_weights_that_were_cut_are_named(tmp_path, folder):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(GuardError, match=r"sequence classifier: .*deserializing header"):
        load_guard(tmp_path)


def test_folders_that_cannot_be_loaded(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(GuardError, match="cannot be loaded as a sequence classifier"):
        load_guard(tmp_path)


def test_weights_of_other_sizes_are_an_error(tmp_path):
    file = bert(tmp_path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"intermediate_size": 64}))
    with pytest.raises(GuardError, match="cannot be loaded"):
        load_guard(tmp_path)


def test_the_revision_follows_the_weights(tmp_path, folder, guard):
    assert load_guard(folder).revision == guard.revision
    assert load_guard(folder, dtype="bfloat16").revision != guard.revision
    assert load_guard(folder, max_length=16).revision != guard.revision
    assert load_guard(folder, unsafe_labels=["neutral"]).revision != guard.revision
    bert(tmp_path)
    assert load_guard(tmp_path).revision == guard.revision
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.bias"][1] += 0.25
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    changed = load_guard(tmp_path)
    assert changed.revision != guard.revision
    assert chances(changed, "abc")[0] > chances(guard, "abc")[0]


def test_names_and_thresholds(folder, guard):
    assert (guard.name, guard.thresholds) == ("tiny-toxic", {"strict": 0.2, "loose": 0.5})
    assert guard.judge(talks("a")).verdicts[0].guard == f"tiny-toxic@{guard.revision[:12]}"
    assert load_guard(folder, name="mine").name == "mine"
    with pytest.raises(GuardError, match="no room for text"):
        load_guard(folder, max_length=8)


def test_broken_weights_give_no_verdict(tmp_path):
    guard = load_guard(bert(tmp_path))
    with torch.no_grad():
        guard.model.classifier.bias.fill_(float("nan"))
    assert chances(guard, "abc") == ["failed"]


def test_a_slow_tokenizer_is_refused(guard):
    with pytest.raises(GuardError, match="not a fast one"):
        ClassifierGuard(
            guard.model, SimpleNamespace(is_fast=False), guard.labels, name="x", fingerprint="0"
        )
