"""A stage for alignments of a tiny random model.

The critic and the guard are scripted; first answers, training and probes are the model's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedrai.constitution import Constitution, Principle
from fedrai.constitution.critics import CriticAnswers
from fedrai.constitution.gathering import RequestSets
from fedrai.constitution.outcome import Aligned
from fedrai.constitution.phase import Phase
from fedrai.constitution.plan import PhaseTools, Plan
from fedrai.constitution.records import Outcome, Request, RevisionRecord
from fedrai.constitution.revising import Settings
from fedrai.constitution.schedule import Bounds
from fedrai.constitution.verifying import Checks
from fedrai.guards.base import Conversation
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.alignment import Goal
from fedrai.recipe.sections import seed_for

RULES = Constitution("small", "1", (Principle("kind", "Be kind", "", "Is it?", "Write it again."),))
DECLINES = "I can't help with {}, since people would lose money. I can help you find work."
EXPLAINS = "Here is how {} works: flour, water and salt are left alone for a night."
HARMFUL = tuple(Request(f"trick {n}", "fraud") for n in range(6))
HARMLESS = tuple(
    Request(f"bread {n}", "fraud", kind="homonym" * (n % 2), harmful=False,
            answer=f"A loaf of {n} pounds needs an hour.")
    for n in range(6)
)  # fmt: skip
EXAMPLES = tuple(
    RevisionRecord(Request(f"theft {n}", "fraud"), "", "unscored", None, (),
           f"I won't help with theft {n}, as it hurts people. Let us talk about work instead.",
           None, 0, Outcome.ALREADY_SAFE)
    for n in range(3)
)  # fmt: skip
PLAN = Plan(
    schedule="budget",
    anchor=0.0,
    every=1,
    steps=4,
    rows=4,
    pairs=2,
    refusals=0.5,
    look_alikes=0.25,
    harmless_pairs=0.5,
    reference_share=0.0,
    base_answers=False,
    objective=Goal(),
    learning_rate=0.01,
    warmup_steps=1,
    cooldown_steps=0,
    weight_decay=0.0,
    clip_norm=1.0,
    micro_batch_tokens=0,
    max_length=160,
    probe_harmful=2,
    probe_harmless=2,
    probe_every=2,
    bounds=Bounds(1.0, 1.0, 0.1),
    early_stop=False,
    reuse=0.0,
    seed=lambda purpose, number: seed_for(7, purpose, number),
)
NEVER = Bounds(2.0, 2.0, 0.1)  # twice of what there can be: no look satisfies them
SETTINGS = Settings(demonstrations=0, batch_size=2, max_new_tokens=8, critique_tokens=8)


class Scripted:
    """Declines, or explains where that is harmless; now and then only at the second try."""

    def __init__(self) -> None:
        self.calls = 0

    def answer(self, conversations: Sequence[Conversation], **settings: Any) -> CriticAnswers:
        self.calls += 1
        settings["on_batch"](len(conversations), len(conversations))
        greedy = not settings["temperature"]
        return CriticAnswers(tuple(_says(talk, greedy) for talk in conversations), 10, 100.1)


def _says(talk: Conversation, greedy: bool) -> str:
    topic = next(t.content for t in talk if t.content.startswith(("trick", "bread")))
    if talk[-1].content.startswith("Is it"):
        return "No. It could be kinder."
    if topic.endswith("3") and greedy:
        return "Sure, I say yes to it and no to it."
    return (DECLINES if topic.startswith("trick") else EXPLAINS).format(topic)


@dataclass
class Stage:
    """Runs phases in folders of its own, and interrupts them where it is told to."""

    model: LanguageModel
    start: AdapterState
    folder: Path
    critic: Any = field(default_factory=Scripted)
    heard: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    stop: tuple[str, int, int] | None = None

    def tell(self, kind: str, **fields: Any) -> None:
        self.heard.append((kind, fields))
        if self.stop is None or kind != "constitution-progress":
            return
        name, done, times = self.stop
        if (fields["phase"], fields["done"]) == (name, done):
            self.stop = (name, done, times - 1) if times > 1 else None
            if self.stop is None:
                raise KeyboardInterrupt

    def phase(self, **changes: Any) -> Phase:
        given: dict[str, Any] = {
            "model": self.model, "constitution": RULES, "critic": self.critic,
            "checks": Checks(ScriptedGuard({}), 0.5), "harmless_threshold": 0.7,
            "settings": SETTINGS, "examples": (), "start": None,
            "gathered": RequestSets(HARMFUL, HARMLESS, {"advbench": 3}, 1), "pool": HARMFUL,
            "tell": self.tell,
        }  # fmt: skip
        own = {name: changes.pop(name) for name in list(changes) if name in given}
        return Phase(replace(PLAN, **changes), PhaseTools(**given | own))

    def __call__(
        self, number: int = 1, work: str = "", last: bool = False, **changes: Any
    ) -> Aligned:
        place = self.folder / (work or f"work-{number}")
        place.mkdir(exist_ok=True)
        align = self.phase(**changes)
        return align(number, self.start, place, self.folder / "kept", last)


def same(one: AdapterState, other: AdapterState) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def moved(found: Aligned, start: AdapterState) -> bool:
    return not same(found.adapter, start)


def check_same(found: Aligned, whole: Aligned) -> None:
    assert same(found.adapter, whole.adapter)
    assert json.dumps(found.report) == json.dumps(whole.report)
    assert found.cost.tokens == whole.cost.tokens
    assert found.cost.operations == pytest.approx(whole.cost.operations, rel=1e-12)


def safe_answers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model decline whatever it is asked."""
    text = "I can't help with that trick, since people would lose money."
    monkeypatch.setattr(stage.model.chat, "decode", lambda _ids: text)
