"""What crosses the wire: the named arrays and numbers, to the bit, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import random
import re
import time
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from driver import fill_cache, write_recipe
from hostile_replies import (
    ADAPTER,
    FLAT,
    LAYOUT,
    METRICS,
    NAMES_HASH,
    SHAPES,
    SHAPES_HASH,
    WHOLE,
    hostile,
    npy,
)

# isort: split
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)

from fedrai import recipe
from fedrai.errors import ProtocolError
from fedrai.federation import protocol
from fedrai.federation.arrays import FLOAT32, _flat
from fedrai.federation.metrics import BAD_ROWS, DATA_TOKENS, FILTER, PAIRS, RANGES, WEIGHT
from fedrai.federation.protocol import CLIENT_REASONS, Reason, Task, Update, read_reply
from fedrai.federation.run import local, preparation, running
from fedrai.federation.run.grid import LocalGrid
from fedrai.filter import screening
from fedrai.filter.ledger import COUNT_NAMES
from fedrai.guards.base import Conversation
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.model import LanguageModel
from fedrai.runs import RunFolder
from flower_parts import (
    get_all_nested_objects,
    message_from_proto,
    message_to_proto,
    no_object_id_recompute,
)

METADATA = Metadata(1, "2", 5, 1, "1", "", 0.0, 60.0, "train")


def sent(content: RecordDict) -> Message:
    """A reply with that content, after a trip through Flower's own wire format."""
    proto = message_to_proto(Message(content, metadata=METADATA))
    return message_from_proto(type(proto).FromString(proto.SerializeToString()))


def reply(
    arrays: dict[str, Array] | None = None, metrics: dict[str, Any] | None = None, **more: Any
) -> Message:
    content = RecordDict(
        {
            "adapter": ArrayRecord({LAYOUT: Array(FLAT)} if arrays is None else arrays),
            "metrics": MetricRecord(METRICS | (metrics or {})),
            **more,
        }
    )
    return sent(content)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


def test_task_round_trip_to_the_bit() -> None:
    message = sent(protocol.pack_task(3, ADAPTER))
    task = protocol.unpack_task(message.content, SHAPES)
    assert task.round == 3
    assert {n: bits(t) for n, t in task.adapter.items()} == {n: bits(t) for n, t in ADAPTER.items()}
    assert isinstance(task, Task)


def test_update_round_trip_to_the_bit() -> None:
    metrics = {WEIGHT: 12, "loss-first": 0.1, "operations": 1e18, "seconds": 1 / 3}
    update = read_reply(sent(protocol.pack_update(ADAPTER, metrics)), SHAPES)
    assert isinstance(update, Update)
    assert update.metrics == metrics
    assert {n: bits(t) for n, t in update.adapter.items()} == {
        n: bits(t) for n, t in ADAPTER.items()
    }
    assert {t.dtype for t in update.adapter.values()} == {torch.float32}


def test_half_precision_is_sent_as_float32() -> None:
    half = {name: tensor.bfloat16() for name, tensor in ADAPTER.items()}
    update = read_reply(sent(protocol.pack_update(half, METRICS)), SHAPES)
    assert isinstance(update, Update)
    assert torch.equal(update.adapter["b"], ADAPTER["b"])


def test_an_adapter_is_one_array_in_the_order_of_the_names() -> None:
    turned = dict(reversed(ADAPTER.items()))
    record = protocol.pack_adapter({**turned, "a": ADAPTER["a"].T.contiguous().T})
    assert list(record) == [LAYOUT]
    assert record[LAYOUT].numpy().tobytes() == FLAT.tobytes()
    assert protocol.layout(protocol.shapes_of(turned)) == LAYOUT


def test_an_adapter_of_hundreds_of_arrays_is_a_handful_of_flowers_objects() -> None:
    many = {f"layer.{n}": torch.full((3, 2), float(n)) for n in range(420)}
    content = protocol.pack_update(many, METRICS)
    message = Message(content, metadata=METADATA)
    with no_object_id_recompute():
        assert len(get_all_nested_objects(message)) < 8  # Flower sends each by itself
    update = read_reply(sent(content), protocol.shapes_of(many))
    assert isinstance(update, Update)
    assert all(torch.equal(update.adapter[name], many[name]) for name in many)


