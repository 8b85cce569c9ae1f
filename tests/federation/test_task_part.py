"""Tasks that ask for a part of the adapter: what is sent of it, and what a client refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import driver  # noqa: F401 (imports Flower without a warning of its typer)

# isort: split
from flwr.app import ConfigRecord, RecordDict

from fedrai.errors import ProtocolError
from fedrai.federation import protocol
from fedrai.federation.task_part import PART_KEYS, part_numbers, read_part
from fedrai.model.parts import ALL, Part

A, B = "x.lora_A.weight", "x.lora_B.weight"
STATE = {A: torch.arange(12.0).reshape(3, 4), B: torch.arange(6.0).reshape(2, 3)}
SHAPES = protocol.shapes_of(STATE)
PARTS = [ALL, Part("A"), Part("B"), Part(rank=2), Part(rank=1, whole=True), Part("A", 2)]


@pytest.mark.parametrize("part", PARTS)
def test_a_task_says_which_part_it_asks_for(part: Part) -> None:
    content = protocol.pack_task(3, STATE, part=part)
    task = protocol.unpack_task(content, SHAPES)
    assert task.part == part
    start = part.expanded(part.received(STATE), SHAPES)
    assert all(torch.equal(task.adapter[name], start[name]) for name in STATE)
    sent = sum(shape[0] * shape[1] for shape in part.received_shapes(SHAPES).values())
    assert 0 <= protocol.payload_bytes(content) - 4 * sent < 300


def test_a_task_for_all_of_it_holds_the_round_alone() -> None:
    assert dict(protocol.pack_task(3, STATE)["task"]) == {"round": 3}
    assert part_numbers(ALL) == {}
    assert set(part_numbers(Part("A"))) == PART_KEYS


@pytest.mark.parametrize(
    "numbers",
    [
        {"frozen": 3},
        {"frozen": -1},
        {"frozen": True},
        {"rank": 3},  # the adapter's rank is all of it, which is 0
        {"rank": -1},
        {"rank": 1.0},
        {"whole": 2},
        {"whole": "1"},
    ],
)
def test_a_client_refuses_a_part_that_is_none(numbers: dict[str, Any]) -> None:
    task = {"frozen": 0, "rank": 1, "whole": 0} | numbers
    with pytest.raises(ProtocolError, match=f"{next(iter(numbers))} must be a whole number"):
        read_part(task, SHAPES)
    content = protocol.pack_task(1, STATE)
    content["task"] = ConfigRecord({"round": 1, **task})
    with pytest.raises(ProtocolError, match="must"):
        protocol.unpack_task(content, SHAPES)


@pytest.mark.parametrize("keys", [{"rank": 1}, {"frozen": 1, "rank": 0}])
def test_the_numbers_of_a_part_come_together(keys: dict[str, int]) -> None:
    content = RecordDict(dict(protocol.pack_task(1, STATE)))
    content["task"] = ConfigRecord({"round": 1, **keys})
    with pytest.raises(ProtocolError, match="must hold only round"):
        protocol.unpack_task(content, SHAPES)


def test_the_array_must_be_that_of_the_part() -> None:
    content = protocol.pack_task(1, STATE)
    content["task"] = ConfigRecord({"round": 1, **part_numbers(Part(rank=2))})
    with pytest.raises(ProtocolError, match="wrong-array-shapes"):
        protocol.unpack_task(content, SHAPES)


def test_an_adapter_without_factors_has_no_ranks() -> None:
    with pytest.raises(ProtocolError, match="rank must be a whole number up to 0"):
        read_part({"frozen": 0, "rank": 1, "whole": 0}, {"head.weight": (4, 4)})
