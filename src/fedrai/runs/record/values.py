"""JSON values of unknown type: a value of another type counts as not recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedrai.errors import RunError
from fedrai.rates import Rate
from fedrai.runs.costs import Cost
from fedrai.runs.folder import RunFolder

Json = Mapping[str, Any]


def skipped_rows_text(rows: int | None, unreported: int) -> str:
    """How many rows could not be used, and how many clients of a deployment do not report it.

    Args:
        rows: sum over the clients that report it; None: none does.
        unreported: number of clients that do not.
    """
    if rows is None:
        return "not reported" if unreported else "not recorded"
    clients = "1 client does" if unreported == 1 else f"{unreported:,} clients do"
    return f"{rows:,} ({clients} not report)" if unreported else f"{rows:,}"


def shared_rounds_text(shared: Mapping[str, Sequence[int]]) -> str:
    """Which rounds of a run others trained: "rounds 1 to 3 from harmful"; empty if none.

    Args:
        shared: numbers of rounds by the run that trained them.
    """
    parts = []
    for source, numbers in shared.items():
        several = len(numbers) > 1
        which = f"rounds {numbers[0]} to {numbers[-1]}" if several else f"round {numbers[0]}"
        parts.append(f"{which} from {source}")
    return ", ".join(parts)


def json_of(folder: RunFolder, name: str) -> Json:
    """The JSON object in a file of a run.

    Raises:
        RunError: the file is missing or damaged.
    """
    body: object = folder.read_json(name)
    if not isinstance(body, Mapping):
        raise RunError(f"{folder.path / name} cannot be read (not a JSON object)")
    return body


def part(body: Json, key: str) -> Json:
    """The object below a key; empty if there is none."""
    value = body.get(key)
    return value if isinstance(value, Mapping) else {}


def word(body: Json, key: str) -> str:
    """The text below a key; empty if there is none."""
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
    """A number of at least 0, rounded; None for anything else."""
    number = as_number(value)
    return None if number is None or number < 0 else round(number)


def as_counts(value: object) -> dict[str, int]:
    """Counts by name; other values are left out."""
    body = value if isinstance(value, Mapping) else {}
    counts = {str(name): as_count(entry) for name, entry in body.items()}
    return {name: count for name, count in counts.items() if count is not None}


def as_total(value: object) -> int | None:
    """The sum of counts by name; None for anything but an object."""
    return sum(as_counts(value).values()) if isinstance(value, Mapping) else None


def as_rate(value: object) -> Rate | None:
    """The rate that `rate_json` wrote; None for anything else."""
    body = value if isinstance(value, Mapping) else {}
    successes, scored, unscored = (
        as_count(body.get(key)) for key in ("successes", "scored", "unscored")
    )
    if successes is None or scored is None or successes > scored:
        return None
    prompts = as_count(body.get("prompts")) or 0
    return Rate(successes, scored, unscored or 0, prompts if prompts <= scored else 0)


def as_numbers(value: object) -> dict[str, float]:
    """Finite numbers by name; other values are left out."""
    body = value if isinstance(value, Mapping) else {}
    numbers = {str(name): as_number(entry) for name, entry in body.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def as_words(body: Json, key: str) -> dict[str, str]:
    """Texts by name below a key."""
    return {str(name): str(text) for name, text in part(body, key).items()}


def as_costs(value: object) -> dict[str, Cost]:
    """Costs by phase."""
    body = value if isinstance(value, Mapping) else {}
    return {str(phase): Cost.from_json(cost) for phase, cost in body.items()}
