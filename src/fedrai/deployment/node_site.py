"""What a node has ready for an offer: its rows, filtered and tokenized, and the base model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context

from fedrai import data
from fedrai.data.columns import unread_line
from fedrai.deployment.node_log import NodeLog
from fedrai.deployment.offer import (
    check_offer,
    check_threshold,
    needs_guard,
    read_offer,
    recipe_for,
    too_many_steps,
)
from fedrai.errors import AssetError, DataError, ModelError
from fedrai.federation.client import RefusedTaskError, describe
from fedrai.federation.metrics import BAD_ROWS, filter_metrics
from fedrai.federation.protocol import Reason
from fedrai.federation.run import preparation
from fedrai.federation.run.pair_tuning import steps_of
from fedrai.federation.run.rows import count_by_source, token_metrics, usable_rows
from fedrai.federation.run.tokenizing import tokenized
from fedrai.filter.screening import policy_of, screen_clients
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Node, Recipe
from fedrai.records import BadRow, Example, TrainingRow, TrainingStep

KEPT_RUNS = 8  # runs of SCAFFOLD whose control variates a node keeps, each as large as an adapter


@dataclass(frozen=True, slots=True)
class NodeSite:
    """What a node has ready for an offer; a `client.Site`.

    Attributes:
        node: the node's own file.
        settings: the offer as a recipe of this node alone.
        model: the base model.
        tokens: the rows that are trained on.
        counts: rows that were filtered or could not be used, as they are sent to the server.
        notes: the node's log.
        variates: folder of the node's control variates of the run; None: the rule has none.
        residuals: folder of what its messages of the run lost; None: nothing is kept.
        run: the offer's name for the run; empty: it has none.
    """

    node: Node
    settings: Recipe
    model: LanguageModel
    tokens: Sequence[TrainingRow]
    counts: Mapping[str, int]
    notes: NodeLog
    variates: Path | None = None
    residuals: Path | None = None
    run: str = ""

    def name(self, context: Context) -> str:
        """The node's name, whatever Flower's context says."""
        return self.node.name

    def rows(self, client: str) -> Sequence[TrainingRow]:
        """The node's rows."""
        return self.tokens

    def row_counts(self, client: str) -> Mapping[str, int]:
        """The counts; `node.sendable` removes those that the policy does not list."""
        return self.counts

    def seed(self, round_: int, client: str) -> int:
        """The same as in a run in one process."""
        return self.settings.seed_for("training", round_, client)

    def on_step(self, client: str, step: TrainingStep) -> None:
        """Report the progress to the operator."""
        self.notes.progress.report("training", step.step, step.steps, unit="steps")

    def log(self, client: str, line: str) -> None:
        """Keep a line in the node's log."""
        self.notes.note(line)


def load(document: str, node: Node, folder: Path, log: NodeLog) -> NodeSite:
    """Check an offer and load what it asks for.

    Args:
        document: the offer.
        node: the node's own file.
        folder: the file's folder.
        log: the node's.

    Raises:
        RefusedTaskError: the node's policy does not allow it, or the node cannot do it.
        GuardError, DataError: the filter or the rows cannot be used.
    """
    offer = read_offer(document)
    check_offer(offer, node)
    settings = recipe_for(offer, node, folder)
    lm = _model(settings, log)
    if lm.fingerprint != offer.model.fingerprint:
        raise RefusedTaskError(Reason.OTHER_MODEL)
    tokens: dict[Example, TrainingRow] = {}
    examples, bad = _examples(settings, lm, tokens, log)
    kept, filter_counts = _filter(examples, settings, node, log)
    bad += tokenized(lm, [e for e in kept if e not in tokens], settings.data, tokens)[1]
    rows = [tokens[e] for e in kept if e in tokens]
    why = f"; {data.most_common_problem(bad)}" if bad else ""
    log.note(f"ready: {len(rows)} of {len(examples)} rows after the filter, {len(bad)} not usable"
             f"{why}")  # fmt: skip
    _note_sources(examples, kept, settings, log)
    if too_many_steps(steps_of(settings, rows), node.policy):
        raise RefusedTaskError(Reason.TOO_MANY_STEPS)
    counts = {**filter_metrics(filter_counts), BAD_ROWS: len(bad)}
    counts |= token_metrics(settings, rows)
    variates = _state(folder / f"{node.name}.variates", offer.variates)
    run = offer.run if offer.messages.has_residuals else ""
    residuals = _state(folder / f"{node.name}.residuals", run)
    return NodeSite(node, settings, lm, rows, counts, log, variates, residuals, offer.run)


