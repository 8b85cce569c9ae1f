"""Adapters as tensors and as ordinary PEFT folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from fedrai.errors import ModelError

AdapterState = dict[str, Tensor]
WEIGHTS = "adapter_model.safetensors"


def check_adapter(state: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes.

    Raises:
        ModelError: names the first difference.
    """
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unknown:
        what = f"misses {missing[0]}" if missing else f"has {unknown[0]}"
        raise ModelError(
            f"the adapter does not fit the model: it {what}"
            f" ({len(missing)} missing, {len(unknown)} unknown)"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise ModelError(
                f"the adapter does not fit the model: {name} is {tuple(state[name].shape)},"
                f" expected {shape}"
            )


def read_adapter(folder: Path) -> AdapterState:
    """The tensors of a PEFT folder, in float32.

    Raises:
        ModelError: there is no adapter, or it is not safetensors.
    """
    try:
        return {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except FileNotFoundError:
        raise ModelError(f"no adapter in {folder} (expected {WEIGHTS})") from None
    except Exception as error:
        raise ModelError(f"{folder / WEIGHTS} is not a safetensors file ({error})") from error


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of a PEFT folder.

    Raises:
        ModelError: missing or not JSON.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"no adapter_config.json that can be read in {folder}") from error
    return config