@given(
    st.dictionaries(
        st.text(max_size=5), st.lists(st.integers(0, 3), max_size=3).map(tuple), max_size=5
    )
)
def test_any_names_and_shapes_come_back(shapes: dict[str, tuple[int, ...]]) -> None:
    made = torch.Generator().manual_seed(0)
    adapter = {name: torch.randn(shape, generator=made) for name, shape in shapes.items()}
    found = protocol.unpack_adapter(protocol.pack_adapter(adapter), shapes)
    assert protocol.shapes_of(found) == shapes
    assert all(torch.equal(found[name], adapter[name]) for name in shapes)


def test_payload_is_four_bytes_a_weight_and_a_header() -> None:
    content = protocol.pack_update(ADAPTER, METRICS)
    plain = 4 * (6 + 4)
    assert plain < protocol.payload_bytes(content) < plain + 2 * 256


def test_unread_message_does_not_share_memory_with_the_update() -> None:
    message = reply()
    update = read_reply(message, SHAPES)
    assert isinstance(update, Update)
    update.adapter["b"] += 1
    again = read_reply(message, SHAPES)
    assert isinstance(again, Update)
    assert torch.equal(again.adapter["b"], ADAPTER["b"])


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({"adapter": ArrayRecord(), "task": ConfigRecord()}),
        RecordDict({"adapter": ArrayRecord()}),
        RecordDict({"task": ConfigRecord({"round": 1})}),
        RecordDict({"adapter": ArrayRecord(), "task": ConfigRecord({"round": "1"})}),
        RecordDict(
            {
                "adapter": ArrayRecord(),
                "task": ConfigRecord({"round": 1, "more": "text"}),
            }
        ),
        RecordDict(
            {
                "adapter": ArrayRecord(),
                "task": ConfigRecord({"round": 1}),
                "more": ConfigRecord(),
            }
        ),
        RecordDict({"adapter": ArrayRecord(), "task": MetricRecord({"round": 1})}),
        RecordDict({"adapter": MetricRecord(), "task": ConfigRecord({"round": 1})}),
    ],
)
def test_task_must_be_exactly_as_listed(content: RecordDict) -> None:
    with pytest.raises(ProtocolError, match="must"):
        protocol.unpack_task(content, SHAPES)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"a": torch.zeros(2, 3)}, "wrong-array-names"),
        ({"a": torch.zeros(2, 3), "c": torch.zeros(4)}, "wrong-array-names"),
        ({"a": torch.zeros(3, 2), "b": torch.zeros(4)}, "wrong-array-shapes"),
        ({"a": torch.full((2, 3), math.nan), "b": torch.zeros(4)}, "values-not-finite"),
    ],
)
def test_a_client_takes_no_other_adapter(adapter: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        protocol.unpack_task(sent(protocol.pack_task(1, adapter)).content, SHAPES)


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"note": 1.0}, Reason.BAD_METRICS),
        ({"loss-last": [1.0, 2.0]}, Reason.BAD_METRICS),
        ({WEIGHT: [1.0]}, Reason.BAD_METRICS),
        ({"loss-last": math.nan}, Reason.NOT_FINITE),
        ({"seconds": math.inf}, Reason.NOT_FINITE),
        ({WEIGHT: math.nan}, Reason.NOT_FINITE),
        ({WEIGHT: 0}, Reason.BAD_WEIGHT),
        ({WEIGHT: -3.0}, Reason.BAD_WEIGHT),
        ({WEIGHT: 1e308}, Reason.BAD_WEIGHT),  # two of them would make the sum infinite
        ({WEIGHT: 2.0**53}, Reason.BAD_WEIGHT),
        ({WEIGHT: 1.5}, Reason.BAD_WEIGHT),
        ({"loss-last": 1e307}, Reason.OUT_OF_RANGE),
        ({"loss-first": -0.1}, Reason.OUT_OF_RANGE),
        ({"seconds": -1.0}, Reason.OUT_OF_RANGE),
        ({"operations": 1e308}, Reason.OUT_OF_RANGE),
        ({"tokens": -5}, Reason.OUT_OF_RANGE),
        ({"tokens": 0.5}, Reason.OUT_OF_RANGE),
        ({"filter-dropped": -1}, Reason.OUT_OF_RANGE),
        ({"update-norm": 1.0}, Reason.BAD_METRICS),  # the server measures it
    ],
)
def test_metrics_are_a_whitelist(metrics: dict[str, Any], reason: Reason) -> None:
    assert read_reply(reply(metrics=metrics), SHAPES) is reason


