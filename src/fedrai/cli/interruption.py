"""A command that is stopped, or whose round fails, says how to resume it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from fedrai.errors import FederationError

Result = TypeVar("Result")


def with_resume_hint(
    call: Callable[[], Result], command: str, started: Callable[[], bool] = lambda: True
) -> Result:
    """Call something long; on Ctrl-C, or when a round fails, name the command that resumes it.

    Args:
        call: the work.
        command: resumes it.
        started: whether there is something to resume.
    """
    try:
        return call()
    except KeyboardInterrupt:
        if started():
            print(f"stopped; nothing is lost. Resume with:\n  {command}", file=sys.stderr)
        raise
    except FederationError as error:
        way = f"resume with: {command}"
        error.hint = f"{error.hint}; {way}" if error.hint else way
        raise
