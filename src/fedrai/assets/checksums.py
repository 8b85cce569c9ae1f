"""Checksums of files that are written once: a list beside them, checked when they are read.

The list is `checksums.sha256` in the format of `sha256sum`: `sha256sum -c checksums.sha256` in its
folder prints every file that changed. It covers the files of its folder and those below. A file
that is in no list is not checked: folders of earlier versions have no lists.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from fedrai.assets.hashing import Stamp, files_below, is_settled, sha256_file, stamp_of
from fedrai.assets.ref import is_safe_member
from fedrai.errors import ChecksumError

LISTING = "checksums.sha256"
_DEPTH = 3  # folders up to the list: rounds/0001/adapters/NAME/adapter_model.safetensors
_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>[^\0]+)")
_cached: dict[Path, tuple[Stamp, str]] = {}  # checksums, valid while the stamp is the same


def listing(folder: Path) -> str:
    """The text of a folder's list: all files in it and below, except the list itself.

    Raises:
        OSError: a file cannot be read.
    """
    files = [(name, file) for name, file in files_below(folder) if name != LISTING]
    return text_of({name: sha256_file(file) for name, file in files})


def text_of(sums: Mapping[str, str]) -> str:
    """The text of a list."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def with_text(folder: Path, name: str, text: str) -> str:
    """The text of a folder's list after a file is added or rewritten.

    Raises:
        ChecksumError: the list itself is damaged.
    """
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return text_of({**read_listing(folder), name: sha256})


def read_listing(folder: Path) -> dict[str, str]:
    """Checksums by name, relative to the folder; empty if it has no list.

    Raises:
        ChecksumError: the list itself is damaged, or cannot be read.
    """
    file = folder / LISTING
    if not file.is_file():
        return {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _damage_error(file, f"it cannot be read ({type(error).__name__})") from error
    sums = {}
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        entry = _LINE.fullmatch(line)
        if entry is None or not is_safe_member(entry["name"]):
            raise _damage_error(file, f"line {number} is not a checksum and a name")
        sums[entry["name"]] = entry["sha256"]
    return sums


def has_listing(folder: Path) -> bool:
    """Whether a folder has a list."""
    return (folder / LISTING).is_file()


def changed(folder: Path, only: str = "") -> list[str]:
    """The files of a folder that are missing or differ from its list; the list itself if damaged.

    Args:
        folder: the folder; without a list nothing counts as changed.
        only: check this file only; empty: all.
    """
    try:
        sums = read_listing(folder)
    except ChecksumError:
        return [LISTING]
    sums = {name: sha256 for name, sha256 in sums.items() if only in ("", name)}
    return [name for name, sha256 in sums.items() if _sum_of(folder / name) != sha256]


def check_file(path: Path) -> None:
    """Compare a file with the nearest list above it that has it.

    Raises:
        ChecksumError: the file has changed.
    """
    expected = _expected(path)
    if expected and path.is_file() and _sum_of(path) != expected:
        raise _differs(path)


def check_bytes(path: Path, body: bytes) -> None:
    """As `check_file`, for a file that was read already.

    Raises:
        ChecksumError: the file has changed.
    """
    expected = _expected(path)
    if expected and hashlib.sha256(body).hexdigest() != expected:
        raise _differs(path)


def _expected(path: Path) -> str:
    """The checksum of a file in the nearest list; empty if it is in none."""
    parents = path.absolute().parents[:_DEPTH]
    for folder in [parent for parent in parents if has_listing(parent)]:
        sha256 = read_listing(folder).get(path.absolute().relative_to(folder).as_posix())
        if sha256:
            return sha256
    return ""


def _sum_of(path: Path) -> str:
    """A file's checksum, computed again only after a change; empty if it cannot be read."""
    try:
        stamp = stamp_of(path)
        last_stamp, sha256 = _cached.get(path.absolute(), (None, ""))
        if last_stamp == stamp:
            return sha256
        sha256 = sha256_file(path)
    except OSError:
        return ""
    if is_settled(stamp):
        _cached[path.absolute()] = (stamp, sha256)
    return sha256


def _differs(path: Path) -> ChecksumError:
    return _damage_error(path, f"its SHA-256 differs from the one in {LISTING}")


def _damage_error(path: Path, why: str) -> ChecksumError:
    return ChecksumError(
        f"{path} is damaged: {why}",
        hint=f"restore it from a backup; `sha256sum -c {LISTING}` prints every file that changed",
    )
