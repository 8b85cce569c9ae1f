"""Adapters as tensors and as ordinary PEFT folders.

The weights lie in one file, or in shards with an index in Hugging Face's layout (`metadata`,
`weight_map`), whose metadata also holds each shard's SHA-256. PEFT itself reads one file only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from fedrai import assets
from fedrai.assets import checksums
from fedrai.errors import ChecksumError, ModelError

AdapterState = dict[str, Tensor]
WEIGHTS = "adapter_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD_LIMIT = 1_900_000  # bytes


def check_adapter(state: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check the names and shapes of an adapter's tensors.

    Raises:
        ModelError: one differs; the message names the first.
    """
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unknown:
        difference = f"misses {missing[0]}" if missing else f"has {unknown[0]}"
        raise ModelError(
            f"the adapter does not fit the model: it {difference}"
            f" ({len(missing)} missing, {len(unknown)} unknown)"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise ModelError(
                f"the adapter does not fit the model: {name} is {tuple(state[name].shape)},"
                f" expected {shape}"
            )


def read_adapter(folder: Path) -> AdapterState:
    """The tensors of a PEFT folder, in one file or in shards, in float32.

    Raises:
        ModelError: there is no adapter, a shard is missing, it is not safetensors, or a value is
            not finite.
        ChecksumError: a shard does not match the index, or a file of a run is damaged.
    """
    sharded = (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file()
    state = _read_shards(folder) if sharded else _read(folder / WEIGHTS)
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(
                f"the adapter in {folder} is damaged, or its training diverged: {name} holds values"
                " that are not finite"
            )
    return {name: tensor.float() for name, tensor in state.items()}


def _read(file: Path) -> AdapterState:
    checksums.check_file(file)
    try:
        return load_file(file)
    except FileNotFoundError:
        raise _missing(file) from None
    except Exception as error:
        raise ModelError(f"{file} is not a complete safetensors file ({error})") from error


def _missing(file: Path) -> ModelError:
    pickled = file.with_suffix(".bin")
    if not pickled.is_file():
        return ModelError(f"no adapter in {file.parent} (expected {file.name})")
    return ModelError(
        f"{pickled} is a pickle, which can run code and is not loaded; expected {file.name}",
        hint="if you trust it, load it with PEFT and save it again: save_pretrained(FOLDER)",
    )


def _read_shards(folder: Path) -> AdapterState:
    places, sums = _read_index(folder / INDEX)
    state: AdapterState = {}
    for name in sorted(set(places.values())):
        file = folder / name
        if not file.is_file():
            raise ModelError(f"{folder} misses {name}, which {INDEX} lists")
        if sums and assets.sha256_file(file) != sums.get(name):
            raise ChecksumError(f"{file} does not match {INDEX} (SHA-256 differs)")
        state |= {key: t for key, t in _read(file).items() if places.get(key) == name}
    if set(state) != set(places):
        missing = min(set(places) - set(state))
        raise ModelError(f"{folder}: {missing} is not in the shard that {INDEX} lists")
    return state


def _read_index(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Shard by tensor, and SHA-256 by shard (empty if the index has none)."""
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        places, sums = dict(index["weight_map"]), dict(index["metadata"].get("sha256") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is not an index of shards ({type(error).__name__})") from error
    if not places or any(not isinstance(p, str) or Path(p).name != p for p in places.values()):
        raise ModelError(f"{file}: weight_map must name files in the same folder")
    return places, sums


def write_weights(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write an adapter's tensors in one file, in the order of their names."""
    save_file({name: state[name].contiguous() for name in sorted(state)}, folder / WEIGHTS)


def copy_adapter(source: Path, folder: Path) -> None:
    """Write an adapter as an ordinary PEFT folder with its weights in one file.

    The base model is not needed.

    Args:
        source: a PEFT folder, whose weights may be in shards.
        folder: created if needed.

    Raises:
        ModelError: there is no adapter, or it cannot be read.
        ChecksumError: a shard does not match the index.
    """
    state, config = read_adapter(source), read_adapter_config(source)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    write_weights(folder, state)


def save_shards(
    folder: Path, state: Mapping[str, Tensor], dtype: torch.dtype, limit: int = SHARD_LIMIT
) -> list[Path]:
    """Write an adapter's weights in shards with their index, in place of earlier ones.

    Args:
        folder: the adapter's folder; created if needed. Its `adapter_config.json` is not changed.
        state: the tensors; written in the order of their names.
        dtype: number format of the files.
        limit: most bytes of a file.

    Returns:
        The shards.

    Raises:
        ModelError: a tensor is larger than the limit, or there is none.
    """
    groups = _group({name: state[name].to(dtype).contiguous() for name in sorted(state)}, limit)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("adapter_model*.safetensors"):
        old.unlink()
    files: list[Path] = []
    places: dict[str, str] = {}
    sums: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = folder / f"adapter_model-{number:05d}-of-{len(groups):05d}.safetensors"
        body = save(group, {"format": "pt"})
        file.write_bytes(body)
        files.append(file)
        sums[file.name] = hashlib.sha256(body).hexdigest()
        places |= dict.fromkeys(group, file.name)
    total = sum(t.numel() * t.element_size() for group in groups for t in group.values())
    index = {"metadata": {"total_size": total, "sha256": sums}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def _group(state: AdapterState, limit: int) -> list[AdapterState]:
    """Tensors in order, in groups whose files are no larger than the limit."""
    groups: list[AdapterState] = []
    used = limit
    for name, tensor in state.items():
        size = _file_size({name: tensor})
        if size > limit:
            raise ModelError(f"{name} takes {size} bytes, more than a shard's {limit}")
        used += size  # with a header for each tensor, so the file is a little smaller
        if used > limit:
            groups.append({})
            used = size
        groups[-1][name] = tensor
    if not groups:
        raise ModelError("an adapter without tensors cannot be written")
    return groups


def _file_size(state: AdapterState) -> int:
    """Bytes of a safetensors file."""
    return len(save(state, {"format": "pt"}))


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of a PEFT folder.

    Raises:
        ModelError: missing or not JSON.
        ChecksumError: it is damaged.
    """
    checksums.check_file(folder / "adapter_config.json")
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder} has no readable adapter_config.json") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'adapter_config.json'} is not a JSON object")
    return config
