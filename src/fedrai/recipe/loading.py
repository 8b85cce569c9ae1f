"""Loading and writing recipes: TOML files that describe a run.

`load` reads and validates a file with its `-o section.key=value` overrides, `to_toml` writes the
resolved recipe. Unknown keys are errors. `sections` has the keys.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import tomlkit
from pydantic import BaseModel, ValidationError
from tomlkit.items import Table

from fedrai.errors import RecipeError
from fedrai.recipe.errors import problems, truncate
from fedrai.recipe.sections import (
    AlignRecipe,
    GuardTable,
    GuardTraining,
    Node,
    Recipe,
    Section,
    sections,
)
from fedrai.recipe.toml_files import check_depth, parse_toml, read_toml

ALIGNMENTS = "align_"  # prefix of shipped recipes for `fedrai align`
ALGORITHM = "aggregation.algorithm"
STEPS = "training.local_steps"
M = TypeVar("M", bound=BaseModel)


def load(
    path: Path, overrides: Sequence[str] = (), changes: Sequence[tuple[str, Any]] = ()
) -> Recipe:
    """Read, override and validate a recipe file.

    Args:
        path: a TOML file, or the name of a shipped recipe ("quickstart").
        overrides: `section.key=value` strings; values are TOML, bare words are strings.
        changes: keys with their values, which override both.

    Raises:
        RecipeError: not found, not TOML, an unknown key, or an invalid value.
    """
    file = find(path)
    return build(_table(file, overrides), changes, str(file), overrides)


def build(
    table: Mapping[str, Any],
    changes: Sequence[tuple[str, Any]],
    where: str = "the recipe",
    overrides: Sequence[str] = (),
) -> Recipe:
    """A recipe from tables with some keys changed; see `validate`."""
    copy = deepcopy(dict(table))
    _override(copy, changes)
    return validate(copy, where, overrides)


def load_training(file: Path, overrides: Sequence[str] = ()) -> GuardTraining:
    """Read, override and validate a recipe for `fedrai guard train`.

    Raises:
        RecipeError: as `load` does.
    """
    table = _table(file, overrides)
    return _validate(GuardTraining, table, str(file), "see docs/guards.md", overrides)


def load_alignment(
    file: Path | None, overrides: Sequence[str] = (), changes: Sequence[tuple[str, Any]] = ()
) -> AlignRecipe:
    """Read, override and validate a recipe for `fedrai align`.

    Args:
        file: a TOML file, or the name of a shipped recipe; None: the defaults.
        overrides: as for `load`.
        changes: keys with their values, which override both.

    Raises:
        RecipeError: as `load` does.
    """
    path = find(file, alignments=True) if file is not None else None
    table = _table(path, overrides) if path else _overridden({}, overrides)
    _override(table, changes)
    where = str(file) if file is not None else "the alignment"
    return _validate(AlignRecipe, table, where, "see docs/alignment.md", overrides)


def load_node(file: Path) -> Node:
    """Read and validate a node's own `node.toml`.

    Raises:
        RecipeError: as `load` does.
    """
    return _validate(Node, _table(file, ()), str(file), "see docs/deployment.md")


class _Guards(Section):
    guards: dict[str, GuardTable]


def load_guards(file: Path) -> dict[str, GuardTable]:
    """Read and validate the `[guards.NAME]` tables of a TOML file; other keys are ignored.

    Raises:
        RecipeError: as `load` does.
    """
    table = {"guards": _table(file, ()).get("guards", {})}
    return _validate(_Guards, table, str(file), "see docs/guards.md").guards


def _table(file: Path, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        table = read_toml(file)
    except ValueError as error:
        raise RecipeError(f"{file} is not valid TOML: {error}") from error
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {file}: {error.strerror}") from error
    return _overridden(table, overrides)


def _overridden(table: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    _override(table, [_parse_override(text) for text in overrides])
    return table


def find(path: Path, *, alignments: bool = False) -> Path:
    """The file `path` if it exists, else the shipped recipe of that name.

    Args:
        path: a file or a name.
        alignments: among recipes of `fedrai align`, not those of runs.

    Raises:
        RecipeError: neither exists.
    """
    if path.is_file():
        return path
    available = shipped(alignments=alignments)
    name = path.name.removesuffix(".toml") if path.parent.name in ("", "recipes") else ""
    if name in available:
        return available[name]
    raise RecipeError(
        f"no recipe at {path}",
        hint=f"shipped recipes: {', '.join(sorted(available)) or 'none'}; or `fedrai recipe new`",
    )


def shipped(*, alignments: bool = False) -> dict[str, Path]:
    """The shipped recipes by name: those of runs, or those of `fedrai align`."""
    here = Path(__file__).parents[1]
    folder = here / "recipes"
    if not folder.is_dir():  # an editable install: the repository's own folder
        folder = here.parents[1] / "recipes"
    files = {file.stem: file for file in sorted(folder.glob("*.toml"))}
    return {n: file for n, file in files.items() if n.startswith(ALIGNMENTS) == alignments}


def validate(
    table: Mapping[str, Any], where: str = "the recipe", overrides: Sequence[str] = ()
) -> Recipe:
    """Turn a TOML table into a recipe.

    Args:
        table: its content.
        where: its source in errors, usually the file.
        overrides: already applied to it; an error names the override that caused it.

    Raises:
        RecipeError: every wrong key, with the expected value or similar names of keys.
    """
    hint = "`fedrai recipe new NEW.toml` writes a recipe with every key explained"
    return _validate(Recipe, table, where, hint, overrides)


def _validate(
    model: type[M],
    table: Mapping[str, Any],
    where: str,
    hint: str,
    overrides: Sequence[str] = (),
) -> M:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        message, of_file = problems(error, model, where, overrides)
        keys = f"`fedrai recipe show {where}` prints every key with its value"
        raise RecipeError(message, hint=hint if of_file or model is not Recipe else keys) from None


def arm(recipe: Recipe, name: str) -> Recipe:
    """The recipe of one arm: with the arm's overrides and its name.

    Raises:
        RecipeError: there is no such arm, or its overrides are invalid.
    """
    if name not in recipe.arms:
        raise RecipeError(f"no arm {name!r}; the recipe has: {', '.join(recipe.arms) or 'none'}")
    table = recipe.model_dump(mode="json", exclude={"arms", "seeds"})
    table["name"] = name
    _override(table, list(_leaves(recipe.arms[name])))
    return validate(table, f"arm {name!r}")


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with some keys changed; its arms keep their own values.

    Args:
        recipe: the recipe.
        overrides: `section.key=value` strings, as for `load`.

    Raises:
        RecipeError: a key is unknown, or a value is invalid.
    """
    return validate(_overridden(recipe.model_dump(mode="json"), overrides))


