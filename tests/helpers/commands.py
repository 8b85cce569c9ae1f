"""The command line, run in this process as a person runs it: from a folder, with what it prints."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedrai.cli import main


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: its exit status; a text where it ended with one.
        out: what it printed.
        err: what it said on stderr.
    """

    code: int | str | None
    out: str
    err: str


Call = Callable[..., Outcome]


def commands(home: Path) -> Call:
    """Run `fedrai` in a folder, without a network and not on a terminal.

    Args:
        home: the folder; its `cache` holds the assets.
    """

    def run(*arguments: str | Path, typed: str = "", cwd: Path = home) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
            patch.chdir(cwd)
            patch.setenv("FEDRAI_CACHE", str(home / "cache"))
            patch.setenv("FEDRAI_OFFLINE", "1")
            patch.setattr(sys, "argv", ["fedrai", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.StringIO(typed))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            with pytest.raises(SystemExit) as stop:
                main()
        return Outcome(stop.value.code, out.getvalue(), err.getvalue())

    return run
