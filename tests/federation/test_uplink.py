"""Lossy messages of clients: what the server has of them, and what the client keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

# isort: split
from flwr.app import Array, ArrayRecord, Message, Metadata, RecordDict

from fedrai.federation import protocol, uplink
from fedrai.federation.codecs import Codec
from fedrai.federation.protocol import Reason, Task, Update, read_reply
from fedrai.federation.uplink import Uplink
from fedrai.model import AdapterState
from fedrai.model.parts import Part
from fedrai.runs.files import digest_of

A, B = "m.lora_A.weight", "m.lora_B.weight"
SHAPES = {A: (2, 5), B: (3, 2)}
INT4 = Codec("int4", 16)


def adapter(seed: int, scale: float = 1.0) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(shape, generator=generator) for n, shape in SHAPES.items()}


def received(content: RecordDict, codec: Codec, start: AdapterState) -> Update | Reason:
    shapes = {name: tuple(part.shape) for name, part in start.items()}
    message = Message(content, metadata=Metadata(1, "r", 1, 1, "m", "1", 0.0, 60.0, "train"))
    return read_reply(message, shapes, (), codec, start)


@pytest.mark.parametrize("codec", [INT4, Codec("int8"), Codec("bf16"), Codec("top-k")])
def test_both_sides_have_the_same_bits(codec: Codec, tmp_path: Path) -> None:
    start, trained = adapter(1), adapter(2)
    link = Uplink(codec, residuals=lambda client: tmp_path / client)
    sent, arrays = link.pack("a", Task(1, start), trained)
    assert arrays is not None
    update = received(protocol.pack_update(sent, {"num-examples": 3.0}, arrays), codec, start)
    assert isinstance(update, Update)
    assert digest_of(update.adapter) == digest_of(sent)
    lost = uplink.residual(tmp_path / "a", 2, start)
    for name in SHAPES:
        torch.testing.assert_close(sent[name] + lost[name], trained[name])
    assert digest_of(sent) != digest_of(trained)


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["int4", "int8", "bf16", "top-k"]))
@settings(max_examples=15)
def test_nothing_is_lost_for_good(
    seed: int, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("residuals")
    link = Uplink(Codec(kind, 16, 0.1), residuals=lambda _client: folder)
    total, arrived = torch.zeros(2, 5), torch.zeros(2, 5)
    for number in range(1, 6):
        start, change = adapter(seed + number), adapter(seed - number, 0.1)
        trained = {name: start[name] + change[name] for name in SHAPES}
        sent, _ = link.pack("a", Task(number, start), trained)
        total, arrived = total + change[A], arrived + sent[A] - start[A]
    lost = uplink.residual(folder, 6, adapter(0))[A]
    torch.testing.assert_close(arrived + lost, total, atol=1e-4, rtol=0)


def test_a_repeated_round_sends_the_same_bytes(tmp_path: Path) -> None:
    link = Uplink(INT4, residuals=lambda client: tmp_path / client)
    first = [link.pack("a", Task(n, adapter(n)), adapter(-n))[0] for n in (1, 2, 5)]
    again = link.pack("a", Task(5, adapter(5)), adapter(-5))[0]
    assert digest_of(again) == digest_of(first[-1])
    other = link.pack("a", Task(6, adapter(5)), adapter(-5))[0]
    assert digest_of(other) != digest_of(again)  # what round 5 lost is added
    for file in (tmp_path / "a").iterdir():
        file.write_bytes(b"damaged")
    assert not any(part.any() for part in uplink.residual(tmp_path / "a", 7, adapter(0)).values())


def test_a_frozen_factor_is_not_sent_and_keeps_its_residual(tmp_path: Path) -> None:
    link = Uplink(INT4, residuals=lambda _client: tmp_path)
    start, trained = adapter(1), adapter(2)
    link.pack("a", Task(1, start), trained)
    before = uplink.residual(tmp_path, 2, start)
    sent, arrays = link.pack("a", Task(2, start, part=Part(frozen="A")), trained)
    assert arrays is not None
    assert [array.shape for array in arrays.values()] == [(5,)]  # 6 numbers and a scale
    assert torch.equal(sent[A], start[A])
    assert torch.equal(uplink.residual(tmp_path, 3, start)[A], before[A])


def test_weights_that_are_not_finite_are_refused_and_leave_no_residual(tmp_path: Path) -> None:
    start, trained = adapter(1), adapter(2)
    trained[A][0, 0] = float("nan")
    link = Uplink(INT4, residuals=lambda _client: tmp_path)
    sent, arrays = link.pack("a", Task(1, start), trained)
    content = protocol.pack_update(sent, {"num-examples": 1.0}, arrays)
    assert received(content, INT4, start) is Reason.NOT_FINITE
    assert not list(tmp_path.iterdir())


def hostile(name: str, data: np.ndarray) -> RecordDict:
    key = protocol.layout(SHAPES) + name
    arrays = ArrayRecord({key: Array(data)})
    return protocol.pack_update({}, {"num-examples": 1.0}, arrays)


@pytest.mark.parametrize(
    ("codec", "name", "data", "reason"),
    [
        (INT4, "int4-16", np.zeros(9, np.uint8), Reason.WRONG_SHAPES),  # of 10 bytes
        (INT4, "int4-16", np.zeros(10, np.int8), Reason.UNREADABLE),
        (INT4, "int4-32", np.zeros(10, np.uint8), Reason.WRONG_SHAPES),
        (INT4, "", np.zeros(16, np.float32), Reason.WRONG_SHAPES),
        (INT4, "int4-16", np.full(10, 255, np.uint8), Reason.NOT_FINITE),  # the scale is NaN
        (INT4, "int4-16", np.array([0x7F, 0x7F, *[0xFF] * 8], np.uint8), Reason.NOT_FINITE),
        (Codec("bf16"), "bf16", np.full(32, 0x7E, np.uint8), Reason.OUT_OF_RANGE),
        (Codec("top-k", kept=0.1), "top-k-0.1", np.zeros(12, np.uint8), Reason.UNREADABLE),
    ],
)
def test_hostile_messages_are_set_aside(
    codec: Codec, name: str, data: np.ndarray, reason: Reason
) -> None:
    assert received(hostile(name, data), codec, adapter(1)) is reason


def test_a_sum_beyond_the_largest_value_is_refused() -> None:
    start = {name: torch.full(shape, 60_000.0) for name, shape in SHAPES.items()}
    data = np.full(16, 30_000.0, np.float32)
    encoded = Codec("bf16").encode(data)
    assert received(hostile("bf16", encoded), Codec("bf16"), start) is Reason.OUT_OF_RANGE


def test_a_task_in_fewer_bytes() -> None:
    start = adapter(1)
    packed = protocol.pack_adapter(start, Codec("int8"))
    task = protocol.unpack_task(
        protocol.pack_task(1, start, packed=packed), SHAPES, codec=Codec("int8")
    )
    assert digest_of(task.adapter) == digest_of(
        protocol.unpack_adapter(packed, SHAPES, Codec("int8"))
    )
