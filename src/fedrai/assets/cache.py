"""The cache folder: what lies in it, one writer at a time, every change in one rename.

assets/KEY/asset.json, assets/KEY/content/...   fetched bytes and the record of where from
assets/KEY/checked.json                         note of the last whole check; see `intact`
derived/KEY/..., derived/.KEY.sha256            folders that were made from fetched bytes, checksum
derived/.KEY.checked.json                       note of the last whole check
locks/KEY.lock                                  held while KEY is made
.partial-HOST-PID-RANDOM/                       work in progress; swept when its process is gone
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from fedrai.assets.hashing import bytes_of, sha256_path
from fedrai.assets.intact import sha256_now
from fedrai.assets.progress import Meter, format_bytes
from fedrai.assets.ref import is_safe_member
from fedrai.errors import AssetError

_PARTIAL = re.compile(r"\.partial-(?P<host>.*)-(?P<pid>\d+)-[0-9a-f]+")
_SECONDS_PER_DAY = 86_400
CHECKED = "checked.json"
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Record:
    """What is known of a cached asset, kept as `asset.json` beside its bytes.

    Attributes:
        spec: the spec without checksum and credentials.
        source: the same with the version or commit that was really taken.
        revision: that version or commit; empty for a URL.
        sha256: hash of the bytes at fetch time.
        bytes: their number.
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
    named = os.environ.get("FEDRAI_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    return platformdirs.user_cache_path("fedrai")


def entry_folder(key: str) -> Path:
    """Where the asset of that key lies, or would lie."""
    return cache_root() / "assets" / key


def find(key: str) -> tuple[Path, Record] | None:
    """The cached asset, or None when it is missing, incomplete or has lost its record.

    Its bytes are not looked at; see `note_of`.
    """
    folder = entry_folder(key)
    try:
        record = Record(**json.loads((folder / "asset.json").read_text(encoding="utf-8")))
        path = folder / record.path
        elsewhere = Path(record.path).is_absolute() and key.startswith("hf-")  # the hub's own cache
        placed = elsewhere or is_safe_member(record.path)
        return (path, record) if placed and bytes_of(path) == record.bytes else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def note_of(key: str) -> Path:
    """Where the note of an asset's last whole check is kept."""
    return entry_folder(key) / CHECKED


def install(entry: Path, key: str, record: Record) -> Path:
    """Write the record into `entry` and move it into the cache, over a broken one if need be.

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
    with disk_errors(key, Meter(None)), locked(key, Meter(None)), partial() as work:
        entry_folder(key).replace(work / "removed")


def derive(key: str, build: Callable[[Path], None]) -> Path:
    """A folder in the cache that `build` fills exactly once, also with several processes.

    One whose bytes are not those that were built is built anew.

    Args:
        key: a readable name and a hash of all that the content depends on.
        build: fills the empty folder that it is given; what it raises goes through, and then
            nothing is kept.

    Raises:
        AssetError: the key is no plain name, the disk is full, or the cache cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._\-]*", key):
        raise AssetError(f"{key!r} cannot name a folder in the cache.", hint="Use letters and `-`.")
    target = cache_root() / "derived" / key
    if _is_as_built(target):
        return target
    meter = Meter(None)
    with disk_errors(key, meter), locked(f"derived-{key}", meter), partial() as work:
        if not _is_as_built(target):
            made = work / key
            made.mkdir()
            build(made)
            sha256 = sha256_path(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.replace(work / "replaced")
            write_file(work / "sha256", [sha256.encode()], meter)
            (work / "sha256").replace(_built_note(target))
            made.replace(target)
    return target


def _built_note(target: Path) -> Path:
    """Where the checksum of a derived folder is kept."""
    return target.with_name(f".{target.name}.sha256")


def _is_as_built(target: Path) -> bool:
    try:
        built = _built_note(target).read_text(encoding="utf-8")
        note = target.with_name(f".{target.name}.checked.json")
        return target.is_dir() and sha256_now(target, note) == built
    except (OSError, UnicodeDecodeError):
        return False


def write_file(path: Path, blocks: Iterable[bytes], meter: Meter) -> int:
    """Write blocks of bytes to a new file; returns how many bytes there were.

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
def partial() -> Iterator[Path]:
    """An empty folder on the cache's disk, deleted at the end with all that was not moved out.

    Raises:
        OSError: the cache cannot be written.
    """
    root = cache_root()
    sweep(root)
    folder = root / f".partial-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path) -> None:
    """Delete the work in progress of processes that are gone, and whatever is older than a day."""
    for folder in root.glob(".partial-*"):
        if _is_stale(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_stale(folder: Path) -> bool:
    found = _PARTIAL.fullmatch(folder.name)
    is_ours = found is not None and found["host"] == socket.gethostname()
    if found is not None and is_ours and not _is_alive(int(found["pid"])):
        return True
    try:
        return time.time() - folder.stat().st_mtime > _SECONDS_PER_DAY
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(key: str, meter: Meter) -> Iterator[None]:
    """Hold the lock of one key; waits for another process, and says so on the meter.

    Raises:
        OSError: the cache cannot be written.
    """
    path = cache_root() / "locks" / f"{key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with meter.phase(f"Waiting for another process that fetches {key}", None, writes=False):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


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
            hint="Set FEDRAI_CACHE to a folder that you may write.",
        ) from error


def offline_by_environment() -> bool:
    """Whether FEDRAI_OFFLINE forbids to use the network."""
    return os.environ.get("FEDRAI_OFFLINE", "").strip().lower() not in {"", "0", "false", "no"}


def why_offline(spec: str) -> tuple[str, str]:
    """Why no network is used, the end of a sentence, and what to do about a missing asset."""
    if offline_by_environment():
        return "network use is off (FEDRAI_OFFLINE)", (
            "Unset FEDRAI_OFFLINE and fetch it once, or copy the cache from another machine."
        )
    return "this command uses no network", f"Fetch it once: fedrai assets fetch {spec}"


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or quota is used up."""
    return isinstance(error, OSError) and error.errno in _FULL


def disk_full(label: str, place: Path, variable: str, needed: int | None) -> AssetError:
    """The error for a full disk: how much is needed, where, and which setting moves the cache."""
    amount = "an unknown amount" if needed is None else f"at least {format_bytes(needed)}"
    free = format_bytes(shutil.disk_usage(_nearest_existing(place)).free)
    return AssetError(
        f"The disk that holds {place} is full: {label} needs {amount}, and {free} is free.",
        hint=f"Free some space, or set {variable} to a folder on a larger disk.",
    )


def _nearest_existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.parents) if folder.exists())
