"""Checksums of files that are written once: a list beside them, looked at where they are read.

The list is `checksums.sha256`, in the form of `sha256sum`: `sha256sum -c checksums.sha256` in its
folder names every file that changed. It holds the files of its folder and of those below. Files
that no list names are taken as they are: those of folders that were made before there were lists.
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
_seen: dict[Path, tuple[Stamp, str]] = {}  # checksums of files, while they stay as they are


def listing(folder: Path) -> str:
    """The text of the list of a folder: all files in it and below, but the list itself.

    Raises:
        OSError: a file cannot be read.
    """
    files = [(name, file) for name, file in files_below(folder) if name != LISTING]
    return text_of({name: sha256_file(file) for name, file in files})


def text_of(sums: Mapping[str, str]) -> str:
    """Checksums by name as the text of a list."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def with_text(folder: Path, name: str, text: str) -> str:
    """The text of a folder's list with one more file, or another content of it.

    Raises:
        ChecksumError: the list itself is damaged.
    """
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return text_of({**read_listing(folder), name: sha256})


def read_listing(folder: Path) -> dict[str, str]:
    """Checksums by name, relative to the folder; none where it has no list.

    Raises:
        ChecksumError: the list itself is damaged, or cannot be read.
    """
    file = folder / LISTING
    if not file.is_file():
        return {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(file, f"it cannot be read ({type(error).__name__})") from error
    sums = {}
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        entry = _LINE.fullmatch(line)
        if entry is None or not is_safe_member(entry["name"]):
            raise _damaged(file, f"line {number} is no checksum with a name")
        sums[entry["name"]] = entry["sha256"]
    return sums


def has_listing(folder: Path) -> bool:
    """Whether a folder has a list."""
    return (folder / LISTING).is_file()


def changed(folder: Path, only: str = "") -> list[str]:
    """The files of a folder that are missing, or not what its list says; the list, if damaged.

    Args:
        folder: the folder; without a list nothing has changed.
        only: the one file to look at; empty: all.
    """
    try:
        sums = read_listing(folder)
    except ChecksumError:
        return [LISTING]
    sums = {name: sha256 for name, sha256 in sums.items() if only in ("", name)}
    return [name for name, sha256 in sums.items() if _sum_of(folder / name) != sha256]


def check_file(path: Path) -> None:
    """Compare a file with the list nearest above it that names it.

    Raises:
        ChecksumError: it is not the file that was written there.
    """
    expected = _expected(path)
    if expected and path.is_file() and _sum_of(path) != expected:
        raise _differs(path)


def check_bytes(path: Path, body: bytes) -> None:
    """As `check_file`, of a file whose content was read already.

    Raises:
        ChecksumError: it is not what was written there.
    """
    expected = _expected(path)
    if expected and hashlib.sha256(body).hexdigest() != expected:
        raise _differs(path)


def _expected(path: Path) -> str:
    """The checksum that a file should have; empty where no list names it."""
    parents = path.absolute().parents[:_DEPTH]
    for folder in [parent for parent in parents if has_listing(parent)]:
        sha256 = read_listing(folder).get(path.absolute().relative_to(folder).as_posix())
        if sha256:
            return sha256
    return ""


def _sum_of(path: Path) -> str:
    """A file's checksum, worked out once for as long as it stays as it is; empty: unreadable."""
    try:
        stamp = stamp_of(path)
        known = _seen.get(path.absolute())
        if known is not None and known[0] == stamp:
            return known[1]
        sha256 = sha256_file(path)
    except OSError:
        return ""
    if is_settled(stamp):
        _seen[path.absolute()] = (stamp, sha256)
    return sha256


def _differs(path: Path) -> ChecksumError:
    return _damaged(path, f"its SHA-256 is not the one that {LISTING} has for it")


def _damaged(path: Path, why: str) -> ChecksumError:
    return ChecksumError(
        f"{path} is damaged: {why}",
        hint=f"put it back from a copy; `sha256sum -c {LISTING}` names every file that changed",
    )
