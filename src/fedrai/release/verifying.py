"""Whether a release is byte for byte what its signers signed, by whom, and still valid. Offline."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from fedrai.errors import ReleaseError
from fedrai.release.signature import (
    FOLDER,
    Bundle,
    file_name,
    key_id,
    read_public,
    statement,
    verifies,
)
from fedrai.runs.files import parse_json

RECORD = "release.json"
LARGEST_SIGNATURE = 8_000_000  # bytes


@dataclass(frozen=True, slots=True)
class Verification:
    """The result.

    Attributes:
        problems: what is wrong; empty: the release is good.
        signers: files of the keys whose signature is valid.
        others: identifiers of keys that signed but were not given, so that nothing is known.
        record: `release.json`; empty where it cannot be trusted.
        needed: how many signatures were needed.
    """

    problems: tuple[str, ...]
    signers: tuple[str, ...]
    others: tuple[str, ...]
    record: dict[str, Any]
    needed: int


def verify(
    folder: Path,
    keys: Sequence[Path],
    threshold: int = 0,
    after: int | None = None,
    now: datetime | None = None,
) -> Verification:
    """Check a release folder.

    Args:
        folder: the release.
        keys: public keys that the receiver trusts.
        threshold: how many of them must have signed; 0: all.
        after: serial number that the release's has to exceed, so that an older one that is
            handed out again is refused.
        now: current time (UTC); None: the clock's.

    Raises:
        ReleaseError: a key cannot be read, or the threshold does not fit the keys.
    """
    given = {key_id(key): (str(file), key) for file in keys for key in [read_public(file)]}
    if not given or threshold > len(given):
        raise ReleaseError(f"{threshold or 1} signatures are needed, got {len(given)} keys")
    needed = threshold or len(given)
    try:
        problems = list(_odd(folder))
        found = {} if problems else _bundles(folder)
        signed = b"" if problems else statement(folder)
    except OSError as error:
        return _failed(f"cannot read it ({error.strerror})", needed)
    valid: dict[str, str] = {}
    others: list[str] = []
    for name, bundle in found.items():
        if isinstance(bundle, str):
            problems.append(f"{FOLDER}/{name}: {bundle}")
        elif name != file_name(bundle.hint):
            problems.append(f"{FOLDER}/{name}: it does not have the name of its key")
        elif bundle.payload != signed:
            problems.append(f"{FOLDER}/{name}: {_difference(bundle.payload, signed)}")
        else:
            _count(name, bundle, given, valid, others, problems)
    if not problems and len(valid) < needed:
        problems.append(f"signed by {len(valid)} of the given keys, {needed} are needed")
    record = {} if problems else _record(folder)
    problems += [] if problems else list(_dates(record, after, now or datetime.now(UTC)))
    return Verification(tuple(problems), tuple(valid.values()), tuple(others), record, needed)


def _count(
    name: str, bundle: Bundle, given: dict[str, tuple[str, ec.EllipticCurvePublicKey]],
    valid: dict[str, str], others: list[str], problems: list[str],
) -> None:  # fmt: skip
    """Count one signature whose statement is about these files."""
    maker = next((k for k, (_, key) in given.items() if verifies(bundle, key)), None)
    if maker is not None and maker == bundle.hint and maker not in valid:
        valid[maker] = given[maker][0]
    elif maker is None and bundle.hint not in given:
        others.append(bundle.hint)
    else:
        problems.append(f"{FOLDER}/{name}: the signature is not valid")


def _failed(problem: str, needed: int) -> Verification:
    return Verification((problem,), (), (), {}, needed)


def _odd(folder: Path) -> Iterator[str]:
    """What no release holds: links, empty folders, files beside the signatures."""
    if not folder.is_dir() or folder.is_symlink():
        yield "it is not a folder"
        return
    for place, folders, files in os.walk(folder):
        here = Path(place)
        for name in (*folders, *files):
            path = here / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                yield f"{path.relative_to(folder)} is neither a file nor a folder"
        if not folders and not files:
            yield f"{here.relative_to(folder)} is an empty folder"
    signatures = folder / FOLDER
    if not signatures.is_dir():
        yield "it is not signed"
        return
    for path in signatures.iterdir():
        if not path.is_file() or path.suffix != ".sig" or path.stat().st_size > LARGEST_SIGNATURE:
            yield f"{FOLDER}/{path.name} is not a signature"


def _bundles(folder: Path) -> dict[str, Bundle | str]:
    """Each signature by the name of its file; a text says what is wrong with it."""
    found: dict[str, Bundle | str] = {}
    for file in sorted((folder / FOLDER).iterdir()):
        try:
            found[file.name] = Bundle.read(file.read_bytes())
        except ReleaseError as error:
            found[file.name] = error.message
    return found


def _difference(payload: bytes, signed: bytes) -> str:
    """Which files differ from those that were signed."""
    try:
        before, now = (
            {str(r["name"]): r["digest"] for r in parse_json(body)["predicate"]["resources"]}
            for body in (payload, signed)
        )
    except (ValueError, TypeError, KeyError):
        return "it is about something else"
    kinds = {
        "missing": sorted(before.keys() - now.keys()),
        "added": sorted(now.keys() - before.keys()),
        "changed": sorted(n for n in before.keys() & now.keys() if before[n] != now[n]),
    }
    texts = [f"{kind}: {', '.join(map(repr, names[:3]))}{' ...' * (len(names) > 3)}"
             for kind, names in kinds.items() if names]  # fmt: skip
    return "; ".join(texts) or "it is about something else"


def _record(folder: Path) -> dict[str, Any]:
    try:
        value = parse_json((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _dates(record: dict[str, Any], after: int | None, now: datetime) -> Iterator[str]:
    """Problems with a release that was signed as it is: too old, or from the future."""
    serial = record.get("serial")
    try:
        created, expires = (datetime.fromisoformat(str(record[k])) for k in ("created", "expires"))
        if not isinstance(serial, int) or created.tzinfo is None or expires.tzinfo is None:
            raise ValueError
    except (KeyError, ValueError):
        yield f"{RECORD} has no serial number and dates"
        return
    if expires < now:
        yield f"it expired on {expires:%Y-%m-%d}"
    if after is not None and serial <= after:
        yield f"its serial number {serial} is not above {after}: an older release"
