"""Runs whose files were moved: the recipe stays unchanged, and the new paths are kept next to it.

`moved.json` in the folder of a run, or of `fedrai align`, has the new path of each file or folder
of the recipe that was moved. Fingerprints in `run.json` or `align.json` tell whether a file is the
same, not its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrai import recipe
from fedrai.errors import RunError
from fedrai.recipe.sections import AlignRecipe, Recipe
from fedrai.runs import RunFolder

FILE = "moved.json"
KEYS = frozenset(
    {"base", "start", "path", "files", "suites", "outside_sets", "paths", "guard", "calibration",
     "refusals", "file", "requests", "harmless", "examples", "model", "prompts", "adapter_base"}
)  # fmt: skip
"""Keys of a recipe whose values may be paths."""


def settings_of(folder: RunFolder, places: Mapping[str, str] | None = None) -> Recipe:
    """The recipe of a run, with the current paths of its files.

    Args:
        folder: the run's.
        places: new paths by old ones, in addition to those in the folder.
    """
    settings = recipe.load(folder.recipe_file)
    paths = {**_places(folder), **(places or {})}
    return recipe.validate(_move_paths(settings, paths), "the moved recipe") if paths else settings


def alignment_of(folder: RunFolder, places: Mapping[str, str] | None = None) -> AlignRecipe:
    """The recipe of a folder of `fedrai align`, with the current paths of its files."""
    settings = recipe.load_alignment(folder.recipe_file)
    paths = {**_places(folder), **(places or {})}
    return AlignRecipe.model_validate(_move_paths(settings, paths)) if paths else settings


def _move_paths(settings: Recipe | AlignRecipe, places: Mapping[str, str]) -> dict[str, Any]:
    table: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    return {key: _replace_paths(value, key, places) for key, value in table.items()}


def parse(pairs: Sequence[str]) -> dict[str, str]:
    """New paths by old ones.

    Args:
        pairs: `OLD=NEW` each.

    Raises:
        RunError: one is not a pair, or the new path does not exist.
    """
    places = {}
    for pair in pairs:
        old, sign, new = pair.partition("=")
        if not (old and sign and new):
            raise RunError(f"--moved {pair!r} is not a pair of paths", hint="use --moved OLD=NEW")
        if "*" not in new and not Path(new).expanduser().exists():
            raise RunError(f"--moved {pair!r}: {Path(new).absolute()} does not exist")
        places[_bare(old)] = _bare(str(Path(new).expanduser().absolute()))
    return places


def check(folder: RunFolder, settings: Recipe | AlignRecipe, places: Mapping[str, str]) -> None:
    """Check that a recipe names the moved files.

    Args:
        folder: folder of the run or the alignment, for errors.
        settings: its original recipe.
        places: new paths by old ones.

    Raises:
        RunError: it does not; the hint lists the paths that it names.
    """
    paths = sorted(set(_paths(settings.model_dump(mode="json"), "")))
    for old in places:
        if not any(_below(path, old) is not None for path in paths):
            raise RunError(
                f"the recipe of {folder.path} does not name {old}",
                hint=f"it names: {', '.join(paths)}",
            )


def record(folder: RunFolder, places: Mapping[str, str]) -> None:
    """Record new paths in the run folder, for later commands."""
    if places:
        folder.write_json(FILE, {**_places(folder), **places})


def _places(folder: RunFolder) -> dict[str, str]:
    places: dict[str, str] = folder.read_json(FILE) if (folder.path / FILE).is_file() else {}
    return places


def _replace_paths(value: Any, key: str, places: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {k: _replace_paths(v, key if key in KEYS else k, places) for k, v in value.items()}
    if isinstance(value, list):
        return [_replace_paths(item, key, places) for item in value]
    return _new_place(value, places) if isinstance(value, str) and key in KEYS else value


def _new_place(text: str, places: Mapping[str, str]) -> str:
    """The new path of a file; for `NAME=PATH` the part after the sign."""
    name, sign, path = text.rpartition("=")
    for old, new in sorted(places.items(), key=lambda pair: -len(pair[0])):
        for head, body in (("", text), (name + sign, path)):
            rest = _below(body, old)
            if rest is not None:
                return f"{head}{new}{rest}"
    return text


def _below(path: str, old: str) -> str | None:
    """The rest of a path that is `old` or below it; None if it is neither."""
    bare = _bare(path)
    return bare[len(old) :] if bare == old or bare.startswith(old + "/") else None


def _bare(path: str) -> str:
    return path.removeprefix("./").rstrip("/") or path


def _paths(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _paths(item, key if key in KEYS else inner)
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item, key)
    elif isinstance(value, str) and value and key in KEYS:
        yield value.rpartition("=")[2] if key in ("suites", "outside_sets") else value
