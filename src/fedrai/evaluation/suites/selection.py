"""From what a recipe or a command names to suites: groups, paths, and names that differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fedrai import assets
from fedrai.errors import EvaluationError
from fedrai.evaluation.suites.declared import declared_suites
from fedrai.evaluation.suites.loading import NotAvailable, Suite, load

GROUPS: Mapping[str, tuple[str, ...]] = {"xstest": ("xstest-safe", "xstest-unsafe")}
"""Names that stand for several suites; a path of theirs holds all of them."""

RESERVED = ("ordinary", "metrics")  # names that an evaluation uses itself


def select(
    specs: Sequence[str],
    paths: Mapping[str, str],
    count: int,
    seed: int,
    progress: assets.Progress | None = None,
) -> list[Suite | NotAvailable]:
    """Load suites, in the order in which they are named.

    Args:
        specs: as `load` takes them; a group's name, with or without a path, stands for its suites.
        paths: where suites lie that are named without a path, by suite or group.
        count: how many items of each; 0 for all.
        seed: of the samples.
        progress: shows downloads.

    Raises:
        EvaluationError: a name is not known, or two suites have the same one; a file is not what
            it should be.
        AssetError: a path that the user gave does not exist, or bytes are not those pinned.
    """
    check_paths(paths)
    found = [load(spec, count, seed, progress=progress) for spec in expand(specs, paths)]
    named = [replace(suite, declaration=replace(suite.declaration, name=name_of(suite)))
             if isinstance(suite, Suite) else suite for suite in found]  # fmt: skip
    names = [name_of(suite) for suite in named]
    for name in names:
        if name in RESERVED or names.count(name) > 1:
            raise EvaluationError(
                f"two suites have the name {name}"
                if names.count(name) > 1
                else f"a suite cannot have the name {name}",
                hint="a suite of your own is called as its file without the ending: rename it",
            )
    return named


def expand(specs: Sequence[str], paths: Mapping[str, str]) -> Iterator[str]:
    """Specs without groups, each with its path where there is one."""
    for spec in specs:
        name, _, given = spec.partition("=")
        for one in GROUPS.get(name, (name,)):
            where = given or paths.get(one) or paths.get(name) or paths.get(_group_of(one), "")
            yield f"{one}={where}" if where else one if name in GROUPS else spec


def check_paths(paths: Mapping[str, str]) -> None:
    """Raise where a path belongs to no suite.

    Raises:
        EvaluationError: the name is neither a suite's nor a group's.
    """
    for name in paths:
        if name not in declared_suites() and name not in GROUPS:
            raise EvaluationError(
                f"evaluation.paths.{name}: there is no such suite",
                hint=f"known: {', '.join([*declared_suites(), *GROUPS])};"
                " name a file of your own in suites",
            )


def name_of(suite: Suite | NotAvailable) -> str:
    """A name that a file and a figure can have."""
    name = suite.declaration.name if isinstance(suite, Suite) else suite.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "suite"


def _group_of(name: str) -> str:
    return next((group for group, members in GROUPS.items() if name in members), "")
