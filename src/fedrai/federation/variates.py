"""A client's control variates on its own disk; see `aggregation.scaffold` for what they are.

There is one file for each round in which the client trained. The server says which of them holds:
it names the last round in which it aggregated an update of this client. So a round that is repeated
after a kill, or an update that arrived too late, does not advance the variate. A file is written,
whole, before the update is sent.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from fedrai.errors import ChecksumError, RunError
from fedrai.federation.aggregation.scaffold import change, correction
from fedrai.federation.protocol import Shapes, Task, shapes_of
from fedrai.model import AdapterState
from fedrai.runs.files import load_sealed, save_sealed


@dataclass(frozen=True, slots=True)
class OwnVariate:
    """A client's control variate in a round.

    Attributes:
        folder: where it is kept.
        task: the round's.
        common: the server's variate.
        value: the client's own.
    """

    folder: Path
    task: Task
    common: AdapterState
    value: AdapterState

    @property
    def correction(self) -> AdapterState | None:
        """Of each local step; None: there is none."""
        return correction(self.common, self.value)

    def keep(self, sent: AdapterState, rate_sum: float) -> None:
        """Keep the variate that follows from the adapter which is sent.

        Args:
            sent: the adapter.
            rate_sum: the learning rates of the round's steps, summed.

        Raises:
            OSError: it cannot be written.
        """
        moved = change(self.common, self.task.adapter, sent, rate_sum)
        new = {name: self.value[name] + moved[name] for name in sorted(moved)}
        write(self.folder, self.task.round, self.task.counted, new)


def of_task(folder: Path, task: Task) -> OwnVariate | None:
    """A client's variate for a task that holds the server's.

    Args:
        folder: the client's.
        task: the task.

    Returns:
        None: it is lost.
    """
    value = read(folder, task.counted, shapes_of(task.adapter))
    if value is None or task.variate is None:
        return None
    return OwnVariate(folder, task, task.variate, value)


def file_of(folder: Path, number: int) -> Path:
    """The file of a client's variate after a round."""
    return folder / f"{number:04d}.safetensors"


def read(folder: Path, number: int, shapes: Shapes) -> AdapterState | None:
    """A client's variate.

    Args:
        folder: the client's.
        number: the round in which it was made; 0: it has none yet, which is 0 everywhere.
        shapes: names and shapes of the adapter's arrays.

    Returns:
        None: it is lost or damaged.
    """
    if number == 0:
        return zeros(shapes)
    with suppress(RunError, ChecksumError):
        state, _ = load_sealed(file_of(folder, number))
        if {name: tuple(part.shape) for name, part in state.items()} == dict(shapes):
            return state
    return None


def zeros(shapes: Shapes) -> AdapterState:
    """What a client has before its first round."""
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def write(folder: Path, number: int, counted: int, variate: AdapterState) -> None:
    """Keep a client's variate after a round.

    Of the earlier ones stay that of `counted` and the one before, for a server that has to repeat
    its last round.

    Args:
        folder: the client's.
        number: the round, from 1.
        counted: the round whose variate this one was made of.
        variate: the new one.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_sealed(file_of(folder, number), variate, {})
    kept = {*[n for n in numbers(folder) if n < counted][-1:], counted, number}
    for other in numbers(folder):
        if other not in kept:
            file_of(folder, other).unlink(missing_ok=True)


def numbers(folder: Path) -> list[int]:
    """The rounds whose variates a client has, in order."""
    files = folder.glob("*.safetensors") if folder.is_dir() else ()
    return sorted(int(file.stem) for file in files if file.stem.isdecimal())
