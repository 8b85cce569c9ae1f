"""The base model with its LoRA adapter: load, swap adapters, save as an ordinary PEFT folder.

One base model serves all clients of a process; an adapter is a dict of float32 tensors that is
copied in and out. Only this package uses transformers and peft. Base weights are frozen; the
adapter computes in the base model's number format, and the training loop holds its float32 copy.
"""

from fedrai.model.adapters import (
    WEIGHTS,
    AdapterState,
    check_adapter,
    copy_adapter,
    read_adapter,
    read_adapter_config,
    save_shards,
)
from fedrai.model.backbone import Backbone, load_backbone
from fedrai.model.bases import (
    BASE_HINT,
    base_of,
    copy_base,
    read_base_record,
    remember_base,
    write_base_record,
)
from fedrai.model.language import LanguageModel
from fedrai.model.loading import (
    EAGER_LENGTH,
    UPSTREAM,
    LoadOptions,
    fingerprint,
    load,
    model_folder,
    pick_device,
    pick_dtype,
)
from fedrai.model.lora import Lora, read_lora
from fedrai.model.starting import (
    EMBEDDED,
    adapter_folder,
    is_adapter,
    read_matching_adapter,
    read_start_adapter,
)

__all__ = [
    "BASE_HINT",
    "EAGER_LENGTH",
    "EMBEDDED",
    "UPSTREAM",
    "WEIGHTS",
    "AdapterState",
    "Backbone",
    "LanguageModel",
    "LoadOptions",
    "Lora",
    "adapter_folder",
    "base_of",
    "check_adapter",
    "copy_adapter",
    "copy_base",
    "fingerprint",
    "is_adapter",
    "load",
    "load_backbone",
    "model_folder",
    "pick_device",
    "pick_dtype",
    "read_adapter",
    "read_adapter_config",
    "read_base_record",
    "read_lora",
    "read_matching_adapter",
    "read_start_adapter",
    "remember_base",
    "save_shards",
    "write_base_record",
]
