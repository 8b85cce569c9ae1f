"""What commands print: JSON on stdout, warnings on stderr, and how to resume work that stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from fedrai.errors import FederationError

Result = TypeVar("Result")


def print_json(value: Any) -> None:
    """Print figures for machines."""
    click.echo(json.dumps(value, indent=2))


def warn(text: str) -> None:
    """Print a warning on stderr."""
    click.secho(text, fg="yellow", err=True)


def with_resume_hint(
    call: Callable[[], Result], command: str, started: Callable[[], bool] = lambda: True
) -> Result:
    """Call something long; on Ctrl-C, or when a round fails, name the command that resumes it.

    Args:
        call: does the work.
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
        hint = f"resume with: {command}"
        error.hint = f"{error.hint}; {hint}" if error.hint else hint
        raise