def select_arms(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with some of its arms, in the recipe's order; without names, with all of them.

    Raises:
        RecipeError: there is no such arm.
    """
    for name in names:
        arm(recipe, name)
    arms = {name: table for name, table in recipe.arms.items() if name in names or not names}
    return recipe.model_copy(update={"arms": arms})


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _parse_override(text: str) -> tuple[str, Any]:
    key, sign, raw = text.partition("=")
    if not sign or not key.strip():
        raise RecipeError(
            f"-o {text}: expected section.key=value", hint="for example -o federation.rounds=3"
        )
    value: Any
    try:
        check_depth(key)
        value = parse_toml(f"v = {raw.strip()}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    except ValueError as error:
        raise RecipeError(f"-o {truncate(key)}=...: {error}") from error
    return key.strip(), value


def _override(table: dict[str, Any], changes: Sequence[tuple[str, Any]]) -> None:
    """Set keys; first those that remove others: an algorithm, and steps in place of epochs."""
    for key, value in sorted(changes, key=lambda change: change[0] not in (ALGORITHM, STEPS)):
        _set(table, key, value)


def _set(table: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    here: Any = table
    for depth, part in enumerate(path):
        if isinstance(here, list) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        elif isinstance(here, dict):
            here = here.setdefault(part, {})
        else:
            raise RecipeError(f"-o {key}: {'.'.join(path[:depth])} has no {part!r}")
    if not isinstance(here, dict):
        raise RecipeError(f"-o {key}: {'.'.join(path)} is not a table")
    if key == ALGORITHM and here.get("algorithm") != value:
        here.clear()  # the new algorithm does not have these keys
    if key == STEPS:
        here.pop("local_epochs", None)  # else the steps would have no effect
    here[last] = value


def to_toml(recipe: Recipe | AlignRecipe, *, explained: bool = False) -> str:
    """The resolved recipe as TOML, with every key.

    Args:
        recipe: the recipe.
        explained: add each key's meaning as a comment above it.
    """
    document = tomlkit.document()
    table = recipe.model_dump(mode="json", exclude_none=True)
    _fill(document, recipe, table, explained)
    text = tomlkit.dumps(document)
    return text if text.endswith("\n") else text + "\n"


def _fill(
    into: tomlkit.TOMLDocument | Table,
    section: BaseModel,
    values: Mapping[str, Any],
    explained: bool,
    place: str = "",
) -> None:
    """Write a section: plain keys first, as TOML requires, then tables."""
    tables = [name for name, value in section if _is_table(value)]
    for name, value in section:
        if value is None and explained:
            _comment(into, section, name)
            into.add(tomlkit.comment(f"{_unset(section, name, place)}   (not set)"))
        elif name in values and name not in tables:
            if explained:
                _comment(into, section, name)
            into.add(name, values[name])
    for name in tables:
        if name in values:
            _add_table(into, section, name, values[name], explained, place)


def _unset(section: BaseModel, name: str, place: str) -> str:
    """The start of the line that would set an unset key or section."""
    return f"[{place}{name}]" if name in dict(sections(type(section))) else f"{name} ="


def _is_table(value: object) -> bool:
    listed = isinstance(value, list) and bool(value) and isinstance(value[0], BaseModel)
    return listed or isinstance(value, dict | BaseModel)


def _add_table(
    into: tomlkit.TOMLDocument | Table,
    section: BaseModel,
    name: str,
    value: Any,
    explained: bool,
    place: str,
) -> None:
    part, inside = getattr(section, name), f"{place}{name}."
    table = tomlkit.table()
    if isinstance(part, BaseModel):
        _fill(table, part, value, explained, inside)
        into.add(name, table)
    elif isinstance(part, list):
        tables = tomlkit.aot()
        for item, content in zip(part, value, strict=True):
            table = tomlkit.table()
            _fill(table, item, content, explained, inside)
            tables.append(table)
        into.add(name, tables)
    else:
        if explained:
            _comment(table, section, name)
        for key, content in value.items():
            table.add(key, content)
        into.add(name, table)


def _comment(into: tomlkit.TOMLDocument | Table, section: BaseModel, name: str) -> None:
    meaning = type(section).model_fields[name].description or ""
    for line in textwrap.wrap(meaning.replace("`", ""), 96, break_on_hyphens=False):
        into.add(tomlkit.comment(line))


def write_new(file: Path, settings: Recipe) -> None:
    """Write a commented recipe.

    Raises:
        RecipeError: the file exists, or cannot be written.
    """
    header = (
        f"# A FedRAI recipe. Run it:      fedrai run {file}\n"
        f"# Look at what it resolves to:  fedrai recipe show {file}\n\n"
    )
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(header + to_toml(settings, explained=True))
    except FileExistsError:
        raise RecipeError(f"{file} already exists", hint="choose another name") from None
    except OSError as error:
        raise RecipeError(f"cannot write {file}: {error.strerror}") from error