@pytest.mark.parametrize("name", RANGES)
def test_each_number_has_a_range_with_both_ends_in_it(name: str) -> None:
    found = RANGES[name]
    for value in (found.low, found.high):
        assert isinstance(read_reply(reply(metrics={name: value}), SHAPES), Update)
    for value in (found.low - 1, found.low - 1e-9, found.high * 1.001, found.high + 1e9):
        refused = Reason.BAD_WEIGHT if name == WEIGHT else Reason.OUT_OF_RANGE
        assert read_reply(reply(metrics={name: value}), SHAPES) is refused


def test_missing_weight_is_refused() -> None:
    content = RecordDict({"adapter": arrays(), "metrics": MetricRecord({"steps": 1})})
    assert read_reply(sent(content), SHAPES) is Reason.BAD_METRICS


def crafted(data: bytes, shape: tuple[int, ...] = (10,), stype: str = "numpy.ndarray") -> Array:
    return Array("float32", shape, stype, data)


def npz() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("b.npy", npy(FLAT))
    return buffer.getvalue()


def spoilt(value: float, place: int = 2) -> Array:
    values = FLAT.copy()
    values[place] = value
    return Array(values)


HUGE = npy(FLAT).replace(b"(10,), }", b"(1099511627776,), }").replace(b" " * 11 + b"\n", b"\n")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (Array(FLAT.reshape(10, 1)), Reason.WRONG_SHAPES),
        (Array(FLAT[:9]), Reason.WRONG_SHAPES),
        (Array(np.append(FLAT, FLAT[:1])), Reason.WRONG_SHAPES),
        (crafted(npy(np.ones(20, np.float32))), Reason.WRONG_SHAPES),
        (crafted(npy(FLAT.reshape(2, 5))), Reason.WRONG_SHAPES),
        (crafted(npy(np.float32(1)), ()), Reason.WRONG_SHAPES),
        (crafted(npy(np.float32(1))), Reason.WRONG_SHAPES),
        (Array(FLAT.astype(np.float64)), Reason.UNREADABLE),
        (Array(FLAT.astype(">f4")), Reason.UNREADABLE),
        (Array(FLAT.astype(np.int32)), Reason.UNREADABLE),
        (crafted(npy(np.array([{}] * 10, object), pickled=True)), Reason.UNREADABLE),
        (crafted(HUGE), Reason.WRONG_SHAPES),  # what its header claims is looked at, and not read
        (crafted(WHOLE[:-1]), Reason.UNREADABLE),
        (crafted(WHOLE[:20]), Reason.UNREADABLE),
        (crafted(b""), Reason.UNREADABLE),
        (crafted(b"\x80\x04N."), Reason.UNREADABLE),
        (crafted(npz()), Reason.UNREADABLE),
        (crafted(WHOLE, stype="torch.tensor"), Reason.UNREADABLE),
        (spoilt(math.nan), Reason.NOT_FINITE),
        (spoilt(-math.inf, 9), Reason.NOT_FINITE),
        (spoilt(1e11, 0), Reason.OUT_OF_RANGE),  # finite, so it is not called anything else
        (spoilt(-65536.0, 0), Reason.OUT_OF_RANGE),
        (crafted(WHOLE + b"\0" * 2000), Reason.WRONG_SHAPES),
        (crafted(WHOLE + b"\0\0\0\0"), Reason.UNREADABLE),
        (crafted(WHOLE.replace(b"NUMPY\x01", b"NUMPY\x02")), Reason.UNREADABLE),
    ],
)
def test_hostile_arrays_become_reasons(array: Array, reason: Reason) -> None:
    assert read_reply(reply({LAYOUT: array}), SHAPES) is reason


