"""`fedrai chat`: the base and the tuned model answer side by side."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from fedrai.cli.options import ModelOptions, as_record, model_options
from fedrai.errors import DataError

if TYPE_CHECKING:
    from fedrai.federation.run.targets import Target
    from fedrai.records import Message

NAMES = {False: "base", True: "tuned"}


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How the models answer."""

    max_new_tokens: int
    temperature: float
    tuned_only: bool


@click.command("chat")
@click.argument("spec", metavar="RUN_OR_MODEL")
@model_options
@click.option("--prompt", help="Answer this once and leave.")
@as_record(
    "options", AnswerOptions,
    click.option("--max-new-tokens", default=200, show_default=True, type=click.IntRange(1),
        help="Longest answer."),
    click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0),
        help="0: always the likeliest token."),
    click.option("--tuned-only", is_flag=True, help="Do not show the base model's answer."),
)  # fmt: skip
def chat_command(
    spec: str, model: ModelOptions, prompt: str | None, options: AnswerOptions
) -> None:
    """Talk to the base and the tuned model side by side."""
    Chat(model.load(spec), options).talk(prompt)


class Chat:
    """A conversation with a model, or with its base and tuned versions.

    Args:
        target: the model.
        options: how it answers.
    """

    def __init__(self, target: Target, options: AnswerOptions) -> None:
        from rich.console import Console

        tuned = target.adapter is not None
        self._sides = [False, True] if tuned and not options.tuned_only else [tuned]
        self._target, self._options = target, options
        self._console = Console(highlight=False)
        self._start_over()

    def _start_over(self) -> None:
        """Each model keeps its own side of the conversation."""
        self._histories: dict[bool, list[Message]] = {tuned: [] for tuned in self._sides}

    def talk(self, prompt: str | None) -> None:
        """Answer one prompt, or converse until the input ends.

        `/new` starts over, `/quit` leaves.
        """
        if prompt is not None:
            _check(prompt)
            self._turn(prompt, seed=0)
            return
        target, number = self._target, 0
        self._console.print(
            f"{target.label} on {target.model.name}. /new starts over, /quit leaves."
        )
        while (line := _read()) is not None:
            if line == "/new":
                self._start_over()
            elif line:
                self._turn(line, seed=number)
                number += 1

    def _turn(self, prompt: str, seed: int) -> None:
        from rich.text import Text

        from fedrai.records import Message

        options = self._options
        for tuned, history in self._histories.items():
            history.append(Message("user", prompt))
            answer = self._target.answer(
                history, tuned=tuned, limit=options.max_new_tokens,
                temperature=options.temperature, seed=seed,
            )  # fmt: skip
            history.append(Message("assistant", answer))
            label = Text(f"{NAMES[tuned]:>5}> ", style="bold green" if tuned else "bold")
            self._console.print(label + Text(answer))


def _read() -> str | None:
    try:
        line = input("you> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    except UnicodeDecodeError:
        raise _not_text() from None
    _check(line)
    return None if line in ("/quit", "/exit") else line


def _check(prompt: str) -> None:
    """Check that a prompt is text; bytes that are not arrive as lone surrogates.

    Raises:
        DataError: it is not.
    """
    from fedrai.data import encodable

    if not encodable(prompt):
        raise _not_text()


def _not_text() -> DataError:
    return DataError(
        "the prompt is not UTF-8", hint="type it in a UTF-8 terminal (see `locale`), or convert it"
    )
