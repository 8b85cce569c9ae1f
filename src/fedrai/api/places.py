"""What the functions of the package take and give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""Numbers, texts and None by name; a list of rows makes a table."""

Place = str | Path


def folder(out: Place | None, kind: str, name: str) -> Path:
    """The folder to write: as it is named, or where the command would."""
    return Path(out) if out is not None else Path(kind) / name
