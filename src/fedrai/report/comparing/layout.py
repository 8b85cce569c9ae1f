"""The runs of a comparison, and their folders.

    OUT/ARM                        one seed
    OUT/seed-N/ARM                 several seeds
    OUT/KEY-VALUE/...              along an axis, KEY being the last part of the key
    OUT/KEY-VALUE_KEY-VALUE/...    along several

A run that is found in the other layout (its seed was the only one then, or is the only one now) is
used from there. An arm that the axis does not affect is one run for all values of the axis.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrai import runs
from fedrai.errors import RecipeError, RunError
from fedrai.recipe import loading as recipe
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder

BETWEEN = ", "  # the keys of several axes in one, and their values


@dataclass(frozen=True, slots=True)
class Axis:
    """A recipe key and its values; or several keys, with every combination of their values.

    Attributes:
        key: key of the recipe; several: "attack.kind, attack.share".
        values: its values, in the syntax of `-o KEY=VALUE`; several: "scaled, 0.1".
    """

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, *texts: str) -> Axis:
        """An axis of one or more `KEY=VALUE,VALUE`.

        Raises:
            RecipeError: a text is no axis, or repeats a value or a key.
        """
        axes = [cls._parse(text) for text in texts]
        keys = [axis.key for axis in axes]
        if len(set(keys)) < len(keys):
            raise RecipeError(f"--axis {keys[-1]}: the key is repeated")
        combinations = itertools.product(*(axis.values for axis in axes))
        return cls(BETWEEN.join(keys), tuple(map(BETWEEN.join, combinations)))

    @classmethod
    def _parse(cls, text: str) -> Axis:
        key, _, listed = (part.strip() for part in text.partition("="))
        values = tuple(value.strip() for value in listed.split(","))
        if not key or not all(values) or key.split(".")[0] in ("seed", "seeds", "name", "arms"):
            raise RecipeError(
                f"--axis {text}: expected section.key=value,value",
                hint="for example --axis data.harm.share=0,0.3,1.0; seeds are given with --seeds",
            )
        folders = {cls(key, ()).folder(value) for value in values}
        if len(folders) < len(values):
            raise RecipeError(f"--axis {text}: a value is repeated")
        return cls(key, values)

    def overrides(self, value: str) -> list[str]:
        """One of the values as overrides: `KEY=VALUE` for each key."""
        return [f"{key}={one}" for key, one in self._pairs(value)]

    def _pairs(self, value: str) -> list[tuple[str, str]]:
        return list(zip(self.key.split(BETWEEN), value.split(BETWEEN), strict=True))

    def folder(self, value: str) -> str:
        """The name of the folder of a value: "share-0.3"; of several "kind-scaled_share-0.3"."""
        return "_".join(
            f"{key.split('.')[-1]}-{re.sub(r'[^A-Za-z0-9._+-]+', '-', one).strip('-.')}"
            for key, one in self._pairs(value)
        )


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run of a comparison.

    Attributes:
        arm: its name.
        seed: seed of its recipe.
        value: value on the axis; empty without one.
        path: its folder.
        recipe: resolved.
    """

    arm: str
    seed: int
    value: str
    path: Path
    recipe: Recipe


def plan_runs(
    settings: Recipe, out: Path, seeds: Sequence[int] = (), axis: Axis | None = None
) -> list[PlannedRun]:
    """Every run of a comparison in order of execution: seeds are the outermost loop.

    Args:
        settings: the recipe with its arms.
        out: the comparison's folder.
        seeds: instead of the recipe's; empty: the recipe's `seeds`, or its `seed`.
        axis: a recipe key with its values; None: no axis.

    Raises:
        RecipeError: an override of an arm or the axis is not allowed, or an arm sets its own seed
            although there are several.
        RunError: the folder of a run holds something else.
    """
    seeds = list(seeds or settings.seeds or [settings.seed])
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"a seed is repeated: {', '.join(map(str, seeds))}")
    several = len(seeds) > 1
    plan: list[PlannedRun] = []
    paths: dict[str, Path] = {}
    for seed in seeds:
        for value in axis.values if axis else ("",):
            base = recipe.with_overrides(settings, axis.overrides(value)) if axis else settings
            parent = out / axis.folder(value) if axis else out
            for name, arm in _arms(base, seed, several).items():
                folders = [parent / f"seed-{seed}" / name, parent / name]
                path = paths.get(arm.hash) or _path(arm, folders if several else folders[::-1])
                paths[arm.hash] = path
                plan.append(PlannedRun(name, arm.seed, value, path, arm))
    return plan


def _arms(settings: Recipe, seed: int, several: bool) -> dict[str, Recipe]:
    """The recipe of each arm with a seed; a recipe without arms is its own arm."""
    settings = settings.model_copy(update={"seed": seed, "seeds": []})
    if not settings.arms:
        return {settings.name: settings}
    arms = {name: recipe.arm(settings, name) for name in settings.arms}
    for name, arm in arms.items():
        if several and arm.seed != seed:
            raise RecipeError(
                f"the arm {name} sets its own seed ({arm.seed}), but there are several seeds",
                hint="remove seed from the arm, or compare with one seed",
            )
    return arms


def _path(arm: Recipe, folders: Sequence[Path]) -> Path:
    """The folder that holds the run of an arm, else the first one."""
    for path in folders:
        if (path / "run.json").is_file() and RunFolder.open(path).info["recipe_hash"] == arm.hash:
            return path
    first = folders[0]
    if (first / "run.json").is_file():
        raise RunError(
            f"{first} holds a run of another recipe", hint="choose another folder with --out"
        )
    runs.check_free(first)
    return first
