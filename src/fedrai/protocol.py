"""What may cross the wire, and nothing else.

Down: the adapter's arrays, a task of named integers and, over a network, the offer: the part of the
recipe that concerns clients, as one document with its hash. Up: the trained adapter's arrays, named
numbers, and a reason from a fixed list when there is no update; asked for it, a client's name. No
text, no file names, no exception messages. Both sides check; what is not on the list raises
`ProtocolError`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedrai.errors import ProtocolError
from fedrai.ledger import COUNT_NAMES
from fedrai.model.adapters import AdapterState
from fedrai.schema import NAME_PATTERN

ADAPTER, TASK, METRICS, STATUS = "adapter", "task", "metrics", "status"
OFFER, QUESTION, NAME = "offer", "question", "name"
LARGEST_OFFER = 2**16  # characters
SUPERLINK = 1  # Flower's node id of its SuperLink, the sender of errors in a client's place
TASK_KEYS = frozenset({"round", "first-step"})
FILTER = "filter-"  # before the names of the safety filter's counts
WEIGHT = "num-examples"  # Flower's own name for the weight in the mean
LARGEST_WEIGHT = 2.0**53  # a sum that overflows would turn every weight of the mean into 0
LARGEST_VALUE = 1e10  # finite, but its square or sum over an adapter would not be
METRIC_NAMES = frozenset(
    {
        WEIGHT,
        "steps",
        "tokens",
        "label-tokens",
        "loss-first",
        "loss-last",
        "loss-mean",
        "seconds",
        "operations",
        "peak-bytes",
        "update-norm",
    }
    | {FILTER + name for name in COUNT_NAMES}
)


class Reason(StrEnum):
    """Why a client is set aside in a round. The first group comes from clients."""

    NO_ROWS = "no-rows-left"
    GUARD = "guard-cannot-work"
    BAD_TASK = "task-not-understood"
    OUT_OF_MEMORY = "out-of-memory"
    FAILED = "training-failed"
    BAD_DATA = "data-not-usable"
    BAD_OFFER = "offer-not-readable"
    OTHER_VERSION = "other-version"
    OTHER_MODEL = "other-base-model"
    MODEL_REFUSED = "base-model-not-allowed"
    MODEL_FAILED = "base-model-cannot-be-loaded"
    FILTER_REQUIRED = "filter-required"
    GUARD_REFUSED = "guard-not-allowed"
    THRESHOLD_REFUSED = "threshold-too-high"
    TOO_MANY_STEPS = "too-many-steps"
    TOO_MANY_ROUNDS = "too-many-rounds"

    NO_REPLY = "no-reply-in-time"
    UNREADABLE = "reply-not-readable"
    WRONG_NAMES = "wrong-array-names"
    WRONG_SHAPES = "wrong-array-shapes"
    NOT_FINITE = "values-not-finite"
    BAD_WEIGHT = "weight-not-positive"
    BAD_METRICS = "metrics-not-allowed"


SERVER_REASONS = frozenset(
    {
        Reason.NO_REPLY,
        Reason.UNREADABLE,
        Reason.WRONG_NAMES,
        Reason.WRONG_SHAPES,
        Reason.NOT_FINITE,
        Reason.BAD_WEIGHT,
        Reason.BAD_METRICS,
    }
)
CLIENT_REASONS = frozenset(Reason) - SERVER_REASONS


@dataclass(frozen=True, slots=True)
class Task:
    """What the server asks of a client; `offer` is empty where both share a process."""

    round: int
    first_step: int
    adapter: AdapterState
    offer: str = ""


@dataclass(frozen=True, slots=True)
class Update:
    """A usable reply: the trained adapter and its numbers."""

    adapter: AdapterState
    metrics: Mapping[str, float]


def pack_task(round_: int, first_step: int, adapter: AdapterState, offer: str = "") -> RecordDict:
    """The content of a train message."""
    task = ConfigRecord({"round": round_, "first-step": first_step})
    content = RecordDict({ADAPTER: pack_adapter(adapter), TASK: task})
    if offer:
        content[OFFER] = ConfigRecord({"document": offer, "sha256": _sha256(offer)})
    return content


def unpack_task(content: RecordDict) -> Task:
    """Read a train message.

    Raises:
        ProtocolError: a record or key is missing or not on the list.
    """
    task = content.config_records.get(TASK)
    whole = ADAPTER in content.array_records and task is not None
    if set(content) - {OFFER} != {ADAPTER, TASK} or not whole or task is None:
        raise ProtocolError("a train message must hold the adapter and the task, and nothing else")
    if set(task) != TASK_KEYS:
        raise ProtocolError(f"a task must hold {', '.join(sorted(TASK_KEYS))}, and nothing else")
    round_, first_step = task["round"], task["first-step"]
    if not isinstance(round_, int) or not isinstance(first_step, int):
        raise ProtocolError("round and first-step must be whole numbers")
    offer = unpack_offer(content) if OFFER in content else ""
    return Task(round_, first_step, unpack_adapter(content.array_records[ADAPTER]), offer)


def unpack_offer(content: RecordDict) -> str:
    """The document of a train message, after its hash was checked.

    Raises:
        ProtocolError: there is none, it is too long, or it is not what the hash says.
    """
    record = content.config_records.get(OFFER)
    if record is None or set(record) != {"document", "sha256"}:
        raise ProtocolError("an offer must hold its document and its hash, and nothing else")
    document = record["document"]
    if not isinstance(document, str) or len(document) > LARGEST_OFFER:
        raise ProtocolError("an offer's document must be a text of at most 64 Ki characters")
    if record["sha256"] != _sha256(document):
        raise ProtocolError("an offer's document is not what its hash says")
    return document


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pack_question() -> RecordDict:
    """The content of the message that asks a client for its name."""
    return RecordDict({QUESTION: ConfigRecord({"ask": NAME})})


def pack_name(content: RecordDict, name: str) -> RecordDict:
    """The answer to `pack_question`.

    Args:
        content: of the question.
        name: the client's.

    Raises:
        ProtocolError: that is not the question.
    """
    asked = content.config_records.get(QUESTION)
    if set(content) != {QUESTION} or asked is None or dict(asked) != {"ask": NAME}:
        raise ProtocolError("a question must ask for the name, and nothing else")
    return RecordDict({NAME: ConfigRecord({"name": name})})


def read_name(message: Message) -> str | None:
    """The name in a client's answer; None if the answer is not a name."""
    if message.has_error() or not message.has_content():
        return None
    record = message.content.config_records.get(NAME)
    if set(message.content) != {NAME} or record is None or set(record) != {"name"}:
        return None
    name = record["name"]
    return name if isinstance(name, str) and re.fullmatch(NAME_PATTERN, name) else None


