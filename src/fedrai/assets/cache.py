"""The cache folder: its layout, one writer at a time, every change in one rename.

assets/KEY/asset.json, assets/KEY/content/...   fetched bytes, and the record of their source
assets/KEY/checked.json                         note of the last full check; see `intact`
derived/KEY/..., derived/.KEY.sha256            folders built from fetched bytes, their checksum
derived/.KEY.checked.json                       note of the last full check
locks/KEY.lock                                  held while KEY is written
.partial-KEY/                                   work in progress; deleted once its lock is free
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from fedrai.assets.hashing import bytes_of, sha256_path
from fedrai.assets.intact import sha256_now
from fedrai.assets.progress import Meter, format_bytes
from fedrai.assets.ref import is_safe_member
from fedrai.errors import AssetError

_WORK = ".partial-"
CHECKED = "checked.json"
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Record:
    """The record of a cached asset, stored as `asset.json` beside its bytes.

    Attributes:
        spec: the spec without checksum and credentials.
        source: the same with the version or commit that was fetched.
        revision: that version or commit; empty for a URL.
        sha256: checksum of the bytes when they were fetched.
        bytes: size.
        fetched: UTC time in ISO 8601.
        path: the file or folder, relative to the record; absolute in the hub's cache.
    """

    spec: str
    source: str
    revision: str
    sha256: str
    bytes: int
    fetched: str
    path: str


def cache_root() -> Path:
    """The cache folder: FEDRAI_CACHE, else the platform's user cache."""
    if folder := os.environ.get("FEDRAI_CACHE"):
        return Path(folder).expanduser().absolute()
    return platformdirs.user_cache_path("fedrai")


def entry_folder(key: str) -> Path:
    """The folder of an asset, whether it exists or not."""
    return cache_root() / "assets" / key


def find(key: str) -> tuple[Path, Record] | None:
    """The path and record of a cached asset; None if either is missing or incomplete.

    Its bytes are not read; see `note_of`.
    """
    folder = entry_folder(key)
    try:
        record = Record(**json.loads((folder / "asset.json").read_text(encoding="utf-8")))
        path = folder / record.path
        in_hub_cache = Path(record.path).is_absolute() and key.startswith("hf-")
        is_inside = in_hub_cache or is_safe_member(record.path)
        return (path, record) if is_inside and bytes_of(path) == record.bytes else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def note_of(key: str) -> Path:
    """The note of an asset's last full check."""
    return entry_folder(key) / CHECKED


def install(entry: Path, key: str, record: Record) -> Path:
    """Write the record into `entry` and move it into the cache; an incomplete asset is replaced.

    Raises:
        OSError: the cache cannot be written.
    """
    (entry / "asset.json").write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    target = entry_folder(key)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.replace(entry.parent / "replaced")
    entry.replace(target)
    return target / record.path


def remove(key: str) -> None:
    """Delete a cached asset.

    Raises:
        AssetError: the cache cannot be written.
    """
    with disk_errors(key, Meter(None)), exclusive(key, Meter(None)) as scratch:
        entry_folder(key).replace(scratch / "removed")


def derive(key: str, build: Callable[[Path], None]) -> Path:
    """A folder in the cache that `build` fills once, even when several processes need it.

    It is built again if its bytes have changed.

    Args:
        key: a readable name and a hash of everything that the content depends on.
        build: fills the empty folder that it receives. Its errors are passed on, and the folder is
            discarded.

    Raises:
        AssetError: the key is not a plain name, the disk is full, or the cache is not writable.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._\-]*", key):
        raise AssetError(f"{key!r} cannot name a folder in the cache.", hint="Use letters or `-`.")
    target = cache_root() / "derived" / key
    if _is_as_built(target):
        return target
    meter = Meter(None)
    with disk_errors(key, meter), exclusive(f"derived-{key}", meter) as scratch:
        if not _is_as_built(target):
            fresh = scratch / key
            fresh.mkdir()
            build(fresh)
            sha256 = sha256_path(fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.replace(scratch / "replaced")
            write_file(scratch / "sha256", [sha256.encode()], meter)
            (scratch / "sha256").replace(_checksum_file(target))
            fresh.replace(target)
    return target


def _checksum_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.sha256")


def _is_as_built(target: Path) -> bool:
    try:
        expected = _checksum_file(target).read_text(encoding="utf-8")
        note = target.with_name(f".{target.name}.checked.json")
        return target.is_dir() and sha256_now(target, note) == expected
    except (OSError, UnicodeDecodeError):
        return False


def write_file(path: Path, blocks: Iterable[bytes], meter: Meter) -> int:
    """Write blocks of bytes to a new file; returns its size in bytes.

    Raises:
        OSError: the file cannot be written.
    """
    written = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        for block in blocks:
            stream.write(block)
            written += len(block)
            meter.advance(len(block))
    return written


@contextmanager
def exclusive(key: str, meter: Meter) -> Iterator[Path]:
    """Hold the lock of one key, with an empty folder on the cache's disk to work in.

    Waits for another process, and says so on the meter. The folder is deleted at the end, with all
    that was not moved out of it.

    Raises:
        OSError: the cache cannot be written.
    """
    root = cache_root()
    folder, lock = root / f"{_WORK}{key}", _lock(root, key)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with meter.phase(f"Waiting for another process that fetches {key}", None, writes=False):
            lock.acquire(timeout=-1)
    try:
        _sweep(root)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _lock(root: Path, key: str) -> FileLock:
    (root / "locks").mkdir(parents=True, exist_ok=True)
    return FileLock(root / "locks" / f"{key}.lock", timeout=0)


def _sweep(root: Path) -> None:
    """Delete what killed processes have left: work folders whose lock nobody holds."""
    for folder in root.glob(f"{_WORK}*"):
        with suppress(OSError), _lock(root, folder.name.removeprefix(_WORK)):  # or Timeout
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def disk_errors(label: str, meter: Meter) -> Iterator[None]:
    """Turn an error of the cache's disk into an `AssetError`.

    Raises:
        AssetError: the disk is full, or the cache folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        root = cache_root()
        if error.errno in _FULL:
            raise disk_full(label, root, "FEDRAI_CACHE", meter.needed) from error
        if error.filename is not None and not Path(str(error.filename)).is_relative_to(root):
            raise
        raise AssetError(
            f"The cache folder {root} cannot be written: {error.strerror or error}.",
            hint="Set FEDRAI_CACHE to a writable folder.",
        ) from error


def offline_by_environment() -> bool:
    """Whether FEDRAI_OFFLINE forbids the network."""
    return os.environ.get("FEDRAI_OFFLINE", "").strip().lower() not in {"", "0", "false", "no"}


def why_offline(spec: str) -> tuple[str, str]:
    """Why no network is used (the end of a sentence), and what to do about a missing asset."""
    if offline_by_environment():
        return "network use is off (FEDRAI_OFFLINE)", (
            "Unset FEDRAI_OFFLINE and fetch it once, or copy the cache from another machine."
        )
    return "this command uses no network", f"Fetch it once: fedrai assets fetch {spec}"


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that a disk or quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def disk_full(label: str, place: Path, variable: str, needed: int | None) -> AssetError:
    """The error for a full disk: the space needed, the place, the setting that moves the cache."""
    amount = "an unknown amount" if needed is None else f"at least {format_bytes(needed)}"
    free = format_bytes(shutil.disk_usage(_nearest_existing(place)).free)
    return AssetError(
        f"The disk that holds {place} is full: {label} needs {amount}, and {free} is free.",
        hint=f"Free disk space, or set {variable} to a folder on a larger disk.",
    )


def _nearest_existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.parents) if folder.exists())
