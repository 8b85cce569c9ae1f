"""The round loop over real clients, and over scripted ones that misbehave."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from driver import fill_cache, write_recipe
from scripted_grid import (
    NODES,
    PLAN,
    ROWS,
    SHIFT,
    ScriptedGrid,
    answer,
    honest,
    kinds,
    record,
    shift_after,
    shifted,
    start,
    tools,
)

# isort: split
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)

from fedrai import recipe, report
from fedrai.cli.show.display import Display
from fedrai.cli.show.summary import LIST_COLUMNS, cost_line, filter_note, list_row
from fedrai.errors import DataError, FederationError
from fedrai.evaluation.records import EvaluationResult
from fedrai.federation import client, clients, protocol
from fedrai.federation.aggregation import build
from fedrai.federation.aggregation.norms import update_norm
from fedrai.federation.clients import LateReplies
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.plan import GLOBAL, load_adapters
from fedrai.federation.protocol import Reason
from fedrai.federation.round import sample_clients
from fedrai.federation.round_record import copy_evaluation, save_pending
from fedrai.federation.run import local, preparation, running
from fedrai.federation.run.grid import LocalGrid
from fedrai.federation.run.observer import Observer
from fedrai.federation.server import run_rounds
from fedrai.federation.vetting.verdicts import ClientVerdict, RoundVerdict
from fedrai.model import AdapterState, LanguageModel, read_adapter
from fedrai.recipe.sections import Recipe
from fedrai.records import Tokens, TrainingStep
from fedrai.runs import RunFolder
from fedrai.runs.costs import Cost, Ledger
from fedrai.runs.files import json_text
from fedrai.runs.record import Summary, summarise
from fedrai.runs.record.summary import RoundLoss
from fedrai.runs.tracking.figures import round_figures
from fedrai.training.sft import SftSettings, train


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "", {})


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "POLL", 0.01)


# --- the plain way --------------------------------------------------------------------------------


def test_round_is_the_mean_weighted_by_rows(folder: RunFolder, tiny: LanguageModel) -> None:
    grid = ScriptedGrid(honest)
    run_rounds(PLAN, tools(folder, tiny, grid))
    # (1 * 1 + 3 * 4 + 4 * -2) / 8
    assert shift_after(folder, tiny) == pytest.approx(5 / 8, abs=1e-6)
    assert record(folder)["clients"]["b"] == {WEIGHT: 3.0, "tokens": 1.0, "seconds": 0.5}
    assert record(folder)["set_aside"] == {}
    assert kinds(folder) == [
        "evaluation-started",
        "evaluation-finished",
        "round-started",
        "client-finished",
        "client-finished",
        "client-finished",
        "aggregation-finished",
        "round-finished",
        "evaluation-started",
        "evaluation-finished",
        "finished",
    ]


def test_clients_get_the_global_adapter_and_the_round(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    grid = ScriptedGrid(honest)
    run_rounds(dataclasses.replace(PLAN, rounds=2), tools(folder, tiny, grid))
    shapes = protocol.shapes_of(start(tiny))
    tasks = [protocol.unpack_task(message.content, shapes) for message in grid.asked]
    assert [task.round for task in tasks] == [1] * 3 + [2] * 3
    first = read_adapter(folder.round_folder(1) / "adapter")
    for task in tasks:
        wanted = start(tiny) if task.round == 1 else first
        assert all(torch.equal(task.adapter[name], wanted[name]) for name in wanted)
    assert shift_after(folder, tiny, 2) == pytest.approx(10 / 8, abs=1e-5)


def test_costs_hold_the_bytes_both_ways(folder: RunFolder, tiny: LanguageModel) -> None:
    grid = ScriptedGrid(honest)
    run_rounds(PLAN, tools(folder, tiny, grid))
    training = record(folder)["costs"]["training"]
    down = sum(protocol.payload_bytes(message.content) for message in grid.asked)
    assert training["bytes_down"] == training["bytes_up"] == down
    assert down > 3 * 4 * sum(p.numel() for p in tiny.parameters.values())
    assert (training["tokens"], training["seconds"]) == (3, 1.5)


def test_order_of_arrival_does_not_change_the_bits(
    folder: RunFolder, tmp_path: Path, tiny: LanguageModel
) -> None:
    other = RunFolder.create(tmp_path / "other", "", {})
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest)))
    run_rounds(PLAN, tools(other, tiny, ScriptedGrid(honest, turned=True)))
    one, two = (
        (f.round_folder(1) / "adapter" / "adapter_model.safetensors").read_bytes()
        for f in (folder, other)
    )
    assert one == two

    def arrived(run: RunFolder) -> list[str]:
        return [e["client"] for e in run.events() if e["event"] == "client-finished"]

    assert arrived(folder) == arrived(other)[::-1] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("every", "rounds", "evaluated"),
    [(0, 3, [0, 3]), (1, 2, [0, 1, 2]), (2, 5, [0, 2, 4, 5]), (9, 2, [0, 2])],
)
def test_when_evaluations_are_due(
    every: int, rounds: int, evaluated: list[int], folder: RunFolder, tiny: LanguageModel
) -> None:
    plan = dataclasses.replace(PLAN, rounds=rounds, evaluate_every=every)
    run_rounds(plan, tools(folder, tiny, ScriptedGrid(honest)))
    assert folder.evaluations() == evaluated
    assert folder.rounds() == list(range(1, rounds + 1))


def test_finished_rounds_are_not_done_again(folder: RunFolder, tiny: LanguageModel) -> None:
    run_rounds(dataclasses.replace(PLAN, rounds=2), tools(folder, tiny, ScriptedGrid(honest)))
    grid = ScriptedGrid(honest)
    run_rounds(dataclasses.replace(PLAN, rounds=3), tools(folder, tiny, grid))
    assert [m.content["task"]["round"] for m in grid.asked] == [3, 3, 3]
    assert shift_after(folder, tiny, 3) == pytest.approx(15 / 8, abs=1e-5)


# --- what a client claims -------------------------------------------------------------------------


def test_a_claim_of_rows_does_not_own_the_mean(folder: RunFolder, tiny: LanguageModel) -> None:
    """Rows 1, 3 and a billion: the liar counts as all others together, and that is said."""
    grid = misbehaving(_metrics(**{WEIGHT: 1e9}), "b")
    heard = io.StringIO()
    with Display(heard) as display:
        display.plan(12, 0, Summary("run", "unfinished", 0, 1, 0))
        plan = dataclasses.replace(PLAN, weight_cap=10)
        run_rounds(plan, tools(folder, tiny, grid, emit=display.event))
    # (1 * 1 + 5 * 4 + 4 * -2) / 10
    assert shift_after(folder, tiny) == pytest.approx(13 / 10, abs=1e-6)
    found = record(folder)
    assert (found["weight_cap"], found["clients"]["b"][WEIGHT]) == (10, 1e9)
    assert found["capped"] == {"b": {"rows": 1e9, "counted": 5}}
    assert (
        "b  states 1,000,000,000 rows; they count as 5 (federation.weight_cap)" in heard.getvalue()
    )


def test_a_long_update_is_shortened_and_that_is_said(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    """Shifts of 1, 100 and -2: the long one counts as 3 times the mean of the other two."""

    def script(name: str, message: Message) -> Sequence[Message]:
        return [answer(message, shifted(name, message, by=96 if name == "b" else 0))]

    heard = io.StringIO()
    with Display(heard) as display:
        display.plan(12, 0, Summary("run", "unfinished", 0, 1, 0))
        plan = dataclasses.replace(PLAN, norm_cap=3)
        run_rounds(plan, tools(folder, tiny, ScriptedGrid(script), emit=display.event))
    # (1 * 1 + 3 * 4.5 + 4 * -2) / 8
    assert shift_after(folder, tiny) == pytest.approx(6.5 / 8, abs=1e-4)
    found, size = record(folder), sum(p.numel() for p in tiny.parameters.values()) ** 0.5
    assert found["norm_cap"] == 3
    assert found["norm_capped"] == {
        "b": {"norm": pytest.approx(100 * size), "counted": pytest.approx(4.5 * size)}
    }
    assert found["update_norms"]["b"] == found["norm_capped"]["b"]["norm"]
    said = f"b  update of norm {100 * size:.3g} counts as {4.5 * size:.3g} (federation.norm_cap)"
    assert said in heard.getvalue()


def test_updates_within_the_norm_cap_give_the_bits_of_no_cap(
    folder: RunFolder, tmp_path: Path, tiny: LanguageModel
) -> None:
    other = RunFolder.create(tmp_path / "other", "", {})
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest)))
    run_rounds(dataclasses.replace(PLAN, norm_cap=3), tools(other, tiny, ScriptedGrid(honest)))
    one, two = (
        (f.round_folder(1) / "adapter" / "adapter_model.safetensors").read_bytes()
        for f in (folder, other)
    )
    assert one == two
    assert record(other)["norm_capped"] == {}
    assert "norm_cap" not in record(folder)


def test_a_claim_of_rows_does_not_own_the_loss_that_is_shown(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    losses = {"loss-first": 8.0, "loss-last": 0.0}
    liar, other = _metrics(**{WEIGHT: 1e9}, **losses), _metrics(**{"loss-last": 4.0})

    def script(name: str, message: Message) -> Sequence[Message]:
        return {"b": liar, "c": other}.get(name, lambda m: honest(name, m))(message)

    run_rounds(dataclasses.replace(PLAN, weight_cap=10), tools(folder, tiny, ScriptedGrid(script)))
    # "c" replies with the script of "b": 3 rows; "b" counts as 1 + 3 rows
    assert record(folder)["loss_last"] == pytest.approx((4 * 0.0 + 3 * 4.0) / 7)


def test_weights_within_the_cap_give_the_bits_of_no_cap(
    folder: RunFolder, tmp_path: Path, tiny: LanguageModel
) -> None:
    other = RunFolder.create(tmp_path / "other", "", {})
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest)))
    run_rounds(dataclasses.replace(PLAN, weight_cap=10), tools(other, tiny, ScriptedGrid(honest)))
    one, two = (
        (f.round_folder(1) / "adapter" / "adapter_model.safetensors").read_bytes()
        for f in (folder, other)
    )
    assert one == two
    assert record(other)["capped"] == record(folder)["capped"] == {}


def test_the_server_measures_updates_itself(folder: RunFolder, tiny: LanguageModel) -> None:
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest)))
    weights = sum(p.numel() for p in tiny.parameters.values())
    assert record(folder)["update_norms"] == {
        name: pytest.approx(abs(by) * weights**0.5, rel=1e-5) for name, by in SHIFT.items()
    }


def test_a_robust_round_with_late_clients_fails_and_goes_on_when_they_are_back(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    """Krum against nobody needs three; two came. What they sent is kept."""
    with pytest.raises(FederationError, match=r"round 1: krum .* needs 3 .*; 2 arrived \(a, c\)"):
        run_rounds(
            PLAN,
            tools(
                folder, tiny, misbehaving(lambda m: [], "b"), aggregator=build("krum", malicious=0)
            ),
        )
    assert folder.rounds() == []
    grid = ScriptedGrid(honest)
    run_rounds(PLAN, tools(folder, tiny, grid, aggregator=build("krum", malicious=0)))
    assert [m.metadata.dst_node_id for m in grid.asked] == [NODES["b"]]
    assert folder.rounds() == [1]


def test_a_client_called_global_trains_alone_and_is_resumed(
    tmp_path: Path, tiny: LanguageModel
) -> None:
    """In local mode the common start once had that name, and its adapter was lost."""
    names = {"global": 1, "b": 2}
    whole, cut = (RunFolder.create(tmp_path / name, "", {}) for name in ("whole", "cut"))
    plan = dataclasses.replace(PLAN, local=True, rounds=2)

    def script(name: str, message: Message) -> Sequence[Message]:
        return honest("b" if name == "b" else "a", message)

    def go(run: RunFolder, rounds: int) -> None:
        given = dataclasses.replace(plan, rounds=rounds, sampled=2)
        run_rounds(given, tools(run, tiny, ScriptedGrid(script, nodes=names), nodes=names))

    go(whole, 2)
    go(cut, 1)
    go(cut, 2)
    for run in (whole, cut):
        found = load_adapters(run, tiny, plan, 2)
        assert sorted(found) == ["b", "global"]
        first = start(tiny)
        key = next(iter(first))
        assert float((found["global"][key] - first[key]).mean()) == pytest.approx(2 * SHIFT["a"])
        assert float((found["b"][key] - first[key]).mean()) == pytest.approx(2 * SHIFT["b"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["Clinic.jsonl", "clinic.jsonl"], "two files give a client the name 'clinic' or 'Clinic'"),
        (["a.jsonl", "a.csv"], "two files give a client the name 'a'"),
        ([".new-a.jsonl"], "'.new-a', which starts with a dot"),  # as a file that is being written
    ],
)
def test_clients_have_files_of_their_own(
    files: list[str],
    said: str,
    settings: Callable[..., Recipe],
    tiny: LanguageModel,
    tmp_path: Path,
) -> None:
    (tmp_path / "sites").mkdir()
    for name in files:
        (tmp_path / "sites" / name).write_text('{"prompt": "a", "response": "b"}\n')
    pattern = f"data.partition.files={tmp_path}/sites/*"
    given = settings("data.sources=[]", "data.partition.scheme=files", pattern)
    with pytest.raises(DataError, match=re.escape(said)):
        local.prepare(given, loaded=tiny)


@pytest.mark.parametrize("value", [1e16, -1.0])
def test_a_cost_out_of_its_range_sets_its_client_aside(
    value: float, folder: RunFolder, tiny: LanguageModel
) -> None:
    run_rounds(PLAN, tools(folder, tiny, misbehaving(_metrics(seconds=value), "b")))
    assert record(folder)["set_aside"] == {"b": "numbers-out-of-range"}
    assert record(folder)["costs"]["training"]["seconds"] == 1.0


def test_numbers_that_are_not_finite_are_null_in_a_record() -> None:
    body = {"a": [1.5, math.nan, (math.inf, 2)], "b": {"c": -math.inf, "d": True, "e": None}}
    assert json.loads(json_text(body), parse_constant=pytest.fail) == {
        "a": [1.5, None, [None, 2]], "b": {"c": None, "d": True, "e": None}
    }  # fmt: skip


# --- clients that misbehave -----------------------------------------------------------------------


def _changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Message], Sequence[Message]]:
    def script(message: Message) -> Sequence[Message]:
        content = shifted("b", message)
        arrays = dict(content.array_records["adapter"])
        change(arrays)
        return [
            answer(
                message,
                RecordDict(
                    {"adapter": ArrayRecord(arrays), "metrics": content.metric_records["metrics"]}
                ),
            )
        ]

    return script


def _first(arrays: dict[str, Any]) -> str:
    return next(iter(arrays))


def _poison(arrays: dict[str, Any]) -> None:
    values = arrays[_first(arrays)].numpy().copy()
    values[0] = np.nan
    arrays[_first(arrays)] = Array(values)


def _turn(arrays: dict[str, Any]) -> None:
    arrays[_first(arrays)] = Array(arrays[_first(arrays)].numpy()[None])


def _garble(arrays: dict[str, Any]) -> None:
    whole = arrays[_first(arrays)]
    arrays[_first(arrays)] = Array(whole.dtype, whole.shape, whole.stype, whole.data[:-3])


def _metrics(**values: Any) -> Callable[[Message], Sequence[Message]]:
    def script(message: Message) -> Sequence[Message]:
        content = shifted("b", message)
        metrics = {**content.metric_records["metrics"], **values}
        content.metric_records["metrics"] = MetricRecord(metrics)
        return [answer(message, content)]

    return script


def _raises(message: Message) -> Sequence[Message]:
    asked = message.metadata
    metadata = Metadata(1, "r", 2, 1, asked.message_id, "", 0.0, 60.0, "train")
    return [Message(Error(1, "row 7 said something"), metadata=metadata)]


def _gives(content: RecordDict) -> Callable[[Message], Sequence[Message]]:
    return lambda message: [answer(message, content)]


MISBEHAVIOUR: dict[str, tuple[Callable[[Message], Sequence[Message]], Reason]] = {
    "raises": (_raises, Reason.FAILED),
    "no rows": (_gives(protocol.pack_reason(Reason.NO_ROWS)), Reason.NO_ROWS),
    "no memory": (_gives(protocol.pack_reason(Reason.OUT_OF_MEMORY)), Reason.OUT_OF_MEMORY),
    "nothing": (_gives(RecordDict()), Reason.UNREADABLE),
    "text": (_gives(RecordDict({"status": ConfigRecord({"reason": "hi"})})), Reason.UNREADABLE),
    "NaN": (_changed(_poison), Reason.NOT_FINITE),
    "wrong names": (_changed(lambda a: a.update(more=a[_first(a)])), Reason.WRONG_NAMES),
    "missing name": (_changed(lambda a: a.pop(_first(a))), Reason.WRONG_NAMES),
    "wrong shapes": (_changed(_turn), Reason.WRONG_SHAPES),
    "cut bytes": (_changed(_garble), Reason.UNREADABLE),
    "weightless": (_metrics(**{WEIGHT: 0.0}), Reason.BAD_WEIGHT),
    "other metrics": (_metrics(secret=1.0), Reason.BAD_METRICS),
    "no reply": (lambda message: [], Reason.NO_REPLY),
}


def misbehaving(script: Callable[[Message], Sequence[Message]], *who: str) -> ScriptedGrid:
    return ScriptedGrid(lambda name, m: script(m) if name in who else honest(name, m))


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_round_goes_on_without_a_misbehaving_client(
    name: str, folder: RunFolder, tiny: LanguageModel
) -> None:
    script, reason = MISBEHAVIOUR[name]
    run_rounds(PLAN, tools(folder, tiny, misbehaving(script, "b")))
    assert shift_after(folder, tiny) == pytest.approx((1 * 1 + 4 * -2) / 5, abs=1e-6)
    assert record(folder)["set_aside"] == {"b": reason.value}
    assert sorted(record(folder)["clients"]) == ["a", "c"]
    aside = [e for e in folder.events() if e["event"] == "client-set-aside"]
    assert [(e["round"], e["client"], e["reason"]) for e in aside] == [(1, "b", reason.value)]
    assert "said something" not in (folder.path / "events.jsonl").read_text()


def test_too_few_usable_updates_end_the_run(folder: RunFolder, tiny: LanguageModel) -> None:
    def script(name: str, message: Message) -> Sequence[Message]:
        if name == "a":
            return _raises_from(1, message)
        return [] if name == "b" else honest(name, message)

    def _raises_from(node: int, message: Message) -> Sequence[Message]:
        return [answer(message, protocol.pack_reason(Reason.NO_ROWS), node)]

    plan = dataclasses.replace(PLAN, min_clients=2)
    with pytest.raises(FederationError) as caught:
        run_rounds(plan, tools(folder, tiny, ScriptedGrid(script)))
    assert caught.value.message == (
        "round 1: 1 of 3 updates are usable, the recipe needs 2"
        " (a: no-rows-left, b: no-reply-in-time)"
    )
    assert caught.value.hint == "the clients' logs are in the run folder under clients/"
    assert folder.rounds() == []
    assert (folder.pending(1) / "c.safetensors").is_file()
    # once the clients are back the round is finished, and what was kept is not asked for again
    grid = ScriptedGrid(honest)
    run_rounds(plan, tools(folder, tiny, grid))
    assert sorted(m.metadata.dst_node_id for m in grid.asked) == [1, 2]
    assert shift_after(folder, tiny) == pytest.approx(5 / 8, abs=1e-6)


def test_deadline_ends_the_waiting(folder: RunFolder, tiny: LanguageModel) -> None:
    began = time.monotonic()
    run_rounds(PLAN, tools(folder, tiny, misbehaving(lambda m: [], "a", "b")))
    assert 0.2 <= time.monotonic() - began < 5
    assert record(folder)["set_aside"] == {"a": "no-reply-in-time", "b": "no-reply-in-time"}
    waiting = [e["clients"] for e in folder.events() if e["event"] == "waiting"]
    assert waiting
    assert all(names == ["a", "b"] for names in waiting)


class OneByOne(ScriptedGrid):
    """A grid whose replies come in one a look, in the order of the names."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        assert wanted, "nothing is open"
        found = [m for m in self.inbox if m.metadata.reply_to_message_id in wanted][:1]
        self.inbox = [m for m in self.inbox if m not in found]
        return found


