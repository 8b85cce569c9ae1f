"""The runs in some folders, their order, and their labels in a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fedrai.errors import RunError
from fedrai.report.saved_comparison import arms_in
from fedrai.report.svg import shorten
from fedrai.runs import RunFolder, find_runs, record


def read_runs(paths: Sequence[Path]) -> list[record.RunRecord]:
    """The runs in some folders.

    Args:
        paths: run folders, or folders of runs such as the output of `fedrai compare`.

    Raises:
        RunError: a folder holds no run, or a file of one is damaged.
    """
    folders = list(dict.fromkeys(run.path for path in paths for run in _runs_at(path)))
    return [
        record.read(RunFolder(folder), label)
        for folder, label in zip(folders, _labels(folders), strict=True)
    ]


def _runs_at(path: Path) -> list[RunFolder]:
    folders = [RunFolder(path)] if (path / "run.json").is_file() else find_runs(path)
    if not folders:
        raise RunError(f"{path} holds no run (no run.json)", hint="`fedrai runs` lists runs")
    order = arms_in(path)  # the recipe's order, if `fedrai compare` recorded it
    places = {name: place for place, name in enumerate(order)}
    return sorted(folders, key=lambda r: (r.path.parent, places.get(r.path.name, len(order))))


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names of folders, with as many parents as are needed to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            break
    return [_unique(_plain_name(name), place, folders) for place, name in enumerate(names)]


def _plain_name(name: str) -> str:
    """A name in words where it holds a seed: "both, seed 1", "share-0.3, both, seed 1"."""
    match = re.fullmatch(r"(?:(.+)/)?seed-(\d+)/([^/]+)", name)
    if match is None:
        return name
    parents = f"{match[1]}, " if match[1] else ""
    return f"{parents}{match[3]}, seed {match[2]}"


def _unique(name: str, place: int, folders: Sequence[Path]) -> str:
    short = shorten(name, 60)
    return short if len(folders) == 1 or len(name) <= 60 else f"{short} ({place + 1})"
