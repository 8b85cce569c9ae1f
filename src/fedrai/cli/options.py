"""Options that several commands share. Some reach a command together, as one record."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fedrai.data import ReadOptions
    from fedrai.federation.run.targets import Target

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
JUDGES = ("rule", "legacy", "guard", "rubric")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def override_option(example: str = "federation.rounds=3") -> Decorator:
    """`-o KEY=VALUE` for the keys of a recipe."""
    return click.option(
        "-o", "overrides", multiple=True, metavar="KEY=VALUE",
        help=f"Set a key, e.g. {example}; repeatable.",
    )  # fmt: skip


def resume_options(kind: str) -> Decorator:
    """`--resume FOLDER` and `--moved OLD=NEW`, for a kind of work."""
    return together(
        click.option("--resume", type=FOLDER, metavar="FOLDER", help=f"Resume {kind}."),
        click.option(
            "--moved", multiple=True, metavar="OLD=NEW",
            help="With --resume: a file or folder of the recipe is now, unchanged, at NEW;"
            " repeatable.",
        ),
    )  # fmt: skip


base_option = click.option(
    "--base", default="", metavar="MODEL",
    help="Base model of the run or adapter, if it is somewhere else now.",
)  # fmt: skip


def together(*options: Decorator) -> Decorator:
    """Several options, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def as_record(name: str, record: Callable[..., Any], *options: Decorator) -> Decorator:
    """Options whose values reach the command as one record.

    Args:
        name: the command's argument for it.
        record: builds it from the options' values by name: a dataclass, or a function that imports
            one when the command runs.
        options: the options and arguments.
    """

    def add(command: Command) -> Command:
        others = len(getattr(command, "__click_params__", ()))

        @functools.wraps(command)
        def call(*args: Any, **values: Any) -> Any:
            settings = record(**{key: values.pop(key) for key in keys})
            return command(*args, **values, **{name: settings})

        together(*options)(call)
        added: list[click.Parameter] = getattr(call, "__click_params__", [])[others:]
        keys = [str(option.name) for option in added]
        return call

    return add


# --- the model ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which adapter of a run, and where its base model is."""

    number: int | None
    client: str
    base: str

    def load(self, spec: str) -> Target:
        """Load a model, or that of a run folder or an adapter folder, with its adapter."""
        from fedrai.federation.run.targets import target

        return target(spec, self.number, self.client, base=self.base)


model_options = as_record(
    "model", ModelOptions,
    click.option("--round", "number", type=int, help="Round of the run (default: the last)."),
    click.option("--client", default="", help="Whose adapter, for runs in local mode."),
    base_option,
)  # fmt: skip


# --- judges ---------------------------------------------------------------------------------------


def judge_option(name: str, **settings: Any) -> Decorator:
    """`--judge`: one of ours, or a judge of an installed package."""

    def complete(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
        return [judge for judge in JUDGES if judge.startswith(text)]

    metavar = "|".join((*JUDGES, "NAME"))
    return click.option("--judge", name, metavar=metavar, shell_complete=complete, **settings)


def endpoint_options(sent: str) -> Decorator:
    """The endpoint of the judge `rubric`; `sent` says what goes there."""
    return together(
        click.option("--judge-url", default="", help=f"Endpoint of the LLM that judges{sent}."),
        click.option("--judge-model", default="", help="Its name there."),
        click.option("--judge-key-env", default="", help="Environment variable with its key."),
    )


# --- files ----------------------------------------------------------------------------------------


def _validate_read_option(_context: click.Context, option: click.Parameter, value: str) -> str:
    """An encoding or a separator, as a recipe checks it."""
    from fedrai.recipe.sources import known_encoding, one_separator

    check = known_encoding if option.name == "encoding" else one_separator
    try:
        return check(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _read_options(**values: Any) -> ReadOptions:
    from fedrai.data import ReadOptions

    return ReadOptions(**values)


reading_options = as_record(
    "read_options", _read_options,
    click.option("--encoding", default="", callback=_validate_read_option, metavar="NAME",
        help="Of text files, e.g. cp1252 (default: UTF-8, or by the file's first bytes)."),
    click.option("--separator", default="", callback=_validate_read_option, metavar="CHARACTER",
        help="Of CSV: a character, or tab (default: by the header)."),
    click.option("--max-row-mb", default=16.0, show_default=True,
        type=click.FloatRange(0, min_open=True), help="A longer row cannot be read."),
    click.option("--max-unpacked-mb", default=1000.0, show_default=True,
        type=click.FloatRange(0, min_open=True),
        help="Most that a compressed file may unpack to."),
)  # fmt: skip
