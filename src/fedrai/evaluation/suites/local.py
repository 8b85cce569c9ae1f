"""Suites by what stands in files here: which can be read without a network, which are trained on.

An alignment keeps away from every suite that is here, whether the run asks it or not, so that a
later evaluation measures something new; but not from one whose requests it is told to train on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedrai import assets
from fedrai.errors import EvaluationError
from fedrai.evaluation.suites.declared import ADVBENCH, Declaration, declared_suites
from fedrai.evaluation.suites.loading import Suite, load
from fedrai.evaluation.suites.selection import GROUPS, expand


def trained_on(requests: Sequence[str], paths: Mapping[str, str]) -> list[str]:
    """Names of declared suites that are among the requests of a training.

    Args:
        requests: what a recipe names.
        paths: where suites lie, by suite or group (`evaluation.paths`).
    """
    named = {_place(spec) for spec in requests} | set(requests)
    return [
        entry.name
        for entry in declared_suites().values()
        if named & {entry.name, *_places(entry, _given(entry.name, paths))}
    ]


def local_checksums(paths: Mapping[str, str], but: Sequence[str] = ()) -> dict[str, str]:
    """SHA-256 of the declared suites that can be read here, by name; nothing is fetched.

    Args:
        paths: where suites lie, by suite or group; one that is not there is passed over.
        but: names to leave out. AdvBench is left out always: it is never trained on.

    Raises:
        EvaluationError, DataError: a file is here, and is not that suite.
    """
    return {suite.declaration.name: suite.sha256 for suite in _found(paths, but)}


def prompts_of(paths: Mapping[str, str], pinned: Mapping[str, str]) -> dict[str, list[str]]:
    """What suites ask, by name.

    Args:
        paths: as `local_checksums` takes them.
        pinned: what `local_checksums` gave when the work began.

    Raises:
        EvaluationError: one is no longer here, or has other bytes.
    """
    others = [name for name in declared_suites() if name not in pinned]
    found = {suite.declaration.name: suite for suite in _found(paths, others)} if pinned else {}
    for name, digest in pinned.items():
        if name not in found or found[name].sha256 != digest:
            raise EvaluationError(
                f"the suite {name} is not the one that was here when this began",
                hint="requests near it were kept out of the training: put its file back",
            )
    return {name: [item.prompt for item in found[name].items] for name in pinned}


def _found(paths: Mapping[str, str], but: Sequence[str]) -> Iterator[Suite]:
    for entry in declared_suites().values():
        given = _given(entry.name, paths)
        if entry.name in (ADVBENCH, *but) or not _is_here(entry, given):
            continue
        suite = load(f"{entry.name}={given}" if given else entry.name, offline=True)
        if isinstance(suite, Suite):
            yield suite


def _given(name: str, paths: Mapping[str, str]) -> str:
    """The user's place of a suite; empty where there is none."""
    return next(iter(expand([name], paths))).partition("=")[2]


def _is_here(entry: Declaration, given: str) -> bool:
    if given:
        return assets.status(given).cached
    sources = [spec for spec in (entry.source, entry.companion) if spec]
    return bool(entry.source) and all(assets.status(spec).cached for spec in sources)


def _places(entry: Declaration, given: str) -> set[str]:
    """Where a suite's requests lie, as `_place` has it."""
    if not given:
        return {_place(entry.source)} if entry.source else set()
    folder = Path(given).expanduser()
    return {_place(given), *(_place(str(folder / name)) for name in entry.file_names)}


def _place(spec: str) -> str:
    """One name for each file, however it is written."""
    if spec in GROUPS or (":" not in spec and spec not in assets.CATALOGUE):
        return str(Path(spec).expanduser().absolute())
    if spec.startswith(("fedrai:", "hf:datasets/")):
        return spec.partition("#")[0]
    return assets.parse(spec).label
