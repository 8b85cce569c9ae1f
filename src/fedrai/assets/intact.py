"""Whether something in the cache still holds the bytes that it was hashed with.

Reading gigabytes before each use would be slow, so a whole check leaves a note: the stamp of each
file (size, times, inode). While all stamps stay the same, and only then, the bytes are taken to be
the same too. A note that cannot be written costs time, nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedrai.assets.hashing import Stamp, files_below, is_settled, sha256_path, stamp_of

LARGE = 64_000_000  # bytes, from which a whole check takes long enough to be shown


def sha256_now(path: Path, note: Path, advance: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file or folder, by the note of an earlier check where it still holds.

    Args:
        path: what to look at.
        note: where the note is kept.
        advance: called with the number of bytes after each block that was read.

    Returns:
        As `hashing.sha256_path`; empty if a folder below is a link, behind which anything may lie.

    Raises:
        OSError: a file cannot be read.
    """
    if has_linked_folder(path):
        return ""
    stamps = _stamps(path)
    known = _read(note)
    if known is not None and known[1] == stamps:
        return known[0]
    sha256 = sha256_path(path, advance=advance)
    if all(map(is_settled, stamps.values())) and _stamps(path) == stamps:
        with suppress(OSError):
            _write(note, sha256, stamps)
    return sha256


def is_known(path: Path, note: Path) -> bool:
    """Whether `sha256_now` has nothing to read.

    Raises:
        OSError: a file is missing.
    """
    known = _read(note)
    return known is not None and known[1] == _stamps(path)


def has_linked_folder(path: Path) -> bool:
    """Whether a folder below is a link: what lies behind it belongs to no checksum."""
    return path.is_dir() and any(p.is_symlink() and p.is_dir() for p in path.rglob("*"))


def _stamps(path: Path) -> dict[str, Stamp]:
    """The stamp of each file by its name; they stay the same where a folder is moved."""
    files = files_below(path) if path.is_dir() else [(path.name, path)]
    return {name: stamp_of(file) for name, file in files}


def _read(note: Path) -> tuple[str, dict[str, Stamp]] | None:
    try:
        body = json.loads(note.read_text(encoding="utf-8"))
        stamps: dict[str, Stamp] = {n: tuple(stamp) for n, stamp in body["stamps"].items()}
        return str(body["sha256"]), stamps
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _write(note: Path, sha256: str, stamps: dict[str, Stamp]) -> None:
    fresh = note.with_name(f"{note.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps({"sha256": sha256, "stamps": stamps}), encoding="utf-8")
        fresh.replace(note)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
