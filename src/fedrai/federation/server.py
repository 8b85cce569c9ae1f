"""The round loop: sample, send, validate, aggregate, align, commit, evaluate; one for all runtimes.

Each step leaves the run folder in a state from which `run_rounds` resumes to the same bits: replies
are kept as they arrive, an alignment keeps its own state, a round is committed whole, and what a
folder already holds is not done again. A repeated round aggregates the kept updates again, from the
server state of the round before, and so gives the alignment the same adapter; if a client that was
set aside replies now, the adapter differs, and the alignment starts over.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict

from fedrai.constitution.outcome import Aligned, brief
from fedrai.errors import FederationError
from fedrai.evaluation.figures import figures
from fedrai.evaluation.records import EvaluationResult
from fedrai.evaluation.storing import write_evaluation
from fedrai.federation import protocol, round_record
from fedrai.federation.aggregation import Aggregator
from fedrai.federation.aggregation.norms import update_norm
from fedrai.federation.clients import Clients
from fedrai.federation.defences import Defend
from fedrai.federation.plan import GLOBAL, Adapters, Plan, load_adapters
from fedrai.federation.privacy.guarantee import Guarantee
from fedrai.federation.protocol import Reason, Update
from fedrai.federation.shared_round import FROM, EarlierRuns, SharedRound, server_state
from fedrai.federation.vetting.verdicts import RoundVerdict
from fedrai.model import AdapterState, LanguageModel
from fedrai.model.parts import ALL, Part, Shapes
from fedrai.recipe.sections import seed_for
from fedrai.runs import RunFolder
from fedrai.runs.costs import Ledger
from fedrai.runs.files import json_text, save_tensors, write_text

Emit = Callable[..., None]
Align = Callable[[int, AdapterState, Path], Aligned]
"""Aligns the aggregated adapter of a round; may keep in the folder what it needs to resume."""

Vet = Callable[[int, AdapterState, Mapping[str, Update]], RoundVerdict]
"""Looks at the updates of a round, which started from the adapter, before they are aggregated."""

SPENT_HINT = (
    "the model of the round before is complete and evaluated; for more rounds start a new run with"
    " more noise or a higher privacy.epsilon"
)
COST = ("epsilon", "delta", "releases", "noise", "secret")
"""What of a round's record on privacy is told at once."""

Made = tuple[Adapters, Mapping[str, Any], Mapping[str, Any]]
"""A round before its alignment: its adapters, its part of `round.json`, the figures to tell."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the round loop works with.

    Attributes:
        clients: who takes part, and how they are reached.
        model: the base model, for evaluation and for the adapter's names and shapes.
        aggregator: the arithmetic.
        evaluate: measures the model with the adapters that it is given.
        run: the run folder.
        emit: is told of every event (kind, fields).
        vet: looks at the updates before they are aggregated; None: nothing does.
        defend: changes the aggregated adapter before it is aligned; None: nothing does.
        align: aligns the aggregated adapter; None: it goes to the clients as it is.
        earlier: runs that may have trained the same rounds already; None: there are none.
        privacy: adds noise to the updates, and counts what that costs; None: there is no noise.
    """

    clients: Clients
    model: LanguageModel
    aggregator: Aggregator
    evaluate: Callable[[Sequence[AdapterState]], EvaluationResult]
    run: RunFolder
    emit: Emit
    vet: Vet | None = None
    defend: Defend | None = None
    align: Align | None = None
    earlier: EarlierRuns | None = None
    privacy: Guarantee | None = None


