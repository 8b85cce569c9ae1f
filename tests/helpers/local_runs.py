"""Runs of one process on a model that is loaded already."""

from __future__ import annotations

from pathlib import Path

from fedrai import recipe
from fedrai.federation.run import local, preparation
from fedrai.federation.run.preparation import Callbacks
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder


def execute(
    given: Recipe, tiny: LanguageModel, path: Path, callbacks: Callbacks | None = None
) -> tuple[RunFolder, preparation.PreparedRun]:
    """Start a run, or go on with the one in `path`."""
    prepared = local.prepare(given, loaded=tiny)
    if (path / "run.json").is_file():
        run = RunFolder.open(path)
        run.repair()
    else:
        run = RunFolder.create(path, recipe.to_toml(given), prepared.info())
    local.execute(prepared, run, callbacks or Callbacks())
    return run, prepared
