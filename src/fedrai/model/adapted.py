"""A frozen model with one LoRA adapter that is copied in and out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fedrai.model.adapters import AdapterState, check_adapter
from fedrai.model.parts import fresh_adapter
from fedrai.runs.costs import Shape


class AdaptedModel:
    """A frozen model wrapped by peft, with one adapter.

    Args:
        peft_model: the wrapped model.
        tokenizer: its tokenizer.
        fingerprint: fingerprint of the base model's files; see `loading.fingerprint`.
        kernels: attention kernel for training and for inference.
    """

    def __init__(
        self, peft_model: Any, tokenizer: Any, fingerprint: str, kernels: tuple[str, str]
    ) -> None:
        self.kernels = kernels
        self.peft = peft_model
        self.base = peft_model.get_base_model()
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.parameters: dict[str, Tensor] = {
            _file_name(key): value
            for key, value in sorted(peft_model.named_parameters())
            if value.requires_grad
        }
        self.device: torch.device = next(iter(self.parameters.values())).device
        self._enabled = True
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    @property
    def config(self) -> Any:
        """The base model's configuration."""
        return self.base.config.get_text_config()

    @property
    def layers(self) -> list[str]:
        """Names of the layers that have an adapter."""
        return sorted(self.peft.targeted_module_names)

    def adapter(self) -> AdapterState:
        """A float32 copy of the adapter on the CPU."""
        return {name: p.detach().float().cpu().clone() for name, p in self.parameters.items()}

    def load_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Copy an adapter in; `using` restores the earlier one after a block.

        Raises:
            ModelError: names or shapes are not those of this model's adapter.
        """
        check_adapter(state, {name: tuple(p.shape) for name, p in self.parameters.items()})
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state[name])

    def fresh_adapter(self, seed: int) -> AdapterState:
        """A new adapter: first factors uniform in +-1/sqrt(inputs), as in peft; second: zero."""
        return fresh_adapter({n: tuple(p.shape) for n, p in self.parameters.items()}, seed)

    @contextlib.contextmanager
    def frozen(self, names: Iterable[str]) -> Iterator[None]:
        """Some of the adapter's tensors without gradients, within the block."""
        chosen = [self.parameters[name] for name in names]
        try:
            for tensor in chosen:
                tensor.requires_grad_(False)
            yield
        finally:
            for tensor in chosen:
                tensor.requires_grad_(True)

    @contextlib.contextmanager
    def using(self, adapter: Mapping[str, Tensor] | None) -> Iterator[None]:
        """The model with an adapter, within the block; restores the earlier one. May be nested.

        Args:
            adapter: the adapter; None: the base model alone.

        Raises:
            ModelError: names or shapes are not those of this model's adapter.
        """
        before, enabled = self.adapter(), self._enabled
        try:
            self._enable(adapter is not None)
            if adapter is not None:
                self.load_adapter(adapter)
            yield
        finally:
            self.load_adapter(before)
            self._enable(enabled)

    def _enable(self, enabled: bool) -> None:
        """Switch the adapter's layers on or off."""
        if enabled != self._enabled:
            layers = self.peft.base_model
            (layers.enable_adapter_layers if enabled else layers.disable_adapter_layers)()
            self._enabled = enabled

    @contextlib.contextmanager
    def mode(self, *, training: bool) -> Iterator[None]:
        """Dropout and attention kernel for training or for inference, within the block."""
        self.peft.train(training)
        self.base.set_attn_implementation(self.kernels[0] if training else self.kernels[1])
        try:
            yield
        finally:
            self.peft.eval()

    @property
    def output_weights(self) -> int:
        """Number of weights of the output layer; 0 without one."""
        return 0

    def shape(self) -> Shape:
        """The sizes from which `costs` counts operations."""
        config = self.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Shape(
            block_weights=self._block_weights(),
            adapter_weights=sum(p.numel() for p in self.parameters.values()),
            output_weights=self.output_weights,
            layers=config.num_hidden_layers,
            attention_size=head * config.num_attention_heads,
        )

    def _block_weights(self) -> int:
        """Weights of the matrices in the blocks, without the adapter and the output layer."""
        return sum(
            math.prod(m.weight.shape)
            for name, m in self.base.named_modules()
            if isinstance(m, torch.nn.Linear)
            and "lora_" not in name
            and not name.endswith("lm_head")
        )


def _file_name(parameter: str) -> str:
    """A parameter's name in files: without the name of the adapter."""
    return parameter.replace(".default", "")
