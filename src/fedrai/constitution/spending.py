"""What the parts of an alignment cost, across interruptions: `spent.json`.

Only the work that the result is made of is counted. What an interruption wasted, and what is done a
second time after it, is not: the account is the same as without one. (If the process is killed
between the write of a chunk and that of its cost, that cost is missing.)
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedrai.errors import ChecksumError, RunError
from fedrai.runs import files
from fedrai.runs.costs import Cost
from fedrai.runs.files import write_text, writing

SPENT = "spent.json"
STEP = ": "  # between a part and its step


class ModelUse(Protocol):
    """The tokens and floating-point operations of some use of a model."""

    @property
    def tokens(self) -> int:
        """Tokens that went through the model, without padding."""

    @property
    def operations(self) -> float:
        """Floating-point operations, counted from shapes."""


class CostMeter:
    """Counts what one part costs, from now on.

    Args:
        before: cost of the part so far.
        store: receives the cost of the part whenever it is saved.
    """

    def __init__(
        self, before: Cost | None = None, store: Callable[[Cost], None] = lambda _cost: None
    ) -> None:
        self.tokens, self.operations = 0, 0.0
        self._start, self._before, self._store = time.perf_counter(), before or Cost(), store

    def add(self, use: ModelUse) -> None:
        """Count a use of a model."""
        self.tokens += use.tokens
        self.operations += use.operations

    def save(self) -> None:
        """Store the cost of the part until now."""
        seconds = time.perf_counter() - self._start
        self._store(self._before + Cost(seconds, self.tokens, self.operations))


class Spending:
    """Costs of the parts of one alignment, in a file.

    Args:
        folder: the file's folder.

    Raises:
        RunError: the file is not an account of costs.
        ChecksumError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / SPENT
        self._costs = _read_costs(self._file)

    @property
    def parts(self) -> dict[str, Cost]:
        """Costs by part, those of its steps together."""
        parts: dict[str, Cost] = {}
        for name in sorted(self._costs):
            part = name.partition(STEP)[0]
            parts[part] = parts.get(part, Cost()) + self._costs[name]
        return parts

    def meter(self, name: str, step: str = "") -> CostMeter:
        """A meter that adds to a part.

        Args:
            name: name of the part.
            step: for a part whose steps are each done as a whole: replaces an earlier cost of the
                same step. Without it the cost adds to that of the part so far.
        """
        key = f"{name}{STEP}{step}" if step else name
        before = None if step else self._costs.get(key)
        return CostMeter(before, lambda cost: self.put(key, cost))

    def put(self, name: str, cost: Cost) -> None:
        """Store the cost of a part, in place of its earlier one."""
        self._costs[name] = cost
        write_costs(self._file, self._costs)


def _read_costs(path: Path) -> dict[str, Cost]:
    """Costs by part; none where there is no file."""
    value = read_object(path)
    sha256 = value.pop(files.SEAL, None)
    if sha256 not in (None, _digest(value)):
        hint = "delete it: the account of costs starts again"
        raise ChecksumError(f"{path} is damaged: its checksum does not match", hint=hint)
    try:
        return {name: Cost.from_json(cost) for name, cost in value.items()}
    except (TypeError, AttributeError) as error:
        raise RunError(f"{path} holds no costs", hint="delete it to start again") from error


def write_costs(path: Path, costs: Mapping[str, Cost]) -> None:
    """Write costs by part, with a checksum.

    Raises:
        RunError: the file cannot be written.
    """
    value = {name: cost.to_json() for name, cost in costs.items()}
    write_object(path, {**value, files.SEAL: _digest(value)})


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if there is no file.

    Raises:
        RunError: the file cannot be read, or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        value = files.parse_json(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON", hint="delete it to start again") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is not a JSON object", hint="delete it to start again")
    return value


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    with writing(path, RunError):
        write_text(path, files.json_text(value))
