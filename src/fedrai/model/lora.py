"""Settings of an adapter: the layers that have it, and its scale.

Settings that a plain LoRA layer can follow are kept, and those that have no effect on a trained
adapter are left out. Any other setting is an error: without it the model would silently give other
answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fedrai.errors import ModelError

Names = str | Sequence[str] | None

KEPT = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
        "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out")  # fmt: skip
TRAINING_ONLY = frozenset(
    {"r", "lora_alpha", "lora_dropout", "peft_type", "task_type", "peft_version", "auto_mapping",
     "base_model_name_or_path", "revision", "inference_mode", "init_lora_weights", "eva_config",
     "runtime_config", "megatron_core", "qalora_group_size", "loftq_config"}
)  # fmt: skip
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Initialisations of the factors that do not change the base model's weights."""
RESCALING = ("use_rslora", "rank_pattern", "alpha_pattern")
"""Settings that have no key in a recipe's `[adapter]`."""


@dataclass(frozen=True, slots=True)
class Lora:
    """The settings of a plain LoRA adapter.

    Attributes:
        rank: rank of the two factors.
        alpha: the product is multiplied by alpha / rank.
        target_modules: layers with an adapter: `all-linear`, names, or a pattern.
        more: other settings of `KEPT` that are set.
        dropout: dropout on the input of the LoRA branch, while training.
    """

    rank: int = 16
    alpha: float = 32
    target_modules: Names = "all-linear"
    more: Mapping[str, Any] = field(default_factory=dict)
    dropout: float = 0.0

    def config(self, task: str) -> Any:
        """The same as PEFT's `LoraConfig`.

        Args:
            task: PEFT's task type.

        Raises:
            ModelError: PEFT does not allow these settings together.
        """
        from peft import LoraConfig

        layers = self.target_modules
        try:
            return LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,  # PEFT only multiplies by it
                lora_dropout=self.dropout,
                target_modules=list(layers) if isinstance(layers, list | tuple) else layers,
                task_type=task,
                **self.more,
            )
        except (TypeError, ValueError) as error:
            raise ModelError(f"PEFT rejects the adapter's settings: {error}") from None


DEFAULT_LORA = Lora()


def linear_layers(model: torch.nn.Module) -> list[str]:
    """The last parts of the names of a model's linear layers, sorted."""
    linear = (n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear))
    return sorted({name.split(".")[-1] for name in linear})


def read_lora(config: Mapping[str, Any], name: str) -> Lora:
    """The settings of an adapter.

    Args:
        config: its `adapter_config.json`.
        name: the adapter's name, for errors.

    Raises:
        ModelError: it is not a LoRA adapter, or has settings that a plain LoRA layer cannot follow.
    """
    kind = str(config.get("peft_type") or "LORA").upper()
    if kind != "LORA":
        raise ModelError(f"{name} is an adapter of PEFT's kind {kind}, expected LORA")
    special = special_settings(config)
    if special:
        raise ModelError(
            f"{name} is not a plain LoRA: it sets {special[0]}",
            hint="merge it into its base model with PEFT, and name the merged model's folder",
        )
    rank, alpha = _numbers(config, name)
    layers = config.get("target_modules")
    if not isinstance(layers, str | list | None):
        raise ModelError(f"{name}: adapter_config.json has target_modules = {layers!r}")
    return Lora(rank, alpha, layers, {key: config[key] for key in KEPT[1:] if _is_set(config, key)})


def _is_set(config: Mapping[str, Any], key: str) -> bool:
    """Whether a setting has an effect; layer 0 has."""
    value = config.get(key)
    return value is not None and value is not False and value not in ([], {}, "")


def special_settings(config: Mapping[str, Any]) -> list[str]:
    """Settings of an `adapter_config.json` that a plain LoRA layer cannot follow."""
    plain = TRAINING_ONLY | {*KEPT, "bias"}
    special = [key for key in sorted(config) if key not in plain and _is_set(config, key)]
    special += ["bias"] if config.get("bias", "none") not in (None, "none") else []
    start = config.get("init_lora_weights", True)
    plain_start = isinstance(start, bool | str | None) and start in PLAIN_STARTS
    return special if plain_start else [*special, "init_lora_weights"]


def _numbers(config: Mapping[str, Any], name: str) -> tuple[int, float]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ModelError(f"{name}: adapter_config.json has r = {rank!r}, expected a whole number")
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not number or not 0 < alpha < math.inf:  # type: ignore[operator]
        raise ModelError(
            f"{name}: adapter_config.json has lora_alpha = {alpha!r}, expected more than 0"
        )
    return rank, alpha  # type: ignore[return-value]
