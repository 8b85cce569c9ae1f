"""The client: Flower handlers around the local loop.

A handler reads the task, trains, and replies with numbers. If anything fails, it replies with a
reason from the list in `protocol.py`; details go to the client's own log, without the text of an
exception, which may contain a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrai.errors import DataError, GuardError, ModelError, ProtocolError, place_of
from fedrai.federation import protocol
from fedrai.federation.metrics import PAIRS, WEIGHT
from fedrai.federation.privacy.on_client import Protect
from fedrai.federation.protocol import Reason
from fedrai.federation.uplink import Uplink
from fedrai.federation.variates import OwnVariate, of_task
from fedrai.model import AdapterState, LanguageModel
from fedrai.records import PreferenceResult, TrainingRow, TrainingStep, TrainResult
from fedrai.runs import costs
from fedrai.training.local import split, train
from fedrai.training.pair_settings import PairSettings
from fedrai.training.sft import SftSettings

PLAIN = Uplink()


class Site(Protocol):
    """A client's own model, rows and log."""

    @property
    def model(self) -> LanguageModel:
        """The base model with an adapter."""

    def name(self, context: Context) -> str:
        """The client's name."""

    def rows(self, client: str) -> Sequence[TrainingRow]:
        """The client's tokenized rows, each answer with at least one label token."""

    def row_counts(self, client: str) -> Mapping[str, int]:
        """Counts of filtered and unusable rows, by the names in `metrics.RANGES`."""

    def seed(self, round_: int, client: str) -> int:
        """The seed of a round's local training."""

    def on_step(self, client: str, step: TrainingStep) -> None:
        """Called after each step; may raise KeyboardInterrupt to stop."""

    def log(self, client: str, line: str) -> None:
        """Keep a line in the client's own log."""


Train = Callable[..., tuple[AdapterState, TrainResult]]
"""Trains as `training.local.train` does, with its arguments."""

SettingsFor = Callable[[int], SftSettings]
"""The settings of the local training of a client with so many answers."""
PairSettingsFor = Callable[[int], PairSettings]
"""The settings of the preference tuning of a client with so many pairs."""
Reply = tuple[AdapterState, Mapping[str, float]]
"""The adapter that a client sends, and its numbers."""
TrainOn = Callable[[Sequence[TrainingRow], int], Reply]
"""Local training on rows with a seed."""
Act = Callable[[str, protocol.Task, TrainOn], Reply | None]
"""What a malicious client of an experiment replies to a task; None: it is honest in this round."""


def build_app(
    site: Site,
    settings_for: SettingsFor,
    rounds: int,
    training: Train | None = None,
    act: Act | None = None,
    variates: Callable[[str], Path] | None = None,
    pairs_for: PairSettingsFor | None = None,
    protect: Protect | None = None,
    uplink: Uplink = PLAIN,
) -> ClientApp:
    """The ClientApp of a site.

    Args:
        site: the client's model, rows and log.
        settings_for: settings of local training, by the client's number of answers.
        rounds: number of rounds; tasks of later rounds are refused.
        training: carries out a local training; None: `training.local.train`.
        act: replies of malicious clients, for experiments; None: all clients are honest.
        variates: the folder of a client's control variates; None: the rule has none.
        pairs_for: settings of preference tuning, by the client's number of pairs; None: clients
            have no pairs.
        protect: adds noise to an update and withholds numbers; None: all is sent as it is.
        uplink: how adapters are written.
    """
    app = ClientApp()
    handler = _Handler(
        site, settings_for, rounds, training or train, act, variates, pairs_for, protect, uplink
    )

    @app.train()  # type: ignore[untyped-decorator]
    def _train(message: Message, context: Context) -> Message:
        client = site.name(context)
        return respond(
            message,
            lambda: handler.reply(client, message),
            lambda line: site.log(client, line),
        )

    return app


