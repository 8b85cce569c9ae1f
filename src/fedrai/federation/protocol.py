"""Everything that may be sent between server and clients.

To a client: the adapter, a task of named integers and, over a network, the offer: the part of the
recipe that concerns clients, as one document with its hash; with SCAFFOLD, also the server's
control variate. To the server: the trained adapter and named numbers, or a reason from a fixed
list; on request, a client's name and a signature. No text, no file names, no exception messages.
Both sides check; anything else raises `ProtocolError`.

Arrays may be written in fewer bytes (`codecs.py`), as the recipe's `[messages]` says on both sides;
a reply then holds the difference from what the client received.

A client may be asked to train a part of the adapter: one factor, or its first ranks. The task says
which, by numbers, and the arrays of the message and of the reply are those of the part.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedrai.errors import ProtocolError
from fedrai.federation.arrays import LARGEST_VALUE as LARGEST_VALUE
from fedrai.federation.arrays import Shapes as Shapes
from fedrai.federation.arrays import added, validated_adapter
from fedrai.federation.arrays import layout as layout
from fedrai.federation.arrays import pack_adapter as pack_adapter
from fedrai.federation.arrays import shapes_of as shapes_of
from fedrai.federation.arrays import unpack_adapter as unpack_adapter
from fedrai.federation.codecs import PLAIN, Codec
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
    packed: ArrayRecord | None = None,
) -> RecordDict:
    """The content of a train message; arguments as of `Task`.

    `packed` is the adapter as a codec has written it; None: it is sent as it is.
    """
    task = ConfigRecord({"round": round_, **part_numbers(part)})
    arrays = packed or pack_adapter(part.received(adapter))
    content = RecordDict({ADAPTER: arrays, TASK: task})
    if variate is not None:
        content[VARIATE] = pack_adapter(variate)
        task[COUNTED] = counted
    if offer:
        content[OFFER] = ConfigRecord({"document": offer, "sha256": _sha256(offer)})
    return content


def unpack_task(
    content: RecordDict, expected: Shapes, has_variate: bool = False, codec: Codec = PLAIN
) -> Task:
    """Read a train message.

    Args:
        content: the message's content.
        expected: names and shapes of the adapter's arrays, as the client has them.
        has_variate: whether the rule has control variates: then the message must hold the server's,
            otherwise it must not.
        codec: how the adapter is written.

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
    codecs = {ADAPTER: codec, VARIATE: PLAIN}
    states = {n: unpack_adapter(content.array_records[n], shapes, codecs[n]) for n in arrays}
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


def pack_update(
    adapter: AdapterState, metrics: Mapping[str, float], packed: ArrayRecord | None = None
) -> RecordDict:
    """The content of a reply with an update.

    Args:
        adapter: what is sent.
        metrics: the update's numbers.
        packed: what a codec has written in its place; None: it is sent as it is.

    Raises:
        ProtocolError: a metric is unknown.
    """
    unknown = sorted(set(metrics) - METRIC_NAMES)
    if unknown:
        raise ProtocolError(f"metrics that may not be sent: {', '.join(unknown)}")
    numbers = MetricRecord({name: float(value) for name, value in metrics.items()})
    return RecordDict({ADAPTER: packed or pack_adapter(adapter), METRICS: numbers})


def pack_reason(reason: Reason) -> RecordDict:
    """The content of a reply without an update: only one of the client's reasons."""
    if reason not in CLIENT_REASONS:
        raise ProtocolError(f"{reason} is not a reason of a client")
    return RecordDict({STATUS: ConfigRecord({"reason": reason.value})})


def read_reply(
    message: Message,
    expected: Shapes,
    needed: Collection[str] = (),
    codec: Codec = PLAIN,
    received: AdapterState | None = None,
) -> Update | Reason:
    """Validate a reply, which is not trusted: anything unexpected becomes a reason.

    Args:
        message: a client's reply.
        expected: names and shapes of the adapter's arrays.
        needed: numbers without which it is of no use, besides the number of rows.
        codec: how its arrays are written; those of a lossy one are differences.
        received: what these are differences from.
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
    adapter = validated_adapter(content.array_records[ADAPTER], expected, codec)
    if isinstance(adapter, Reason):
        return adapter
    if not codec.is_lossy:
        return Update(adapter, metrics)
    moved = added(received or {}, adapter)
    largest = max((float(t.abs().max()) for t in moved.values() if t.numel()), default=0.0)
    return Update(moved, metrics) if largest <= LARGEST_VALUE else Reason.OUT_OF_RANGE


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


def checksum(content: RecordDict) -> str:
    """SHA-256 of a message's adapter, in hex; members compare what they were sent by it."""
    record = content.array_records.get(ADAPTER, {})
    return hashlib.sha256(b"".join(record[name].data for name in sorted(record))).hexdigest()


def payload_bytes(content: RecordDict) -> int:
    """Bytes of the arrays in a message, without Flower's envelope."""
    return sum(record.count_bytes() for record in content.array_records.values())
