"""A whole run, whichever engine reaches the clients: start it in a new folder, or resume it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from fedrai import assets, captured_log, recipe, runs
from fedrai.errors import AssetError
from fedrai.federation.plan import Plan
from fedrai.federation.round import sample_clients
from fedrai.federation.run import damage, local, moved_files, preparation, resuming, sharing
from fedrai.federation.run.observer import SILENT, Observer
from fedrai.federation.run.pair_tuning import steps_of
from fedrai.federation.run.stopping import stoppable
from fedrai.federation.run.tracked import tracked
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder, record, tracking


class Engine(Protocol):
    """How a run reaches its clients: `federation.run.local`, or one of its kind."""

    @property
    def ENGINE(self) -> str:  # noqa: N802
        """Its name, as `--engine` takes it."""

    def prepare(
        self,
        recipe: Recipe,
        progress: assets.Progress | None,
        loaded: LanguageModel | None,
        on_judged: Callable[[str, int, int], None],
        /,
    ) -> preparation.PreparedRun:
        """Load and check what a run needs."""

    def execute(
        self, prepared: preparation.PreparedRun, run: RunFolder, callbacks: preparation.Callbacks, /
    ) -> None:
        """Run the rounds that the run folder does not hold yet."""


def run(
    settings: Recipe,
    out: Path,
    loaded: LanguageModel | None = None,
    siblings: Sequence[Path] = (),
    engine: Engine = local,
    observer: Observer = SILENT,
    trainings: Path | None = None,
) -> Path:
    """Start a run in a new folder and complete it.

    Args:
        settings: the resolved recipe.
        out: the run folder.
        loaded: a model that was loaded for the same settings.
        siblings: folders of runs that may have evaluated the same base model, or trained and
            evaluated the same rounds, already; nothing of theirs is made again.
        engine: reaches the clients.
        observer: is told of the progress.
        trainings: folder that keeps local trainings for other runs; see `kept_trainings`.

    Raises:
        FedRAIError: something cannot be used; no run folder is left half-written.
        KeyboardInterrupt: stopped by the user; the folder can be resumed.
    """
    runs.check_free(out)
    prepared = _prepare(settings, loaded, engine, observer)
    folder = RunFolder.create(out, recipe.to_toml(settings), prepared.info())
    with folder.lock(), captured_log.into(out):
        folder.event("started", command=preparation.command_line())
        sharing.share_base_evaluation(folder, siblings)
        shared = replace(prepared, siblings=siblings, trainings=trainings)
        _execute(shared, folder, engine, observer)
    return out


def _prepare(
    settings: Recipe, loaded: LanguageModel | None, engine: Engine, observer: Observer
) -> preparation.PreparedRun:
    """Load, check and filter; Ctrl-C stops at once, and verdicts so far are kept."""
    tracking.check(settings.tracking.kind)
    try:
        prepared = engine.prepare(settings, observer.downloads, loaded, observer.judged)
    except KeyboardInterrupt:
        if settings.filter.mode != "off":
            observer.event("filter-stopped")
        raise
    if prepared.screening.note:
        observer.event("filter-not-kept", why=prepared.screening.note)
    return prepared


def resume(
    path: Path,
    loaded: LanguageModel | None = None,
    engine: Engine = local,
    places: Mapping[str, str] | None = None,
    siblings: Sequence[Path] = (),
    observer: Observer = SILENT,
    trainings: Path | None = None,
) -> Path:
    """Resume a run that was stopped or killed; a finished one is left as it is.

    Args:
        path: the run folder.
        loaded: a model that was loaded for the same settings.
        engine: reaches the clients; the same that the run started with.
        places: new places of the recipe's files by their old ones; see `moved_files`.
        siblings: see `run`.
        observer: is told of the progress.
        trainings: see `run`.

    Raises:
        RunError: there is no run, or its data, model or engine have changed.
    """
    folder = damage.open_run(path)
    resuming.check_engine(folder, engine.ENGINE)
    moved_files.check(folder, recipe.load(folder.recipe_file), places or {})
    settings = moved_files.settings_of(folder, places)
    with folder.lock(), captured_log.into(path):
        damage.repair(folder)
        if folder.is_finished() and folder.last_round() == settings.federation.rounds:
            record.write_summary(folder)  # a kill may have lost it
            observer.note(f"{path} is finished; there is nothing to resume")
            return path
        try:
            prepared = _prepare(settings, loaded, engine, observer)
        except AssetError as error:
            hint = f"{error.hint} {resuming.moved_hint(path)}".strip()
            raise AssetError(error.message, hint=hint) from error
        folder.repair()  # before the first new event, which must not join a line that was cut
        _check_unchanged(prepared, folder, observer)
        moved_files.record(folder, places or {})
        folder.event("resumed", after_round=folder.last_round())
        sharing.share_base_evaluation(folder, siblings)
        shared = replace(prepared, siblings=siblings, trainings=trainings)
        _execute(shared, folder, engine, observer)
    return path


def _check_unchanged(
    prepared: preparation.PreparedRun, folder: RunFolder, observer: Observer
) -> None:
    """Refuse to resume with other data or another model; warn of other versions of packages."""
    changed = resuming.check_unchanged(folder, resuming.info_of(folder, prepared))
    if changed:
        observer.warn(
            f"versions changed since the run started: {', '.join(changed)};"
            " the result may differ in the last bits"
        )


def _execute(
    prepared: preparation.PreparedRun, folder: RunFolder, engine: Engine, observer: Observer
) -> None:
    plan = preparation.plan_for(prepared.recipe, prepared.clients)
    screening = local.write_screening(prepared, folder)
    if screening is not None or prepared.screening.skipped:
        observer.event("filter-finished", **(screening or prepared.screening.to_json()))
    done, steps = _planned_steps(prepared, plan, folder.last_round())
    observer.plan(steps, done, record.summarise(folder))

    def event(kind: str, **fields: Any) -> None:
        observer.event(kind, **fields)
        resuming.update_summary(folder, kind)
        track(kind)
        if kind in preparation.UNRECORDED:
            stop.check()

    observer.event("suites-missing", unavailable=prepared.questions.unavailable)
    with stoppable() as stop, tracked(prepared.recipe, folder, observer.say) as track:
        callbacks = preparation.Callbacks(
            event, stop.after(observer.step), stop.after(observer.answers)
        )
        engine.execute(prepared, folder, callbacks)


def _planned_steps(prepared: preparation.PreparedRun, plan: Plan, last: int) -> tuple[int, int]:
    """Optimiser steps of all clients up to a round, and of the whole run; nodes count their own."""
    of_rounds = [0] * plan.rounds
    for number in range(1, plan.rounds + 1 if prepared.rows else 0):
        names = sample_clients(list(prepared.rows), plan.sampled, plan.seed, number)
        of_rounds[number - 1] = sum(steps_of(prepared.recipe, prepared.rows[n]) for n in names)
    return sum(of_rounds[:last]), sum(of_rounds)
