"""Disk and memory of this machine, and what a base model needs of them.

Weights are counted without loading them, from the headers of safetensors files or the tensor table
of a GGUF file.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from fedrai import assets

BYTES_A_WEIGHT = 4
"""In float32, as on most CPUs; bfloat16 takes half."""
SPARE_DISK = 1 << 30
"""Free bytes that a node needs for messages, logs and the cache's temporary files."""
MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model, as far as this machine knows it.

    Attributes:
        name: name in a recipe.
        place: path of a local model; None for one from the hub, an index or a URL.
        cached: whether it is on this machine.
        bytes: its size on disk; None: unknown until it is fetched.
        weights: their number; None: unknown.
    """

    name: str
    place: Path | None
    cached: bool
    bytes: int | None
    weights: int | None


def base_model(name: str, folder: Path) -> BaseModel:
    """Look a base model up without a network.

    Args:
        name: name in a recipe.
        folder: the node's; relative paths start there.

    Raises:
        AssetError: the name is invalid.
    """
    place = _place(name, folder)
    status = assets.status(name if place is None else str(place))
    weights = count_weights(status.path) if status.path is not None else None
    return BaseModel(name, place, status.cached, status.bytes, weights)


def _place(name: str, folder: Path) -> Path | None:
    """The local path that a name stands for; None if it is not one."""
    if name in assets.CATALOGUE:
        return None
    path = folder.absolute() / Path(name).expanduser()
    return path if path.exists() or assets.parse(name).scheme == "path" else None


def count_weights(path: Path) -> int | None:
    """Number of weights in a model's folder or file; None where the format does not tell."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    try:
        if path.is_file() and path.suffix == ".gguf":
            return _gguf(path)
        counted = [_safetensors(file) for file in files if file.suffix == ".safetensors"]
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    return sum(counted) if counted else None


def free_disk(path: Path) -> int:
    """Free bytes on the disk of a file or folder, which need not exist."""
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def free_memory() -> int | None:
    """Free bytes of memory; None where the system does not tell."""
    try:
        for line in MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _safetensors(file: Path) -> int:
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        if size > 100 << 20:
            raise ValueError("the header is too long")
        header = json.loads(opened.read(size))
    return sum(prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")


def _gguf(file: Path) -> int:
    from gguf import GGUFReader

    return sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors)
