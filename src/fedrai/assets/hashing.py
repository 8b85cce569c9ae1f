"""SHA-256 of a file or a folder, and the size of either."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

_CHUNK = 1 << 20
_TICK = 2_000_000_000  # nanoseconds; the resolution of FAT, the coarsest
Stamp = tuple[int, int, int, int]
"""Size, mtime, ctime and inode: they differ after any change of a file."""


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file.

    Raises:
        OSError: there is no such file.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def is_settled(stamp: Stamp) -> bool:
    """Whether a stamp is old enough to be trusted: clocks of file systems may be coarse."""
    return time.time_ns() - max(stamp[1:3]) > _TICK


def sha256_file(path: Path, *, advance: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file's bytes in lower-case hex.

    Args:
        path: the file.
        advance: called after each block with its size in bytes.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
            if advance is not None:
                advance(len(block))
    return digest.hexdigest()


def sha256_path(path: Path, *, advance: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file, or of a folder.

    For a folder: the hash of the lines `name NUL sha256 newline`, one for each file below it,
    sorted by name. Names are relative to the folder, with forward slashes.

    Raises:
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        return sha256_file(path, advance=advance)
    digest = hashlib.sha256()
    for name, file in files_below(path):
        digest.update(f"{name}\0{sha256_file(file, advance=advance)}\n".encode())
    return digest.hexdigest()


def files_below(folder: Path) -> list[tuple[str, Path]]:
    """Each file below a folder with its relative name, sorted by name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted((path.relative_to(folder).as_posix(), path) for path in files)


def bytes_of(path: Path) -> int:
    """The bytes of a file, or of all files below a folder.

    Raises:
        OSError: the path is missing or cannot be read.
    """
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for _, file in files_below(path))
