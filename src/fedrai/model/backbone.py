"""A model's body without its output layer, for guards: token ids in, hidden states out.

For decoders (Llama, Qwen ...) and encoders (BERT, MiniLM ...). The last layers may be left out,
since the middle of a language model tells as much about a text and costs less.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedrai import assets
from fedrai.errors import ModelError
from fedrai.model.adapted import AdaptedModel
from fedrai.model.loading import fingerprint, model_folder, pick_device, pick_dtype
from fedrai.model.lora import Lora, linear_layers
from fedrai.model.pretrained import open_pretrained

LORA = Lora(rank=8, alpha=16)


class Backbone(AdaptedModel):
    """A frozen body with a LoRA adapter.

    Args:
        peft_model: the body wrapped by peft.
        tokenizer: its tokenizer.
        fingerprint: fingerprint of the base model's files.

    Attributes:
        causal: whether a token sees only the tokens before it.
        positions: most tokens of a text.
    """

    def __init__(self, peft_model: Any, tokenizer: Any, fingerprint: str) -> None:
        kernel = str(peft_model.get_base_model().config._attn_implementation)
        super().__init__(peft_model, tokenizer, fingerprint, (kernel, kernel))
        self.causal = any(getattr(m, "is_causal", False) for m in self.base.modules())
        self.positions = _positions(self.base)

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self.config.hidden_size)

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states (B, T, D) of ids (B, T); mask is 1 at real tokens."""
        extra = {"use_cache": False} if self.causal else {}
        out: Tensor = self.base(input_ids=ids, attention_mask=mask, **extra).last_hidden_state
        return out


def load_backbone(
    spec: str,
    lora: Lora = LORA,
    *,
    layers: int = 0,
    dtype: str = "auto",
    device: str = "auto",
    progress: assets.Progress | None = None,
) -> Backbone:
    """Load the body of a model and put an adapter on all linear layers of it.

    Args:
        spec: folder, hub id, `.gguf` file or a name from `fedrai assets list`.
        lora: settings of the adapter, whose layers are always all linear ones.
        layers: number of layers to keep, from the first; 0: all.
        dtype: `auto`, `bfloat16` or `float32`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        progress: shows downloads.

    Raises:
        ModelError: it is neither a decoder nor an encoder, or has fewer layers.
        AssetError: it cannot be fetched.
    """
    folder = model_folder(spec, progress)
    target = pick_device(device)
    body, tokenizer = _load_body(folder, pick_dtype(dtype, target), target)
    stack = _layers(body)
    if layers > len(stack):
        raise ModelError(f"{spec} has {len(stack)} layers, expected {layers} or more")
    if layers:
        del stack[layers:]
        body.config.get_text_config().num_hidden_layers = layers
    return Backbone(_wrap(body, lora), tokenizer, fingerprint(folder))


def _load_body(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    from transformers import AutoModel

    body, tokenizer = open_pretrained(AutoModel, folder, "a model", dtype=dtype)
    if body.config.is_encoder_decoder:
        raise ModelError(f"{folder} holds an encoder-decoder, expected a decoder or an encoder")
    if getattr(body, "pooler", None) is not None:
        body.pooler = None  # not used
    return body.requires_grad_(False).eval().to(device), tokenizer


def _positions(body: Any) -> int:
    """Most tokens of a text; RoBERTa's positions start after that of the padding."""
    limit = getattr(body.config.get_text_config(), "max_position_embeddings", None)
    tables = (m for name, m in body.named_modules() if name.endswith("position_embeddings"))
    padding = getattr(next(tables, None), "padding_idx", None)
    if not isinstance(limit, int) or limit <= 0:
        return sys.maxsize
    return limit - (0 if padding is None else padding + 1)


def _layers(body: Any) -> Any:
    """The list of a body's layers.

    Raises:
        ModelError: they are not found where decoders and encoders have them.
    """
    for holder in (body, getattr(body, "encoder", None), getattr(body, "transformer", None)):
        for name in ("layers", "layer", "h"):
            layers = getattr(holder, name, None)
            if isinstance(layers, torch.nn.ModuleList):
                return layers
    raise ModelError(f"the layers of {type(body).__name__} are not found")


def _wrap(body: Any, lora: Lora) -> Any:
    from peft import get_peft_model

    names = linear_layers(body)
    if not names:
        raise ModelError(f"{type(body).__name__} has no linear layer for an adapter")
    config = replace(lora, target_modules=names).config("FEATURE_EXTRACTION")
    with warnings.catch_warnings():  # peft 0.21 uses a deprecated property of transformers 5
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        return get_peft_model(body, config, autocast_adapter_dtype=False)
