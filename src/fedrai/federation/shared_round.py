"""A round that another run has made of the same start, settings and data: it is not trained again.

Only what precedes the alignment is taken: the aggregated adapter, the clients' figures and their
costs. So a run with a constitution takes the rounds of a run without one, and aligns the last one
itself. Which runs train alike is decided in `federation.run.sharing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fedrai.assets import checksums
from fedrai.federation.plan import Adapters, Plan, load_adapters
from fedrai.federation.protocol import Reason
from fedrai.model import LanguageModel
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of, load_tensors

FROM = "shared_from"
"""The key of `round.json` that names the run which trained the round."""
FIGURES = ("usable", "aside", "loss_first", "loss_last")
OWN = ("round", "constitution", "costs", "late_replies", FROM)
"""Keys of `round.json` that a run does not take over."""


@dataclass(frozen=True, slots=True)
class SharedRound:
    """A round of another run before its alignment.

    Attributes:
        source: the run, as `round.json` names it.
        adapters: the aggregated adapter, or one for each client in local mode.
        state: the aggregator's after the round.
        record: the part of `round.json` on clients, updates and the defence.
        costs: costs of training and aggregation, by phase.
    """

    source: str
    adapters: Adapters
    state: Mapping[str, Tensor]
    record: Mapping[str, Any]
    costs: Mapping[str, Mapping[str, Any]]

    @property
    def figures(self) -> dict[str, Any]:
        """The figures of `round_record.round_figures`."""
        figures = {key: self.record.get(key) for key in FIGURES}
        tuned = self.record.get("preference")
        return figures | ({"preference": tuned} if tuned else {})

    @property
    def sizes(self) -> dict[str, Any]:
        """The clients, and the steps that they took together."""
        clients = self.record["clients"]
        return {
            "clients": sorted({*clients, *self.record["set_aside"]}),
            "steps": sum(int(metrics.get("steps", 0)) for metrics in clients.values()),
        }


class EarlierRuns(Protocol):
    """Runs of the same training, whose rounds and evaluations need not be made again."""

    def round(
        self, number: int, before: Adapters, state: Mapping[str, Tensor]
    ) -> SharedRound | None:
        """A round that was made of the same adapters and server state; None: there is none."""

    def copy_evaluation(self, number: int, after: Adapters) -> bool:
        """Copy an evaluation of the same adapters, if there is one; returns whether there was."""


def read_shared(source: RunFolder, name: str, model: LanguageModel, plan: Plan, number: int,
                before: Adapters, state: Mapping[str, Tensor]) -> SharedRound | None:  # fmt: skip
    """A round of another run that trains alike, if what it was made of is the same to the bit.

    Args:
        source: the other run.
        name: what the record calls it.
        model: the base model of both.
        plan: the plan of both.
        number: the round, from 1.
        before: the adapters before it in this run.
        state: the aggregator's before it in this run.

    Returns:
        None: it has no such round, aligned it, set a client aside for a reason that may not recur,
        or is damaged.

    Raises:
        RunError: a file cannot be read.
    """
    folder = source.round_folder(number)
    if number not in source.rounds() or checksums.changed(folder):
        return None
    body = source.read_json(f"rounds/{number:04d}/round.json")
    if body.get("constitution", {}).get("ran") or not _recurs(body):
        return None
    if not _starts_alike(source, model, plan, number - 1, before, state):
        return None
    costs = {phase: cost for phase, cost in body["costs"].items() if phase != "constitution"}
    record = {key: value for key, value in body.items() if key not in OWN}
    adapters = load_adapters(source, model, plan, number)
    return SharedRound(name, adapters, server_state(source, number), record, costs)


def _recurs(body: Mapping[str, Any]) -> bool:
    """Whether the same clients would be set aside again: those without rows always are."""
    return all(reason == Reason.NO_ROWS for reason in body.get("set_aside", {}).values())


def _starts_alike(source: RunFolder, model: LanguageModel, plan: Plan, last: int,
                  before: Adapters, state: Mapping[str, Tensor]) -> bool:  # fmt: skip
    if last and (checksums.changed(source.round_folder(last)) or last not in source.rounds()):
        return False
    same = same_bits(load_adapters(source, model, plan, last), before)
    return same and (not last or digest_of(server_state(source, last)) == digest_of(state))


def same_bits(one: Adapters, other: Adapters) -> bool:
    """Whether adapters are the same to the bit."""
    digests = ({n: digest_of(a) for n, a in adapters.items()} for adapters in (one, other))
    return next(digests) == next(digests)


def server_state(run: RunFolder, number: int) -> dict[str, Tensor]:
    """The aggregator's state after a round; empty where it keeps none.

    Raises:
        RunError, ChecksumError: it is damaged.
    """
    file = run.round_folder(number) / "server.safetensors"
    return dict(load_tensors(file)[0]) if file.is_file() else {}
