"""`fedrai chat`: the base and the tuned model answer side by side."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from fedrai.data import encodable
from fedrai.errors import DataError
from fedrai.federation.run.targets import Target
from fedrai.records import Message

NAMES = {False: "base", True: "tuned"}


def talk(
    chosen: Target, *, prompt: str | None, limit: int, temperature: float, tuned_only: bool
) -> None:
    """Answer one prompt, or converse until the input ends.

    Each model keeps its own side of the conversation. `/new` starts over, `/quit` leaves.
    """
    console = Console(highlight=False)
    sides = [True] if chosen.adapter is not None and tuned_only else [False]
    if chosen.adapter is not None and not tuned_only:
        sides = [False, True]
    if prompt is not None:
        _check(prompt)
        _turn(console, chosen, {s: [] for s in sides}, prompt, limit, temperature, 0)
        return
    console.print(f"{chosen.label} on {chosen.model.name}. /new starts over, /quit leaves.")
    histories: dict[bool, list[Message]] = {s: [] for s in sides}
    number = 0
    while (line := _read()) is not None:
        if line == "/new":
            histories = {s: [] for s in sides}
        elif line:
            _turn(console, chosen, histories, line, limit, temperature, number)
            number += 1


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
    """See that what was typed is text; bytes that are not come as halves of characters.

    Raises:
        DataError: it is not.
    """
    if not encodable(prompt):
        raise _not_text()


def _not_text() -> DataError:
    return DataError(
        "the prompt is not UTF-8", hint="type it in a UTF-8 terminal (see `locale`), or convert it"
    )


def _turn(
    console: Console,
    chosen: Target,
    histories: dict[bool, list[Message]],
    prompt: str,
    limit: int,
    temperature: float,
    seed: int,
) -> None:
    for tuned, history in histories.items():
        history.append(Message("user", prompt))
        text = chosen.answer(history, tuned=tuned, limit=limit, temperature=temperature, seed=seed)
        history.append(Message("assistant", text))
        label = Text(f"{NAMES[tuned]:>5}> ", style="bold green" if tuned else "bold")
        console.print(label + Text(text))
