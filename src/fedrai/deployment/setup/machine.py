"""This machine against what a model needs: its weights counted from the files, disk, memory.

Weights are counted without loading them: from the headers of safetensors files, or the tensor table
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
"""Of a base model in float32, as on most CPUs; bfloat16 takes half."""
SPARE_DISK = 1 << 30
"""Free bytes below which a node soon stops: messages, logs, the cache's temporary files."""
MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What is known here of a base model.

    Attributes:
        name: as in a recipe.
        place: where a path leads; None for what comes from the hub, an index or a URL.
        cached: whether it is here.
        bytes: on disk; None: unknown before it is fetched.
        weights: how many; None: unknown.
    """

    name: str
    place: Path | None
    cached: bool
    bytes: int | None
    weights: int | None


def base_model(name: str, folder: Path) -> BaseModel:
    """What is known of a base model without a network.

    Args:
        name: as in a recipe.
        folder: the node's, in which its SuperNode runs; a relative path starts there.

    Raises:
        AssetError: the name cannot be read.
    """
    place = _place(name, folder)
    found = assets.status(name if place is None else str(place))
    weights = count_weights(found.path) if found.path is not None else None
    return BaseModel(name, place, found.cached, found.bytes, weights)


def _place(name: str, folder: Path) -> Path | None:
    """Where a path leads from a folder; None if the name is none, or none that is there."""
    if name in assets.CATALOGUE:
        return None
    path = folder.absolute() / Path(name).expanduser()
    return path if path.exists() or assets.parse(name).scheme == "path" else None


def count_weights(path: Path) -> int | None:
    """Weights of a model's folder or file; None where the format does not say."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    try:
        if path.is_file() and path.suffix == ".gguf":
            return _gguf(path)
        counted = [_safetensors(file) for file in files if file.suffix == ".safetensors"]
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    return sum(counted) if counted else None


def free_disk(path: Path) -> int:
    """Free bytes where a file or folder lies, or would lie."""
    here = path
    while not here.exists() and here != here.parent:
        here = here.parent
    return shutil.disk_usage(here).free


def free_memory() -> int | None:
    """Bytes that a process can have now; None where the system does not say."""
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
