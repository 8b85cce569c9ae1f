"""Small bases and rows for the tests of trained guards. Rows that hold "zog" are unsafe."""

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, BertTokenizer
from transformers.utils import logging

from fedrai.guards.training.loop import TrainingRow
from fedrai.recipe.sections import GuardTraining
from fedrai.records import Message

NOUNS = ("tree", "bird", "road", "lamp", "cup", "boat")
VERBS = ("paint", "find", "fold", "mend", "carry", "count")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "sep", "cls", "mask", "pad",
         "unk", "zog", "a", "the", "no", "request", "(", ")", *NOUNS, *VERBS]  # fmt: skip


def encoder(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Write a random two-layer BERT with 64 positions and one token a word of `WORDS`."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "max_position_embeddings": 64}  # fmt: skip
    torch.manual_seed(seed)
    logging.disable_progress_bar()
    config = BertConfig(**({"vocab_size": len(WORDS), "initializer_range": 0.3} | sizes | settings))
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab={w: i for i, w in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def text(number: int, unsafe: bool) -> str:
    """A request; every number up to 288 has its own."""
    noun, verb = NOUNS[number % 6], VERBS[number // 6 % 6]
    words = [verb, *("a" if number // 36 >> bit & 1 else "the" for bit in range(3)), noun]
    if unsafe:
        words.insert(1 + number % 4, "zog")
    return " ".join(words)


def rows(count: int, *, pairs: bool = True, source: str = "") -> list[TrainingRow]:
    """Requests, and with `pairs` as many answers; every second is unsafe."""
    found = []
    for number in range(count):
        unsafe = number % 2 == 1
        kind = NOUNS[number % 6] if unsafe else ""  # tells the category
        ask, told = Message("user", text(number, unsafe)), text(number + 7, False)
        found.append(TrainingRow((ask,), float(unsafe), kind, source))
        if pairs:
            said = Message("assistant", text(number + 3, not unsafe))
            calm = Message("user", told)
            found.append(TrainingRow((calm, said), float(not unsafe), "", source))
    return found


def settings(base: Path, **changes: Any) -> GuardTraining:
    """A recipe that takes a second or two."""
    usual: dict[str, Any] = {
        "base": str(base), "dtype": "float32", "device": "cpu", "max_length": 64, "rank": 4,
        "alpha": 8, "learning_rate": 2e-2, "batch_size": 16, "epochs": 6, "warmup_steps": 3,
        "held_out": 0.3, "strict_fpr": 0.1, "loose_fpr": 0.05,
    }  # fmt: skip
    return GuardTraining.model_validate(usual | changes)


def request(unsafe: float, category: str = "", source: str = "") -> TrainingRow:
    return TrainingRow((Message("user", "x"),), unsafe, category, source)


def reply(unsafe: float) -> TrainingRow:
    return TrainingRow((Message("user", "x"), Message("assistant", "y")), unsafe, "", "")
