"""Where the runs of a comparison lie.

    OUT/ARM                   one seed
    OUT/seed-N/ARM            several seeds
    OUT/KEY-VALUE/...         along an axis, KEY being the last part of the key

A run that stands at the place of the other layout (its seed was the only one then, or is now) is
taken where it is. An arm that an axis does not touch is one run for all of the axis' values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrai import runs
from fedrai.errors import RecipeError, RunError
from fedrai.recipe import loading as recipe
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder


@dataclass(frozen=True, slots=True)
class Axis:
    """A key and the values it takes one after the other.

    Attributes:
        key: of the recipe.
        values: as they would stand after `-o KEY=`.
    """

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """An axis of `KEY=VALUE,VALUE`.

        Raises:
            RecipeError: it is none, or names a value twice.
        """
        key, _, listed = (part.strip() for part in text.partition("="))
        values = tuple(value.strip() for value in listed.split(","))
        if not key or not all(values) or key.split(".")[0] in ("seed", "seeds", "name", "arms"):
            raise RecipeError(
                f"--axis {text}: expected section.key=value,value",
                hint="for example --axis data.harm.share=0,0.3,1.0; seeds are given with --seeds",
            )
        folders = {cls(key, ()).folder(value) for value in values}
        if len(folders) < len(values):
            raise RecipeError(f"--axis {text}: a value stands there twice")
        return cls(key, values)

    def folder(self, value: str) -> str:
        """The name of the folder of a value: "share-0.3"."""
        plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", value).strip("-.")
        return f"{self.key.split('.')[-1]}-{plain}"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run of a comparison.

    Attributes:
        arm: its name.
        seed: of its recipe.
        value: of the axis; empty without one.
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
    """Every run of a comparison in the order in which they are made: seeds outermost.

    Args:
        settings: the recipe with its arms.
        out: the comparison's folder.
        seeds: in the place of the recipe's; empty: the recipe's `seeds`, or its `seed`.
        axis: a key with its values.

    Raises:
        RecipeError: an override of an arm or the axis is not allowed, or an arm sets its own seed
            beside others.
        RunError: what lies at a run's place is something else.
    """
    chosen = list(seeds or settings.seeds or [settings.seed])
    if len(set(chosen)) < len(chosen):
        raise RecipeError(f"a seed stands there twice: {', '.join(map(str, chosen))}")
    found: list[PlannedRun] = []
    same: dict[str, Path] = {}
    for seed in chosen:
        for value in axis.values if axis else ("",):
            base = recipe.with_overrides(settings, [f"{axis.key}={value}"]) if axis else settings
            under = out / axis.folder(value) if axis else out
            for name, made in _arms(base, seed, len(chosen) > 1).items():
                path = same.get(made.hash) or _place(under, made, seed, name, len(chosen) > 1)
                same[made.hash] = path
                found.append(PlannedRun(name, made.seed, value, path, made))
    return found


def _arms(settings: Recipe, seed: int, several: bool) -> dict[str, Recipe]:
    """The recipe of each arm with a seed; of a recipe without arms its own."""
    settings = settings.model_copy(update={"seed": seed, "seeds": []})
    if not settings.arms:
        return {settings.name: settings}
    made = {name: recipe.arm(settings, name) for name in settings.arms}
    for name, arm in made.items():
        if several and arm.seed != seed:
            raise RecipeError(
                f"the arm {name} sets its own seed ({arm.seed}), which does not go with several",
                hint="take seed out of the arm, or compare with one seed",
            )
    return made


def _place(under: Path, made: Recipe, seed: int, name: str, several: bool) -> Path:
    """Where a run lies, or is to lie; see the head of this file."""
    places = [under / f"seed-{seed}" / name, under / name]
    places = places if several else places[::-1]
    for path in places:
        if (path / "run.json").is_file() and _hash(path) == made.hash:
            return path
    if (places[0] / "run.json").is_file():
        raise RunError(
            f"{places[0]} holds a run of another recipe", hint="--out names another folder"
        )
    runs.check_free(places[0])
    return places[0]


def _hash(path: Path) -> object:
    return RunFolder.open(path).info["recipe_hash"]
