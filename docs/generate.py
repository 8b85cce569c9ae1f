"""Write `docs/recipe.md` and `docs/cli.md` from the code: `make docs`. A test checks for drift."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fedrai.cli import cli
from fedrai.recipe.sections import (
    ALGORITHMS,
    GUARD_KINDS,
    AlignRecipe,
    GuardTraining,
    InstalledRule,
    Node,
    Recipe,
    sections,
)

HERE = Path(__file__).parent
HINTS = """\
`python -m fedrai` does the same if the script is not on the path. For completion of commands and
options, add a line to the shell's start-up file:

| shell | line | file |
|---|---|---|
| Bash 4.4 or newer | `eval "$(_FEDRAI_COMPLETE=bash_source fedrai)"` | `~/.bashrc` |
| Zsh | `eval "$(_FEDRAI_COMPLETE=zsh_source fedrai)"` | `~/.zshrc` |
| Fish | `_FEDRAI_COMPLETE=fish_source fedrai \\| source` | `config.fish` |

Tables are as wide as the terminal; in a pipe or a file as wide as needed, or as `COLUMNS` sets.
Long work shows a progress bar on a terminal, and otherwise a line every 30 seconds. Output of
libraries goes to `library.log` in the run folder, or to the terminal with `FEDRAI_DEBUG=1`.
"""


def recipe_reference() -> str:
    """The recipe reference: a table for each section."""
    parts = [
        "# Recipe reference\n",
        "Generated from `src/fedrai/recipe` by `make docs`. `fedrai recipe new FILE` writes one"
        " with these explanations; an unknown key is an error. On the command line:"
        " `-o section.key=value`.\n",
        *_section("Top level", Recipe, skip={name for name, _ in sections(Recipe)}),
    ]
    for name, model in sections(Recipe):
        parts += _tables(name, model)
    parts.append("## `[aggregation]`\n\n`algorithm` determines the other keys.\n")
    for model in dict.fromkeys(ALGORITHMS.values()):
        names = ", ".join(f"`{n}`" for n, m in ALGORITHMS.items() if m is model)
        parts += _section(names, model, level=3)
    parts += _section("the name of a rule from an installed package", InstalledRule, level=3)
    parts.append("## `[guards.NAME]`\n\n`kind` determines the other keys.\n")
    for name, model in GUARD_KINDS.items():
        parts += _section(f"`{name}`", model, level=3)
    inner = {name for name, _ in sections(AlignRecipe)}
    parts += _section("Recipes of `fedrai align`", AlignRecipe, skip=inner)
    parts += _section("Recipes of `fedrai guard train`", GuardTraining)
    parts.append("# A node's own `node.toml`\n")
    parts += _section("Top level of `node.toml`", Node, skip={name for name, _ in sections(Node)})
    for name, model in sections(Node):
        parts += _section(f"`[{name}]` of `node.toml`", model)
    return "\n".join(parts)


def _tables(name: str, model: type[BaseModel]) -> Iterator[str]:
    inner = sections(model)
    yield from _section(f"`[{name}]`", model, skip={n for n, _ in inner})
    for part, deeper in inner:
        yield from _tables(f"{name}.{part}", deeper)


def _section(
    title: str, model: type[BaseModel], *, level: int = 2, skip: set[str] | None = None
) -> Iterator[str]:
    yield f"{'#' * level} {title}\n\n{(model.__doc__ or '').strip().splitlines()[0]}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for name, field in model.model_fields.items():
        if name not in (skip or set()) and name != "aggregation":
            kind = _type(field.annotation) + _bounds(field)
            yield f"| `{name}` | {kind} | {_default(field)} | {_meaning(field)} |"
    yield ""


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())  # a row of a table is one line


def _type(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        inner = typing.get_args(annotation)[0]
        return _type(inner) if isinstance(inner, type) else "table"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    if typing.get_origin(annotation) is typing.Literal:
        return " \\| ".join(f'"{value}"' for value in typing.get_args(annotation))
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " \\| ".join(_type(a) for a in typing.get_args(annotation) if a is not type(None))
    inner = ", ".join(_type(a).replace(" \\| ", "/") for a in typing.get_args(annotation))
    return f"{getattr(typing.get_origin(annotation), '__name__', annotation)}[{inner}]"


def _bounds(field: FieldInfo) -> str:
    signs = {
        annotated_types.Ge: ("ge", ">="),
        annotated_types.Gt: ("gt", ">"),
        annotated_types.Le: ("le", "<="),
        annotated_types.Lt: ("lt", "<"),
    }
    bounds = [
        f"{sign} {getattr(rule, key)}"
        for rule in field.metadata
        for kind, (key, sign) in signs.items()
        if isinstance(rule, kind)
    ]
    return f", {', '.join(bounds)}" if bounds else ""


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "see below"
    return "unset" if field.default is None else f"`{field.default!r}`"


def cli_reference() -> str:
    """The CLI reference: every command's `--help`."""
    parts = ["# Command line\n", "Generated from `fedrai --help` by `make docs`.\n", HINTS]
    for path, command in _commands(cli, ["fedrai"]):
        context = click.Context(command, info_name=" ".join(path), **cli.context_settings)
        text = command.get_help(context)
        parts.append(f"## `{' '.join(path)}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _commands(command: click.Command, path: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], [*path, name])


if __name__ == "__main__":
    (HERE / "recipe.md").write_text(recipe_reference(), encoding="utf-8")
    (HERE / "cli.md").write_text(cli_reference(), encoding="utf-8")
