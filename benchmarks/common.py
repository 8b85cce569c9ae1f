"""What the benchmarks share: the embedded model, its rows, and how a ratio is printed."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence

from fedrai import data, model
from fedrai.model import LanguageModel
from fedrai.records import Tokens

warnings.filterwarnings("ignore")
BASE = "smollm2-135m-instruct"


def load_rows(lm: LanguageModel, count: int, max_length: int = 128) -> list[Tokens]:
    """Embedded rows, tokenized, in a fixed order (repeated if there are too few)."""
    examples = [
        e for name in ("ordinary", "safe-answers") for e in data.load(f"fedrai:{name}").examples
    ]
    chosen = [examples[(i * 7) % len(examples)] for i in range(count)]
    return [lm.chat.train_tokens(example.messages, max_length) for example in chosen]


def load_model(attention: str = "auto", max_length: int = 128) -> LanguageModel:
    """The embedded model as the quickstart uses it."""
    options = model.LoadOptions(attention=attention, max_length=max_length)
    return model.load(BASE, options=options)


def report(name: str, ours: Sequence[float], peer: str, theirs: Sequence[float], unit: str) -> None:
    """Print medians and the median of the pairwise ratios, with their range."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"{name}: {statistics.median(ours):.4g} {unit};"
        f" {peer}: {statistics.median(theirs):.4g} {unit};"
        f" ratio {statistics.median(ratios):.2f}"
        f" (from {ratios[0]:.2f} to {ratios[-1]:.2f}, {len(ratios)} pairs)",
        flush=True,
    )
