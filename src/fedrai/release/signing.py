"""Keys of releases, and a further signature on a release that others have signed."""

from __future__ import annotations

from pathlib import Path

from fedrai.errors import ReleaseError
from fedrai.release.signature import FOLDER, Bundle, make_key, read_private, sign, statement
from fedrai.release.verifying import RECORD
from fedrai.runs.files import write_bytes, writing


def add_signature(folder: Path, key: Path) -> Path:
    """Sign a release; an earlier signature with the same key is replaced.

    Raises:
        ReleaseError: it is no release, the key cannot be read, or the files are not those that
            the others signed.
    """
    private = read_private(key)
    if not (folder / RECORD).is_file():
        raise ReleaseError(f"{folder} is not a release (no {RECORD})")
    with writing(folder, ReleaseError):
        payload = statement(folder)
        for file in sorted((folder / FOLDER).glob("*.sig")):
            if Bundle.read(file.read_bytes()).payload != payload:
                raise ReleaseError(f"{folder} is not what was signed so far; nothing was signed")
        return sign(folder, private)


def write_key_pair(file: Path) -> tuple[Path, Path]:
    """Make a key pair: the private key at `file`, the public one at `file`.pub.

    Raises:
        ReleaseError: a file exists, or cannot be written.
    """
    public = file.with_name(f"{file.name}.pub")
    for one in (file, public):
        if one.exists():
            raise ReleaseError(f"{one} already exists; nothing was changed")
    private_pem, public_pem = make_key()
    with writing(file, ReleaseError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, private_pem, mode=0o600)
        file.chmod(0o600)
        write_bytes(public, public_pem)
    return file, public
