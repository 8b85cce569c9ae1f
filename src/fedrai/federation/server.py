"""The round loop: sample, send, check, aggregate, align, commit, evaluate; one for all runtimes.

Clients are reached through `flwr.serverapp.Grid` only. Each step leaves the run folder in a state
from which `run_rounds` goes on to the same bits: replies are kept as they come in, an alignment
keeps its own state, a round is committed whole, and what a folder already holds is not done again.
A round that is done again aggregates the kept updates anew, from the server state of the round
before, and so gives the alignment the same adapter to go on with; if a client that was set aside
replies now, it is another adapter, and the alignment starts over.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrai.constitution.outcome import Aligned, brief
from fedrai.errors import FederationError
from fedrai.evaluation.measure import EvaluationResult, figures
from fedrai.evaluation.storing import write_evaluation
from fedrai.federation import protocol
from fedrai.federation.aggregation import Aggregator, update_norm
from fedrai.federation.defences import Defend
from fedrai.federation.plan import GLOBAL, Adapters, Plan, load_adapters
from fedrai.federation.protocol import Reason, Update
from fedrai.federation.round_record import (
    cost_of,
    counted,
    cut,
    keep,
    kept,
    replied,
    round_figures,
    shown,
)
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.sections import seed_for
from fedrai.runs import RunFolder
from fedrai.runs.costs import Ledger
from fedrai.runs.files import json_text, load_tensors, save_tensors, write_text

POLL = 1.0  # seconds between looks for replies that are not there yet
FOR_EVER = 30 * 86400.0  # seconds that Flower keeps the messages of a round without a deadline
SLACK = 86400.0  # seconds after a deadline that it keeps them, so that late replies can be counted

Emit = Callable[..., None]
Align = Callable[[int, AdapterState, Path], Aligned]
"""Aligns the aggregated adapter of a round; may keep in the folder what it needs to go on."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the round loop works with.

    Attributes:
        grid: reaches the clients.
        nodes: Flower's node id by client name.
        model: the base model, for evaluation and for the adapter's names and shapes.
        aggregator: the arithmetic.
        evaluate: measures the model with the adapter that it is given.
        run: the run folder.
        emit: hears of every event (kind, fields).
        defend: changes the aggregated adapter before it is aligned; None: nothing does.
        align: aligns the aggregated adapter; None: it goes to the clients as it is.
        present: tells who is there at the start of a round; None: `nodes`, always.
        offer: what the recipe asks of clients, for those that do not share its process.
        late: hears of messages without a reply when their round closed; None: nobody counts them.
    """

    grid: Grid
    nodes: Mapping[str, int]
    model: LanguageModel
    aggregator: Aggregator
    evaluate: Callable[[Sequence[AdapterState]], EvaluationResult]
    run: RunFolder
    emit: Emit
    defend: Defend | None = None
    align: Align | None = None
    present: Callable[[int], Mapping[str, int]] | None = None
    offer: str = ""
    late: Late | None = None


class Late(Protocol):
    """Counts replies that come after their round."""

    def missed(self, message_ids: Collection[str]) -> None:
        """Hear of messages whose round is over."""

    def count(self) -> int:
        """How many of them have been replied to since the last call; the replies are dropped."""


def run_rounds(plan: Plan, tools: Tools) -> None:
    """Go from wherever the run folder stands to its end.

    Raises:
        FederationError: a round has too few usable updates.
        RunError: the run folder cannot be written or read.
    """
    done = tools.run.last_round()
    adapters = load_adapters(tools.run, tools.model, plan, done)
    if done:
        tools.aggregator.restore(_server_state(tools.run, done))
    for number in range(done):  # those that were damaged; others are there
        _evaluate_if_due(plan, tools, number)
    _evaluate_if_due(plan, tools, done, adapters)
    for number in range(done + 1, plan.rounds + 1):
        adapters = _round(plan, tools, number, adapters)
        _evaluate_if_due(plan, tools, number, adapters)
    tools.emit("finished", rounds=plan.rounds)


def sample_clients(names: Sequence[str], count: int, seed: int, number: int) -> list[str]:
    """The clients of a round: a seeded sample without replacement, sorted by name."""
    chosen = random.Random(seed_for(seed, "sampling", number)).sample(sorted(names), count)
    return sorted(chosen)


def _round(plan: Plan, tools: Tools, number: int, adapters: Adapters) -> Adapters:
    tools = tools if tools.present is None else replace(tools, nodes=tools.present(number))
    count = min(plan.sampled, len(tools.nodes))
    names = sample_clients(list(tools.nodes), count, plan.seed, number)
    tools.emit("round-started", round=number, clients=names)
    ledger = Ledger()
    updates: dict[str, Update] = {}
    aside: dict[str, Reason] = {}
    for name, reply in _replies(plan, tools, number, names, adapters, ledger):
        if isinstance(reply, Update):
            updates[name] = reply
        else:
            aside[name] = reply
            tools.emit("client-set-aside", round=number, client=name, reason=reply.value)
    if len(updates) < plan.min_clients:
        reasons = ", ".join(f"{name}: {aside[name].value}" for name in sorted(aside))
        raise FederationError(
            f"round {number}: {len(updates)} of {len(names)} updates are usable, the recipe needs"
            f" {plan.min_clients} ({reasons})",
            hint="the clients' logs are in the run folder under clients/",
        )
    means = counted(updates, plan.weight_cap)
    for name, limited in cut(updates, means).items():
        tools.emit("weight-capped", round=number, client=name, **limited)
    with ledger.measure("aggregation"):
        fresh = _combine(plan, tools, number, adapters, means)
        norms = _norms(plan, tools, adapters, updates)
        fresh, change = _defended(tools, number, adapters, fresh)
    fresh, report = _aligned(tools, number, fresh, ledger)
    if tools.late is not None:
        report["late_replies"] = tools.late.count()
    clients = replied(updates, means, aside, norms, plan.weight_cap)
    _commit(tools, number, fresh, {**clients, **change, **report}, ledger)
    tools.emit("round-finished", round=number, **round_figures(means, aside))
    return fresh


def _norms(
    plan: Plan, tools: Tools, adapters: Adapters, updates: Mapping[str, Update]
) -> dict[str, float]:
    """How far each client moved the adapter that it was sent."""
    return {
        name: update_norm(_start(plan, tools, adapters, name), update.adapter)
        for name, update in updates.items()
    }


def _combine(
    plan: Plan, tools: Tools, number: int, adapters: Adapters, updates: Mapping[str, Update]
) -> Adapters:
    if plan.local:
        mine = {name: update.adapter for name, update in updates.items()}
        return {**{n: a for n, a in adapters.items() if n != GLOBAL}, **mine}
    return {GLOBAL: tools.aggregator.aggregate(number, adapters[GLOBAL], updates)}


def _defended(
    tools: Tools, number: int, adapters: Adapters, fresh: Adapters
) -> tuple[Adapters, dict[str, Any]]:
    """The adapters after the defence, and how far it moved the aggregated one."""
    if tools.defend is None:
        return fresh, {}
    adapter = tools.defend(number, adapters[GLOBAL], fresh[GLOBAL])
    return {GLOBAL: adapter}, {"defence_norm": update_norm(fresh[GLOBAL], adapter)}


def _aligned(
    tools: Tools, number: int, adapters: Adapters, ledger: Ledger
) -> tuple[Adapters, dict[str, Any]]:
    """The adapters after the alignment, and what the round's record says of it."""
    if tools.align is None:
        return adapters, {}
    work = tools.run.alignment_work(number, adapters[GLOBAL])
    outcome = tools.align(number, adapters[GLOBAL], work)
    ledger.add("constitution", outcome.cost)
    if outcome.ran:
        tools.emit("constitution-finished", round=number, **brief(outcome.report))
    else:
        tools.emit("constitution-skipped", round=number, why=outcome.report["why"])
    return {GLOBAL: outcome.adapter}, {"constitution": dict(outcome.report)}


