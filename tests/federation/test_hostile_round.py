"""A whole round in which ten thousand clients send hostile replies, and three are honest."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hostile_replies import SHAPES, hostile
from scripted_grid import PLAN, ScriptedGrid, answer, record, tools

# isort: split
from flwr.app import Error, Message, RecordDict

from fedrai.federation import clients, protocol
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.protocol import Reason
from fedrai.federation.server import run_rounds
from fedrai.model import AdapterState
from fedrai.runs import RunFolder
from fedrai.runs.files import load_tensors, save_tensors

COUNT = 10_000
HONEST = {"honest-a": 1.0, "honest-b": 4.0, "honest-c": -2.0}
NODES = {name: n for n, name in enumerate([*HONEST, *(f"x{n:05}" for n in range(COUNT))], 10)}


def small_model() -> Any:
    """What the round loop needs of a model: ten numbers, and where an adapter is kept."""

    def save(place: Path, adapter: AdapterState) -> None:
        place.mkdir(parents=True)
        save_tensors(place / "adapter.safetensors", adapter, {})

    return SimpleNamespace(
        parameters={name: torch.zeros(shape) for name, shape in SHAPES.items()},
        fresh_adapter=lambda _seed: {name: torch.zeros(shape) for name, shape in SHAPES.items()},
        save_adapter=save,
    )


def good(by: float) -> RecordDict:
    adapter = {name: torch.full(shape, by) for name, shape in SHAPES.items()}
    return protocol.pack_update(adapter, {WEIGHT: 2})


def script(rng: random.Random) -> Any:
    """The replies to a task: of honest clients good ones, of all others something hostile."""

    def replies(name: str, message: Message) -> Sequence[Message]:
        if name in HONEST:
            return [answer(message, good(HONEST[name]))]
        kind = rng.randrange(20)
        if kind == 0:  # another client's task, whose own reply is on its way
            return [answer(message, good(1e4), node=NODES["honest-a"])]
        if kind == 1:  # a text where there should be none
            return [Message(Error(rng.randrange(10), "x" * 1000), reply_to=message)]
        if kind == 2:  # three times
            return [answer(message, hostile(rng, header=8)) for _ in range(3)]
        return [answer(message, hostile(rng, header=8))]

    return replies


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "POLL", 0.01)


def test_ten_thousand_hostile_replies_in_a_round(tmp_path: Path) -> None:
    """None is accepted, none stops the round, and a reply takes a few kilobytes at most."""
    folder = RunFolder.create(tmp_path / "run", "", {})
    events: Counter[str] = Counter()
    grid = ScriptedGrid(script(random.Random(11)), nodes=NODES)
    plan = replace(PLAN, sampled=len(NODES), min_clients=3, timeout=1, weight_cap=10, norm_cap=3)
    tracemalloc.start()
    run_rounds(plan, tools(folder, small_model(), grid, nodes=NODES,
                           emit=lambda kind, **_: events.update([kind])))  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < COUNT * 20_000
    assert events["client-set-aside"] == COUNT
    assert events["finished"] == 1
    body = record(folder)
    assert sorted(body["clients"]) == sorted(HONEST)
    reasons = Counter(body["set_aside"].values())
    assert sum(reasons.values()) == COUNT
    assert set(reasons) <= {*protocol.SERVER_REASONS, Reason.FAILED}
    assert set(reasons) >= protocol.SERVER_REASONS
    adapter, _ = load_tensors(folder.round_folder(1) / "adapter" / "adapter.safetensors")
    # (1 + 4 - 2) / 3: as if nobody else had been there
    assert all(torch.equal(t, torch.full_like(t, 1)) for t in adapter.values())
