"""A frozen base model with one LoRA adapter that is copied in and out."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fedrai.errors import ModelError
from fedrai.model.adapted import AdaptedModel
from fedrai.model.adapters import write_weights
from fedrai.model.cached import forward_cached
from fedrai.model.chat import ChatFormat


class LanguageModel(AdaptedModel):
    """A frozen base model, its tokenizer and one LoRA adapter.

    Args:
        peft_model: the base model wrapped by peft.
        tokenizer: its tokenizer.
        name: the base model's name in the adapter's config.
        fingerprint: fingerprint of the base model's files; see `loading.fingerprint`.
        kernels: attention kernels for training and for inference.
    """

    def __init__(
        self,
        peft_model: Any,
        tokenizer: Any,
        name: str,
        fingerprint: str,
        kernels: tuple[str, str] = ("sdpa", "sdpa"),
    ) -> None:
        super().__init__(peft_model, tokenizer, fingerprint, kernels)
        self.chat = ChatFormat(tokenizer)
        self.name = name
        self.stop_ids = self.chat.stop_ids(_ids(self.base.generation_config.eos_token_id))
        self.fused = self._fuses()

    @property
    def output_weight(self) -> Tensor:
        """The output layer, (vocabulary, hidden size)."""
        weight: Tensor = self.base.get_output_embeddings().weight
        return weight

    @property
    def softcap(self) -> float | None:
        """Gemma 2's bound on logits."""
        return getattr(self.config, "final_logit_softcapping", None)

    @torch.no_grad()
    def _fuses(self) -> bool:
        """Whether logits are hidden states times the output layer, up to the soft cap.

        Tried on three tokens: an output layer that scales, shifts or transforms would silently
        train on a wrong loss.
        """
        head = self.base.get_output_embeddings()
        ids = torch.tensor([[1, 2, 3]], device=self.device)
        own = self.logits(ids, torch.ones_like(ids)).float()
        if not torch.isfinite(own).all():
            raise ModelError("the base model's weights are damaged: its logits are not finite")
        if getattr(head, "bias", None) is not None or not head.weight.is_floating_point():
            return False
        if hasattr(head, "lora_A"):  # a fresh adapter adds nothing, a trained one does
            return False
        plain = (self.hidden(ids, torch.ones_like(ids)) @ head.weight.T).float()
        if self.softcap is not None:
            plain = self.softcap * torch.tanh(plain / self.softcap)
        return bool((own - plain).abs().max() <= 0.02 * own.abs().max())

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states (B, T, D) of ids (B, T); mask is 1 at real tokens."""
        body = self.base.get_decoder()
        out: Tensor = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return out

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """All logits (B, T, V), by the model's own forward."""
        out: Tensor = self.base(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return out

    def next_logits(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any
    ) -> tuple[Tensor, Any]:
        """Logits (B, V) of the token after ids (B, T), and the key/value cache with these."""
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        if not self.fused:
            out, cache = forward_cached(self.base, cache, **inputs, logits_to_keep=1)
            return out.logits[:, -1], cache
        out, cache = forward_cached(self.base.get_decoder(), cache, **inputs)
        last = out.last_hidden_state[:, -1]
        logits = last.contiguous() @ self.output_weight.T  # a strided slice would copy weights
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits, cache

    @property
    def output_weights(self) -> int:
        """Number of weights of the output layer."""
        return int(self.config.vocab_size * self.config.hidden_size)

    def save_adapter(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        config = self.peft.peft_config["default"]
        config.base_model_name_or_path = self.name
        config.inference_mode = True
        config.save_pretrained(str(folder))
        _sort_lists(folder / "adapter_config.json")
        write_weights(folder, state)

    def save_merged(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write the base model with the adapter merged in, in the base model's number format."""
        folder.mkdir(parents=True, exist_ok=True)
        with self.using(state):
            deltas = _deltas(self.peft)
        adapted, weights = {f"{layer}.weight" for layer in deltas}, {}
        for name, value in self.base.state_dict().items():
            if "lora_" not in name:
                key = name.replace(".base_layer", "")
                delta = deltas.pop(key.removesuffix(".weight"), None)
                weights[key] = value.contiguous() if delta is None else _sum(key, value, delta)
        if deltas:
            raise ModelError(f"the adapter has factors for {min(deltas)}, the model has no weight")
        config = copy.deepcopy(self.base.config)
        for twin in _tied_names(self.base):
            if twin not in adapted:
                weights.pop(twin, None)
            else:  # with an adapter on it, the output layer differs from the embedding
                config.get_text_config().tie_word_embeddings = config.tie_word_embeddings = False
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(folder))
        self.base.generation_config.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))


def _sum(key: str, value: Tensor, delta: Tensor) -> Tensor:
    if value.shape != delta.shape:
        raise ModelError(
            f"{key} has the shape {tuple(value.shape)}, its adapter {tuple(delta.shape)}: quantised"
            " weights cannot be merged",
            hint='load the base with model.quantization = "none"',
        )
    return (value.float() + delta).to(value.dtype).contiguous()


def _deltas(peft_model: Any) -> dict[str, Tensor]:
    """The adapter's change of each layer's weight, by the layer's name, in float32."""
    deltas = {}
    for name, layer in peft_model.get_base_model().named_modules():
        if hasattr(layer, "scaling") and "default" in getattr(layer, "lora_A", {}):
            first, second = (f["default"].weight.float() for f in (layer.lora_A, layer.lora_B))
            delta = layer.scaling["default"] * (second @ first)
            deltas[name] = delta.T if layer.fan_in_fan_out else delta
    return deltas


def _tied_names(base: Any) -> list[str]:
    """Second names of weights that have two."""
    if not base.config.get_text_config().tie_word_embeddings:
        return []
    return list(dict(base._tied_weights_keys or {}))


def _sort_lists(file: Path) -> None:
    """Sort the names of modules, which PEFT holds as a set: the same adapter, the same bytes."""
    config = json.loads(file.read_text())
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
