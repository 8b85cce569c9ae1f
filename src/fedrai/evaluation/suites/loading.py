"""From a name or path to a suite: fetched, checked, counted, sampled."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fedrai import assets, plugins
from fedrai.assets.hashing import sha256_path
from fedrai.errors import AssetError, ChecksumError, EvaluationError
from fedrai.evaluation.suites.declared import ADVBENCH, Declaration, declared_suites
from fedrai.evaluation.suites.items import Item, sample
from fedrai.evaluation.suites.reading import read

SUITES: plugins.Group = "fedrai.suites"
_INSTEAD = "Name a file of yours (JSONL, CSV, JSON), or a suite of `fedrai suites list`."
_REFUSED = partial(Declaration, judge="refusal", metric="refused")
_DECLARATIONS: dict[str, Callable[..., Declaration]] = {
    "safe": partial(_REFUSED, what="harmless requests", direction="down"),
    "unsafe": partial(_REFUSED, what="harmful requests", direction="up"),
    "unlabelled": partial(_REFUSED, what="requests", direction="none"),
    "pair": partial(Declaration, what="pairs of answers", judge="preference", metric="accuracy",
                    direction="up", form="dialogue"),
}  # fmt: skip
"""Declarations of suites of the user's, by the kind of their rows."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite with its items.

    Attributes:
        declaration: what is declared of it.
        items: the questions, in the suite's order.
        whole: items of the whole suite, of which `items` may be a sample.
        origin: where it was read from.
        sha256: checksum of the bytes that were read.
        pinned: whether these bytes, and those of reference answers, match the declaration.
    """

    declaration: Declaration
    items: tuple[Item, ...]
    whole: int
    origin: str
    sha256: str
    pinned: bool

    def sampled(self, count: int, seed: int) -> Suite:
        """The suite with a seeded sample of its items; all of them where `count` is 0."""
        return replace(self, items=tuple(sample(self.items, count or self.whole, seed)))

    def to_json(self) -> dict[str, Any]:
        """Its declaration, source and counts as plain values; no text of an item."""
        categories = Counter(item.category for item in self.items if item.category)
        return {
            **self.declaration.to_json(),
            "origin": self.origin,
            "revision": self.declaration.revision if self.pinned else "",
            "sha256": self.sha256,
            "pinned": self.pinned,
            "items": len(self.items),
            "whole": self.whole,
            "categories": dict(categories),
        }


@dataclass(frozen=True, slots=True)
class NotAvailable:
    """A suite that cannot be read: it has no figure, not a figure of zero.

    Attributes:
        name: the suite.
        reason: why, in a sentence.
        hint: the remedy.
    """

    name: str
    reason: str
    hint: str


def load(
    spec: str,
    count: int = 0,
    seed: int = 0,
    *,
    progress: assets.Progress | None = None,
    offline: bool = False,
) -> Suite | NotAvailable:
    """Load a suite.

    Args:
        spec: a declared name; `NAME=PATH` to read it from the user's file or folder; a file (JSONL,
            CSV, JSON), asset or hub file of the user's, with columns prompt, and optionally chosen
            and rejected, label or category; or a name that an installed package offers.
        count: number of items; 0 for all.
        seed: for drawing the sample.
        progress: shows downloads.
        offline: fetch nothing.

    Returns:
        The suite, or why it is not available: no source, no network, no access.

    Raises:
        EvaluationError: no suite has that name, or the file is not that suite.
        AssetError: the user's path does not exist.
        DependencyError: an installed package that offers the suite cannot be used.
        ChecksumError: the source's bytes do not match the pinned checksum.
    """
    if count < 0:
        raise EvaluationError(f"the number of items must be 0 (all) or more, got {count}")
    fetch = partial(assets.fetch, progress=progress, offline=offline)
    name, _, place = spec.partition("=")
    if name in declared_suites():
        suite = _load_declared(declared_suites()[name], place, fetch)
    elif spec in plugins.names(SUITES):
        suite = _load_installed(spec)
    else:
        suite = _own(spec, fetch)
    return suite.sampled(count, seed) if isinstance(suite, Suite) else suite


def advbench(count: int, seed: int) -> list[Item]:
    """A seeded sample of AdvBench (Zou et al., arXiv 2307.15043), in the suite's order.

    Args:
        count: number of items; 520 is the whole suite.
        seed: for drawing the sample.

    Raises:
        EvaluationError: the file does not hold the 520 behaviours.
        AssetError: it cannot be fetched.
    """
    items = read(assets.fetch(ADVBENCH))
    _check_count(declared_suites()[ADVBENCH], items)
    return sample(items, count, seed)


# --- declared suites ------------------------------------------------------------------------------


def _load_declared(
    declaration: Declaration, place: str, fetch: Callable[..., Path]
) -> Suite | NotAvailable:
    if not place and not declaration.source:
        return NotAvailable(
            declaration.name,
            f"{declaration.title} has no source that could be pinned",
            f"download it from {declaration.home} and name it: {declaration.name}=PATH",
        )
    try:
        path, references = _files(declaration, place, fetch)
    except AssetError as error:
        return _missing(declaration.name, error, bool(place))
    items = read(path, where=declaration.where, references=references)
    _check_count(declaration, items)
    sha256 = sha256_path(path)
    pinned = bool(declaration.sha256) and sha256 == declaration.sha256
    if references:
        pinned &= sha256_path(references) == assets.parse(declaration.companion).sha256
    origin = assets.parse(place).label if place else declaration.origin
    return Suite(declaration, tuple(items), len(items), origin, sha256, pinned)


def _files(
    declaration: Declaration, place: str, fetch: Callable[..., Path]
) -> tuple[Path, Path | None]:
    """A suite's file and its file of reference answers, from the user's place or the source.

    Raises:
        AssetError: one cannot be fetched.
        EvaluationError: the user's folder lacks one.
    """
    companion = declaration.companion
    if not place:
        return fetch(declaration.source), fetch(companion) if companion else None
    file = fetch(place, offline=False, instead=_INSTEAD)
    if file.is_dir() and declaration.file_names:
        file = _beside(file, declaration.file_names, f"file of {declaration.title}")
    if not companion:
        return file, None
    what = f"reference answers for {declaration.title}"
    return file, _beside(file.parent, declaration.companion_names, what)


def _beside(folder: Path, names: tuple[str, ...], what: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise EvaluationError(f"{folder} holds no {what}: {' or '.join(names)}")


def _missing(name: str, error: AssetError, is_own: bool) -> NotAvailable:
    """A suite that could not be fetched; wrong bytes and wrong paths are errors.

    Raises:
        AssetError: `error`, if the user named the path, or the bytes are wrong.
    """
    if is_own or isinstance(error, ChecksumError):
        raise error
    own = f"name a file of yours: {name}=PATH" if name in declared_suites() else ""
    hint = " Or ".join(filter(None, [error.hint, own]))
    return NotAvailable(name, error.message.rstrip("."), hint)


def _check_count(declaration: Declaration, items: list[Item]) -> None:
    if len(items) != declaration.count:
        kind = "behaviours" if declaration.name == ADVBENCH else "items"
        raise EvaluationError(
            f"{declaration.title} has {declaration.count} {kind}, the file {len(items)}",
            hint="a part of it, or another set, is a suite of your own: give its path alone",
        )


# --- other suites ---------------------------------------------------------------------------------


def _load_installed(name: str) -> Suite:
    """The suite of an installed package, which returns the path of a file.

    Raises:
        EvaluationError: it returns no file, or one that is not a suite.
        DependencyError: the package cannot be used.
    """
    place, package = plugins.make(SUITES, name), plugins.package(SUITES, name)
    path = Path(place) if isinstance(place, str | Path) else None
    if path is None or not path.is_file():
        raise EvaluationError(
            f"the plug-in {name!r} of {package} is not a suite: it must return the path of a file",
            hint="see docs/extending.md",
        )
    suite = _of_file(path, str(path), package)
    declaration = replace(suite.declaration, name=name, title=f"{name} ({package})")
    return replace(suite, declaration=declaration)


def _own(spec: str, fetch: Callable[..., Path]) -> Suite | NotAvailable:
    """A suite of the user's."""
    _check_own(spec)
    label, scheme = assets.parse(spec).label, assets.parse(spec).scheme
    try:
        return _of_file(fetch(spec, instead=_INSTEAD), label, label)
    except AssetError as error:
        return _missing(spec, error, scheme == "path")


