"""The suites whose requests a model was trained on, so that their figures measure nothing new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedrai import recipe as recipes
from fedrai.evaluation import suites
from fedrai.recipe.sections import Recipe

COMES_ALONG: Mapping[str, tuple[str, ...]] = {"fedrai:aligned": ("harmbench", "do-not-answer")}
"""Of the package's own adapters (benchmarks/aligned_data.py)."""


def of_recipe(recipe: Recipe) -> list[str]:
    """Suites in a recipe's training and in the adapter that it starts from."""
    section, start = recipe.constitution, recipe.adapter.start
    own = [*section.requests, *section.harmless, *section.examples]
    specs = own if section.schedule != "off" else []
    specs += [source.path for source in recipe.data.sources]
    names = suites.trained_on(specs, recipe.evaluation.paths)
    return list(dict.fromkeys([*names, *(of_model(start) if start else [])]))


def of_model(spec: str) -> list[str]:
    """Suites of a run, a folder of `fedrai align`, or an adapter in one; empty if unknown."""
    if spec in COMES_ALONG:
        return list(COMES_ALONG[spec])
    path = Path(spec).expanduser()
    if (path / "run.json").is_file():
        return of_recipe(recipes.load(path / "recipe.toml"))
    for folder in (path, path.parent):
        if (folder / "align.json").is_file() and (folder / "report.json").is_file():
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            return list(report.get("trained_suites", ()))
    return []
