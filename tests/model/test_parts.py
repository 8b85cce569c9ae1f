"""Parts of an adapter: one factor, the first ranks, and what is sent of them."""

from __future__ import annotations

import pytest
import torch

from fedrai.model.parts import ALL, Part, fresh_adapter, rank_of

A, B = "x.lora_A.weight", "x.lora_B.weight"
STATE = {A: torch.arange(12.0).reshape(3, 4), B: torch.arange(6.0).reshape(2, 3)}
SHAPES = {A: (3, 4), B: (2, 3)}


@pytest.mark.parametrize(
    ("part", "sent", "received"),
    [
        (ALL, SHAPES, SHAPES),
        (Part("A"), {B: (2, 3)}, SHAPES),
        (Part("B"), {A: (3, 4)}, SHAPES),
        (Part(rank=1), {A: (1, 4), B: (2, 1)}, {A: (1, 4), B: (2, 1)}),
        (Part(rank=2, whole=True), {A: (2, 4), B: (2, 2)}, SHAPES),
        (Part("A", 2), {B: (2, 2)}, {A: (2, 4), B: (2, 2)}),
    ],
)
def test_shapes_of_messages(part: Part, sent: object, received: object) -> None:
    assert part.sent_shapes(SHAPES) == sent
    assert part.received_shapes(SHAPES) == received
    assert {n: tuple(t.shape) for n, t in part.sent(STATE).items()} == sent
    assert {n: tuple(t.shape) for n, t in part.received(STATE).items()} == received


def test_what_a_client_lacks_is_zero() -> None:
    part = Part(rank=2)
    start = part.expanded(part.received(STATE), SHAPES)
    assert start[A].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]]
    assert start[B].tolist() == [[0, 1, 0], [3, 4, 0]]


def test_a_reply_fills_its_part_of_the_start() -> None:
    sent = {B: torch.tensor([[-1.0], [-2.0]])}
    whole = Part("A", 1).filled(sent, STATE)
    assert torch.equal(whole[A], STATE[A])
    assert whole[B].tolist() == [[-1, 1, 2], [-2, 4, 5]]
    assert STATE[B].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_tensors_that_are_no_factors_are_always_whole() -> None:
    assert Part("A", 1).sent({"head.weight": STATE[A], A: STATE[A]}).keys() == {"head.weight"}
    assert Part(rank=1).sent_shapes({"head.weight": (3, 4)}) == {"head.weight": (3, 4)}
    assert rank_of({"head.weight": (9, 4), A: (3, 4)}) == 3
    assert rank_of({"head.weight": (9, 4)}) == 0


def test_a_fresh_adapter_adds_nothing_and_follows_its_seed() -> None:
    one, same, other = (fresh_adapter(SHAPES, seed) for seed in (1, 1, 2))
    assert torch.equal(one[A], same[A])
    assert not torch.equal(one[A], other[A])
    assert float(one[A].abs().max()) <= 0.5  # 1 / sqrt(4 inputs)
    assert not one[B].any()
