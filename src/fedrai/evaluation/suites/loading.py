"""From a name or path to a suite: fetched, checked, counted, sampled."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedrai import assets, plugins
from fedrai.assets.hashing import sha256_path
from fedrai.errors import AssetError, ChecksumError, EvaluationError
from fedrai.evaluation.suites.declared import ADVBENCH, Declaration, Direction, declared_suites
from fedrai.evaluation.suites.items import Item, sample
from fedrai.evaluation.suites.reading import read

SUITES: plugins.Group = "fedrai.suites"
_INSTEAD = "Name a file of yours (JSONL, CSV, JSON), or a suite of `fedrai suites list`."
_KINDS: dict[str, tuple[str, Direction]] = {
    "safe": ("harmless requests", "down"),
    "unsafe": ("harmful requests", "up"),
    "unlabelled": ("requests", "none"),
}


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite that is here.

    Attributes:
        declaration: what is known of it.
        items: what is asked, in the suite's order.
        whole: items of the whole suite, of which `items` may be a sample.
        origin: where it was read from.
        sha256: of the bytes that were read.
        pinned: whether these, and those of reference answers, are what the declaration pins.
    """

    declaration: Declaration
    items: tuple[Item, ...]
    whole: int
    origin: str
    sha256: str
    pinned: bool

    def to_json(self) -> dict[str, Any]:
        """What is known of it, as plain values; no text of an item."""
        kinds = [item.category for item in self.items]
        return {
            **self.declaration.to_json(),
            "origin": self.origin,
            "revision": self.declaration.revision if self.pinned else "",
            "sha256": self.sha256,
            "pinned": self.pinned,
            "items": len(self.items),
            "whole": self.whole,
            "categories": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds) if kind},
        }


@dataclass(frozen=True, slots=True)
class NotAvailable:
    """A suite that cannot be had: it has no figure, not a figure of zero.

    Attributes:
        name: the suite.
        reason: why, in a sentence.
        hint: what would help.
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
        spec: a declared name; `NAME=PATH` for it from the user's file or folder; or a file (JSONL,
            CSV, JSON), asset or hub file of one's own with columns prompt, and chosen and rejected,
            label or category if it has them; or a name that an installed package offers.
        count: how many items; 0 for all.
        seed: of the sample.
        progress: shows downloads.
        offline: fetch nothing.

    Returns:
        The suite, or why there is none: no source, no network, no access.

    Raises:
        EvaluationError: no suite has that name, or the file is not that suite.
        AssetError: the path that the user gave does not exist.
        DependencyError: an installed package that offers the suite cannot be used.
        ChecksumError: the source has other bytes than are pinned.
    """
    if count < 0:
        raise EvaluationError(f"a suite is asked {count} times; give 0 for all, or more")
    name, _, given = spec.partition("=")
    if name in declared_suites():
        return _declared(declared_suites()[name], given, count, seed, progress, offline)
    if spec in plugins.names(SUITES):
        return _installed(spec, count, seed)
    _check_own(spec)
    try:
        path = assets.fetch(spec, progress=progress, offline=offline, instead=_INSTEAD)
    except AssetError as error:
        return _missing(spec, error, assets.parse(spec).scheme == "path")
    items = read(path)
    found, label = _own(spec, items), assets.parse(spec).label
    return Suite(found, _drawn(items, count, seed), len(items), label, sha256_path(path), False)


def _installed(name: str, count: int, seed: int) -> Suite:
    """The suite of an installed package, which gives the path of a file like one of the user's.

    Raises:
        EvaluationError: it gives no file, or one that is no suite.
        DependencyError: the package cannot be used.
    """
    given, package = plugins.make(SUITES, name), plugins.package(SUITES, name)
    path = Path(given) if isinstance(given, str | Path) else None
    if path is None or not path.is_file():
        raise EvaluationError(
            f"the plug-in {name!r} of {package} gives no suite: it must give the path of a file",
            hint="see docs/extending.md",
        )
    items = read(path)
    found = replace(_own(str(path), items), name=name, title=f"{name} ({package})")
    return Suite(found, _drawn(items, count, seed), len(items), package, sha256_path(path), False)


def advbench(count: int, seed: int) -> list[Item]:
    """A seeded sample of AdvBench (Zou et al., arXiv 2307.15043), in the suite's order.

    Args:
        count: how many; 520 is the whole suite.
        seed: of the sample.

    Raises:
        EvaluationError: the file does not hold the 520 behaviours.
        AssetError: it cannot be fetched.
    """
    found = declared_suites()[ADVBENCH]
    items = read(assets.fetch(ADVBENCH))
    _check_count(found, items)
    return sample(items, count, seed)


