"""`fedrai chat`: the base and the tuned model answer side by side."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from fedrai.commands import answer
from fedrai.errors import ModelError
from fedrai.records import Message
from fedrai.targets import Target

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
    except UnicodeDecodeError as error:
        raise ModelError(
            f"what came in is not text in {sys.stdin.encoding}",
            hint="save it in that encoding, or set PYTHONIOENCODING",
        ) from error
    return None if line in ("/quit", "/exit") else line


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
        text = answer(chosen, history, tuned=tuned, limit=limit, temperature=temperature, seed=seed)
        history.append(Message("assistant", text))
        label = Text(f"{NAMES[tuned]:>5}> ", style="bold green" if tuned else "bold")
        console.print(label + Text(text))