def _replies(
    plan: Plan,
    tools: Tools,
    number: int,
    names: Sequence[str],
    adapters: Adapters,
    ledger: Ledger,
) -> Iterator[tuple[str, Update | Reason]]:
    """Replies as they come in, kept ones of an interrupted try first."""
    earlier = kept(tools.run, number, names)
    usable = len(earlier)
    for name, (update, spent) in earlier.items():
        ledger.add("training", spent)
        tools.emit("client-kept", round=number, client=name)
        yield name, update

    def closed() -> bool:
        return 0 < plan.quorum <= usable

    expected = protocol.shapes_of(tools.model.parameters)
    waiting: dict[int, str] = {}
    messages = []
    for name in [name for name in names if name not in earlier]:
        waiting[tools.nodes[name]] = name
        if closed():
            continue
        first = (number - 1) * plan.steps_per_round
        begin = _start(plan, tools, adapters, name)
        content = protocol.pack_task(number, first, begin, tools.offer)
        messages.append(_message(content, tools.nodes[name], number, plan.timeout))
    for message, answer in _pull(tools, messages, plan.timeout, waiting, closed):
        name = waiting.pop(message.metadata.dst_node_id, "")
        if not name:
            continue  # a second reply
        reply = protocol.read_reply(answer, expected)
        up = protocol.payload_bytes(answer.content) if answer.has_content() else 0
        cost = cost_of(reply, down=protocol.payload_bytes(message.content), up=up)
        ledger.add("training", cost)
        if isinstance(reply, Update):
            usable += 1
            keep(tools.run, number, name, reply, cost)
            tools.emit("client-finished", round=number, client=name, **shown(reply.metrics))
        yield name, reply
    for name in sorted(waiting.values()):
        yield name, Reason.NO_REPLY