class RefusedTaskError(Exception):
    """The client refuses a task; only the reason is sent."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def respond(
    message: Message, handler: Callable[[], RecordDict], log: Callable[[str], None]
) -> Message:
    """The reply to a message: the handler's content, or the reason why there is none.

    Args:
        message: the server's.
        handler: makes the content of the reply; its exceptions stay on the client.
        log: keeps a line in the client's own log.
    """
    try:
        content = handler()
    except Exception as error:
        log(describe(error))
        content = protocol.pack_reason(_reason(error))
    return Message(content, reply_to=message)


@dataclass(frozen=True, slots=True)
class _Handler:
    """Replies to tasks; the fields are the arguments of `build_app`."""

    site: Site
    settings_for: SettingsFor
    rounds: int
    training: Train
    act: Act | None
    variates: Callable[[str], Path] | None
    pairs_for: PairSettingsFor | None
    protect: Protect | None
    uplink: Uplink

    def reply(self, client: str, message: Message) -> RecordDict:
        """The content of a client's reply."""
        site, shapes = self.site, protocol.shapes_of(self.site.model.parameters)
        has_variate = self.variates is not None
        task = protocol.unpack_task(message.content, shapes, has_variate, self.uplink.down)
        if not 1 <= task.round <= self.rounds:
            raise RefusedTaskError(Reason.TOO_MANY_ROUNDS)
        own, reply = self._variate(client, task), None
        if self.act is not None:
            train_on = partial(self._train, client, task, own, is_defended=False)
            reply = self.act(client, task, train_on)
        rows, seed = site.rows(client), site.seed(task.round, client)
        adapter, numbers = reply or self._train(client, task, own, rows, seed)
        numbers = {**numbers, **site.row_counts(client)}
        stated = int(numbers[WEIGHT])
        if self.protect is not None and reply is None:  # a malicious client sends what it likes
            adapter, numbers = self.protect(client, task, adapter, numbers)
        adapter, arrays = self.uplink.pack(client, task, adapter)
        if own is not None:
            counts = (0, stated) if split(rows)[1] else (stated, 0)  # they are of one kind
            own.keep(adapter, self._settings(task, *counts).rate_sum)
        return protocol.pack_update(task.part.sent(adapter), numbers, arrays)

    def _train(
        self,
        client: str,
        task: protocol.Task,
        own: OwnVariate | None,
        rows: Sequence[TrainingRow],
        seed: int,
        *,
        is_defended: bool = True,
    ) -> Reply:
        """Train from the task's adapter; a malicious client leaves the recipe's defence out.

        Args:
            client: its name.
            task: the round's.
            own: its control variate; None: the rule has none.
            rows: the rows to train on.
            seed: of the training.
            is_defended: whether the recipe's defence is applied.

        Raises:
            RefusedTaskError: there are no rows.
        """
        if not rows:
            raise RefusedTaskError(Reason.NO_ROWS)
        answers, pairs = split(rows)
        settings = self._settings(task, len(answers), len(pairs))
        if not is_defended:
            settings = replace(settings, defence=None)
        if own is not None:
            settings = replace(settings, correction=own.correction)
        costs.reset_peak()
        adapter, result = self.training(
            self.site.model,
            task.adapter,
            rows,
            settings,
            seed=seed,
            on_step=lambda step: self.site.on_step(client, step),
        )
        numbers = _metrics(len(rows), result)
        if result.preference is not None:
            numbers |= _preference_metrics(len(pairs), result.preference)
        return adapter, numbers

    def _settings(self, task: protocol.Task, answers: int, pairs: int) -> SftSettings:
        """The settings of a round's local training of a client with so many rows."""
        settings, part, before = self.settings_for(answers), task.part, task.round - 1
        first_step = before * settings.steps
        settings = replace(settings, first_step=first_step, frozen=part.frozen, rank=part.rank)
        if not pairs or self.pairs_for is None:
            return settings
        goal = self.pairs_for(pairs)
        goal = replace(goal, first_step=before * goal.steps)
        return replace(settings, steps=settings.steps if answers else 0, pairs=goal)

    def _variate(self, client: str, task: protocol.Task) -> OwnVariate | None:
        """The client's control variate; None: the rule has none.

        Raises:
            RefusedTaskError: it is lost.
        """
        if self.variates is None:
            return None
        own = of_task(self.variates(client), task)
        if own is None:
            raise RefusedTaskError(Reason.VARIATE_LOST)
        return own


def _metrics(rows: int, result: TrainResult) -> dict[str, float]:
    more = result.preference.losses if result.preference else ()
    return {
        WEIGHT: rows,
        "steps": len(result.losses) + len(more),
        "tokens": result.tokens,
        "label-tokens": result.label_tokens,
        **_ends("loss", result.losses),
        "seconds": result.seconds,
        "operations": result.operations,
        "peak-bytes": costs.peak_bytes(),
    }


def _preference_metrics(pairs: int, result: PreferenceResult) -> dict[str, float]:
    return {
        PAIRS: pairs,
        **_ends("preference-loss", result.losses),
        "reward-margin": result.margin,
        "reward-accuracy": result.accuracy,
    }


def _ends(name: str, losses: Sequence[float]) -> dict[str, float]:
    """The first, the last and the mean of some losses; none of none."""
    if not losses:
        return {}
    mean = sum(losses) / len(losses)
    return {f"{name}-first": losses[0], f"{name}-last": losses[-1], f"{name}-mean": mean}


def _reason(error: Exception) -> Reason:
    if isinstance(error, RefusedTaskError):
        return error.reason
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Reason.OUT_OF_MEMORY
    if isinstance(error, GuardError):
        return Reason.GUARD
    if isinstance(error, DataError):
        return Reason.BAD_DATA
    return Reason.BAD_TASK if isinstance(error, ProtocolError | ModelError) else Reason.FAILED


def describe(error: BaseException) -> str:
    """A refusal's reason, or the place of an error; see `errors.place_of`."""
    if isinstance(error, RefusedTaskError):
        return f"refused: {error.reason.value}"
    return place_of(error)
