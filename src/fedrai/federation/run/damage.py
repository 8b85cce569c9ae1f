"""What is looked at in a run folder before it is gone on with, and what becomes of damage.

A damaged file is named. What follows from others is made again, and comes out in the same bits: an
update of the round in progress is asked for once more, an evaluation is done again, and so is the
last round, from the one before it. Nothing is deleted: what was damaged lies in `damaged/`.
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
    """A run that is to be gone on with; its `run.json` and `recipe.toml` are what they were.

    Raises:
        RunError: there is none, or its recipe is another one.
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
    """Set aside what is damaged and can be made again, and say so on stderr.

    Args:
        folder: the run's, which this process has locked.

    Raises:
        RunError: something is damaged that does not follow from the rest.
    """
    _check_earlier(folder)
    for part, why in _unusable(folder):
        folder.repair()  # the first new event must not join a line that was cut
        _set_aside(folder, part)
        _say(f"{part} {why}: {AGAIN}")
    older = [n for n in folder.rounds() if not checksums.has_listing(folder.round_folder(n))]
    if older:
        _say(f"{len(older)} of the rounds in {folder.path} have no {checksums.LISTING}"
             " (earlier versions wrote none): damage to them would not be seen")  # fmt: skip


def _unusable(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    """What is damaged and follows from the rest, from the last round backwards."""
    for number in reversed(folder.rounds()):
        if not _is_damaged(folder, number):
            break
        yield folder.round_folder(number), "is damaged"
    last = folder.last_round()
    for place in sorted((folder.path / "evaluations").glob("[0-9]*")):
        if place.is_dir() and place.name.isdecimal() and int(place.name) > last:
            yield place, "is of a round that is done again"
        elif checksums.changed(place):
            yield place, "is damaged"
    for update in damaged_updates(folder, last + 1):
        yield update, "is damaged"
    work = folder.pending(last + 1) / "constitution"
    if work.is_dir() and not _can_go_on(work):
        yield work, "is damaged"
    yield from _screening(folder)


def _is_damaged(folder: RunFolder, number: int) -> bool:
    """Whether a file of a round, or of what its alignment left, is not what was written."""
    places = (folder.round_folder(number), folder.alignment(number))
    return any(checksums.changed(place) for place in places)


def _can_go_on(work: Path) -> bool:
    """Whether an alignment that was interrupted finds what it left there."""
    try:
        material.read(work)
        check_state(work)
    except (RunError, ChecksumError):
        return False
    return True


def _screening(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    """Ledgers of the filter; it is asked again whenever a run is gone on with."""
    names = {name for name in checksums.changed(folder.path) if name.endswith("filter.json")}
    for name in sorted(names):
        yield folder.path / name, "is missing or damaged"
    whole = folder.path / "filter.json"
    if names and whole.name not in names and whole.is_file():
        yield whole, "counts what a damaged ledger says"


def _check_earlier(folder: RunFolder) -> None:
    """See that what earlier rounds left is whole, as far as later ones and the summary need it.

    Raises:
        RunError: it is not, and later rounds follow from it.
    """
    lost = [name for name in checksums.changed(folder.path) if not name.endswith("filter.json")]
    if lost:
        raise RunError(
            f"{folder.path / lost[0]} is missing or damaged",
            hint=f"put the files back from a copy; {checksums.LISTING} has what they should be",
        )
    whole = next((n for n in reversed(folder.rounds()) if not _is_damaged(folder, n)), 0)
    places = {n: folder.round_folder(n) for n in folder.rounds() if n < whole}
    damaged = [
        (n, place / name)
        for n, place in places.items()
        for name in checksums.changed(place, "round.json")
    ]
    aligned = [n for n in folder.rounds() if n <= whole and folder.alignment(n).is_dir()]
    damaged += [
        (n, folder.alignment(n) / name)
        for n in aligned[-1:]
        for name in checksums.changed(folder.alignment(n))
    ]
    for number, file in damaged:
        raise RunError(
            f"{file} is damaged, and later rounds follow from it",
            hint=f"put it back from a copy, or delete rounds {number} to {folder.last_round()} in"
            f" {folder.path / 'rounds'}: `fedrai run --resume {folder.path}` does them again",
        )


def _set_aside(folder: RunFolder, part: Path) -> None:
    """Move a damaged file or folder of the run to `damaged/`; its events say so."""
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
