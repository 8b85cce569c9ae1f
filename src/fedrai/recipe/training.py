"""The section of the clients' training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedrai.recipe import keys
from fedrai.recipe.base import Section
from fedrai.recipe.preference import Dpo, Method


class Training(Section):
    """Local training on a client."""

    added_keys = ("local_epochs", "method", "dpo")

    method: Method = "sft"
    """`sft`: supervised fine-tuning on answers. `dpo`: preference tuning on pairs (sources with `rows = "pairs"`). `sft+dpo`: in each round both on every client, first on its answers and then on its pairs. See docs/algorithms.md."""
    local_steps: int = Field(10, ge=1)
    """Optimiser steps of a client in a round. More need fewer rounds and let clients drift apart."""
    local_epochs: float = Field(0, ge=0, le=1000)
    """Passes of a client over its rows in a round, in place of `local_steps`: epochs x rows / `batch_size` steps, rounded, at least 1. A client with fewer rows, as after a filter, takes fewer steps and does not repeat its rows more often. The learning rate's schedule counts each client's own steps. 0: `local_steps` counts; an override of `local_steps` sets it to 0."""
    batch_size: int = Field(16, ge=1)
    """Rows of an optimiser step."""
    micro_batch_size: int = Field(0, ge=0)
    """Rows in one forward pass; gradients are accumulated up to `batch_size`. 0: the whole batch. Smaller saves memory."""
    group_by_length: bool = True
    """Fill batches with rows of similar length: up to a fifth faster. Off: random batches, which mix kinds of rows better."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the steps of the whole run, after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Steps (of the whole run) over which the learning rate rises from 0."""
    weight_decay: keys.WeightDecay = 0.0
    clip_norm: keys.ClipNorm = 1.0
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """`torch.compile` the layers: faster after a start of about half a minute; needs a C++ compiler on CPUs."""
    dpo: Dpo = Dpo()
    """Settings of preference tuning."""

    @property
    def round_steps(self) -> int:
        """Most optimiser steps of a client in a round, where `local_epochs` does not count."""
        pairs = self.dpo.local_steps or self.local_steps
        return {"sft": self.local_steps, "dpo": pairs}.get(self.method, self.local_steps + pairs)

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> Training:
        if self.micro_batch_size > self.batch_size:
            raise ValueError("micro_batch_size must not be larger than batch_size")
        return self
