"""Recipes, runs, and the contents of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrai import recipe as recipes
from fedrai.api.places import Place, Row, folder, observed
from fedrai.recipe.sections import Recipe

RecipeLike = Recipe | Place | Mapping[str, Any]
"""A recipe, its file, the name of a shipped one, or its tables as a dict."""


def load_recipe(
    source: RecipeLike = "quickstart", changes: Mapping[str, Any] | None = None
) -> Recipe:
    """Load or build a recipe.

    Args:
        source: a TOML file, the name of a shipped recipe, the tables as a dict, or a recipe.
        changes: keys to set, such as `{"federation.rounds": 3}`; they override the source.

    Raises:
        RecipeError: there is no such file, a key is unknown, or a value is not allowed.
    """
    if isinstance(source, str | Path):
        return recipes.load(Path(source), changes=list((changes or {}).items()))
    table = source.model_dump(mode="json") if isinstance(source, Recipe) else dict(source)
    return recipes.build(table, list((changes or {}).items()))


@dataclass(frozen=True, slots=True)
class Run:
    """The contents of a run folder.

    Attributes:
        path: the folder.
        name: name in the recipe.
        model: the base model.
        seed: seed of the recipe.
        finished: whether all rounds are done.
        training_rows: rows of all clients; None: not reported.
        bad_rows: rows that could not be used; they are in no other figure. On a deployment the
            sum over the clients that report theirs; None: not reported.
        filter_skipped: why the safety filter that the recipe asks for did not run; empty: it ran,
            or the recipe asks for none.
        figures: one row an evaluated round and measure: round, measure, value, low, high (95 %
            interval), scored, unscored. Round 0 is the model before training.
        rounds: one row a round: round, loss_first, loss_last, updates, set_aside, aligned.
        updates: one row a round and client: round, client, update_norm, set_aside (why).
        filtered: one row a client with a safety filter: client, rows, unsafe, dropped, replaced,
            unscored.
        costs: one row a phase: phase, seconds, tokens, operations, peak and sent bytes.
        unavailable: why a suite is not available, by name.
    """

    path: Path
    name: str
    model: str
    seed: int | None
    finished: bool
    training_rows: int | None
    bad_rows: int | None
    filter_skipped: str
    figures: list[Row] = field(repr=False)
    rounds: list[Row] = field(repr=False)
    updates: list[Row] = field(repr=False)
    filtered: list[Row] = field(repr=False)
    costs: list[Row] = field(repr=False)
    unavailable: Mapping[str, str]

    def value(self, measure: str, round_: int | None = None) -> float | None:
        """A measure's value in a round (default: the last that has it); None: not measured."""
        rows = [row for row in self.figures if row["measure"] == measure]
        rows = rows if round_ is None else [row for row in rows if row["round"] == round_]
        return rows[-1]["value"] if rows else None


def run(
    settings: RecipeLike,
    out: Place | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Run:
    """Run a recipe in this process, as `fedrai run` does.

    Args:
        settings: the recipe; see `load_recipe`.
        out: a new folder. None: `runs/NAME`.
        changes: keys of the recipe to set.
        progress: show the progress on stderr.

    Raises:
        FedRAIError: something cannot be used; no run folder is left half-written.
        KeyboardInterrupt: stopped by the user; resume with `resume(out)`.
    """
    from fedrai.federation.run import running

    chosen = load_recipe(settings, changes)
    path = folder(out, "runs", chosen.name)
    with observed(progress) as observer:
        return read_run(running.run(chosen, path, observer=observer))


def resume(path: Place, *, progress: bool = False) -> Run:
    """Resume a run that was stopped; a finished one is only read.

    Raises:
        RunError: there is no run, or its data or model have changed.
    """
    from fedrai.federation.run import running

    with observed(progress) as observer:
        return read_run(running.resume(Path(path), observer=observer))


def read_run(path: Place) -> Run:
    """Read a run folder, finished or not; no model is loaded.

    Raises:
        RunError: there is no run, or one of its files is damaged.
    """
    from fedrai.report import flat
    from fedrai.runs import RunFolder
    from fedrai.runs.record import read

    folder = RunFolder.open(Path(path))
    record = read(folder, folder.path.name)
    missing = {n: why for one in record.evaluations for n, why in one.unavailable.items()}
    return Run(
        path=folder.path,
        name=str(folder.info.get("name", "")),
        model=record.model,
        seed=record.seed,
        finished=record.finished,
        training_rows=record.rows,
        bad_rows=record.bad_rows,
        filter_skipped=record.screening.skipped,
        figures=flat.figures(record),
        rounds=flat.rounds(record),
        updates=flat.updates(record),
        filtered=flat.filtered(record),
        costs=flat.costs(record),
        unavailable=missing,
    )
