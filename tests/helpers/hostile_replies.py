"""Hostile replies of clients, each wrong in one way, to an adapter of ten numbers."""

from __future__ import annotations

import hashlib
import io
import math
import random
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedrai.federation.metrics import RANGES, WEIGHT

SHAPES = {"a": (2, 3), "b": (4,)}
ADAPTER = {
    # -0.0, the smallest subnormal and a value without a short decimal: all must survive
    "a": torch.tensor([[0.1, -0.0, 1e-45], [3.0, -2.5, 1 / 3]]),
    "b": torch.tensor([1.0, 2.0, 3.0, 4.0]),
}
FLAT = np.array([0.1, -0.0, 1e-45, 3.0, -2.5, 1 / 3, 1.0, 2.0, 3.0, 4.0], np.float32)  # a, then b
NAMES_HASH = hashlib.sha256(b'["a", "b"]').hexdigest()
SHAPES_HASH = hashlib.sha256(b"[[2, 3], [4]]").hexdigest()
LAYOUT = f"{NAMES_HASH}-{SHAPES_HASH}"
METRICS = {WEIGHT: 12.0, "loss-last": 0.25}


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    """An array in numpy's own format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


WHOLE = npy(FLAT)
NUMBERS = (
    math.nan, math.inf, -math.inf, 1e308, -1e308, 1e25, -(2**63), -1, -0.5, [], [1.0],
)  # fmt: skip


def _holds(name: str, number: float) -> bool:
    return math.isfinite(number) and RANGES[name].holds(number)


def spoilt_metrics(rng: random.Random) -> MetricRecord:
    metrics: dict[str, Any] = dict(METRICS)
    kind = rng.randrange(4)
    if kind == 0:
        number = rng.choice(NUMBERS)  # of a loss of pairs, -1 is no attack
        hostile = [n for n in sorted(RANGES) if isinstance(number, list) or not _holds(n, number)]
        metrics[rng.choice(hostile)] = number
    elif kind == 1:
        metrics["".join(rng.choices("abc-/\u0000\n", k=rng.randrange(9)))] = 1.0
    elif kind == 2:
        del metrics[WEIGHT]
    else:
        name = rng.choice(sorted(RANGES))
        metrics[name] = RANGES[name].high * rng.choice([1.001, 10, 1e9]) + 1
    return MetricRecord(metrics)


def spoilt_array(rng: random.Random, header: int) -> Array:
    data, shape, stype = bytearray(WHOLE), [10], "numpy.ndarray"
    kind = rng.randrange(6)
    if kind == 0:
        del data[rng.randrange(len(data)) :]
    elif kind == 1:
        data += rng.randbytes(rng.randrange(1, 5000))
    elif kind == 2:
        place = rng.randrange(header)
        data[place] = (data[place] + rng.randrange(1, 255)) % 256
    elif kind == 3:
        value = rng.choice([math.nan, math.inf, -math.inf, 3e38, -65505.0])
        at = 128 + 4 * rng.randrange(10)
        data[at : at + 4] = np.float32(value).tobytes()
    elif kind == 4:
        shape = rng.choice([[], [0], [11], [2, 5], [2**30], [10, 1]])
    else:
        stype = rng.choice(["", "torch.tensor", "pickle", "numpy.ndarray "])
    return Array("float32", tuple(shape), stype, bytes(data))


def hostile(rng: random.Random, header: int = 60) -> RecordDict:
    """The content of a reply that is wrong in one way.

    Args:
        rng: decides in which.
        header: so many first bytes of an array may be changed; of more than 8, some are spaces,
            and such a reply is as good as any.
    """
    arrays, metrics = {LAYOUT: Array(FLAT)}, MetricRecord(METRICS)
    kind = rng.randrange(6)
    if kind == 0:
        metrics = spoilt_metrics(rng)
    elif kind in (1, 2):
        arrays = {LAYOUT: spoilt_array(rng, header)}
    elif kind == 3:
        key = rng.choice(["", LAYOUT[:-1], LAYOUT + "0", LAYOUT.upper(), rng.randbytes(9).hex()])
        arrays = {key: Array(FLAT)} | rng.choice([{}, {"more": Array(FLAT)}])
    elif kind == 4:
        return RecordDict({"status": ConfigRecord({"reason": rng.choice(["", "x", 1, b"x", 1.5])})})
    else:
        more = rng.choice(["log", "adapter2", "status", "offer"])
        return RecordDict(
            {"adapter": ArrayRecord(arrays), "metrics": metrics, more: ConfigRecord({"text": "x"})}
        )
    return RecordDict({"adapter": ArrayRecord(arrays), "metrics": metrics})