def run_rounds(plan: Plan, tools: Tools) -> None:
    """Go from the run folder's last round to the end.

    Raises:
        FederationError: a round has too few usable updates, or the recipe's epsilon allows no more.
        RunError: the run folder cannot be written or read.
    """
    last = tools.run.last_round()
    adapters = load_adapters(tools.run, tools.model, plan, last)
    if last:
        tools.aggregator.restore(server_state(tools.run, last))
    for number in range(last):  # only those that were damaged are missing
        _evaluate_if_due(plan, tools, number)
    _evaluate_if_due(plan, tools, last, adapters)
    for number in range(last + 1, plan.rounds + 1):
        one = _Round(plan, tools, number, adapters)
        if why := one.too_costly():
            _evaluate_if_due(plan, tools, number - 1, adapters, is_last=True)
            raise FederationError(why, hint=SPENT_HINT)
        adapters = one.run()
        _evaluate_if_due(plan, tools, number, adapters)
    tools.emit("finished", rounds=plan.rounds)


def sample_clients(names: Sequence[str], count: int, seed: int, number: int) -> list[str]:
    """The clients of a round: a seeded sample without replacement, sorted by name."""
    return sorted(random.Random(seed_for(seed, "sampling", number)).sample(sorted(names), count))


class _Round:
    """One round: from the adapters before it to those after it, which it commits."""

    def __init__(self, plan: Plan, tools: Tools, number: int, adapters: Adapters) -> None:
        self._plan, self._tools, self._number, self._given = plan, tools, number, adapters
        self._before, self._packed = _as_received(adapters, plan)
        self._ledger = Ledger()
        self._updates: dict[str, Update] = {}
        self._aside: dict[str, Reason] = {}
        self._starts: dict[int, AdapterState] = {}  # by rank, of clients that train a part
        self._nodes: Mapping[str, int] = {}

    def run(self) -> Adapters:
        """Run the round and commit it.

        Raises:
            FederationError: too few updates are usable.
        """
        shared = self._shared()
        adapters, record, figures = self._take(shared) if shared else self._make()
        adapters, report = self._align(adapters)
        if self._tools.clients.late is not None:
            report["late_replies"] = self._tools.clients.late.count()
        self._commit(adapters, {**record, **report})
        self._emit("round-finished", **figures)
        return adapters

    def too_costly(self) -> str:
        """Why the privacy budget does not allow the round; empty: it does."""
        privacy = self._tools.privacy
        if privacy is None:
            return ""
        return privacy.exceeded(self._number, self._sampled(), len(self._present()))

    def _present(self) -> Mapping[str, int]:
        """Flower's node ids of the clients that are present, by name."""
        self._nodes = self._nodes or self._tools.clients.nodes(self._number)
        return self._nodes

    def _sampled(self) -> list[str]:
        """The clients of the round."""
        plan, nodes, privacy = self._plan, self._present(), self._tools.privacy
        seed = plan.seed if privacy is None else privacy.sampling_seed(plan.seed)
        return sample_clients(list(nodes), min(plan.sampled, len(nodes)), seed, self._number)

    def _shared(self) -> SharedRound | None:
        """The same round of another run, unless this run has begun to train it."""
        tools = self._tools
        if tools.earlier is None or any(tools.run.pending(self._number).glob("*.safetensors")):
            return None
        return tools.earlier.round(self._number, self._given, tools.aggregator.state())

    def _take(self, shared: SharedRound) -> Made:
        """Take over another run's round with its record and its costs."""
        self._ledger.merge(Ledger(shared.costs))
        self._tools.aggregator.restore(shared.state)
        if self._tools.privacy is not None:
            self._tools.privacy.take(self._number, shared.record)
        self._emit("round-shared", source=shared.source, **shared.sizes)
        return shared.adapters, {**shared.record, FROM: shared.source}, shared.figures

    def _make(self) -> Made:
        """Have the clients train, and aggregate their updates."""
        self._gather()
        cap, by, verdict = self._plan.weight_cap, self._plan.weights, self._vet()
        aside, factors = (verdict.aside, verdict.factors) if verdict else ({}, {})
        used = {name: u for name, u in self._updates.items() if name not in aside}
        capped = round_record.weighted(used, cap, by)
        for name, counts in round_record.capped_weights(used, capped, by).items():
            self._emit("weight-capped", client=name, **counts)
        weighted = round_record.multiplied(capped, factors)
        with self._ledger.measure("aggregation"):
            norms = {
                name: update_norm(self._start(name), update.adapter)
                for name, update in self._updates.items()
            }
            limited, limits = self._limit_norms(weighted, {name: norms[name] for name in used})
            updates, privacy = self._noised(limited)
            adapters = self._aggregate(updates)
            error = self._aggregation_error(updates, adapters)
        adapters, change = self._defend(adapters)
        clients = round_record.clients_record(self._updates, capped, self._aside, norms, cap, by)
        figures = round_record.round_figures(weighted, self._aside)
        vetting = {"vetting": verdict.to_json()} if verdict else {}
        record = {**clients, **figures, **limits, **vetting, **error, **change, **privacy}
        return adapters, self._published(record), figures

    def _noised(self, updates: Mapping[str, Update]) -> tuple[Mapping[str, Update], dict[str, Any]]:
        """What is aggregated, with noise if the recipe wants it, and its part of the record."""
        privacy = self._tools.privacy
        if privacy is None:
            return updates, {}
        start, part = self._before[GLOBAL], self._part("")
        trained = [name for name in start if part.trains(name)]
        noised, record = privacy.noised(start, updates, trained), privacy.record(len(updates))
        self._emit("privacy-accounted", **{key: record[key] for key in COST})
        return noised, {"privacy": record}

    def _published(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record without numbers of single clients that carry no noise."""
        privacy = self._tools.privacy
        if privacy is None or not privacy.withholds:
            return record
        norms = {} if privacy.hides else record["update_norms"]
        clients: dict[str, Any] = {name: {} for name in record["clients"]}
        return {**record, "clients": clients, "update_norms": norms}

    def _vet(self) -> RoundVerdict | None:
        """The verdict on the updates; None: nobody looks at them.

        Raises:
            FederationError: too few updates are left.
        """
        if self._tools.vet is None:
            return None
        verdict = self._tools.vet(self._number, self._before[GLOBAL], self._updates)
        self._ledger.add("vetting", verdict.cost)
        for name, reason in verdict.suspicious.items():
            self._emit("client-suspicious", client=name, action=verdict.action, reason=reason)
        self._check_left(verdict)
        return verdict

    def _check_left(self, verdict: RoundVerdict) -> None:
        """Raise if fewer updates than `min_clients` are left after vetting."""
        left = len(self._updates) - len(verdict.aside)
        if left < self._plan.min_clients:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in verdict.aside.items())
            raise FederationError(
                f"round {self._number}: vetting leaves {left} of {len(self._updates)} updates, the"
                f" recipe needs {self._plan.min_clients} ({reasons})",
                hint='look at these clients; or start a new run with vetting.action = "weigh" or'
                ' "record", or a lower federation.min_clients',
            )

    def _limit_norms(
        self, updates: Mapping[str, Update], norms: Mapping[str, float]
    ) -> tuple[Mapping[str, Update], dict[str, Any]]:
        """Updates within the limit on their norms, and its part of the round's record."""
        cap = self._plan.norm_cap
        if not cap:
            return updates, {}
        capped = round_record.capped_norms(norms, cap)
        for name, lengths in capped.items():
            self._emit("norm-capped", client=name, **lengths)
        shorter = round_record.shortened(updates, capped, self._start)
        return shorter, {"norm_cap": cap, "norm_capped": capped}

    def _emit(self, kind: str, **fields: Any) -> None:
        self._tools.emit(kind, round=self._number, **fields)

    def _gather(self) -> None:
        """Collect the updates: those of an interrupted try first, then replies as they arrive."""
        plan, nodes, names = self._plan, self._present(), self._sampled()
        if self._tools.privacy is not None:
            self._tools.privacy.begin(self._number, names, len(nodes))
        self._emit("round-started", clients=names)
        for name, (update, cost) in round_record.pending(self._tools.run, self._number, names):
            self._ledger.add("training", cost)
            self._updates[name] = update
            self._emit("client-kept", client=name)
        self._train({name: nodes[name] for name in names if name not in self._updates})
        for name in [n for n in names if n not in self._updates and n not in self._aside]:
            self._set_aside(name, Reason.NO_REPLY)
        if len(self._updates) < plan.min_clients:
            reasons = ", ".join(f"{n}: {reason.value}" for n, reason in sorted(self._aside.items()))
            raise FederationError(
                f"round {self._number}: {len(self._updates)} of {len(names)} updates are usable,"
                f" the recipe needs {plan.min_clients} ({reasons})",
                hint="the clients' logs are in the run folder under clients/",
            )

    def _train(self, nodes: Mapping[str, int]) -> None:
        """Have clients train, and collect their updates until the round closes."""
        if self._is_closed():
            return
        tools, timeout = self._tools, self._plan.timeout
        messages = {
            name: tools.clients.message(self._task(name), node, self._number, timeout)
            for name, node in nodes.items()
        }
        shapes = protocol.shapes_of(tools.model.parameters)
        for name, message in tools.clients.exchange(
            messages, timeout, self._is_closed, lambda names: tools.emit("waiting", clients=names)
        ):
            reply = self._read(name, message, shapes)
            down = protocol.payload_bytes(messages[name].content)
            up = protocol.payload_bytes(message.content) if message.has_content() else 0
            cost = round_record.cost_of(reply, down=down, up=up)
            self._ledger.add("training", cost)
            if isinstance(reply, Reason):
                self._set_aside(name, reply)
                continue
            self._updates[name] = reply
            round_record.save_pending(tools.run, self._number, name, reply, cost)
            self._emit("client-finished", client=name, **round_record.event_fields(reply.metrics))

    def _task(self, name: str) -> RecordDict:
        """The content of the message that asks a client to train."""
        start, variates = self._start(name), self._tools.aggregator.variates
        common = None if variates is None else variates.common(start)
        counted = 0 if variates is None else variates.counted(name)
        offer, part = self._tools.clients.offer, self._part(name)
        return protocol.pack_task(self._number, start, offer, common, counted, part, self._packed)

    def _read(self, name: str, message: Message, shapes: Shapes) -> Update | Reason:
        """A client's reply, with the whole adapter where it sent a part."""
        plan, part, start = self._plan, self._part(name), self._start(name)
        sent, received = part.sent_shapes(shapes), part.sent(start)
        reply = protocol.read_reply(message, sent, plan.needed, plan.up, received)
        if isinstance(reply, Reason):
            return reply
        return replace(reply, adapter=part.filled(reply.adapter, start))

    def _part(self, name: str) -> Part:
        """What of the adapter a client trains."""
        return ALL if self._plan.local else self._tools.aggregator.part(self._number, name)

    def _is_closed(self) -> bool:
        return 0 < self._plan.quorum <= len(self._updates)

    def _set_aside(self, name: str, reason: Reason) -> None:
        self._aside[name] = reason
        self._emit("client-set-aside", client=name, reason=reason.value)

    def _start(self, name: str) -> AdapterState:
        """The adapter that a client starts from; a fresh one if it has none yet (local mode)."""
        adapter = self._before.get(name, self._before.get(GLOBAL))
        if adapter is None:
            return load_adapters(self._tools.run, self._tools.model, self._plan, 0)[GLOBAL]
        rank = self._part(name).rank
        if rank and rank not in self._starts:
            self._starts[rank] = self._tools.aggregator.start(adapter, self._part(name))
        return self._starts[rank] if rank else adapter

    def _aggregate(self, updates: Mapping[str, Update]) -> Adapters:
        if self._plan.local:
            own = {name: update.adapter for name, update in updates.items()}
            return {**{n: a for n, a in self._before.items() if n != GLOBAL}, **own}
        aggregator, start = self._tools.aggregator, self._before[GLOBAL]
        return {GLOBAL: aggregator.aggregate(self._number, start, updates)}

    def _aggregation_error(
        self, updates: Mapping[str, Update], adapters: Adapters
    ) -> dict[str, Any]:
        """How far the aggregate is from the mean of products, for the round's record."""
        privacy = self._tools.privacy  # on the mean, the error would be that of its noise
        if self._plan.local or (privacy and privacy.settings.noise == "server"):
            return {}
        start, result = self._before[GLOBAL], adapters[GLOBAL]
        error = self._tools.aggregator.error(result, start, updates)
        if error is None:
            return {}
        self._emit("aggregation-finished", **error)
        return {"aggregation_error": error}

    def _defend(self, adapters: Adapters) -> tuple[Adapters, dict[str, Any]]:
        """The adapters after the defences, and how far they moved the aggregated one."""
        if self._tools.defend is None:
            return adapters, {}
        with self._ledger.measure("defence"):
            done = self._tools.defend(self._number, self._before[GLOBAL], adapters[GLOBAL])
        self._ledger.add("defence", done.cost)
        norm = update_norm(adapters[GLOBAL], done.adapter)
        self._emit("defence-finished", norm=norm, steps=[dict(step) for step in done.steps])
        report = {"defence_norm": norm, "defence": [dict(step) for step in done.steps]}
        return {GLOBAL: done.adapter}, report

    def _align(self, adapters: Adapters) -> tuple[Adapters, dict[str, Any]]:
        """The adapters after the alignment, and its part of the round's record."""
        if self._tools.align is None:
            return adapters, {}
        folder = self._tools.run.alignment_state(self._number, adapters[GLOBAL])
        outcome = self._tools.align(self._number, adapters[GLOBAL], folder)
        self._ledger.add("constitution", outcome.cost)
        if outcome.ran:
            self._emit("constitution-finished", **brief(outcome.report))
        else:
            self._emit("constitution-skipped", why=outcome.report["why"])
        return {GLOBAL: outcome.adapter}, {"constitution": dict(outcome.report)}

    def _commit(self, adapters: Adapters, body: Mapping[str, Any]) -> None:
        state = self._tools.aggregator.state()
        record = {"round": self._number, **body, "costs": self._ledger.to_json()}

        def write(folder: Path) -> None:
            for name, adapter in adapters.items():
                place = folder / "adapter" if name == GLOBAL else folder / "adapters" / name
                self._tools.model.save_adapter(place, adapter)
            if state:
                save_tensors(folder / "server.safetensors", state, {})
            write_text(folder / "round.json", json_text(record))

        self._tools.run.commit_round(self._number, write)


def _as_received(adapters: Adapters, plan: Plan) -> tuple[Adapters, ArrayRecord | None]:
    """The adapters as clients have them, and the arrays of their messages.

    Where these lose something, all that the round computes is relative to what clients received.
    """
    if not plan.down.is_lossy:
        return adapters, None
    whole = adapters[GLOBAL]
    arrays = protocol.pack_adapter(whole, plan.down)
    shapes = protocol.shapes_of(whole)
    return {GLOBAL: protocol.unpack_adapter(arrays, shapes, plan.down)}, arrays


def _evaluate_if_due(
    plan: Plan, tools: Tools, number: int, after: Adapters | None = None, *, is_last: bool = False
) -> None:
    """Evaluate the adapters after a round, which are read unless they are given."""
    regular = is_last or (plan.evaluate_every and number % plan.evaluate_every == 0)
    if not (number in (0, plan.rounds) or regular) or number in tools.run.evaluations():
        return
    adapters = after or load_adapters(tools.run, tools.model, plan, number)
    if tools.earlier is not None and tools.earlier.copy_evaluation(number, adapters):
        return
    tools.emit("evaluation-started", round=number)
    result = tools.evaluate([adapters[name] for name in sorted(adapters)])
    write_evaluation(tools.run, tools.run.evaluation_folder(number), result)
    tools.emit("evaluation-finished", round=number, **figures(result))
