"""Files and folders written whole or not at all: texts, strict JSON, tensors with notes.

A sealed file of tensors contains a digest of its content, so that damage is detected when it is
read. A disk error is an `OSError`, also when safetensors writes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrai.assets import checksums
from fedrai.errors import ChecksumError, FedRAIError, RunError

if TYPE_CHECKING:
    from torch import Tensor

SEAL = "sha256"
"""The note of a sealed file that contains its digest."""


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, body: bytes, *, mode: int = 0o666, shared: bool = False) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file.
        body: its content.
        mode: its permissions from the first byte on, less the umask.
        shared: see `new_file`.

    Raises:
        OSError: it cannot be written; an existing file is unchanged.
    """
    with new_file(path, shared=shared) as fresh:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(body)


@contextmanager
def new_file(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """The path of a file to write, which replaces `path` when the block succeeds.

    Args:
        path: the file.
        shared: whether other processes may write it at the same time.

    Raises:
        OSError: it cannot be written; an existing file is unchanged.
    """
    fresh = path.with_name(f".new-{path.name}" + f"-{os.getpid()}" * shared)
    fresh.unlink(missing_ok=True)
    try:
        yield fresh
        sync(fresh)
        fresh.replace(path)
    finally:
        with suppress(OSError):  # an incomplete file would fill the disk
            fresh.unlink()


@contextmanager
def new_folder(target: Path, *, replaces: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which becomes `target` when the block succeeds.

    Args:
        target: the folder; its parents are created.
        replaces: whether an existing folder is replaced.

    Raises:
        OSError: it cannot be written, or the target exists.
    """
    whole = target.absolute()
    fresh = whole.with_name(f".new-{whole.name}")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        for file in fresh.rglob("*"):
            if file.is_file():
                sync(file)
        if replaces:
            shutil.rmtree(whole, ignore_errors=True)
        fresh.rename(whole)
        sync(whole.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # it may be what fills the disk


def json_text(value: Any, indent: int = 2) -> str:
    """Indented JSON; NaN and infinite numbers are null, which means no data."""
    return json.dumps(_strict(value), indent=indent, allow_nan=False) + "\n"


def json_line(value: Any) -> str:
    """As `json_text`, on one line."""
    return json.dumps(_strict(value), allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _strict(part) for key, part in value.items()}
    return [_strict(part) for part in value] if isinstance(value, list | tuple) else value


def parse_json(text: str | bytes) -> Any:
    """A JSON value; NaN and infinite numbers, which earlier versions wrote, are None.

    Raises:
        ValueError: it is not JSON in UTF-8.
    """
    try:
        return json.loads(text, parse_constant=lambda _name: None, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def json_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines; invalid lines are left out, a missing file is empty.

    Raises:
        OSError: it cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    values = []
    for line in lines:
        with suppress(ValueError):
            values.append(parse_json(line))
    return values


def append_line(path: Path, line: bytes) -> None:
    """Append to a file; if that fails, the file is cut back to what it was.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise


def end_line(path: Path) -> None:
    """End the last line if a kill cut it short.

    Raises:
        OSError: the file cannot be read or written.
    """
    if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        append_line(path, b"\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, str]) -> None:
    """Write a safetensors file with notes, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.torch import save_file

    whole = {name: tensors[name].contiguous() for name in sorted(tensors)}
    with disk_errors(), new_file(path) as fresh:
        save_file(whole, fresh, dict(note))


@contextmanager
def writing(path: Path, raises: type[FedRAIError], hint: str = "") -> Iterator[None]:
    """Raise disk errors of the block as one of our errors about `path`."""
    try:
        yield
    except OSError as error:
        raise raises(f"cannot write {path}: {error.strerror or error}", hint=hint) from error


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise the disk errors of safetensors as `OSError`."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        match = re.search(r"\(os error (\d+)\)", str(error))
        if match is None:
            raise OSError(str(error)) from error
        raise OSError(int(match[1]), os.strerror(int(match[1]))) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and notes of a safetensors file.

    Raises:
        RunError: it is missing, or not a safetensors file.
        ChecksumError: it has changed.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    checksums.check_file(path)
    try:
        with safe_open(path, "pt") as file:
            note: dict[str, str] = file.metadata() or {}
        return load_file(path), note
    except FileNotFoundError:
        raise RunError(f"{path} not found") from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a safetensors file, or damaged ({error})") from error


def save_sealed(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, str]) -> None:
    """As `save_tensors`, with a digest of tensors and notes among the notes.

    Raises:
        OSError: it cannot be written.
    """
    save_tensors(path, tensors, {**note, SEAL: _seal(tensors, note)})


def load_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and notes that `save_sealed` wrote; files without a seal (earlier versions) are read.

    Raises:
        RunError: it is missing, or not a safetensors file.
        ChecksumError: its content has changed.
    """
    tensors, note = load_tensors(path)
    seal = note.pop(SEAL, None)
    if seal is not None and seal != _seal(tensors, note):
        raise ChecksumError(
            f"{path} is damaged: its content differs from what was written",
            hint="delete it; it will be written again",
        )
    return tensors, note


def seal(path: Path) -> None:
    """Record the size and digest of a growing file beside it; see `sealed_part`.

    Raises:
        OSError: the file cannot be read, or the note cannot be written.
    """
    body = path.read_bytes()
    write_text(_note_of(path), f"{len(body)} {hashlib.sha256(body).hexdigest()}\n")


def sealed_part(path: Path) -> bytes:
    """The content of a file when it was last sealed; all of it if it never was.

    Later content is left out, since it may be incomplete.

    Raises:
        OSError: it cannot be read.
        ChecksumError: the sealed content has changed.
    """
    note = _note_of(path)
    if not note.is_file():
        return path.read_bytes()
    body = path.read_bytes() if path.is_file() else b""
    size, _, sha256 = note.read_bytes().partition(b" ")
    part = body[: int(size)] if size.isdigit() and len(size) < 19 else b""
    if not path.is_file() or hashlib.sha256(part).hexdigest().encode() != sha256.strip():
        raise ChecksumError(
            f"{path} is damaged: its content differs from what was written",
            hint=f"delete the folder {path.parent}; its work starts again",
        )
    return part


def _note_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _seal(tensors: Mapping[str, Tensor], note: Mapping[str, str]) -> str:
    body = json.dumps([digest_of(tensors), sorted(note.items())])
    return hashlib.sha256(body.encode()).hexdigest()


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors: names, number formats, shapes and values, in hex."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk.

    Raises:
        OSError: the disk failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
