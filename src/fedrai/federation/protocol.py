"""Everything that may be sent between server and clients.

To a client: the adapter, a task of named integers and, over a network, the offer: the part of the
recipe that concerns clients, as one document with its hash; with SCAFFOLD, also the server's
control variate. To the server: the trained adapter and named numbers, or a reason from a fixed
list; on request, a client's name and a signature. No text, no file names, no exception messages.
Both sides check; anything else raises `ProtocolError`.

A client may be asked to train a part of the adapter: one factor, or its first ranks. The task says
which, by numbers, and the arrays of the message and of the reply are those of the part.

An adapter, or a control variate of its shape, is sent as one flat array: Flower transfers each
array of a record with requests of its own, and an adapter has hundreds. Both sides know its names
and shapes from the base model and the recipe; only their hashes are sent and compared. They also
determine the number of bytes, so an array's length is checked before it is read or memory is
allocated for it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedrai.errors import ProtocolError
from fedrai.federation.metrics import RANGES, WEIGHT, is_finite, is_number
from fedrai.federation.reasons import CLIENT_REASONS as CLIENT_REASONS
from fedrai.federation.reasons import SERVER_REASONS as SERVER_REASONS
from fedrai.federation.reasons import Reason as Reason
from fedrai.federation.task_part import PART_KEYS, is_whole, part_numbers, read_part
from fedrai.model.adapters import AdapterState
from fedrai.model.parts import ALL, Part
from fedrai.recipe.sections import NAME_PATTERN

ADAPTER, TASK, METRICS, STATUS = "adapter", "task", "metrics", "status"
OFFER, QUESTION, NAME = "offer", "question", "name"
VARIATE, COUNTED = "variate", "counted"
LARGEST_OFFER = 2**16  # characters
NONCE = 32  # random bytes of a question, used once
LONGEST_SIGNATURE = 256  # bytes; ECDSA on P-384 takes 104 at most
SUPERLINK = 1  # Flower's node id of its SuperLink, which sends errors on behalf of clients
TASK_KEYS = frozenset({"round"})
Shapes = Mapping[str, tuple[int, ...]]
Floats = npt.NDArray[np.float32]
FLOAT32 = np.dtype("<f4")
LARGEST_VALUE = 65504.0
"""Of an adapter's weights: the largest of float16. Trained weights stay below 10."""
LONGEST_HEADER = 1024  # bytes before an array's values; numpy writes 128
METRIC_NAMES = frozenset(RANGES)


@dataclass(frozen=True, slots=True)
class Task:
    """A client's task in a round.

    Attributes:
        round: number of the round, from 1.
        adapter: what training starts from, with zeros in ranks that the client does not have.
        offer: empty where server and client share a process.
        variate: the server's control variate; None: the rule has none.
        counted: the last round in which an update of this client was aggregated; 0: none.
        part: what of the adapter is trained and sent.
    """

    round: int
    adapter: AdapterState
    offer: str = ""
    variate: AdapterState | None = None
    counted: int = 0
    part: Part = ALL


@dataclass(frozen=True, slots=True)
class Update:
    """A usable reply: the trained adapter and its numbers."""

    adapter: AdapterState
    metrics: Mapping[str, float]


def pack_task(
    round_: int,
    adapter: AdapterState,
    offer: str = "",
    variate: AdapterState | None = None,
    counted: int = 0,
    part: Part = ALL,
) -> RecordDict:
    """The content of a train message; arguments as of `Task`."""
    task = ConfigRecord({"round": round_, **part_numbers(part)})
    content = RecordDict({ADAPTER: pack_adapter(part.received(adapter)), TASK: task})
    if variate is not None:
        content[VARIATE] = pack_adapter(variate)
        task[COUNTED] = counted
    if offer:
        content[OFFER] = ConfigRecord({"document": offer, "sha256": _sha256(offer)})
    return content


def unpack_task(content: RecordDict, expected: Shapes, has_variate: bool = False) -> Task:
    """Read a train message.

    Args:
        content: the message's content.
        expected: names and shapes of the adapter's arrays, as the client has them.
        has_variate: whether the rule has control variates: then the message must hold the server's,
            otherwise it must not.

    Raises:
        ProtocolError: a record or key is missing or unknown, or the adapter does not fit.
    """
    task = content.config_records.get(TASK)
    arrays = [ADAPTER, VARIATE] if has_variate else [ADAPTER]
    complete = {*arrays, TASK} == set(content) - {OFFER} and {*arrays} <= {*content.array_records}
    if task is None or not complete:
        parts = ", the ".join(arrays)
        raise ProtocolError(f"a train message must hold only the {parts} and the task")
    keys = TASK_KEYS | {COUNTED} if has_variate else TASK_KEYS
    if set(task) not in (keys, TASK_KEYS | PART_KEYS):
        raise ProtocolError(f"a task must hold only {', '.join(sorted(keys))}")
    round_, counted = task["round"], task.get(COUNTED, 0)
    if not is_whole(round_):
        raise ProtocolError("a task's round must be a whole number")
    if not is_whole(counted) or (has_variate and not 0 <= counted < round_):
        raise ProtocolError("a task's counted must be an earlier round, or 0")
    offer = unpack_offer(content) if OFFER in content else ""
    part = read_part(task, expected)
    shapes = part.received_shapes(expected)
    states = {name: unpack_adapter(content.array_records[name], shapes) for name in arrays}
    adapter = part.expanded(states[ADAPTER], expected)
    return Task(round_, adapter, offer, states.get(VARIATE), counted, part)