def test_a_round_closes_at_its_quorum_and_counts_what_comes_later(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    grid = OneByOne(honest)
    plan = dataclasses.replace(PLAN, rounds=2, timeout=0, quorum=2)
    run_rounds(plan, tools(folder, tiny, grid, late=LateReplies(grid)))
    # (1 * 1 + 3 * 4) / 4 in each round; c's two replies come when the rounds are over
    assert shift_after(folder, tiny, 1) == pytest.approx(13 / 4, abs=1e-6)
    assert shift_after(folder, tiny, 2) == pytest.approx(13 / 2, abs=1e-5)
    for number in (1, 2):
        assert record(folder, number)["set_aside"] == {"c": "no-reply-in-time"}
        assert record(folder, number)["late_replies"] == 1
    assert grid.inbox == []


def test_only_usable_updates_make_a_quorum(folder: RunFolder, tiny: LanguageModel) -> None:
    grid = OneByOne(lambda name, m: MISBEHAVIOUR["NaN"][0](m) if name == "a" else honest(name, m))
    run_rounds(dataclasses.replace(PLAN, timeout=60, quorum=2), tools(folder, tiny, grid))
    assert record(folder)["set_aside"] == {"a": "values-not-finite"}
    assert sorted(record(folder)["clients"]) == ["b", "c"]


def test_what_came_in_the_same_look_is_not_thrown_away(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    plan = dataclasses.replace(PLAN, quorum=1)
    run_rounds(plan, tools(folder, tiny, ScriptedGrid(honest)))
    assert shift_after(folder, tiny) == pytest.approx(5 / 8, abs=1e-6)


def test_a_deadline_ends_a_round_below_its_quorum(folder: RunFolder, tiny: LanguageModel) -> None:
    grid = misbehaving(lambda m: [], "a", "b")
    run_rounds(dataclasses.replace(PLAN, quorum=2), tools(folder, tiny, grid))
    assert sorted(record(folder)["clients"]) == ["c"]


def test_kept_updates_count_for_the_quorum(folder: RunFolder, tiny: LanguageModel) -> None:
    """A run that was killed when its quorum was in asks nobody when it goes on."""
    for name in ("a", "c"):
        moved = {key: value + SHIFT[name] for key, value in start(tiny).items()}
        save_pending(folder, 1, name, protocol.Update(moved, {WEIGHT: ROWS[name]}), Cost())
    grid = ScriptedGrid(honest)
    run_rounds(dataclasses.replace(PLAN, quorum=2), tools(folder, tiny, grid))
    assert grid.asked == []
    assert record(folder)["set_aside"] == {"b": "no-reply-in-time"}
    assert shift_after(folder, tiny) == pytest.approx((1 * 1 + 4 * -2) / 5, abs=1e-6)


def test_reply_of_an_earlier_round_is_not_taken(folder: RunFolder, tiny: LanguageModel) -> None:
    late: list[Message] = []

    def script(name: str, message: Message) -> Sequence[Message]:
        if name != "b":
            return honest(name, message)
        if message.content["task"]["round"] == 1:
            late.extend(honest("b", message))
            return []
        return late

    run_rounds(dataclasses.replace(PLAN, rounds=2), tools(folder, tiny, ScriptedGrid(script)))
    assert record(folder, 1)["set_aside"] == {"b": "no-reply-in-time"}
    assert record(folder, 2)["set_aside"] == {"b": "no-reply-in-time"}


def test_only_the_first_reply_counts(folder: RunFolder, tiny: LanguageModel) -> None:
    def script(name: str, message: Message) -> Sequence[Message]:
        more = [answer(message, shifted(name, message, by=100))] if name == "b" else []
        return [*honest(name, message), *more]

    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(script)))
    assert shift_after(folder, tiny) == pytest.approx(5 / 8, abs=1e-6)
    assert kinds(folder).count("client-finished") == 3


