"""Arrays of a message: an adapter, or a control variate of its shape, as one flat array.

Flower transfers each array of a record with requests of its own, and an adapter has hundreds. Both
sides know its names and shapes from the base model and the recipe; only their hashes are sent and
compared. With the codec they also determine the number of bytes, so an array's length is checked
before it is read or memory is allocated for it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord

from fedrai.errors import ProtocolError
from fedrai.federation.codecs import PLAIN, Codec, Floats
from fedrai.federation.reasons import Reason
from fedrai.model.adapters import AdapterState

Shapes = Mapping[str, tuple[int, ...]]
FLOAT32, UINT8 = np.dtype("<f4"), np.dtype("u1")
LARGEST_VALUE = 65504.0
"""Of an adapter's weights: the largest of float16. Trained weights stay below 10."""
LONGEST_HEADER = 1024  # bytes before an array's values; numpy writes 128


def shapes_of(arrays: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter's arrays."""
    return {name: tuple(tensor.shape) for name, tensor in arrays.items()}


def layout(shapes: Shapes) -> str:
    """A hash of the names and one of their shapes, in hex, joined by a dash."""
    names = sorted(shapes)
    parts: tuple[object, object] = (names, [list(shapes[name]) for name in names])
    return "-".join(hashlib.sha256(json.dumps(part).encode()).hexdigest() for part in parts)


def pack_adapter(adapter: AdapterState, codec: Codec = PLAIN) -> ArrayRecord:
    """One array of all weights, in the order of their names, under its `layout` and codec."""
    flat = [np.ravel(adapter[name].float().numpy()) for name in sorted(adapter)]
    whole = np.concatenate(flat) if flat else np.zeros(0, np.float32)
    array = codec.encode(whole) if codec.is_lossy else whole
    return ArrayRecord({layout(shapes_of(adapter)) + codec.name: Array(array)})


def unpack_adapter(record: ArrayRecord, expected: Shapes, codec: Codec = PLAIN) -> AdapterState:
    """Tensors by name; the values are copied, so the message can be freed.

    Args:
        record: result of `pack_adapter`.
        expected: names and shapes, as the receiver has them.
        codec: how it is written.

    Raises:
        ProtocolError: names or shapes differ, it cannot be read, or a value is not finite or too
            large.
    """
    adapter = validated_adapter(record, expected, codec)
    if isinstance(adapter, Reason):
        raise ProtocolError(f"the adapter of a message cannot be used: {adapter.value}")
    return adapter


def validated_adapter(record: ArrayRecord, expected: Shapes, codec: Codec) -> AdapterState | Reason:
    """The adapter of a message, or why it cannot be used."""
    size = sum(math.prod(shape) for shape in expected.values())
    names, kind = layout(expected) + codec.name, UINT8 if codec.is_lossy else FLOAT32
    length = codec.size(size) // kind.itemsize
    key = next(iter(record)) if len(record) == 1 else ""
    if key.partition("-")[0] != names.partition("-")[0]:
        return Reason.WRONG_NAMES
    if key != names or tuple(record[key].shape) != (length,):
        return Reason.WRONG_SHAPES
    data = _flat(record[key], length, kind)
    if isinstance(data, Reason):
        return data
    flat = codec.decode(data, size) if codec.is_lossy else data
    if flat is None:
        return Reason.UNREADABLE
    largest = max(-float(flat.min(initial=0)), float(flat.max(initial=0)))  # NaN if there is one
    if not math.isfinite(largest):
        return Reason.NOT_FINITE
    return _split(flat, expected) if largest <= LARGEST_VALUE else Reason.OUT_OF_RANGE


def _flat(array: Array, size: int, expected: np.dtype) -> npt.NDArray[Any] | Reason:
    """The values of an array, without a copy: a false header allocates no memory.

    Args:
        array: in numpy's format (NPY 1.0); other formats are not read.
        size: number of values that it must hold.
        expected: their type.
    """
    data = array.data
    if array.stype != "numpy.ndarray":
        return Reason.UNREADABLE
    length = expected.itemsize * size
    if len(data) > length + LONGEST_HEADER:
        return Reason.WRONG_SHAPES
    shape, kind, start = _header(data[:LONGEST_HEADER])
    if kind != expected:
        return Reason.UNREADABLE
    if shape != (size,):
        return Reason.WRONG_SHAPES
    if len(data) - start != length:
        return Reason.UNREADABLE
    return np.frombuffer(data, expected, size, start)


def _header(data: bytes) -> tuple[tuple[int, ...], np.dtype | None, int]:
    """Shape and dtype of an array in NPY 1.0, and the start of its values; no dtype: unreadable."""
    file = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            return (), None, 0
        shape, _, kind = np.lib.format.read_array_header_1_0(file, LONGEST_HEADER)
    except Exception:  # whatever a hostile header makes numpy raise
        return (), None, 0
    return shape, kind, file.tell()


def _split(flat: Floats, expected: Shapes) -> AdapterState:
    adapter: AdapterState = {}
    at = 0
    for name in sorted(expected):
        end = at + math.prod(expected[name])
        adapter[name] = torch.from_numpy(flat[at:end].reshape(expected[name]).copy())
        at = end
    return adapter


def added(received: AdapterState, difference: AdapterState) -> AdapterState:
    """The adapter at a difference from another one, the same to the bit on both sides."""
    return {name: received[name] + difference[name] for name in sorted(difference)}