def unpack_offer(content: RecordDict) -> str:
    """The offer of a train message, whose hash is checked.

    Raises:
        ProtocolError: it is missing or too long, or does not match its hash.
    """
    record = content.config_records.get(OFFER)
    if record is None or set(record) != {"document", "sha256"}:
        raise ProtocolError("an offer must hold only its document and hash")
    document = record["document"]
    if not isinstance(document, str) or len(document) > LARGEST_OFFER:
        raise ProtocolError("an offer's document must be a text of at most 64 Ki characters")
    if record["sha256"] != _sha256(document):
        raise ProtocolError("an offer's document does not match its hash")
    return document


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pack_question(nonce: bytes = b"") -> RecordDict:
    """The content of the message that asks a client for its name.

    Args:
        nonce: random bytes for the client to sign; empty: no signature is needed.
    """
    return RecordDict(
        {QUESTION: ConfigRecord({"ask": NAME, **({"nonce": nonce} if nonce else {})})}
    )


def pack_name(
    content: RecordDict, name: str, prove: Callable[[bytes], bytes] | None = None
) -> RecordDict:
    """The answer to `pack_question`.

    Args:
        content: the question's content.
        name: the client's.
        prove: signs the question's nonce; None: the client has no key.

    Raises:
        ProtocolError: it is another question.
    """
    question = dict(content.config_records.get(QUESTION) or {})
    nonce = question.pop("nonce", b"")
    if set(content) != {QUESTION} or question != {"ask": NAME} or not isinstance(nonce, bytes):
        raise ProtocolError("a question must ask only for the name")
    if len(nonce) not in (0, NONCE):
        raise ProtocolError(f"a question's nonce must have {NONCE} bytes")
    proof = {"signature": prove(nonce)} if nonce and prove is not None else {}
    return RecordDict({NAME: ConfigRecord({"name": name, **proof})})


def read_name(message: Message) -> tuple[str, bytes] | None:
    """The name in a client's answer and its signature, if any; None if it is invalid."""
    if message.has_error() or not message.has_content():
        return None
    record = message.content.config_records.get(NAME)
    if set(message.content) != {NAME} or record is None:
        return None
    if set(record) - {"signature"} != {"name"}:
        return None
    name, signature = record["name"], record.get("signature", b"")
    if not isinstance(signature, bytes) or len(signature) > LONGEST_SIGNATURE:
        return None
    is_name = isinstance(name, str) and re.fullmatch(NAME_PATTERN, name)
    return (str(name), signature) if is_name else None


def pack_update(adapter: AdapterState, metrics: Mapping[str, float]) -> RecordDict:
    """The content of a reply with an update.

    Raises:
        ProtocolError: a metric is unknown.
    """
    unknown = sorted(set(metrics) - METRIC_NAMES)
    if unknown:
        raise ProtocolError(f"metrics that may not be sent: {', '.join(unknown)}")
    numbers = MetricRecord({name: float(value) for name, value in metrics.items()})
    return RecordDict({ADAPTER: pack_adapter(adapter), METRICS: numbers})


def pack_reason(reason: Reason) -> RecordDict:
    """The content of a reply without an update: only one of the client's reasons."""
    if reason not in CLIENT_REASONS:
        raise ProtocolError(f"{reason} is not a reason of a client")
    return RecordDict({STATUS: ConfigRecord({"reason": reason.value})})


def read_reply(message: Message, expected: Shapes, needed: Collection[str] = ()) -> Update | Reason:
    """Validate a reply, which is not trusted: anything unexpected becomes a reason.

    Args:
        message: a client's reply.
        expected: names and shapes of the adapter's arrays.
        needed: numbers without which it is of no use, besides the number of rows.
    """
    if message.has_error() and message.metadata.src_node_id == SUPERLINK:
        return Reason.NO_REPLY  # the node disconnected, or its reply was lost
    if message.has_error() or not message.has_content():
        return Reason.FAILED
    content = message.content
    if set(content) == {STATUS}:
        return _reported_reason(content)
    whole = ADAPTER in content.array_records and METRICS in content.metric_records
    if set(content) != {ADAPTER, METRICS} or not whole:
        return Reason.UNREADABLE
    metrics = _validated_metrics(content.metric_records[METRICS], needed)
    if isinstance(metrics, Reason):
        return metrics
    adapter = _validated_adapter(content.array_records[ADAPTER], expected)
    return adapter if isinstance(adapter, Reason) else Update(adapter, metrics)