def test_reply_in_another_clients_name_is_ignored(folder: RunFolder, tiny: LanguageModel) -> None:
    def script(name: str, message: Message) -> Sequence[Message]:
        forged = [
            answer(message, shifted(name, message, by=100), node) for node in (99, 1) if name == "b"
        ]
        return [*forged, *honest(name, message)]

    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(script)))
    assert shift_after(folder, tiny) == pytest.approx(5 / 8, abs=1e-6)
    assert record(folder)["set_aside"] == {}


def test_message_that_cannot_be_sent_is_a_missing_reply(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    class Refusing(ScriptedGrid):
        """As Flower's own grid: no id for a message that the SuperLink did not take."""

        def push_messages(self, messages: Iterable[Message]) -> Iterable[Any]:
            taken = list(messages)
            ids = list(super().push_messages([m for m in taken if m.metadata.dst_node_id != 2]))
            return [None if m.metadata.dst_node_id == 2 else ids.pop(0) for m in taken]

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            assert all(isinstance(id_, str) for id_ in message_ids)
            return super().pull_messages(message_ids)

    plan = dataclasses.replace(PLAN, timeout=0)
    run_rounds(plan, tools(folder, tiny, Refusing(honest)))
    assert record(folder)["set_aside"] == {"b": "no-reply-in-time"}


def test_local_client_that_failed_at_first_begins_later(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    def script(name: str, message: Message) -> Sequence[Message]:
        if name == "b" and message.content["task"]["round"] == 1:
            return _raises(message)
        return honest(name, message)

    plan = dataclasses.replace(PLAN, rounds=2, local=True)
    grid = ScriptedGrid(script)
    run_rounds(plan, tools(folder, tiny, grid))
    saved = folder.round_folder(2) / "adapters"
    assert sorted(f.name for f in saved.iterdir()) == ["a", "b", "c"]
    first = start(tiny)
    for name, rounds in (("a", 2), ("b", 1), ("c", 2)):
        found = read_adapter(saved / name)
        for key in first:
            assert torch.allclose(found[key], first[key] + rounds * SHIFT[name], atol=1e-5)
    assert folder.read_json("evaluations/0002/metrics.json")["held_out_loss"] == 3.0  # 3 adapters


# --- sampling -------------------------------------------------------------------------------------


def test_sampling_is_seeded_and_fair() -> None:
    names = [f"c{n:02d}" for n in range(10)]
    chosen = [tuple(sample_clients(names, 3, 0, number)) for number in range(1, 61)]
    assert chosen == [tuple(sample_clients(names[::-1], 3, 0, n)) for n in range(1, 61)]
    assert chosen != [tuple(sample_clients(names, 3, 1, n)) for n in range(1, 61)]
    assert len(set(chosen)) > 30
    for sample in chosen:
        assert len(set(sample)) == 3
        assert list(sample) == sorted(sample)
    counts = {name: sum(name in sample for sample in chosen) for name in names}
    assert min(counts.values()) >= 6  # 18 expected
    assert max(counts.values()) <= 32
    assert sample_clients(names, 10, 0, 1) == names


def test_sampled_clients_are_asked(folder: RunFolder, tiny: LanguageModel) -> None:
    grid = ScriptedGrid(honest)
    plan = dataclasses.replace(PLAN, rounds=4, sampled=1)
    run_rounds(plan, tools(folder, tiny, grid))
    asked = [message.metadata.dst_node_id for message in grid.asked]
    wanted = [NODES[sample_clients(list(NODES), 1, PLAN.seed, n)[0]] for n in (1, 2, 3, 4)]
    assert asked == wanted


# --- real clients ---------------------------------------------------------------------------------


@pytest.fixture
def settings(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Recipe]:
    monkeypatch.setenv("FEDRAI_CACHE", str(fill_cache(tmp_path / "cache")))
    file = write_recipe(tmp_path, tiny_model)
    return lambda *overrides: recipe.load(file, overrides)


def execute(
    given: Recipe, tiny: LanguageModel, path: Path, **changes: Any
) -> tuple[RunFolder, preparation.PreparedRun]:
    prepared = dataclasses.replace(local.prepare(given, loaded=tiny), **changes)
    run = RunFolder.create(path, recipe.to_toml(given), prepared.info())
    local.execute(prepared, run, preparation.Callbacks())
    return run, prepared


def trained(
    prepared: preparation.PreparedRun, name: str, number: int, begin: Mapping[str, torch.Tensor]
) -> AdapterState:
    """What a client's local training gives, by the local loop itself."""
    given = prepared.recipe
    local = preparation.sft_settings(given, len(prepared.rows[name]))
    adapter, _ = train(
        prepared.model,
        dict(begin),
        prepared.rows[name],
        SftSettings(
            steps=local.steps,
            batch_size=given.training.batch_size,
            learning_rate=local.learning_rate,
            first_step=(number - 1) * local.steps,
            clip_norm=given.training.clip_norm,
            proximal_mu=local.proximal_mu,
        ),
        seed=given.seed_for("training", number, name),
    )
    return adapter


def fresh(prepared: preparation.PreparedRun) -> AdapterState:
    return prepared.model.fresh_adapter(prepared.recipe.seed_for("adapter"))


def test_federation_is_local_training_and_a_mean_by_rows(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    given = settings("data.partition.scheme=power-law", "federation.rounds=2", "evaluation.every=0")
    run, prepared = execute(given, tiny, tmp_path / "run")
    sizes = {name: len(rows) for name, rows in prepared.rows.items()}
    assert sum(sizes.values()) == 25
    assert len(set(sizes.values())) == 3
    assert record(run)["weight_cap"] == 0  # the server divided the rows itself
    current = fresh(prepared)
    for number in (1, 2):
        names = sample_clients(list(sizes), 2, given.seed, number)
        metrics = record(run, number)["clients"]
        assert {n: m[WEIGHT] for n, m in metrics.items()} == {n: sizes[n] for n in names}
        parts = {name: trained(prepared, name, number, current) for name in names}
        total = sum(sizes[name] for name in names)
        found = read_adapter(run.round_folder(number) / "adapter")
        for key in current:
            mean = sum(parts[n][key].double() * sizes[n] for n in names) / total
            assert torch.allclose(found[key].double(), mean, rtol=1e-5, atol=1e-7)
        assert any(not torch.allclose(found[k], current[k], atol=1e-4) for k in current)
        for name in names:
            moved = update_norm(current, parts[name])
            assert record(run, number)["update_norms"][name] == pytest.approx(moved, rel=1e-6)
            assert metrics[name]["steps"] == 3
        current = found


def test_same_recipe_gives_the_same_bits_and_another_seed_others(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    def bits(name: str, *overrides: str) -> bytes:
        given = settings("federation.rounds=1", "evaluation.advbench=0", *overrides)
        run, _ = execute(given, tiny, tmp_path / name)
        return (run.round_folder(1) / "adapter" / "adapter_model.safetensors").read_bytes()

    assert bits("one") == bits("two") != bits("three", "seed=8")


def test_local_mode_trains_each_client_alone(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    given = settings("federation.mode=local", "federation.rounds=2", "evaluation.every=0")
    run, prepared = execute(given, tiny, tmp_path / "run")
    for name in ("client-01", "client-02", "client-03"):
        wanted = fresh(prepared)
        for number in (1, 2):
            wanted = trained(prepared, name, number, wanted)
            found = read_adapter(run.round_folder(number) / "adapters" / name)
            assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert not (run.round_folder(2) / "adapter").exists()
    lines = (run.evaluation_folder(2) / "advbench.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 6  # the answers of all three models
    assert len((run.evaluation_folder(0) / "advbench.jsonl").read_text().splitlines()) == 6


def test_centralised_mode_pools_the_rows_and_the_steps(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    given = settings("federation.mode=centralised", "federation.rounds=1", "evaluation.every=0")
    run, prepared = execute(given, tiny, tmp_path / "run")
    assert {name: len(rows) for name, rows in prepared.rows.items()} == {"pooled": 25}
    metrics = record(run)["clients"]["pooled"]
    assert (metrics["steps"], metrics[WEIGHT]) == (2 * 3, 25)
    found = read_adapter(run.round_folder(1) / "adapter")
    wanted = trained(prepared, "pooled", 1, fresh(prepared))
    assert all(torch.allclose(found[key], wanted[key], rtol=1e-6, atol=1e-8) for key in wanted)


def test_epochs_give_each_client_steps_for_its_rows(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    """Each client goes through the schedule in its own steps, in every round."""
    given = settings(
        "federation.mode=local", "federation.rounds=2", "evaluation.every=0",
        "data.partition.scheme=power-law", "training.local_epochs=1.5",
        "training.warmup_steps=1",
    )  # fmt: skip
    run, prepared = execute(given, tiny, tmp_path / "run")
    sizes = {name: len(rows) for name, rows in prepared.rows.items()}
    steps = {7: 3, 6: 2, 5: 2, 14: 5, 13: 5, 12: 5, 4: 2, 8: 3}  # 1.5 * rows / 4, rounded
    assert len({steps[size] for size in sizes.values()}) > 1
    for name in sizes:
        wanted = fresh(prepared)
        for number in (1, 2):
            wanted = trained(prepared, name, number, wanted)
            assert record(run, number)["clients"][name]["steps"] == steps[sizes[name]]
        found = read_adapter(run.round_folder(2) / "adapters" / name)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("more", [(), ("training.local_epochs=0.5",)])
def test_the_steps_of_a_run_are_known_before_it_starts(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path, more: tuple[str, ...]
) -> None:
    class Counts(Observer):
        planned: tuple[int, int] = (0, 0)
        steps = 0

        def plan(self, total_steps: int, done_steps: int, summary: Summary) -> None:
            self.planned = total_steps, done_steps

        def step(self, client: str, step: TrainingStep) -> None:
            self.steps += 1

    counts = Counts()
    given = settings("evaluation.advbench=0", "data.partition.scheme=power-law", *more)
    running.run(given, tmp_path / "run", loaded=tiny, observer=counts)
    assert counts.planned == (counts.steps, 0)
    assert counts.steps == 18 if not more else 6 <= counts.steps < 18


def test_a_robust_rule_has_nothing_to_choose_from_in_one_place(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    """The baseline of a recipe with Krum is the one of the same recipe without."""
    pooled = ("federation.mode=centralised", "federation.rounds=1", "evaluation.advbench=0")
    bits = []
    for name, more in (("plain", ()), ("krum", ("aggregation.algorithm=krum",))):
        run, _ = execute(settings(*pooled, *more), tiny, tmp_path / name)
        file = run.round_folder(1) / "adapter" / "adapter_model.safetensors"
        bits.append(file.read_bytes())
    assert bits[0] == bits[1]


def test_fedprox_holds_clients_near_the_global_adapter(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    def run(name: str, *overrides: str) -> tuple[bytes, float]:
        given = settings(
            "federation.rounds=1", "evaluation.advbench=0", "training.local_steps=6", *overrides
        )
        folder, _ = execute(given, tiny, tmp_path / name)
        norms = record(folder)["update_norms"].values()
        file = folder.round_folder(1) / "adapter" / "adapter_model.safetensors"
        return file.read_bytes(), sum(norms)

    plain = run("plain")
    prox = ("aggregation.algorithm=fedprox",)
    assert run("none", *prox, "aggregation.proximal_mu=0") == plain
    weak = run("weak", *prox, "aggregation.proximal_mu=0.01")
    strong = run("strong", *prox, "aggregation.proximal_mu=10")
    assert weak[0] != plain[0]
    assert strong[1] < 0.9 * plain[1]


def test_in_one_process_nobody_is_late_for_a_quorum(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    given = settings("federation.rounds=1", "federation.quorum=1", "evaluation.advbench=0")
    assert preparation.plan_for(given, 3).quorum == 1
    run, _ = execute(given, tiny, tmp_path / "run")
    assert len(record(run)["clients"]) == 2
    assert record(run)["set_aside"] == {}


def test_a_run_whose_clients_tell_nothing_but_their_rows(
    folder: RunFolder, settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    """Summary, display, tracker and report do with the number of rows alone."""

    def script(name: str, message: Message) -> Sequence[Message]:
        content = shifted(name, message)
        kept = {"c": {"seconds": 2.0}}.get(name, {})
        content.metric_records["metrics"] = MetricRecord({WEIGHT: ROWS[name], **kept})
        return [answer(message, content)]

    prepared = local.prepare(settings("evaluation.advbench=0"), loaded=tiny)
    given = settings("filter.mode=drop")
    info = dataclasses.replace(prepared, recipe=given, rows={}, engine="flower").info()
    run = RunFolder.create(tmp_path / "told", recipe.to_toml(given), info)
    heard = io.StringIO()
    with Display(heard) as display:
        display.plan(12, 0, Summary("run", "unfinished", 0, 1, 0))
        run_rounds(PLAN, tools(run, tiny, ScriptedGrid(script), emit=display.event))
    assert heard.getvalue().count("loss not reported  ? tokens/s") == 3
    found = summarise(run)
    assert found.filter is not None
    assert (found.rows, found.clients, found.filter.total) == (8, 3, None)
    assert found.costs["training"].seconds == 2.0
    assert found.unreported_costs == ("seconds", "tokens", "operations", "peak-bytes")
    assert "without the seconds, tokens, operations, peak-bytes" in cost_line(found)
    assert found.training_loss == (RoundLoss(1, None),)
    assert filter_note(found) == "filter (drop): the nodes report no counts"
    cells = dict(zip(LIST_COLUMNS[1:], list_row(found), strict=True))
    assert (cells["harmful rows"], cells["filter"]) == ("0 of 8", "drop")
    numbers = round_figures(record(run))
    # all weights moved by -2; the server measures that itself, whatever a client tells
    weights = sum(p.numel() for p in tiny.parameters.values())
    assert numbers["client/c/update_norm"] == pytest.approx(2 * weights**0.5, rel=1e-6)
    page = report.build([run.path], tmp_path / "report.html")
    assert f"{2 * weights**0.5:.3f}" in page.read_text()


def test_client_without_rows_takes_no_part(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    given = settings(
        "federation.rounds=1", "federation.clients_per_round=3", "evaluation.advbench=0"
    )
    rows = dict(local.prepare(given, loaded=tiny).rows)
    run, _ = execute(given, tiny, tmp_path / "run", rows=rows | {"client-02": []})
    assert record(run)["set_aside"] == {"client-02": "no-rows-left"}
    assert sorted(record(run)["clients"]) == ["client-01", "client-03"]


class Place:
    """A site whose every part can be made to fail."""

    def __init__(self, model: LanguageModel, error: Exception | None = None) -> None:
        self.model, self.error = model, error
        self.lines: list[str] = []

    def name(self, context: Context) -> str:
        return str(context.node_config["client"])

    def rows(self, client: str) -> Sequence[Tokens]:
        if self.error is not None and client == "b":
            raise self.error
        return [Tokens((1, 5, 6, 2), (False, False, True, True))]

    def row_counts(self, client: str) -> Mapping[str, int]:
        return {}

    def seed(self, round_: int, client: str) -> int:
        return 0

    def on_step(self, client: str, step: TrainingStep) -> None:
        pass

    def log(self, client: str, line: str) -> None:
        self.lines.append(f"{client}: {line}")


LOCAL = SftSettings(steps=2, batch_size=1, learning_rate=lambda step: 0.01)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("my secret"), Reason.FAILED),
        (MemoryError("my secret"), Reason.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("my secret"), Reason.OUT_OF_MEMORY),
    ],
)
def test_failing_client_says_why_and_keeps_the_rest(
    error: Exception, reason: Reason, folder: RunFolder, tiny: LanguageModel
) -> None:
    place = Place(tiny, error)
    patient = dataclasses.replace(PLAN, timeout=60)  # every client answers, on a busy machine too
    run_rounds(
        patient, tools(folder, tiny, LocalGrid(client.build_app(place, lambda _: LOCAL, 9), NODES))
    )
    assert record(folder)["set_aside"] == {"b": reason.value}
    assert len(place.lines) == 1
    assert place.lines[0].startswith(f"b: {type(error).__name__} at test_server.py:")
    written = "".join(f.read_text() for f in folder.path.rglob("*.json*"))
    assert "secret" not in written + place.lines[0]


def test_a_client_whose_log_is_full_still_says_why(
    folder: RunFolder, settings: Callable[..., Recipe], tiny: LanguageModel
) -> None:
    (folder.path / "clients").mkdir()
    (folder.path / "clients" / "client-01.log").symlink_to("/dev/full")
    heard: list[tuple[str, dict[str, Any]]] = []
    prepared = local.prepare(settings("evaluation.advbench=0"), loaded=tiny)
    prepared = dataclasses.replace(prepared, rows={"client-01": []})
    watch = preparation.Callbacks(event=lambda kind, **fields: heard.append((kind, fields)))
    site = local.site(prepared, folder, watch)
    grid = LocalGrid(client.build_app(site, lambda _: LOCAL, 9), {"client-01": 1})
    message = Message(protocol.pack_task(1, start(tiny)), 1, "train")
    (reply,) = grid.send_and_receive([message])
    assert protocol.read_reply(reply, {}) is Reason.NO_ROWS
    ((kind, fields),) = heard
    assert (kind, fields["client"]) == ("client-log-lost", "client-01")
    assert "No space left on device" in fields["why"]


def test_client_that_cannot_use_the_task_says_so(tiny: LanguageModel) -> None:
    place = Place(tiny)
    grid = LocalGrid(client.build_app(place, lambda _: LOCAL, 9), NODES)
    cut = dict(list(start(tiny).items())[1:])
    message = Message(protocol.pack_task(1, cut), 1, "train")
    expected = {name: tuple(p.shape) for name, p in tiny.parameters.items()}
    (reply,) = grid.send_and_receive([message])
    assert protocol.read_reply(reply, expected) is Reason.BAD_TASK
    assert place.lines[0].startswith("a: ProtocolError at arrays.py:")


def test_app_that_raises_is_an_error_without_text(tiny: LanguageModel) -> None:
    class Nameless(Place):
        def name(self, context: Context) -> str:
            raise RuntimeError("my secret")

    grid = LocalGrid(client.build_app(Nameless(tiny), lambda _: LOCAL, 9), NODES)
    message = Message(protocol.pack_task(1, start(tiny)), 2, "train")
    (reply,) = grid.send_and_receive([message])
    assert reply.error.reason == "client-app-raised"
    assert reply.metadata.src_node_id == 2
    assert protocol.read_reply(reply, {}) is Reason.FAILED


def test_evaluations_and_their_copies(
    folder: RunFolder, tmp_path: Path, tiny: LanguageModel
) -> None:
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest)))
    other = RunFolder.create(tmp_path / "other", "", {})
    copy_evaluation(folder, other, 0)
    assert other.evaluations() == [0]
    copied = json.loads(other.metrics_file(0).read_text())
    assert copied == {**json.loads(folder.metrics_file(0).read_text()), "costs": {}}
    copy_evaluation(folder, other, 0)
    copy_evaluation(folder, other, 7)
    assert [e["event"] for e in other.events()] == ["evaluation-shared"]
    assert other.events()[0]["source"] == "run"
    asked: list[int] = []
    given = tools(
        other,
        tiny,
        ScriptedGrid(honest),
        evaluate=lambda adapters: asked.append(1) or EvaluationResult({}, None, 0, Ledger()),
    )
    run_rounds(PLAN, given)
    assert asked == [1]  # after round 1; the base model is not asked again


def test_adapters_of_a_run_can_be_loaded_by_round(folder: RunFolder, tiny: LanguageModel) -> None:
    run_rounds(dataclasses.replace(PLAN, rounds=2), tools(folder, tiny, ScriptedGrid(honest)))
    for number in (0, 1, 2):
        found = load_adapters(folder, tiny, PLAN, number)
        assert list(found) == [GLOBAL]
        moved = found[GLOBAL][next(iter(found[GLOBAL]))] - start(tiny)[next(iter(found[GLOBAL]))]
        assert float(moved.mean()) == pytest.approx(number * 5 / 8, abs=1e-5)


# --- vetting --------------------------------------------------------------------------------------


def vetting(action: str, suspicious: Sequence[str] = ("b",)) -> Any:
    """A vetting that finds these clients, whatever they send."""

    def vet(_number: int, _start: AdapterState, updates: Mapping[str, Any]) -> RoundVerdict:
        found = {
            name: ClientVerdict({"s": 1.0}, 0.5, name in suspicious, False, "it looks so")
            for name in sorted(updates)
        }
        return RoundVerdict(found, action, 0.02, 0.5, Cost(operations=7.0), {})

    return vet


def test_a_client_set_aside_by_vetting_does_not_count(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest), vet=vetting("set-aside")))
    assert shift_after(folder, tiny) == pytest.approx((1 * 1 + 4 * -2) / 5, abs=1e-6)
    body = record(folder)
    assert (body["usable"], body["set_aside"]) == (2, {})
    assert body["vetting"]["set_aside"] == {"b": "it looks so"}
    assert set(body["clients"]) == set(body["update_norms"]) == {"a", "b", "c"}
    assert body["costs"]["vetting"]["operations"] == 7
    assert kinds(folder).count("client-suspicious") == 1


def test_a_client_that_weighs_less_keeps_its_numbers(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest), vet=vetting("weigh")))
    # half of b's three rows: (1 * 1 + 1.5 * 4 + 4 * -2) / 6.5
    assert shift_after(folder, tiny) == pytest.approx(-1 / 6.5, abs=1e-6)
    body = record(folder)
    assert body["clients"]["b"][WEIGHT] == 3
    assert body["capped"] == {}


def test_recording_alone_changes_nothing(folder: RunFolder, tiny: LanguageModel) -> None:
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest), vet=vetting("record")))
    assert shift_after(folder, tiny) == pytest.approx(5 / 8, abs=1e-6)
    assert record(folder)["vetting"]["suspicious"] == {"b": "it looks so"}


def test_vetting_leaves_the_fewest_clients_or_fails(folder: RunFolder, tiny: LanguageModel) -> None:
    plan = dataclasses.replace(PLAN, min_clients=2)
    with pytest.raises(FederationError) as error:
        run_rounds(plan, tools(folder, tiny, ScriptedGrid(honest), vet=vetting("set-aside", "bc")))
    assert error.value.message == (
        "round 1: vetting leaves 1 of 3 updates, the recipe needs 2 (b: it looks so; c: it looks"
        " so)"
    )
    assert folder.last_round() == 0
