"""Control variates between server and clients: the messages, the files, and runs that use them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from driver import fill_cache, write_recipe
from local_runs import execute
from scripted_grid import record

# isort: split
from flwr.app import ArrayRecord, Message, Metadata, RecordDict

from fedrai import recipe
from fedrai.errors import ProtocolError, RecipeError
from fedrai.federation import client, protocol, variates
from fedrai.federation.aggregation import build
from fedrai.federation.aggregation.scaffold import Variates, change
from fedrai.federation.metrics import DATA_TOKENS, WEIGHT
from fedrai.federation.protocol import Reason
from fedrai.federation.run import local
from fedrai.federation.run.grid import LocalGrid
from fedrai.federation.run.preparation import Callbacks
from fedrai.federation.shared_round import server_state
from fedrai.model import AdapterState, LanguageModel, read_adapter
from fedrai.recipe.sections import Recipe
from fedrai.report.comparing.running import compare
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of
from fedrai.training.sft import SftSettings, label_count, train

pytestmark = pytest.mark.slow

SHAPES = {"a": (2, 3), "b": (4,)}
ADAPTER = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.0, -2.0, 3.0, 4.0])}
COMMON = {"a": torch.full((2, 3), 0.25), "b": torch.tensor([0.0, -1e-9, 2.0, 0.5])}


def reply(content: RecordDict) -> Message:
    return Message(content, metadata=Metadata(1, "r", 1, 1, "m", "1", 0.0, 60.0, "train"))


# --- messages -------------------------------------------------------------------------------------


def test_a_task_with_a_variate_comes_as_it_was_sent() -> None:
    content = protocol.pack_task(5, ADAPTER, variate=COMMON, counted=3)
    task = protocol.unpack_task(content, SHAPES, has_variate=True)
    assert (task.round, task.counted) == (5, 3)
    assert task.variate is not None
    assert digest_of(task.adapter) == digest_of(ADAPTER)
    assert digest_of(task.variate) == digest_of(COMMON)
    plain = protocol.pack_task(5, ADAPTER)
    assert protocol.payload_bytes(content) == 2 * protocol.payload_bytes(plain)


def test_a_variate_belongs_only_to_the_rule_that_has_one() -> None:
    with_one = protocol.pack_task(5, ADAPTER, variate=COMMON, counted=3)
    with pytest.raises(ProtocolError, match="must hold only the adapter and the task"):
        protocol.unpack_task(with_one, SHAPES)
    without = protocol.pack_task(5, ADAPTER)
    with pytest.raises(ProtocolError, match="must hold only the adapter, the variate and the task"):
        protocol.unpack_task(without, SHAPES, has_variate=True)
    without["task"]["counted"] = 3
    with pytest.raises(ProtocolError, match="a task must hold only round"):
        protocol.unpack_task(without, SHAPES)


@pytest.mark.parametrize("counted", [5, 6, -1, 2.0, True, "3"])
def test_the_counted_round_is_an_earlier_one(counted: Any) -> None:
    content = protocol.pack_task(5, ADAPTER, variate=COMMON, counted=3)
    content["task"]["counted"] = counted
    with pytest.raises(ProtocolError, match="counted must be an earlier round"):
        protocol.unpack_task(content, SHAPES, has_variate=True)


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("b", torch.tensor([0.0, math.nan, 0, 0]), Reason.NOT_FINITE),
        ("b", torch.tensor([0.0, -math.inf, 0, 0]), Reason.NOT_FINITE),
        ("b", torch.tensor([0.0, 1e5, 0, 0]), Reason.OUT_OF_RANGE),
        ("b", torch.zeros(5), Reason.WRONG_SHAPES),
        ("c", torch.zeros(4), Reason.WRONG_NAMES),
    ],
)
def test_a_variate_is_checked_as_an_adapter_is(
    name: str, tensor: torch.Tensor, reason: Reason
) -> None:
    content = protocol.pack_task(1, ADAPTER, variate={**COMMON, name: tensor})
    with pytest.raises(ProtocolError, match=reason.value):
        protocol.unpack_task(content, SHAPES, has_variate=True)


def test_the_length_of_a_variate_is_checked_before_it_is_read() -> None:
    content = protocol.pack_task(1, ADAPTER, variate=COMMON)
    ((key, array),) = content.array_records["variate"].items()
    array.data = array.data + bytes(2000)
    content["variate"] = ArrayRecord({key: array})
    with pytest.raises(ProtocolError, match=Reason.WRONG_SHAPES.value):
        protocol.unpack_task(content, SHAPES, has_variate=True)


def test_a_reply_holds_no_variate() -> None:
    """The server derives its change, so that a client has no say in it besides its adapter."""
    content = protocol.pack_update(ADAPTER, {WEIGHT: 3})
    content["variate"] = protocol.pack_adapter(COMMON)
    assert protocol.read_reply(reply(content), SHAPES) is Reason.UNREADABLE


def test_a_number_that_the_mean_needs_is_required() -> None:
    message = reply(protocol.pack_update(ADAPTER, {WEIGHT: 3}))
    assert isinstance(protocol.read_reply(message, SHAPES), protocol.Update)
    assert protocol.read_reply(message, SHAPES, {DATA_TOKENS}) is Reason.BAD_METRICS


# --- files ----------------------------------------------------------------------------------------


def test_a_client_has_no_variate_before_its_first_counted_round(tmp_path: Path) -> None:
    found = variates.read(tmp_path, 0, SHAPES)
    assert found is not None
    assert {name: (tuple(t.shape), float(t.abs().sum())) for name, t in found.items()} == {
        "a": ((2, 3), 0.0), "b": ((4,), 0.0)
    }  # fmt: skip


def test_variates_are_kept_by_round_and_the_old_ones_go(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    for number, counted in ((1, 0), (2, 1), (4, 2), (5, 2), (7, 5)):
        variates.write(folder, number, counted, {"b": torch.full((4,), float(number))})
    assert variates.numbers(folder) == [2, 5, 7]  # one before the counted, the counted, the newest
    kept = variates.read(folder, 5, {"b": (4,)})
    assert kept is not None
    assert kept["b"].tolist() == [5] * 4


def test_a_lost_damaged_or_other_variate_is_none(tmp_path: Path) -> None:
    variates.write(tmp_path, 1, 0, COMMON)
    assert variates.read(tmp_path, 2, SHAPES) is None
    assert variates.read(tmp_path, 1, {"a": (2, 3)}) is None
    file = variates.file_of(tmp_path, 1)
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)
    assert variates.read(tmp_path, 1, SHAPES) is None


# --- the local loop -------------------------------------------------------------------------------


def test_the_correction_moves_each_step_by_the_learning_rate(
    tiny: LanguageModel, settings: Callable[..., Recipe]
) -> None:
    """A model that learns nothing (rate 0 in AdamW's part: clipped to nothing) shows it alone."""
    prepared = local.prepare(settings(), loaded=tiny)
    rows, start = prepared.rows["client-01"], tiny.fresh_adapter(3)
    rates = [0.5, 0.25, 0.125]
    plain = SftSettings(3, 4, lambda step: rates[step])
    moved = {name: torch.ones_like(part) for name, part in start.items()}
    before, _ = train(tiny, start, rows, dataclasses.replace(plain, steps=1), seed=1)
    after, _ = train(
        tiny, start, rows, dataclasses.replace(plain, steps=1, correction=moved), seed=1
    )
    assert all(torch.allclose(after[n], before[n] - 0.5, atol=1e-6) for n in start)
    assert plain.rate_sum == 0.875
    assert dataclasses.replace(plain, first_step=1, steps=2).rate_sum == 0.375


def test_a_sum_over_very_many_steps_is_close_and_quick() -> None:
    rates = SftSettings(10**9, 1, lambda step: 1.0 + (step % 2) * 0 + step / 1e9)
    assert rates.rate_sum == pytest.approx(1.5e9, rel=1e-4)


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def settings(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Recipe]:
    monkeypatch.setenv("FEDRAI_CACHE", str(fill_cache(tmp_path / "cache")))
    file = write_recipe(tmp_path, tiny_model)
    short = ("evaluation.every=0", "evaluation.advbench=1", "evaluation.ordinary=1")
    return lambda *overrides: recipe.load(file, [*short, *overrides])


SCAFFOLD = ("aggregation.algorithm=scaffold", "data.partition.scheme=power-law")


def adapter_bits(run: RunFolder, number: int) -> str:
    return digest_of(read_adapter(run.round_folder(number) / "adapter"))


def decided(run: RunFolder) -> dict[str, bytes]:
    """The bits of adapters, server state and the clients' variates."""
    files = [*run.path.rglob("*.safetensors")]
    return {str(f.relative_to(run.path)): f.read_bytes() for f in sorted(files)}


def test_scaffold_is_fedavg_in_round_1_and_parts_from_it_then(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    given = settings(*SCAFFOLD, "federation.rounds=2")
    mean = settings(SCAFFOLD[1], "federation.rounds=2")
    one, prepared = execute(given, tiny, tmp_path / "one")
    other, _ = execute(mean, tiny, tmp_path / "other")
    assert adapter_bits(one, 1) == adapter_bits(other, 1)
    assert adapter_bits(one, 2) != adapter_bits(other, 2)
    cost, plain = (record(run, 2)["costs"]["training"] for run in (one, other))
    assert cost["bytes_up"] == plain["bytes_up"]
    assert cost["bytes_down"] == 2 * plain["bytes_down"]
    assert not (other.path / "variates").exists()
    # what the server keeps is the mean of what the clients keep, those without one included
    server = Variates(3, lambda _round, _rows: 1.0)
    aggregator = build("scaffold", variates=server)
    aggregator.restore(server_state(one, 2))
    shapes = protocol.shapes_of(tiny.parameters)
    sizes = {name: len(rows) for name, rows in prepared.rows.items()}
    own = {n: variates.read(one.variates(n), server.counted(n), shapes) for n in sizes}
    counted = [name for name in sizes if server.counted(name)]
    scale = 3 * sum(sizes[name] for name in counted) / len(counted)
    for key, found in server.common(tiny.fresh_adapter(1)).items():
        mean_of = sum(part[key] * sizes[name] for name, part in own.items() if part) / scale
        assert torch.allclose(found, mean_of, atol=1e-5)
        assert bool(found.any()) or "lora_A" in key


STOPS: dict[str, tuple[str, int]] = {
    "within the second client of round 2": ("step", 11),
    "after an update of round 2 is kept": ("client-finished", 3),
    "when round 2 is committed": ("evaluation-started", 2),
    "before round 3 is committed": ("client-finished", 6),
}


class Killed(BaseException):
    """Stands for a process that ends here."""


@pytest.mark.parametrize("where", STOPS)
def test_a_run_that_is_stopped_ends_in_the_same_bits(
    where: str, settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    given = settings(*SCAFFOLD)
    whole, _ = execute(given, tiny, tmp_path / "whole")
    kind, nth = STOPS[where]
    seen: list[str] = []

    def count(event: str) -> None:
        seen.append(event)
        if seen.count(kind) == nth and event == kind:
            raise Killed

    stopping = Callbacks(
        event=lambda event, **_: count(event), step=lambda _client, _step: count("step")
    )
    with pytest.raises(Killed):
        execute(given, tiny, tmp_path / "cut", stopping)
    again, _ = execute(given, tiny, tmp_path / "cut")
    assert decided(again) == decided(whole)
    assert any(name.startswith("variates/") for name in decided(whole))


def test_a_client_that_lost_its_variate_is_set_aside(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    given = settings(*SCAFFOLD, "federation.clients_per_round=3")

    def lose(kind: str, **fields: Any) -> None:
        if kind == "round-started" and fields["round"] == 2:
            variates.file_of(tmp_path / "run/variates/client-02", 1).unlink()

    run, _ = execute(given, tiny, tmp_path / "run", Callbacks(event=lose))
    for number in (2, 3):
        assert record(run, number)["set_aside"] == {"client-02": "control-variate-lost"}


def test_pooled_and_separate_clients_have_no_variates(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    for mode in ("centralised", "local"):
        more = (f"federation.mode={mode}", "federation.rounds=1")
        run, _ = execute(settings(*SCAFFOLD, *more), tiny, tmp_path / mode)
        assert not (run.path / "variates").exists()
        assert not (run.round_folder(1) / "server.safetensors").exists()


def asked(
    tiny: LanguageModel, site: client.Site, folder: Path, task: dict[str, Any]
) -> protocol.Update | Reason:
    """The reply of a client that has its variates in a folder."""
    local_settings = SftSettings(2, 4, lambda _step: 0.01)
    app = client.build_app(site, lambda _rows: local_settings, 9, variates=lambda _: folder)
    grid = LocalGrid(app, {"client-01": 1})
    (reply,) = grid.send_and_receive([Message(protocol.pack_task(**task), 1, "train")])
    return protocol.read_reply(reply, protocol.shapes_of(tiny.parameters))


def test_an_update_that_was_not_counted_does_not_advance_the_variate(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    prepared = local.prepare(settings(), loaded=tiny)
    run = RunFolder.create(tmp_path / "run", "", {})
    site, folder = local.site(prepared, run, Callbacks()), tmp_path / "own"
    start = tiny.fresh_adapter(3)
    shapes = protocol.shapes_of(start)
    common = {name: torch.full_like(part, 0.5) for name, part in start.items()}

    def task(number: int, counted: int) -> dict[str, Any]:
        return {"round_": number, "adapter": start, "variate": common, "counted": counted}

    def kept(number: int) -> AdapterState:
        state = variates.read(folder, number, shapes)
        assert state is not None
        return state

    for number, counted in ((1, 0), (2, 1), (3, 1)):  # the reply of round 2 came too late
        reply = asked(tiny, site, folder, task(number, counted))
        assert isinstance(reply, protocol.Update)
        moved = change(common, start, reply.adapter, 0.02)
        before = kept(counted)
        assert all(torch.equal(kept(number)[n], before[n] + moved[n]) for n in start)
    assert asked(tiny, site, folder, task(5, 4)) is Reason.VARIATE_LOST
    no_variate = {"round_": 4, "adapter": start}
    assert asked(tiny, site, folder, no_variate) is Reason.BAD_TASK


def test_arms_of_a_comparison_take_over_rounds_with_their_variates(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = "[arms.one]\n[arms.two.evaluation]\nadvbench = 2\n[arms.mean.aggregation]\n"
    arms += 'algorithm = "fedavg"\n'
    file = write_recipe(tmp_path, tiny_model, arms)
    monkeypatch.setenv("FEDRAI_CACHE", str(fill_cache(tmp_path / "cache")))
    short = [*SCAFFOLD, "evaluation.every=0", "evaluation.advbench=1", "evaluation.ordinary=1"]
    compare(recipe.load(file, short), tmp_path / "out")
    one, two, mean = (RunFolder(tmp_path / "out" / name) for name in ("one", "two", "mean"))
    assert [record(two, n)["shared_from"] for n in (1, 2, 3)] == ["one"] * 3
    assert decided(two) == decided(one)
    taken = [event["steps"] for event in mean.events() if event["event"] == "training-taken"]
    assert taken == [3, 3]  # the first round's, and none of those with a correction
    assert adapter_bits(mean, 1) == adapter_bits(one, 1)
    assert adapter_bits(mean, 2) != adapter_bits(one, 2)


# --- weights of the mean --------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["rows", "tokens", "uniform"])
def test_the_mean_weighs_by_rows_tokens_or_alike(
    weights: str, settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    more = (
        "data.partition.scheme=power-law",
        "federation.rounds=1",
        f"federation.weights={weights}",
    )
    run, prepared = execute(settings(*more), tiny, tmp_path / "run")
    clients = record(run)["clients"]
    tokens = {name: sum(map(label_count, prepared.rows[name])) for name in clients}
    assert {n: m.get(DATA_TOKENS) for n, m in clients.items()} == (
        tokens if weights == "tokens" else dict.fromkeys(clients)
    )
    counts = {
        "rows": {name: len(prepared.rows[name]) for name in clients},
        "tokens": tokens,
        "uniform": dict.fromkeys(clients, 1),
    }[weights]
    losses = sum(clients[n]["loss-last"] * counts[n] for n in clients) / sum(counts.values())
    assert record(run)["loss_last"] == pytest.approx(losses, rel=1e-9)
    assert len({len(prepared.rows[name]) for name in clients}) == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["aggregation.algorithm=median", "federation.weights=tokens",
          "federation.clients_per_round=3"], "median does not weigh"),
        (["aggregation.algorithm=qfedavg", "federation.weights=tokens"], "qfedavg does not weigh"),
        (["attack.kind=false-counts", "attack.share=0.5", "federation.weights=uniform"],
         "lies about rows"),
    ],
)  # fmt: skip
def test_weights_that_would_have_no_effect_are_refused(
    changes: list[str], problem: str, tmp_path: Path, tiny_model: Path
) -> None:
    source = '[[data.sources]]\npath = "{0}/rows.jsonl"\nharmful = true\nname = "bad"\n'
    file = write_recipe(tmp_path, tiny_model)
    file.write_text(file.read_text() + source.format(tmp_path))
    with pytest.raises(RecipeError, match=problem):
        recipe.load(file, changes)


def test_new_keys_leave_the_hash_alone(tmp_path: Path, tiny_model: Path) -> None:
    file = write_recipe(tmp_path, tiny_model)
    plain = recipe.load(file).hash
    assert recipe.load(file, ["federation.weights=rows"]).hash == plain
    assert recipe.load(file, ["federation.weights=uniform"]).hash != plain
