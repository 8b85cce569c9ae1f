"""How commands read files: `--encoding`, `--separator` and the limits. No heavy import."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from fedrai.data import ReadOptions

Command = TypeVar("Command", bound=Callable[..., Any])


def _checked(_context: click.Context, option: click.Parameter, value: str) -> str:
    """An encoding or a separator, as a recipe checks it."""
    from fedrai.recipe.sources import known_encoding, one_separator

    check = known_encoding if option.name == "encoding" else one_separator
    try:
        return check(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_OPTIONS = (
    click.option("--encoding", default="", callback=_checked, metavar="NAME",
        help="Of text files, e.g. cp1252 (default: UTF-8, or what their first bytes tell)."),
    click.option("--separator", default="", callback=_checked, metavar="CHARACTER",
        help="Of CSV: a character, or tab (default: what the header tells)."),
    click.option("--max-row-mb", default=16.0, show_default=True,
        type=click.FloatRange(0, min_open=True), help="A longer row cannot be read."),
    click.option("--max-unpacked-mb", default=1000.0, show_default=True,
        type=click.FloatRange(0, min_open=True), help="What a packed file may unpack to."),
)  # fmt: skip


def reading_options(command: Command) -> Command:
    """The options for a command; `reading_of` takes their values."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def reading_of(
    encoding: str, separator: str, max_row_mb: float, max_unpacked_mb: float
) -> ReadOptions:
    """How the files of a command are read."""
    from fedrai.data import ReadOptions

    return ReadOptions(encoding, separator, max_row_mb, max_unpacked_mb)
