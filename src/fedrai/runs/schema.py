"""The version of a run folder's files: an older FedRAI refuses to read a newer one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrai.errors import RunError

SCHEMA = 1
"""`schema` in `run.json` and `summary.json`; runs without it are older and can be read."""


def check_schema(file: Path, body: object) -> dict[str, Any]:
    """The JSON object of a file with a schema, if this version can read it.

    Args:
        file: `run.json` or `summary.json`.
        body: what it holds.

    Raises:
        RunError: it is not a JSON object, or a later version wrote it.
    """
    if not isinstance(body, dict):
        raise RunError(f"{file} cannot be read (not a JSON object)")
    schema = body.get("schema", 0)
    if isinstance(schema, int) and schema > SCHEMA:
        raise RunError(
            f"{file.parent} was written by a later version of FedRAI: its schema is {schema}, and"
            f" this version reads up to {SCHEMA}",
            hint="update FedRAI",
        )
    return body
