"""Checks of a run folder before the run is resumed, and the repair of damage.

Damaged files are named. What can be derived from other files is made again, with the same bits: an
update of the round in progress is requested again, an evaluation is repeated, and so is the last
round, from the one before it. Nothing is deleted: damaged files are moved to `damaged/`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from fedrai.assets import checksums
from fedrai.constitution import material
from fedrai.constitution.training import check_state
from fedrai.errors import ChecksumError, RunError
from fedrai.federation.round_record import damaged_updates
from fedrai.runs import SET_ASIDE, RunFolder, write_error

DAMAGED = "damaged"
AGAIN = "it is set aside in damaged/ and made again"


def open_run(path: Path) -> RunFolder:
    """Open a run to resume it, and check its `run.json` and `recipe.toml`.

    Raises:
        RunError: there is none, or its recipe was changed.
        ChecksumError: its `run.json` is damaged.
    """
    folder = RunFolder.open(path)
    try:
        _ = folder.recipe_file
    except ChecksumError:
        raise RunError(
            f"{path} cannot be resumed: recipe.toml changed since the run began",
            hint="start a new run with --out",
        ) from None
    return folder


def repair(folder: RunFolder) -> None:
    """Set aside damaged files that can be made again, and say so on standard error.

    Args:
        folder: the run's, which this process has locked.

    Raises:
        RunError: a file is damaged that cannot be derived from others.
    """
    _check_earlier(folder)
    for part, why in _repairable_files(folder):
        folder.repair()  # the first new event must not be appended to an incomplete line
        _set_aside(folder, part)
        _say(f"{part} {why}: {AGAIN}")
    older = [n for n in folder.rounds() if not checksums.has_listing(folder.round_folder(n))]
    if older:
        _say(f"{len(older)} of the rounds in {folder.path} have no {checksums.LISTING}"
             " (of an earlier version): damage to them is not detected")  # fmt: skip


def _repairable_files(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    """Damaged files that can be derived from others, from the last round backwards."""
    for number in reversed(folder.rounds()):
        if not _is_damaged(folder, number):
            break
        yield folder.round_folder(number), "is damaged"
    last = folder.last_round()
    for place in sorted((folder.path / "evaluations").glob("[0-9]*")):
        if place.is_dir() and place.name.isdecimal() and int(place.name) > last:
            yield place, "belongs to a round that is repeated"
        elif checksums.changed(place):
            yield place, "is damaged"
    for update in damaged_updates(folder, last + 1):
        yield update, "is damaged"
    alignment = folder.pending(last + 1) / "constitution"
    if alignment.is_dir() and not _is_resumable(alignment):
        yield alignment, "is damaged"
    yield from _damaged_filter_files(folder)


def _is_damaged(folder: RunFolder, number: int) -> bool:
    """Whether a file of a round or of its alignment differs from its checksum."""
    places = (folder.round_folder(number), folder.alignment(number))
    return any(checksums.changed(place) for place in places)


def _is_resumable(alignment: Path) -> bool:
    """Whether the files of an interrupted alignment can be read."""
    try:
        material.read(alignment)
        check_state(alignment)
    except (RunError, ChecksumError):
        return False
    return True


def _damaged_filter_files(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    """Damaged ledgers of the filter, which runs again whenever a run is resumed."""
    names = {name for name in checksums.changed(folder.path) if name.endswith("filter.json")}
    for name in sorted(names):
        yield folder.path / name, "is missing or damaged"
    totals = folder.path / "filter.json"
    if names and totals.name not in names and totals.is_file():
        yield totals, "includes counts from a damaged ledger"


def _check_earlier(folder: RunFolder) -> None:
    """Check the files of earlier rounds that later rounds and the summary need.

    Raises:
        RunError: one is damaged, and later rounds depend on it.
    """
    lost = [name for name in checksums.changed(folder.path) if not name.endswith("filter.json")]
    if lost:
        raise RunError(
            f"{folder.path / lost[0]} is missing or damaged",
            hint=f"restore the files from a copy; their checksums are in {checksums.LISTING}",
        )
    last_intact = next((n for n in reversed(folder.rounds()) if not _is_damaged(folder, n)), 0)
    places = {n: folder.round_folder(n) for n in folder.rounds() if n < last_intact}
    damaged = [
        (n, place / name)
        for n, place in places.items()
        for name in checksums.changed(place, "round.json")
    ]
    aligned = [n for n in folder.rounds() if n <= last_intact and folder.alignment(n).is_dir()]
    damaged += [
        (n, folder.alignment(n) / name)
        for n in aligned[-1:]
        for name in checksums.changed(folder.alignment(n))
    ]
    for number, file in damaged:
        raise RunError(
            f"{file} is damaged, and later rounds depend on it",
            hint=f"restore it from a copy, or delete rounds {number} to {folder.last_round()} in"
            f" {folder.path / 'rounds'}: `fedrai run --resume {folder.path}` repeats them",
        )


def _set_aside(folder: RunFolder, part: Path) -> None:
    """Move a damaged file or folder of the run to `damaged/`, and record an event."""
    name = part.relative_to(folder.path).as_posix()
    places = (folder.path / DAMAGED / f"{name.replace('/', '-')}.{n}" for n in count(1))
    place = next(place for place in places if not place.exists())
    try:
        place.parent.mkdir(exist_ok=True)
        folder.event(SET_ASIDE, what=name)
        if part.exists():
            part.rename(place)
    except OSError as error:
        raise write_error(folder.path, error) from error


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