def _reported_reason(content: RecordDict) -> Reason:
    """The reason in a reply without an update; `UNREADABLE` if it is not one of a client's."""
    status = content.config_records.get(STATUS)
    reason = status.get("reason") if status is not None else None
    reasons = {r.value: r for r in CLIENT_REASONS}
    return reasons.get(reason, Reason.UNREADABLE) if isinstance(reason, str) else Reason.UNREADABLE


def _validated_metrics(record: MetricRecord, needed: Collection[str]) -> dict[str, float] | Reason:
    """The numbers of a reply, or why they cannot be used."""
    if not {WEIGHT, *needed} <= set(record) or set(record) - METRIC_NAMES:
        return Reason.BAD_METRICS
    metrics: dict[str, float] = {}
    for name, value in record.items():
        if not is_number(value):
            return Reason.BAD_METRICS
        if not is_finite(value):
            return Reason.NOT_FINITE
        if not RANGES[name].holds(value):
            return Reason.BAD_WEIGHT if name == WEIGHT else Reason.OUT_OF_RANGE
        metrics[name] = float(value)
    return metrics


def shapes_of(arrays: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter's arrays."""
    return {name: tuple(tensor.shape) for name, tensor in arrays.items()}


def layout(shapes: Shapes) -> str:
    """A hash of the names and one of their shapes, in hex, joined by a dash."""
    names = sorted(shapes)
    parts: tuple[object, object] = (names, [list(shapes[name]) for name in names])
    return "-".join(_sha256(json.dumps(part)) for part in parts)


def pack_adapter(adapter: AdapterState) -> ArrayRecord:
    """One float32 array of all weights, in the order of their names, under its `layout`."""
    flat = [np.ravel(adapter[name].float().numpy()) for name in sorted(adapter)]
    whole = np.concatenate(flat) if flat else np.zeros(0, np.float32)
    return ArrayRecord({layout(shapes_of(adapter)): Array(whole)})


def unpack_adapter(record: ArrayRecord, expected: Shapes) -> AdapterState:
    """Tensors by name; the values are copied, so the message can be freed.

    Args:
        record: result of `pack_adapter`.
        expected: names and shapes, as the receiver has them.

    Raises:
        ProtocolError: names or shapes differ, it cannot be read, or a value is not finite or too
            large.
    """
    adapter = _validated_adapter(record, expected)
    if isinstance(adapter, Reason):
        raise ProtocolError(f"the adapter of a message cannot be used: {adapter.value}")
    return adapter


def _validated_adapter(record: ArrayRecord, expected: Shapes) -> AdapterState | Reason:
    """The adapter of a message, or why it cannot be used."""
    names, size = layout(expected), sum(math.prod(shape) for shape in expected.values())
    key = next(iter(record)) if len(record) == 1 else ""
    if key.partition("-")[0] != names.partition("-")[0]:
        return Reason.WRONG_NAMES
    if key != names or tuple(record[key].shape) != (size,):
        return Reason.WRONG_SHAPES
    flat = _flat(record[key], size)
    if isinstance(flat, Reason):
        return flat
    largest = max(-float(flat.min(initial=0)), float(flat.max(initial=0)))  # NaN if there is one
    if not math.isfinite(largest):
        return Reason.NOT_FINITE
    return _split(flat, expected) if largest <= LARGEST_VALUE else Reason.OUT_OF_RANGE


def _flat(array: Array, size: int) -> Floats | Reason:
    """The values of an array, without a copy: a false header allocates no memory.

    Args:
        array: in numpy's format (NPY 1.0); other formats are not read.
        size: number of float32 values that it must hold.
    """
    data = array.data
    if array.stype != "numpy.ndarray":
        return Reason.UNREADABLE
    if len(data) > 4 * size + LONGEST_HEADER:
        return Reason.WRONG_SHAPES
    shape, kind, start = _header(data[:LONGEST_HEADER])
    if kind != FLOAT32:
        return Reason.UNREADABLE
    if shape != (size,):
        return Reason.WRONG_SHAPES
    if len(data) - start != 4 * size:
        return Reason.UNREADABLE
    return np.frombuffer(data, np.float32, size, start)


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


def checksum(content: RecordDict) -> str:
    """SHA-256 of a message's adapter, in hex; members compare what they were sent by it."""
    record = content.array_records.get(ADAPTER, {})
    return hashlib.sha256(b"".join(record[name].data for name in sorted(record))).hexdigest()


def payload_bytes(content: RecordDict) -> int:
    """Bytes of the arrays in a message, without Flower's envelope."""
    return sum(record.count_bytes() for record in content.array_records.values())