def pack_update(adapter: AdapterState, metrics: Mapping[str, float]) -> RecordDict:
    """The content of a reply with an update.

    Raises:
        ProtocolError: a metric is not on the list.
    """
    unknown = sorted(set(metrics) - METRIC_NAMES)
    if unknown:
        raise ProtocolError(f"metrics that may not be sent: {', '.join(unknown)}")
    numbers = MetricRecord({name: float(value) for name, value in metrics.items()})
    return RecordDict({ADAPTER: pack_adapter(adapter), METRICS: numbers})


def pack_refusal(reason: Reason) -> RecordDict:
    """The content of a reply without an update: one of the client's reasons, nothing more."""
    if reason not in CLIENT_REASONS:
        raise ProtocolError(f"{reason} is not a reason that a client gives")
    return RecordDict({STATUS: ConfigRecord({"reason": reason.value})})


def read_reply(message: Message, expected: Mapping[str, tuple[int, ...]]) -> Update | Reason:
    """Check a reply, and never trust it: any surprise becomes a reason.

    Args:
        message: a client's reply.
        expected: names and shapes of the adapter's arrays.
    """
    if message.has_error() and message.metadata.src_node_id == SUPERLINK:
        return Reason.NO_REPLY  # the node is gone, or its reply is
    if message.has_error() or not message.has_content():
        return Reason.FAILED
    content = message.content
    if set(content) == {STATUS}:
        return _stated(content)
    whole = ADAPTER in content.array_records and METRICS in content.metric_records
    if set(content) != {ADAPTER, METRICS} or not whole:
        return Reason.UNREADABLE
    metrics = _metrics(content.metric_records[METRICS])
    if isinstance(metrics, Reason):
        return metrics
    adapter = _arrays(content.array_records[ADAPTER], expected)
    return adapter if isinstance(adapter, Reason) else Update(adapter, metrics)


def _stated(content: RecordDict) -> Reason:
    status = content.config_records.get(STATUS)
    reason = status.get("reason") if status is not None else None
    known = {r.value: r for r in CLIENT_REASONS}
    return known.get(reason, Reason.UNREADABLE) if isinstance(reason, str) else Reason.UNREADABLE


def _metrics(record: MetricRecord) -> dict[str, float] | Reason:
    if WEIGHT not in record or set(record) - METRIC_NAMES:
        return Reason.BAD_METRICS
    metrics: dict[str, float] = {}
    for name, value in record.items():
        if not isinstance(value, int | float):
            return Reason.BAD_METRICS
        if not math.isfinite(value):
            return Reason.NOT_FINITE
        metrics[name] = float(value)
    return metrics if 0 < metrics[WEIGHT] <= LARGEST_WEIGHT else Reason.BAD_WEIGHT


def _arrays(record: ArrayRecord, expected: Mapping[str, tuple[int, ...]]) -> AdapterState | Reason:
    if set(record) != set(expected):
        return Reason.WRONG_NAMES
    if any(tuple(record[name].shape) != shape for name, shape in expected.items()):
        return Reason.WRONG_SHAPES
    try:
        adapter = unpack_adapter(record)
    except ProtocolError:
        return Reason.UNREADABLE
    if any(tuple(adapter[name].shape) != shape for name, shape in expected.items()):
        return Reason.WRONG_SHAPES
    sane = all(bool((tensor.abs() <= LARGEST_VALUE).all()) for tensor in adapter.values())
    return adapter if sane else Reason.NOT_FINITE  # NaN is not <= anything


def pack_adapter(adapter: AdapterState) -> ArrayRecord:
    """Float32 arrays by name, in the order of the names."""
    return ArrayRecord(
        {
            name: Array(np.ascontiguousarray(adapter[name].float().numpy()))
            for name in sorted(adapter)
        }
    )


def unpack_adapter(record: ArrayRecord) -> AdapterState:
    """Tensors by name; the arrays are copied, so the message can go.

    Raises:
        ProtocolError: an array is not float32 or cannot be read.
    """
    adapter: AdapterState = {}
    for name in sorted(record):
        try:
            array = record[name].numpy()  # numpy's own format; pickled objects are refused
        except Exception as error:  # whatever a hostile array makes numpy raise
            raise ProtocolError(f"array {name} cannot be read ({type(error).__name__})") from None
        kind = array.dtype if isinstance(array, np.ndarray) else "an archive"
        if kind != np.float32:
            raise ProtocolError(f"array {name} is {kind}, expected float32")
        adapter[name] = torch.from_numpy(np.array(array, copy=True))
    return adapter


def payload_bytes(content: RecordDict) -> int:
    """Bytes of the arrays in a message, without Flower's envelope."""
    return sum(record.count_bytes() for record in content.array_records.values())
