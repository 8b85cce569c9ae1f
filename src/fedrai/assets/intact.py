"""Whether the bytes of something in the cache have changed since they were hashed.

Reading gigabytes before each use would be slow, so a full check leaves a note with the stamp of
each file (size, times, inode). Only while all stamps are unchanged are the bytes assumed to be
unchanged. If the note cannot be written, the next check is slow; nothing else happens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedrai.assets.hashing import Stamp, files_below, is_settled, sha256_path, stamp_of

LARGE = 64_000_000  # bytes from which a full check shows its progress


def sha256_now(path: Path, note: Path, advance: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file or folder, from the note of an earlier check if that is still valid.

    Args:
        path: the file or folder.
        note: the file of the note.
        advance: called after each block with its size in bytes.

    Returns:
        As `hashing.sha256_path`; empty if a folder below is a link, which may lead anywhere.

    Raises:
        OSError: a file cannot be read.
    """
    if has_linked_folder(path):
        return ""
    stamps = _stamps(path)
    last = _read(note)
    if last is not None and last[1] == stamps:
        return last[0]
    sha256 = sha256_path(path, advance=advance)
    if all(map(is_settled, stamps.values())) and _stamps(path) == stamps:
        with suppress(OSError):
            _write(note, sha256, stamps)
    return sha256


def is_known(path: Path, note: Path) -> bool:
    """Whether `sha256_now` can answer from the note, without reading the files.

    Raises:
        OSError: a file is missing.
    """
    last = _read(note)
    return last is not None and last[1] == _stamps(path)


def has_linked_folder(path: Path) -> bool:
    """Whether a folder below is a link; checksums do not cover what it leads to."""
    return path.is_dir() and any(p.is_symlink() and p.is_dir() for p in path.rglob("*"))


def _stamps(path: Path) -> dict[str, Stamp]:
    """The stamp of each file by its name; moving a folder does not change them."""
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