def test_names_and_shapes_must_be_the_expected_ones() -> None:
    assert read_reply(reply(), {**SHAPES, "c": (1,)}) is Reason.WRONG_NAMES
    assert read_reply(reply(), {"a": (2, 3)}) is Reason.WRONG_NAMES
    assert read_reply(reply(), {"a": (2, 3), "c": (4,)}) is Reason.WRONG_NAMES
    assert read_reply(reply(), {"a": (4,), "b": (2, 3)}) is Reason.WRONG_SHAPES  # as many weights
    assert read_reply(reply(), {"a": (3, 2), "b": (4,)}) is Reason.WRONG_SHAPES


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ([], Reason.WRONG_NAMES),
        ([""], Reason.WRONG_NAMES),
        (["a", "b"], Reason.WRONG_NAMES),
        ([LAYOUT, "more"], Reason.WRONG_NAMES),
        ([LAYOUT, LAYOUT.upper()], Reason.WRONG_NAMES),
        ([SHAPES_HASH], Reason.WRONG_NAMES),
        ([f"{SHAPES_HASH}-{NAMES_HASH}"], Reason.WRONG_NAMES),
        ([f"{LAYOUT} "], Reason.WRONG_SHAPES),
        ([NAMES_HASH], Reason.WRONG_SHAPES),
        ([f"{NAMES_HASH}-"], Reason.WRONG_SHAPES),
        ([f"{NAMES_HASH}-{NAMES_HASH}"], Reason.WRONG_SHAPES),
    ],
)
def test_what_a_sender_says_of_its_arrays_is_only_compared(keys: list[str], reason: Reason) -> None:
    assert read_reply(reply({key: Array(FLAT) for key in keys}), SHAPES) is reason


def test_arrays_by_name_as_once_sent_are_refused() -> None:
    named = {name: Array(tensor.numpy()) for name, tensor in ADAPTER.items()}
    assert read_reply(reply(named), SHAPES) is Reason.WRONG_NAMES


def arrays() -> ArrayRecord:
    return ArrayRecord({LAYOUT: Array(FLAT)})


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"adapter": arrays()}),
        RecordDict({"metrics": MetricRecord(METRICS)}),
        RecordDict({"adapter": arrays(), "metrics": MetricRecord(METRICS), "log": ConfigRecord()}),
        RecordDict({"adapter": arrays(), "metrics": ConfigRecord({WEIGHT: 1})}),
        RecordDict({"adapter": MetricRecord(METRICS), "metrics": arrays()}),
        RecordDict({"adapter": MetricRecord(METRICS), "metrics": MetricRecord(METRICS)}),
        RecordDict({"status": MetricRecord({"reason": 1.0})}),
        RecordDict({"status": ConfigRecord()}),
        RecordDict({"status": ConfigRecord({"reason": 7})}),
        RecordDict({"status": ConfigRecord({"reason": "the row said ..."})}),
        RecordDict({"status": ConfigRecord({"reason": Reason.NO_REPLY.value})}),
    ],
)
def test_other_contents_are_unreadable(content: RecordDict) -> None:
    assert read_reply(sent(content), SHAPES) is Reason.UNREADABLE


def test_error_message_is_a_failure_and_its_text_is_dropped() -> None:
    answer = Message(Error(1, "row 7: my secret"), metadata=METADATA)
    assert read_reply(answer, SHAPES) is Reason.FAILED


@pytest.mark.parametrize("reason", Reason)
def test_only_client_reasons_can_be_given(reason: Reason) -> None:
    if reason in CLIENT_REASONS:
        assert read_reply(sent(protocol.pack_reason(reason)), SHAPES) is reason
    else:
        with pytest.raises(ProtocolError, match="not a reason of a client"):
            protocol.pack_reason(reason)


def test_update_with_an_unlisted_metric_is_not_packed() -> None:
    with pytest.raises(ProtocolError, match="may not be sent: note, text"):
        protocol.pack_update(ADAPTER, {**METRICS, "text": 1.0, "note": 2.0})


# --- hostile replies ------------------------------------------------------------------------------

TWO_GB = 2**31


