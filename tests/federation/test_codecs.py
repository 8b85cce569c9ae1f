"""Codecs of messages: bytes, errors and false bytes, by numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrai.federation.codecs import PLAIN, Codec, codecs_of
from fedrai.recipe.messages import Messages

CODECS = [Codec("bf16"), Codec("int8", 16), Codec("int4", 16), Codec("top-k", kept=0.25)]
FLOATS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
ARRAYS = st.lists(FLOATS, max_size=70).map(lambda values: np.array(values, np.float32))


def coded(codec: Codec, numbers: np.ndarray) -> np.ndarray:
    data = codec.encode(numbers)
    assert data.dtype == np.uint8
    assert len(data) == codec.size(len(numbers))
    back = codec.decode(data, len(numbers))
    assert back is not None
    return back


def test_bytes_by_hand() -> None:
    numbers = np.array([7.0, -3.2, 0.4, 0.0, 3.5], np.float32)
    data = Codec("int4").encode(numbers)  # one block, whose scale 1 is 0x3f80
    assert data.tolist() == [0x80, 0x3F, 0x5F, 0x88, 0x8C]  # 7 + 8, -3 + 8; 8, 8; 4 + 8, filled
    assert coded(Codec("int4"), numbers).tolist() == [7, -3, 0, 0, 4]
    assert coded(Codec("int8"), np.array([127, 0.5, 1.5], np.float32)).tolist() == [127, 0, 2]
    assert coded(Codec("bf16"), np.array([1.00390625, 1.01171875], np.float32)).tolist() == [
        1.0, 1.015625]  # fmt: skip  # both are halfway between two bf16: ties to even
    top = Codec("top-k", kept=0.4)
    assert top.encode(numbers).tolist() == [0, 0, 0, 0, 4, 0, 0, 0, 0xE0, 0x40, 0x60, 0x40]
    assert coded(top, numbers).tolist() == [7, 0, 0, 0, 3.5]


def test_sizes_as_parts_of_float32() -> None:
    expected = {"bf16": 1 / 2, "int8": 0.2539, "int4": 0.1289, "top-k": 0.075}
    parts = {name: Codec(name).size(2**20) / (4 * 2**20) for name in expected}
    assert parts == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@given(numbers=ARRAYS)
@settings(max_examples=40)
def test_errors_are_within_their_bounds(codec: Codec, numbers: np.ndarray) -> None:
    back = coded(codec, numbers)
    assert codec.encode(numbers).tobytes() == codec.encode(numbers.copy()).tobytes()
    error = np.abs(back - numbers)
    if codec.kind == "bf16":
        assert (error <= np.abs(numbers) / 256).all()
    elif codec.kind == "top-k":
        lost = np.flatnonzero(back == 0)
        assert len(numbers) - len(lost) <= codec.size(len(numbers)) // 6
        sent = np.abs(numbers[back != 0])
        assert not len(sent) or np.abs(numbers[lost]).max(initial=0) <= sent.min()
    else:
        levels = 127 if codec.kind == "int8" else 7
        for at in range(0, len(numbers), 16):
            largest = np.abs(numbers[at : at + 16]).max()
            assert error[at : at + 16].max() <= largest / levels * (1 + 2**-7) / 2 * (1 + 1e-5)


@pytest.mark.parametrize("codec", [*CODECS, PLAIN], ids=lambda codec: codec.kind)
def test_zeros_and_no_numbers_stay_what_they_are(codec: Codec) -> None:
    assert not coded(codec, np.zeros(33, np.float32)).any()
    assert len(coded(codec, np.zeros(0, np.float32))) == 0


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(codec: Codec, value: float) -> None:
    numbers = np.ones(20, np.float32)
    numbers[3] = value
    assert not np.isfinite(coded(codec, numbers)).all()


@pytest.mark.parametrize("places", [[0, 0], [3, 1], [1, 8], [1, 2**32 - 1]])
def test_false_places_are_not_read(places: list[int]) -> None:
    data = np.concatenate([np.array(places, "<u4").view(np.uint8), np.zeros(4, np.uint8)])
    assert Codec("top-k", kept=0.25).decode(data, 8) is None


def test_the_recipe_names_them() -> None:
    up, down = codecs_of(Messages(up="int4", down="bf16", block=64))
    assert (up.name, down.name) == ("int4-64", "bf16")
    assert codecs_of(Messages()) == (PLAIN, PLAIN)
