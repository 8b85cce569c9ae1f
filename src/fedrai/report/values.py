"""Values of JSON that may be anything: what is not what is expected counts as not recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedrai.errors import RunError
from fedrai.rates import Rate
from fedrai.recipe.toml_files import read_toml
from fedrai.report.records import Score
from fedrai.runs import RunFolder

Json = Mapping[str, Any]


def json_of(folder: RunFolder, name: str) -> Json:
    """A JSON object of a run.

    Raises:
        RunError: the file is missing or damaged.
    """
    body: object = folder.read_json(name)
    if not isinstance(body, Mapping):
        raise RunError(f"{folder.path / name} cannot be read (not a JSON object)")
    return body


def recipe_of(folder: RunFolder) -> Json:
    """The resolved recipe of a run as it stands, empty if there is none.

    Raises:
        RunError: it is damaged.
    """
    file = folder.recipe_file
    try:
        return read_toml(file) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({type(error).__name__})") from error


def events_of(folder: RunFolder) -> list[Json]:
    """What happened in a run."""
    return [event for event in folder.events() if isinstance(event, Mapping)]


def part(body: Json, key: str) -> Json:
    """A part of an object that is an object; empty if there is none."""
    value = body.get(key)
    return value if isinstance(value, Mapping) else {}


def word(body: Json, key: str) -> str:
    """A text; empty if there is none."""
    value = body.get(key)
    return value if isinstance(value, str) else ""


def as_number(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond what a float holds
        return None


def as_count(value: object) -> int | None:
    """A number from 0 as a whole one; None for anything else."""
    found = as_number(value)
    return None if found is None or found < 0 else round(found)


def as_counts(value: object) -> dict[str, int]:
    """Counts by name, without whatever is none."""
    body = value if isinstance(value, Mapping) else {}
    found = {str(name): as_count(entry) for name, entry in body.items()}
    return {name: entry for name, entry in found.items() if entry is not None}


def as_total(value: object) -> int | None:
    """The sum of counts by name; None where there are none."""
    return sum(as_counts(value).values()) if isinstance(value, Mapping) else None


def as_rate(value: object) -> Rate | None:
    """The rate that `rate_json` wrote; None for anything else."""
    body = value if isinstance(value, Mapping) else {}
    happened, scored, unscored = (
        as_count(body.get(key)) for key in ("successes", "scored", "unscored")
    )
    if happened is None or scored is None or happened > scored:
        return None
    prompts = as_count(body.get("prompts")) or 0
    return Rate(happened, scored, unscored or 0, prompts if prompts <= scored else 0)


def as_score(value: object) -> Score | None:
    """A score as an evaluation wrote it; None for anything else, and for one without data."""
    body = value if isinstance(value, Mapping) else {}
    found, low, high = (as_number(body.get(key)) for key in ("value", "low", "high"))
    if found is None:
        return None
    counts = (as_count(body.get(key)) or 0 for key in ("count", "unscored"))
    return Score(found, low, high, *counts)
