"""A frozen base model with one LoRA adapter that is copied in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fedrai.chat import ChatFormat
from fedrai.costs import Shape
from fedrai.model.adapted import Adapted
from fedrai.model.adapters import WEIGHTS
from fedrai.model.cached import forward_cached


class LanguageModel(Adapted):
    """A frozen base model, its tokenizer and one LoRA adapter.

    Args:
        peft_model: the base model wrapped by peft.
        tokenizer: its tokenizer.
        name: what the adapter's config names as its base model.
        fingerprint: names the base model's files; see `loading`.
        kernels: attention kernel for training and for inference.
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
        """Whether logits are just hidden states times the output layer (up to the soft cap).

        Asked of the model itself, on three tokens: output layers that scale, shift or transform
        would otherwise train on a wrong loss without a word.
        """
        head = self.base.get_output_embeddings()
        if getattr(head, "bias", None) is not None or not head.weight.is_floating_point():
            return False
        ids = torch.tensor([[1, 2, 3]], device=self.device)
        own = self.logits(ids, torch.ones_like(ids)).float()
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
        """Logits (B, V) of the token after ids (B, T), and the key/value cache to go on with."""
        given = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
        }
        if not self.fused:
            out, cache = forward_cached(self.base, cache, **given, logits_to_keep=1)
            return out.logits[:, -1], cache
        out, cache = forward_cached(self.base.get_decoder(), cache, **given)
        last = out.last_hidden_state[
            :, -1
        ].contiguous()  # a strided slice makes matmul copy weights
        logits = last @ self.output_weight.T
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits, cache

    def shape(self) -> Shape:
        """What `costs` needs to count operations."""
        config = self.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Shape(
            block_weights=self.block_weights(),
            adapter_weights=self.adapter_weights(),
            output_weights=config.vocab_size * config.hidden_size,
            layers=config.num_hidden_layers,
            attention_size=head * config.num_attention_heads,
        )

    def save_adapter(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        config = self.peft.peft_config["default"]
        config.base_model_name_or_path = self.name
        config.inference_mode = True
        config.save_pretrained(str(folder))
        _sort_lists(folder / "adapter_config.json")
        save_file({name: state[name].contiguous() for name in sorted(state)}, folder / WEIGHTS)

    def save_merged(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write the base model with the adapter merged in, in the base model's number format."""
        self.load_adapter(state)
        folder.mkdir(parents=True, exist_ok=True)
        deltas = _deltas(self.parameters, self.peft.peft_config["default"])
        weights = {}
        for name, value in self.base.state_dict().items():
            if "lora_" not in name:
                key = name.replace(".base_layer", "")
                delta = deltas.get(key.removesuffix(".weight"))
                merged = value if delta is None else (value.float() + delta).to(value.dtype)
                weights[key] = merged.contiguous()
        tied = {tuple(pair) for pair in _tied(self.base)}
        for copy, _original in tied:
            weights.pop(copy, None)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self.base.config.save_pretrained(str(folder))
        self.base.generation_config.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))


def _deltas(parameters: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    scale = config.lora_alpha / config.r
    deltas = {}
    for name, first in parameters.items():
        if "lora_A" in name:
            second = parameters[name.replace("lora_A", "lora_B")]
            layer = name.split(".lora_A")[0].removeprefix("base_model.model.")
            deltas[layer] = scale * (second.float() @ first.float())
    return deltas


def _tied(base: Any) -> list[tuple[str, str]]:
    if not base.config.get_text_config().tie_word_embeddings:
        return []
    keys = base._tied_weights_keys or {}
    return [(copy, original) for copy, original in dict(keys).items()]


def _sort_lists(file: Path) -> None:
    """The modules come as a set; sorted, the same adapter gives the same bytes."""
    config = json.loads(file.read_text())
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