def _declared(
    found: Declaration,
    given: str,
    count: int,
    seed: int,
    progress: assets.Progress | None,
    offline: bool,
) -> Suite | NotAvailable:
    if not given and not found.source:
        return NotAvailable(
            found.name,
            f"{found.title} has no source that could be pinned",
            f"download it from {found.home} and name it: {found.name}=PATH",
        )
    try:
        if given:
            path, references = _given(
                found, assets.fetch(given, progress=progress, instead=_INSTEAD)
            )
        else:
            path = assets.fetch(found.source, progress=progress, offline=offline)
            references = (
                assets.fetch(found.companion, progress=progress, offline=offline)
                if found.companion
                else None
            )
    except AssetError as error:
        return _missing(found.name, error, bool(given))
    items = read(path, where=found.where, references=references)
    _check_count(found, items)
    origin = assets.parse(given).label if given else found.origin
    sha256 = sha256_path(path)
    same = not references or sha256_path(references) == assets.parse(found.companion).sha256
    pinned = bool(found.sha256) and sha256 == found.sha256 and same
    return Suite(found, _drawn(items, count, seed), len(items), origin, sha256, pinned)


def _drawn(items: list[Item], count: int, seed: int) -> tuple[Item, ...]:
    return tuple(sample(items, count or len(items), seed))


def _missing(name: str, error: AssetError, given: bool) -> NotAvailable:
    """What cannot be fetched is not available; wrong bytes and wrong paths are errors.

    Raises:
        AssetError: `error`, if the user gave a path, or the bytes are wrong.
    """
    if given or isinstance(error, ChecksumError):
        raise error
    own = f"name a file of yours: {name}=PATH" if name in declared_suites() else ""
    hint = " Or ".join(filter(None, [error.hint, own]))
    return NotAvailable(name, error.message.rstrip("."), hint)


def _given(found: Declaration, path: Path) -> tuple[Path, Path | None]:
    """The user's file, in a folder too, and the file of references beside it.

    Raises:
        EvaluationError: the folder has no such file, or the references are missing.
    """
    file = path
    if path.is_dir() and found.file_names:
        file = _beside(path, found.file_names, f"file of {found.title}")
    if not found.companion:
        return file, None
    return file, _beside(file.parent, found.companion_names, f"reference answers for {found.title}")


def _beside(folder: Path, names: tuple[str, ...], what: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise EvaluationError(f"{folder} holds no {what}: {' or '.join(names)}")


def _check_count(found: Declaration, items: list[Item]) -> None:
    if len(items) != found.count:
        kind = "behaviours" if found.name == ADVBENCH else "items"
        raise EvaluationError(
            f"{found.title} has {found.count} {kind}, the file {len(items)}",
            hint="a part of it, or another set, is a suite of your own: give its path alone",
        )


def _check_own(spec: str) -> None:
    """Raise where a spec can only be a mistyped name.

    Raises:
        EvaluationError: it is a plain word that no file has.
    """
    word = spec.partition("=")[0]
    if re.fullmatch(r"[A-Za-z0-9-]+", word) and word not in assets.CATALOGUE:
        names = [*declared_suites(), *plugins.names(SUITES)]
        near = difflib.get_close_matches(word.lower(), names, n=1)
        if not Path(spec).exists():
            meant = f"did you mean {near[0]}? " if near else ""
            raise EvaluationError(
                f"there is no suite {word}",
                hint=f"{meant}known: {', '.join(declared_suites())}; {plugins.installed(SUITES)};"
                " or name a file of your own",
            )


def _own(spec: str, items: list[Item]) -> Declaration:
    """A suite of the user's: what it measures follows from its rows.

    Raises:
        EvaluationError: it has no rows, or rows of several kinds.
    """
    label = assets.parse(spec).label
    kinds = {("pair" if item.chosen else item.label or "unlabelled") for item in items}
    if len(kinds) != 1:
        raise EvaluationError(
            f"{label} holds {'rows of ' + ', '.join(sorted(kinds)) if kinds else 'no row'}",
            hint="a suite has rows of one kind: pairs, or all safe, or all unsafe, or unlabelled",
        )
    kind = kinds.pop()
    name = label.rstrip("/").rpartition("/")[2].partition(".")[0] or label
    if kind == "pair":
        return Declaration(name, name, "pairs of answers", "", "preference", "accuracy", "up", 0,
                           form="dialogue")  # fmt: skip
    what, way = _KINDS[kind]
    return Declaration(name, name, what, "", "refusal", "refused", way, 0)
