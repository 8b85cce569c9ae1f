"""From the names in a recipe or command to suites: groups, paths, and distinct names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fedrai import assets
from fedrai.errors import EvaluationError
from fedrai.evaluation.suites.declared import declared_suites
from fedrai.evaluation.suites.loading import NotAvailable, Suite, load

GROUPS: Mapping[str, tuple[str, ...]] = {"xstest": ("xstest-safe", "xstest-unsafe")}
"""Names that stand for several suites; a path given for a group holds all of them."""

RESERVED = ("ordinary", "metrics")  # names of files in every evaluation


def select(
    specs: Sequence[str],
    paths: Mapping[str, str],
    count: int,
    seed: int,
    progress: assets.Progress | None = None,
) -> list[Suite | NotAvailable]:
    """Load suites, in the order of their names.

    Args:
        specs: names as in `load`; a group's name, with or without a path, stands for its suites.
        paths: paths of suites that are named without one, by suite or group.
        count: number of items of each; 0 for all.
        seed: for drawing the samples.
        progress: shows downloads.

    Raises:
        EvaluationError: a name is unknown, two suites have the same name, or a file is not the
            suite.
        AssetError: a path does not exist, or bytes do not match the pinned checksum.
    """
    check_paths(paths)
    suites = [load(spec, count, seed, progress=progress) for spec in expand(specs, paths)]
    names = [name_of(suite) for suite in suites]
    for name in names:
        if name in RESERVED or names.count(name) > 1:
            raise EvaluationError(
                f"two suites have the name {name}"
                if names.count(name) > 1
                else f"the name {name} is reserved",
                hint="a suite of your own has the name of its file, without the ending: rename it",
            )
    return [
        replace(suite, declaration=replace(suite.declaration, name=name))
        if isinstance(suite, Suite)
        else suite
        for suite, name in zip(suites, names, strict=True)
    ]


def expand(specs: Sequence[str], paths: Mapping[str, str]) -> Iterator[str]:
    """Specs of single suites, each with its path where there is one."""
    for spec in specs:
        name, _, own = spec.partition("=")
        for member in GROUPS.get(name, (name,)):
            path = own or paths.get(member) or paths.get(name) or paths.get(_group_of(member), "")
            yield f"{member}={path}" if path else member if name in GROUPS else spec


def check_paths(paths: Mapping[str, str]) -> None:
    """Check that every path is that of a suite or group.

    Raises:
        EvaluationError: a name is neither a suite's nor a group's.
    """
    for name in paths:
        if name not in declared_suites() and name not in GROUPS:
            raise EvaluationError(
                f"evaluation.paths.{name}: there is no such suite",
                hint=f"known: {', '.join([*declared_suites(), *GROUPS])};"
                " name a file of your own in suites",
            )


def name_of(suite: Suite | NotAvailable) -> str:
    """The suite's name, made fit for files and figures."""
    name = suite.declaration.name if isinstance(suite, Suite) else suite.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "suite"


def _group_of(name: str) -> str:
    return next((group for group, members in GROUPS.items() if name in members), "")
