"""Which runs lie at some places, in which order, and what a report calls them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fedrai.errors import RunError
from fedrai.report.arms import arms_in
from fedrai.report.markup import shorten
from fedrai.runs import RunFolder, find_runs, record


def read_runs(paths: Sequence[Path]) -> list[record.RunRecord]:
    """The runs at some places: a run folder, or a folder of runs such as `fedrai compare` leaves.

    Args:
        paths: of folders.

    Raises:
        RunError: there is no run at a place, or a file of one is damaged.
    """
    folders = list(dict.fromkeys(run.path for path in paths for run in _runs_at(path)))
    return [
        record.read(RunFolder(folder), label)
        for folder, label in zip(folders, _labels(folders), strict=True)
    ]


def _runs_at(path: Path) -> list[RunFolder]:
    found = [RunFolder(path)] if (path / "run.json").is_file() else find_runs(path)
    if not found:
        raise RunError(f"{path} holds no run (no run.json)", hint="`fedrai runs` lists runs")
    order = arms_in(path)  # the recipe's, where `fedrai compare` left it
    places = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda r: (r.path.parent, places.get(r.path.name, len(order))))


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names of folders, with as many of their parents as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            break
    return [_unique(_plain_name(name), place, folders) for place, name in enumerate(names)]


def _plain_name(name: str) -> str:
    """A name in words where it holds a seed: "both, seed 1", "share-0.3, both, seed 1"."""
    found = re.fullmatch(r"(?:(.+)/)?seed-(\d+)/([^/]+)", name)
    if found is None:
        return name
    above = f"{found[1]}, " if found[1] else ""
    return f"{above}{found[3]}, seed {found[2]}"


def _unique(name: str, place: int, folders: Sequence[Path]) -> str:
    short = shorten(name, 60)
    return short if len(folders) == 1 or len(name) <= 60 else f"{short} ({place + 1})"
