"""Values of JSON that may be anything: what is not what is expected counts as not recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedrai.errors import RunError
from fedrai.rates import Rate
from fedrai.runs.costs import Cost
from fedrai.runs.folder import RunFolder

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


def as_numbers(value: object) -> dict[str, float]:
    """Finite numbers by name, without whatever is none."""
    body = value if isinstance(value, Mapping) else {}
    found = {str(name): as_number(entry) for name, entry in body.items()}
    return {name: entry for name, entry in found.items() if entry is not None}


def as_words(body: Json, key: str) -> dict[str, str]:
    """Texts by name in a part of an object."""
    return {str(name): str(text) for name, text in part(body, key).items()}


def as_cost(value: object) -> Cost:
    """The cost of a phase; what is not recorded of it counts nothing."""
    names = {field.name for field in fields(Cost)}
    known: dict[str, Any] = {n: v for n, v in as_numbers(value).items() if n in names}
    return Cost(**known)


def as_costs(value: object) -> dict[str, Cost]:
    """Costs by phase."""
    body = value if isinstance(value, Mapping) else {}
    return {str(phase): as_cost(cost) for phase, cost in body.items()}
