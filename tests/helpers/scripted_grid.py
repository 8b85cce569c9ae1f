"""A Flower Grid that answers as a test scripts it, and what tests of the round loop share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid

from fedrai.evaluation.records import EvaluationResult
from fedrai.federation.aggregation import build
from fedrai.federation.clients import Clients, LateReplies
from fedrai.federation.flower_internals import set_message_id, set_task_identity
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.plan import Plan
from fedrai.federation.round import Tools
from fedrai.model import AdapterState, LanguageModel, read_adapter
from fedrai.recipe.sections import seed_for
from fedrai.runs import RunFolder
from fedrai.runs.costs import Ledger

NODES = {"a": 1, "b": 2, "c": 3}
PLAN = Plan(
    seed=5,
    rounds=1,
    sampled=3,
    min_clients=1,
    timeout=0.2,
    local=False,
    evaluate_every=0,
)
Script = Callable[[str, Message], Sequence[Message]]


class ScriptedGrid(Grid):
    """Clients whose replies are written down in advance.

    Args:
        script: the replies to a message, by client name and message.
        turned: whether replies arrive in the opposite order.
    """

    def __init__(
        self, script: Script, *, turned: bool = False, nodes: Mapping[str, int] | None = None
    ) -> None:
        set_task_identity(1, 1, 1)
        self.script, self.turned = script, turned
        self.names = {node: name for name, node in (nodes or NODES).items()}
        self.asked: list[Message] = []
        self.inbox: list[Message] = []

    def set_run(self, run: object) -> None:
        raise AssertionError("the round loop does not set a run")

    @property
    def run(self) -> None:
        return None

    def create_message(self, *args: Any, **fields: Any) -> Message:
        raise AssertionError("Flower gave this up")

    def get_node_ids(self) -> Iterable[int]:
        return list(NODES.values())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            self.asked.append(message)
            set_message_id(message, f"m{len(self.asked)}")
            self.inbox += self.script(self.names[message.metadata.dst_node_id], message)
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        assert list(message_ids), "nothing is open"
        found, self.inbox = self.inbox, []
        return found[::-1] if self.turned else found

    def send_and_receive(self, *args: Any, **fields: Any) -> Iterable[Message]:
        raise AssertionError("the round loop pushes and pulls")


SHIFT = {"a": 1.0, "b": 4.0, "c": -2.0}
ROWS = {"a": 1, "b": 3, "c": 4}


def answer(message: Message, content: RecordDict, node: int | None = None) -> Message:
    asked = message.metadata
    source = asked.dst_node_id if node is None else node
    return Message(
        content,
        metadata=Metadata(1, "r", source, 1, asked.message_id, asked.group_id, 0.0, 60.0, "train"),
    )


def shifted(name: str, message: Message, by: float = 0.0) -> RecordDict:
    ((key, whole),) = message.content.array_records["adapter"].items()
    arrays = ArrayRecord({key: Array(whole.numpy() + np.float32(SHIFT[name]) + np.float32(by))})
    numbers = MetricRecord({WEIGHT: ROWS[name], "tokens": 1, "seconds": 0.5})
    return RecordDict({"adapter": arrays, "metrics": numbers})


def honest(name: str, message: Message) -> Sequence[Message]:
    return [answer(message, shifted(name, message))]


def tools(
    folder: RunFolder,
    model: LanguageModel,
    grid: Grid,
    nodes: Mapping[str, int] = NODES,
    late: LateReplies | None = None,
    **changes: Any,
) -> Tools:
    fields: dict[str, Any] = {
        "clients": Clients(grid, lambda _: nodes, late=late),
        "model": model,
        "aggregator": build("fedavg"),
        "evaluate": lambda adapters: EvaluationResult({}, float(len(adapters)), 1, Ledger()),
        "run": folder,
        "emit": folder.event,
    }
    return Tools(**(fields | changes))


def start(model: LanguageModel) -> AdapterState:
    return model.fresh_adapter(seed_for(PLAN.seed, "adapter"))


def shift_after(folder: RunFolder, model: LanguageModel, number: int = 1) -> float:
    """By how much all weights of the global adapter have moved; the same for every one of them."""
    found = read_adapter(folder.round_folder(number) / "adapter")
    first = start(model)
    moved = torch.cat([(found[name] - first[name]).flatten() for name in first])
    assert moved.max() - moved.min() < 1e-5
    return float(moved.mean())


def record(folder: RunFolder, number: int = 1) -> dict[str, Any]:
    return folder.read_json(f"rounds/{number:04d}/round.json")


def kinds(folder: RunFolder) -> list[str]:
    return [event["event"] for event in folder.events()]