def _state(folder: Path, run: str) -> Path | None:
    """The folder of what the node keeps of a run, the newest; of too many the oldest goes.

    Args:
        folder: for all runs.
        run: the offer's name for it; empty: it keeps nothing.
    """
    if not run:
        return None
    place = folder / run
    place.mkdir(parents=True, exist_ok=True)
    os.utime(place)
    by_age = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in by_age[KEPT_RUNS:]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def _note_sources(
    held: Sequence[Example], kept: Sequence[Example], settings: Recipe, log: NodeLog
) -> None:
    """Note how many rows of each source the filter leaves; nothing with a single source."""
    sources = settings.data.sources
    if len(sources) < 2:
        return
    counts = count_by_source({"held": held, "kept": kept}, sources)
    parts = [f"{counts['kept'].get(n, 0)} of {held} {n}" for n, held in counts["held"].items()]
    log.note(f"rows by source: {', '.join(parts)}")


def _model(settings: Recipe, log: NodeLog) -> LanguageModel:
    log.note("loading the base model")
    try:
        return preparation.load_model(settings)
    except (AssetError, ModelError) as error:
        log.note(describe(error))
        raise RefusedTaskError(Reason.MODEL_FAILED) from None


def _examples(
    settings: Recipe, lm: LanguageModel, tokens: dict[Example, TrainingRow], log: NodeLog
) -> tuple[list[Example], list[BadRow]]:
    """The node's usable rows, in the order of its sources, and the others."""

    def note_unread(columns: Mapping[str, int]) -> None:
        if line := unread_line(columns):
            log.note(line)

    examples: list[Example] = []
    bad: list[BadRow] = []
    for source in settings.data.sources:
        try:
            usable, unusable = usable_rows(
                source,
                settings.data.on_bad_rows,
                lambda part: tokenized(lm, part, settings.data, tokens),
                note_unread,
            )
        except DataError as error:  # names rows by file and line alone
            log.note(f"{error.message}; {error.hint}" if error.hint else error.message)
            raise
        examples += usable
        bad += unusable
    return examples, bad


def _filter(
    examples: Sequence[Example], settings: Recipe, node: Node, log: NodeLog
) -> tuple[Sequence[Example], Mapping[str, int]]:
    """The rows that the filter keeps, and its counts."""
    if settings.filter.mode == "off":
        return examples, {}
    if needs_guard(settings.filter, node.policy):
        _check_threshold(settings, node, log)
    try:
        kept, outcome = screen_clients(
            settings,
            {node.name: list(examples)},
            on_client=lambda _, done, of: log.progress.report("filter", done, of, unit="judged"),
        )
    except DataError:  # no row is left; the refusals are the embedded ones
        raise RefusedTaskError(Reason.NO_ROWS) from None
    if outcome.note:
        log.note(outcome.note)
    return kept[node.name], outcome.counts.get(node.name, {})


def _check_threshold(settings: Recipe, node: Node, log: NodeLog) -> None:
    """Compare the filter's threshold with the policy's, which the guard may define."""
    from fedrai.guards.loading import load as load_guard

    filter_ = settings.filter
    try:
        guard = load_guard(filter_.guard, tables=settings.guards, device=settings.model.device)
        number = policy_of(filter_, guard).threshold
    except Exception as error:  # whatever a guard raises that was never tried here
        log.note(describe(error))
        raise RefusedTaskError(Reason.GUARD) from None
    check_threshold(number, guard.thresholds, node.policy)