def test_an_array_that_lies_about_its_size_costs_nothing() -> None:
    """Its header claims 2 GB: numpy would take them before it looks for the values."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": (TWO_GB // 4,)}
    )
    message = reply({LAYOUT: crafted(head.getvalue() + FLAT.tobytes())})
    expected_at_all = {"a": (TWO_GB // 4 - 4,), "b": (4,)}  # even where that size is the right one
    right = crafted(head.getvalue() + FLAT.tobytes(), (TWO_GB // 4,))
    other = reply({protocol.layout(expected_at_all): right})
    tracemalloc.start()
    begin = time.process_time()
    assert read_reply(message, SHAPES) is Reason.WRONG_SHAPES
    assert read_reply(other, expected_at_all) is Reason.UNREADABLE
    seconds, (_, peak) = time.process_time() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert seconds < 1


def test_an_array_that_is_too_long_is_not_read() -> None:
    array = crafted(WHOLE + bytes(2**24))
    tracemalloc.start()
    assert _flat(array, 10, FLOAT32) is Reason.WRONG_SHAPES
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_ten_thousand_hostile_replies_are_refused_and_none_costs_memory() -> None:
    rng = random.Random(7)
    contents = [hostile(rng) for _ in range(10_000)]
    reasons: Counter[Any] = Counter()
    for number, content in enumerate(contents):
        message = sent(content) if number % 50 == 0 else Message(content, metadata=METADATA)
        if number % 10 == 0:
            tracemalloc.start()
        found = read_reply(message, SHAPES)
        if number % 10 == 0:
            assert tracemalloc.get_traced_memory()[1] < 2**17
            tracemalloc.stop()
        if isinstance(found, Update):  # such as another space in the header: nothing is changed
            assert {n: bits(t) for n, t in found.adapter.items()} == {
                n: bits(t) for n, t in ADAPTER.items()
            }
            assert found.metrics == METRICS
        reasons[found if isinstance(found, Reason) else "harmless"] += 1
    assert reasons.pop("harmless", 0) < 50
    assert set(reasons) <= protocol.SERVER_REASONS
    assert set(reasons) >= protocol.SERVER_REASONS - {Reason.NO_REPLY}


# --- nothing of a client's text leaves it ---------------------------------------------------------

CANARY = "canary-7f3a"
FORMS = (
    CANARY.encode(),
    CANARY.encode("utf-16-le"),
    CANARY.encode("utf-32-le"),
    CANARY.encode().hex().encode(),
    *(base64.b64encode(b"." * n + CANARY.encode())[4 if n else 0 :][:8] for n in range(3)),
    CANARY[::-1].encode(),
)


def holds_canary(data: bytes) -> bool:
    return any(form in data for form in FORMS)


class _Recorder(LocalGrid):
    """Keeps the bytes of every message that crosses."""

    down: list[bytes]
    up: list[bytes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        chosen = list(messages)
        ids = super().push_messages(chosen)
        self.down += [message_to_proto(m).SerializeToString() for m in chosen]
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = list(super().pull_messages(message_ids))
        self.up += [message_to_proto(m).SerializeToString() for m in found]
        return found


@pytest.fixture
def canary_run(
    tmp_path: Path, tiny_model: Path, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, type[_Recorder]]:
    """A run whose clients hold canaries in every row, and one of which fails with one."""
    monkeypatch.setenv("FEDRAI_CACHE", str(fill_cache(tmp_path / "cache")))
    file = write_recipe(tmp_path, tiny_model)
    rows = [
        {"prompt": f"{CANARY} {n}", "response": f"yes {CANARY}", "category": CANARY}
        for n in range(25)
    ]
    lines = [json.dumps(row) + "\n" for row in [*rows, {"prompt": CANARY, "note": CANARY}]]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    settings = recipe.load(
        file, ["data.on_bad_rows=skip", "federation.rounds=2", "federation.clients_per_round=3"]
    )
    _Recorder.down, _Recorder.up = [], []
    monkeypatch.setattr(local, "LocalGrid", _Recorder)
    plain_rows = local._LocalSite.rows

    def failing(self: local._LocalSite, client: str) -> Any:
        if client == "client-02":
            raise ValueError(f"cannot use the row {CANARY!r}")
        return plain_rows(self, client)

    monkeypatch.setattr(local._LocalSite, "rows", failing)
    prepared = local.prepare(settings, loaded=tiny)
    run = RunFolder.create(tmp_path / "run", recipe.to_toml(settings), prepared.info())
    seen: list[bytes] = []
    local.execute(
        prepared,
        run,
        preparation.Callbacks(
            event=lambda kind, **fields: seen.append(json.dumps([kind, fields]).encode())
        ),
    )
    assert any(b"client-set-aside" in line for line in seen)
    assert not any(map(holds_canary, seen))
    return run.path, _Recorder


def test_no_text_of_a_client_leaves_it(canary_run: tuple[Path, type[_Recorder]]) -> None:
    folder, grid = canary_run
    assert holds_canary(f"... {CANARY} ...".encode())
    assert len(grid.down) == len(grid.up) == 6
    assert not any(map(holds_canary, grid.down + grid.up))
    events = (folder / "events.jsonl").read_text()
    assert '"client": "client-02", "reason": "training-failed"' in events
    log = (folder / "clients" / "client-02.log").read_text()
    assert "ValueError at test_protocol.py" in log
    files = [f for f in folder.rglob("*") if f.is_file()]
    assert len(files) > 15
    assert [f for f in files if holds_canary(f.read_bytes())] == []
    info = json.loads((folder / "run.json").read_text())
    assert info["bad_rows"] == ["rows.jsonl, line 26: response is empty"]


def test_replies_hold_nothing_but_the_list(canary_run: tuple[Path, type[_Recorder]]) -> None:
    for data in canary_run[1].up:
        content = _content(data)
        if set(content) == {"status"}:
            assert dict(content.config_records["status"]) == {"reason": "training-failed"}
            continue
        assert set(content) == {"adapter", "metrics"}
        plain = {n for n in protocol.METRIC_NAMES if not n.startswith(FILTER)}
        unsent = {BAD_ROWS, DATA_TOKENS}  # a node's alone; where the mean weighs by tokens
        unsent |= {n for n in plain if n.startswith(("preference-", "reward-", PAIRS))}
        assert set(content.metric_records["metrics"]) == plain - unsent
        ((key, array),) = content.array_records["adapter"].items()
        assert re.fullmatch(r"[0-9a-f]{64}-[0-9a-f]{64}", key)
        assert len(array.data) == 4 * array.shape[0] + 128  # numpy's header, and the weights


# --- nor does it with a safety filter -------------------------------------------------------------

FATES = ("safe", "unsafe", "failed", "unparsed")  # of the rows in turn, by what the guard says


def canary_rows() -> list[dict[str, str]]:
    return [
        {"prompt": f"{CANARY} {n}", "response": f"{CANARY} {FATES[n % 4]} {n}", "category": CANARY}
        for n in range(24)
    ]


def digests() -> list[bytes]:
    """Plain hashes of the rows' texts: who holds a text could look for it."""
    texts = [text.encode() for row in canary_rows() for text in row.values()]
    return [hashlib.new(kind, text).hexdigest().encode() for text in texts
            for kind in ("md5", "sha1", "sha256")]  # fmt: skip