def _check_own(spec: str) -> None:
    """Raise where a spec can only be a mistyped name.

    Raises:
        EvaluationError: it is a plain word, and no file has that name.
    """
    word = spec.partition("=")[0]
    is_word = re.fullmatch(r"[A-Za-z0-9-]+", word) and word not in assets.CATALOGUE
    if is_word and not Path(spec).exists():
        names = [*declared_suites(), *plugins.names(SUITES)]
        near = difflib.get_close_matches(word.lower(), names, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise EvaluationError(
            f"there is no suite {word}",
            hint=f"{meant}known: {', '.join(declared_suites())}; {plugins.installed(SUITES)};"
            " or name a file of your own",
        )


def _of_file(path: Path, label: str, origin: str) -> Suite:
    """A suite without a declaration: its rows decide what it measures.

    Raises:
        EvaluationError: it has no rows, or rows of several kinds.
    """
    items = read(path)
    kinds = {("pair" if item.chosen else item.label or "unlabelled") for item in items}
    if len(kinds) != 1:
        raise EvaluationError(
            f"{label} holds {'rows of ' + ', '.join(sorted(kinds)) if kinds else 'no row'}",
            hint="a suite has rows of one kind: pairs, or all safe, or all unsafe, or unlabelled",
        )
    name = label.rstrip("/").rpartition("/")[2].partition(".")[0] or label
    declaration = _DECLARATIONS[kinds.pop()](name=name, title=name, licence="", count=0)
    return Suite(declaration, tuple(items), len(items), origin, sha256_path(path), pinned=False)
