"""A stage for alignments of a tiny random model.

The critic and the guard are scripted; first answers, training and probes are the model's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from fedrai.constitution import Constitution, Principle
from fedrai.constitution.critics import CriticAnswers, OnBatch
from fedrai.constitution.gathering import RequestSets
from fedrai.constitution.outcome import Aligned
from fedrai.constitution.phase import Phase
from fedrai.constitution.records import Outcome, Request, RevisionRecord
from fedrai.constitution.tools import PhaseTools
from fedrai.constitution.verifying import Checks
from fedrai.guards.base import Conversation
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.model import AdapterState, LanguageModel
from fedrai.model.generate import Sampling
from fedrai.recipe.alignment import Alignment, Mix, Probe, RevisionSettings
from fedrai.recipe.sections import Recipe

MAX_LENGTH = 160
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
SECTION = Alignment(
    schedule="budget",
    steps=4,
    learning_rate=0.01,
    warmup_steps=1,
    cooldown_steps=0,
    reuse=0.0,
    mix=Mix(rows=4, pairs=2, refusals=0.5, look_alikes=0.25, answered_by="model"),
    probe=Probe(harmful=2, harmless=2, every=2, safe=1.0, useful=1.0),
    revising=RevisionSettings(demonstrations=0, batch_size=2, max_new_tokens=8, critique_tokens=8),
).model_copy(update={"micro_batch_tokens": 0})  # all at once
NEVER = {"safe": 2.0, "useful": 2.0}  # more than possible: no look satisfies the probe
EASY = {"safe": 0.0, "useful": 0.0}
PARTS = ("mix", "probe", "revising")


def recipe(**changes: Any) -> Recipe:
    """The recipe of a stage, with keys of `[constitution]` changed.

    Keys of its tables may stand alone (`pairs=0`), or in a dictionary (`probe={"every": 0}`).
    Nothing is validated, so that bounds may be out of reach.
    """
    tables = {name: dict(changes.pop(name, {})) for name in PARTS}
    for part, table in tables.items():
        keys = type(getattr(SECTION, part)).model_fields.keys() - Alignment.model_fields.keys()
        table |= {key: changes.pop(key) for key in keys & changes.keys()}
    parts = {name: getattr(SECTION, name).model_copy(update=tables[name]) for name in PARTS}
    base = Recipe(
        seed=7,
        model={"base": "tiny"},
        data={"max_length": MAX_LENGTH, "sources": [{"path": "rows.jsonl"}]},
    )
    section = SECTION.model_copy(update=changes | parts)
    return base.model_copy(update={"constitution": section})


class Scripted:
    """Declines, or explains where that is harmless; now and then only at the second try."""

    def __init__(self) -> None:
        self.calls = 0

    def answer(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int,
        sampling: Sampling,
        on_batch: OnBatch = lambda _done, _of: None,
    ) -> CriticAnswers:
        self.calls += 1
        on_batch(len(conversations), len(conversations))
        greedy = not sampling.temperature
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
    stop: tuple[str, int | str, int] | None = None  # phase, figure or "end", which time

    def on_event(self, kind: str, **fields: Any) -> None:
        self.heard.append((kind, fields))
        if self.stop is None or kind != "constitution-progress":
            return
        name, done, times = self.stop
        if fields["phase"] == name and fields["done"] == (fields["of"] if done == "end" else done):
            self.stop = (name, done, times - 1) if times > 1 else None
            if self.stop is None:
                raise KeyboardInterrupt

    def phase(self, **changes: Any) -> Phase:
        tools: dict[str, Any] = {
            "model": self.model, "constitution": RULES, "critic": self.critic,
            "checks": Checks(ScriptedGuard({}), 0.5), "harmless_threshold": 0.7,
            "examples": (), "start": None, "pool": HARMFUL, "on_event": self.on_event,
            "requests": RequestSets(HARMFUL, HARMLESS, {"advbench": 3}, 1),
        }  # fmt: skip
        own = {name: changes.pop(name) for name in list(changes) if name in tools}
        return Phase(recipe(**changes), PhaseTools(**tools | own))

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
