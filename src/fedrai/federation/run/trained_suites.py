"""Which suites' requests a model was trained on: their figures for it measure nothing new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedrai import recipe as recipes
from fedrai.evaluation import suites
from fedrai.recipe.sections import Recipe

COMES_ALONG: Mapping[str, tuple[str, ...]] = {"fedrai:aligned": ("harmbench",)}
"""Of adapters that come with the package: recipes/align_topics.toml and align_smollm2.toml."""


def of_recipe(recipe: Recipe) -> list[str]:
    """Of what a recipe trains, with the adapter that it starts from."""
    section, start = recipe.constitution, recipe.adapter.start
    own = [*section.requests, *section.harmless, *section.examples]
    named = own if section.schedule != "off" else []
    named += [source.path for source in recipe.data.sources]
    found = suites.trained_on(named, recipe.evaluation.paths)
    return list(dict.fromkeys([*found, *(of_model(start) if start else [])]))


def of_model(spec: str) -> list[str]:
    """Of a run, a folder of `fedrai align`, or an adapter in one; nothing where it is not known."""
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
