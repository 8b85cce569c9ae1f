"""What is asked: AdvBench's harmful requests, and ordinary instructions that nobody trains on.

Does not answer and does not judge; see `measure.py`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from fedrai import assets
from fedrai.errors import EvaluationError
from fedrai.records import Example

ADVBENCH = "advbench"
ADVBENCH_SIZE = 520


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to ask: its number in the suite, and the request."""

    number: int
    prompt: str


def advbench(count: int, seed: int) -> list[Item]:
    """A seeded sample of AdvBench (Zou et al., arXiv 2307.15043), in the suite's order.

    Args:
        count: how many; 520 is the whole suite.
        seed: of the sample.

    Raises:
        EvaluationError: the file does not hold the 520 behaviours.
        AssetError: it cannot be fetched.
    """
    file = assets.fetch(ADVBENCH)
    seeds = yaml.safe_load(file.read_text(encoding="utf-8")).get("seeds", [])
    requests = [str(entry["value"]) for entry in seeds]
    if len(requests) != ADVBENCH_SIZE:
        raise EvaluationError(f"AdvBench has {ADVBENCH_SIZE} behaviours, the file {len(requests)}")
    return _sample([Item(i, text) for i, text in enumerate(requests)], count, seed)


def ordinary(examples: Sequence[Example], count: int, seed: int) -> list[Item]:
    """A seeded sample of the first requests of held-out examples."""
    prompts = [next(m.content for m in e.messages if m.role == "user") for e in examples]
    return _sample([Item(i, text) for i, text in enumerate(prompts)], count, seed)


def _sample(items: list[Item], count: int, seed: int) -> list[Item]:
    if count >= len(items):
        return items
    return sorted(random.Random(seed).sample(items, count), key=lambda item: item.number)
