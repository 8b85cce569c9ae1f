"""Declared suites and outside sets on this machine: which are readable, which trained on.

Requests near any local suite are excluded from alignment data, whether or not the run asks the
suite, so that a later evaluation measures something new. A suite whose requests the recipe names
for training is the exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedrai import assets
from fedrai.errors import EvaluationError
from fedrai.evaluation.suites.declared import ADVBENCH, Declaration, declared_suites
from fedrai.evaluation.suites.loading import Suite, load
from fedrai.evaluation.suites.outside import outside_suites
from fedrai.evaluation.suites.selection import GROUPS, expand
from fedrai.evaluation.suites.split import standing

OUTSIDE = "outside:"


def trained_on(requests: Sequence[str], paths: Mapping[str, str]) -> list[str]:
    """Names of declared suites that are among the requests of a training.

    Args:
        requests: names of requests in the recipe.
        paths: paths of suites, by suite or group (`evaluation.paths`).
    """
    sources = {_place(spec) for spec in requests} | set(requests)
    declared = [
        declaration.name
        for declaration in declared_suites().values()
        if sources & {declaration.name, *_places(declaration, _path(declaration.name, paths))}
    ]
    outside = [one.name for one in standing() if sources & {one.name, _place(one.source)}]
    return list(dict.fromkeys([*declared, *outside]))


def local_checksums(
    paths: Mapping[str, str], excluded: Sequence[str] = (), outside: Sequence[str] = ()
) -> dict[str, str]:
    """SHA-256 of the declared suites and outside sets on this machine; nothing is fetched.

    Args:
        paths: paths of suites, by suite or group; missing files are skipped.
        excluded: names to leave out. AdvBench is always left out: it is never trained on.
        outside: outside sets of the user's (`evaluation.outside_sets`).

    Returns:
        By name; those of outside sets begin with `outside:`, since a suite may have the same name.

    Raises:
        EvaluationError, DataError: a file exists but is not that suite.
    """
    return {name: suite.sha256 for name, suite in _local(paths, excluded, outside)}


def prompts_of(
    paths: Mapping[str, str], pinned: Mapping[str, str], outside: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The prompts of suites and outside sets, by name.

    Args:
        paths: as for `local_checksums`.
        pinned: the result of `local_checksums` when the run started.
        outside: as for `local_checksums`.

    Raises:
        EvaluationError: a suite is gone, or its bytes have changed.
    """
    others = [name for name in declared_suites() if name not in pinned]
    suites = dict(_local(paths, others, outside)) if pinned else {}
    for name, digest in pinned.items():
        if name not in suites or suites[name].sha256 != digest:
            raise EvaluationError(
                f"the suite {name} has changed or is missing since the run started",
                hint="requests near it are excluded from alignment data: restore its file",
            )
    return {name: [item.prompt for item in suites[name].items] for name in pinned}


def _local(
    paths: Mapping[str, str], excluded: Sequence[str], outside: Sequence[str]
) -> Iterator[tuple[str, Suite]]:
    for declaration in declared_suites().values():
        name, path = declaration.name, _path(declaration.name, paths)
        if name not in (ADVBENCH, *excluded) and _is_local(declaration, path):
            suite = load(f"{name}={path}" if path else name, offline=True)
            if isinstance(suite, Suite):
                yield name, suite
    for suite in outside_suites(outside, offline=True):
        if isinstance(suite, Suite) and suite.declaration.name not in excluded:
            yield f"{OUTSIDE}{suite.declaration.name}", suite


def _path(name: str, paths: Mapping[str, str]) -> str:
    """The user's path of a suite; empty where there is none."""
    return next(iter(expand([name], paths))).partition("=")[2]


def _is_local(declaration: Declaration, path: str) -> bool:
    if path:
        return assets.status(path).cached
    sources = [spec for spec in (declaration.source, declaration.companion) if spec]
    return bool(declaration.source) and all(assets.status(spec).cached for spec in sources)


def _places(declaration: Declaration, path: str) -> set[str]:
    """The files that may hold a suite's requests, as `_place` names them."""
    if not path:
        return {_place(declaration.source)} if declaration.source else set()
    folder = Path(path).expanduser()
    return {_place(path), *(_place(str(folder / name)) for name in declaration.file_names)}


def _place(spec: str) -> str:
    """One name for each file, however its spec is written."""
    if spec in GROUPS or (":" not in spec and spec not in assets.CATALOGUE):
        return str(Path(spec).expanduser().absolute())
    if spec.startswith(("fedrai:", "hf:datasets/")):
        return spec.partition("#")[0]
    return assets.parse(spec).label