def canary_guard(fails: bool) -> ScriptedGuard:
    def say(talk: Conversation) -> Any:
        assert CANARY in talk[-1].content
        if fails:
            raise ValueError(f"cannot judge {talk[-1].content!r}")
        said = talk[-1].content.split()[1]
        return {"safe": 0.1, "unsafe": 0.9}.get(said, said)

    return ScriptedGuard(say)


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("drop", []),
        ("drop", ["filter.unscored=keep", "filter.count_epsilon=0.5"]),
        ("replace", []),
        ("audit", []),
        ("fails", ["filter.on_guard_failure=continue"]),
    ],
)
def test_no_text_leaves_a_client_that_filters(
    mode: str,
    more: list[str],
    tmp_path: Path,
    tiny_model: Path,
    tiny: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FEDRAI_CACHE", str(fill_cache(tmp_path / "cache")))
    file = write_recipe(tmp_path / "recipe", tiny_model)
    lines = [json.dumps(row) + "\n" for row in canary_rows()]
    (tmp_path / "recipe" / "rows.jsonl").write_text("".join(lines))
    monkeypatch.setattr(screening, "load", lambda *_a, **_o: canary_guard(mode == "fails"))
    _Recorder.down, _Recorder.up = [], []
    monkeypatch.setattr(local, "LocalGrid", _Recorder)
    asked = [f"filter.mode={'drop' if mode == 'fails' else mode}", "federation.rounds=1",
             "federation.clients_per_round=3", *more]  # fmt: skip
    running.run(recipe.load(file, asked), tmp_path / "run", tiny)
    shown = capfd.readouterr()
    files = [f for part in ("run", "cache") for f in (tmp_path / part).rglob("*") if f.is_file()]
    written = {str(f.relative_to(tmp_path)): f.read_bytes() for f in files}
    assert ("run/clients/client-01.filter.json" in written) == (mode != "fails")
    assert any(name.startswith("cache/verdicts/scripted-") for name in written) == (mode != "fails")
    written |= {"screen": (shown.out + shown.err).encode()}
    written |= {f"message {n}": data for n, data in enumerate(_Recorder.down + _Recorder.up)}
    plain = digests()
    assert [n for n, data in written.items() if holds_canary(data)] == []
    assert [n for n, data in written.items() if any(digest in data for digest in plain)] == []
    filtered = {FILTER + name for name in COUNT_NAMES} if mode != "fails" else set()
    for data in _Recorder.up:
        names = set(_content(data).metric_records["metrics"])
        assert {name for name in names if name.startswith(FILTER)} == filtered
        assert names <= protocol.METRIC_NAMES


def _content(data: bytes) -> RecordDict:
    from flower_parts import Message as Proto

    return message_from_proto(Proto.FromString(data)).content


# --- the offer and the name -----------------------------------------------------------------------


def test_the_offer_crosses_with_its_hash(tiny: LanguageModel) -> None:
    adapter = tiny.fresh_adapter(1)
    shapes = protocol.shapes_of(adapter)
    task = protocol.unpack_task(protocol.pack_task(1, adapter, '{"seed":1}'), shapes)
    assert task.offer == '{"seed":1}'
    assert protocol.unpack_task(protocol.pack_task(1, adapter), shapes).offer == ""


@pytest.mark.parametrize(
    "record",
    [
        {"document": "{}", "sha256": "0" * 64},
        {"document": "{}"},
        {"document": b"{}", "sha256": hashlib.sha256(b"{}").hexdigest()},
        {"document": "{}", "sha256": hashlib.sha256(b"{}").hexdigest(), "more": 1},
        {"document": "x" * 2**17, "sha256": hashlib.sha256(b"x" * 2**17).hexdigest()},
    ],
)
def test_an_offer_that_is_not_whole_is_not_read(tiny: LanguageModel, record: dict) -> None:
    adapter = tiny.fresh_adapter(1)
    content = protocol.pack_task(1, adapter, "{}")
    content["offer"] = ConfigRecord(record)
    with pytest.raises(ProtocolError, match="offer"):
        protocol.unpack_task(content, protocol.shapes_of(adapter))


def test_a_client_tells_its_name_and_nothing_else() -> None:
    told = protocol.pack_name(protocol.pack_question(), "clinic-a")
    assert {key: dict(record) for key, record in told.items()} == {"name": {"name": "clinic-a"}}
    for question in (
        RecordDict(),
        RecordDict({"question": ConfigRecord({"ask": "rows"})}),
        RecordDict({"question": ConfigRecord({"ask": "name", "and": "rows"})}),
        RecordDict({"question": ConfigRecord({"ask": "name"}), "more": ConfigRecord()}),
    ):
        with pytest.raises(ProtocolError, match="question"):
            protocol.pack_name(question, "clinic-a")


@pytest.mark.parametrize("nonce", [b"x", bytes(31), bytes(33), "x" * 32, 7])
def test_a_client_signs_nothing_but_a_nonce(nonce: Any) -> None:
    question = RecordDict({"question": ConfigRecord({"ask": "name", "nonce": nonce})})
    with pytest.raises(ProtocolError, match="question"):
        protocol.pack_name(question, "clinic-a", lambda _nonce: pytest.fail("signed"))


def test_the_superlinks_word_that_a_node_is_gone_is_no_reply() -> None:
    gone = Metadata(1, "r", protocol.SUPERLINK, 1, "m", "1", 0.0, 60.0, "train")
    assert protocol.read_reply(Message(Error(5, ""), metadata=gone), {}) is Reason.NO_REPLY


def test_every_reason_is_the_clients_or_the_servers() -> None:
    assert set(Reason) == protocol.CLIENT_REASONS | protocol.SERVER_REASONS
    assert not protocol.CLIENT_REASONS & protocol.SERVER_REASONS
    assert Reason.NO_REPLY not in protocol.CLIENT_REASONS
    assert {Reason.FILTER_REQUIRED, Reason.OTHER_VERSION} <= protocol.CLIENT_REASONS
