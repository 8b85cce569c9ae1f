"""The version of what a run folder holds, so that no version of FedRAI misreads a later one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrai.errors import RunError

SCHEMA = 1
"""As `schema` in `run.json`; runs without it are older, and are read too."""


def readable(path: Path, info: object) -> dict[str, Any]:
    """What the `run.json` of a run holds, where this version can read that run.

    Args:
        path: its folder.
        info: what its `run.json` holds.

    Raises:
        RunError: it is no JSON object, or a later version wrote it.
    """
    if not isinstance(info, dict):
        raise RunError(f"{path / 'run.json'} cannot be read (not a JSON object)")
    schema = info.get("schema", 0)
    if isinstance(schema, int) and schema > SCHEMA:
        raise RunError(
            f"{path} was written by a later version of FedRAI: its schema is {schema}, and this"
            f" version reads up to {SCHEMA}",
            hint="update FedRAI",
        )
    return info