def _start(plan: Plan, tools: Tools, adapters: Adapters, name: str) -> AdapterState:
    """What a client goes on from; a fresh adapter if it has none of its own yet (local mode)."""
    found = adapters.get(name, adapters.get(GLOBAL))
    return load_adapters(tools.run, tools.model, plan, 0)[GLOBAL] if found is None else found


def _message(content: RecordDict, node: int, number: int, timeout: float) -> Message:
    keep = timeout + SLACK if timeout else FOR_EVER
    return Message(content, node, MessageType.TRAIN, group_id=str(number), ttl=keep)


def _pull(
    tools: Tools,
    messages: Sequence[Message],
    timeout: float,
    waiting: Mapping[int, str],
    closed: Callable[[], bool],
) -> Iterator[tuple[Message, Message]]:
    """Send messages and yield (message, reply) as they come in, until closed or the deadline."""
    grid = tools.grid
    sent = {id_: m for m in messages for id_ in grid.push_messages([m]) if id_}  # one a request
    open_ids = set(sent)
    deadline = time.monotonic() + timeout if timeout else float("inf")
    while open_ids and not closed() and time.monotonic() < deadline:
        replies = list(grid.pull_messages(open_ids))
        for reply in replies:
            id_ = reply.metadata.reply_to_message_id
            asked = sent.get(id_)
            if asked is None or not _from_asked(asked, reply):
                continue
            open_ids.discard(id_)
            yield asked, reply
        if not replies:
            tools.emit("waiting", clients=sorted(waiting.values()))
            time.sleep(POLL)
    if tools.late is not None:
        tools.late.missed(open_ids)


def _from_asked(asked: Message, reply: Message) -> bool:
    """Whether a reply is the client's that was asked, or Flower's word that there will be none."""
    source = reply.metadata.src_node_id
    gone = reply.has_error() and source == protocol.SUPERLINK
    return gone or bool(source == asked.metadata.dst_node_id)


def _commit(
    tools: Tools,
    number: int,
    adapters: Adapters,
    found: Mapping[str, Any],
    ledger: Ledger,
) -> None:
    state = tools.aggregator.state()
    record = {"round": number, **found, "costs": ledger.to_json()}

    def write(folder: Path) -> None:
        for name, adapter in adapters.items():
            target = folder / "adapter" if name == GLOBAL else folder / "adapters" / name
            tools.model.save_adapter(target, adapter)
        if state:
            save_tensors(folder / "server.safetensors", state, {})
        write_text(folder / "round.json", json_text(record))

    tools.run.commit_round(number, write)


def _server_state(run: RunFolder, number: int) -> dict[str, Any]:
    file = run.round_folder(number) / "server.safetensors"
    return dict(load_tensors(file)[0]) if file.is_file() else {}


def _evaluate_if_due(plan: Plan, tools: Tools, number: int, after: Adapters | None = None) -> None:
    """Evaluate the adapters after a round, which are read if they are not at hand."""
    regular = plan.evaluate_every and number % plan.evaluate_every == 0
    if not (number in (0, plan.rounds) or regular) or number in tools.run.evaluations():
        return
    adapters = after or load_adapters(tools.run, tools.model, plan, number)
    tools.emit("evaluation-started", round=number)
    measured = tools.evaluate([adapters[name] for name in sorted(adapters)])
    write_evaluation(tools.run, tools.run.evaluation_folder(number), measured)
    tools.emit("evaluation-finished", round=number, **figures(measured))
