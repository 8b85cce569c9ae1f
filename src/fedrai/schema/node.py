"""The sections of `node.toml`: what one node of a deployment has, and what it lets others ask of it.

The file stays on the node's machine. `recipe.load_node` reads it; paths of data are relative to the
folder that it lies in. `fedrai node FILE` runs a node; a plain `flower-supernode` gets the file as
`--node-config 'config="/path/node.toml"'`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedrai.schema.base import Section
from fedrai.schema.safety import GuardTable
from fedrai.schema.sources import Source

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class NodeData(Section):
    """The node's rows; they never leave it."""

    sources: list[Source] = Field(min_length=1)
    """The datasets, as in a recipe; paths are relative to the folder of this file."""


class NodePolicy(Section):
    """What a recipe must hold to; the node refuses any other with a reason that the server shows."""

    base_models: list[str] = []
    """Base models that may be fine-tuned, named as in a recipe; empty: any."""
    filter: Literal["required", "any"] = "required"
    """`required`: every row must have passed a guard before it is trained on (`filter.mode` is `drop` or `replace`, and neither a guard's failure nor an unscored row is passed over)."""
    guards: list[str] = []
    """Guards that the filter may use; empty: any that is known here. `labels` is always refused."""
    threshold_at_most: float = Field(1.0, ge=0, le=1)
    """Highest probability from which a row counts as unsafe; a recipe with a higher one filters less."""
    max_local_steps: int = Field(0, ge=0)
    """Most optimiser steps of a round; 0: no limit."""
    max_rounds: int = Field(0, ge=0)
    """Most rounds of a run; 0: no limit."""
    send_filter_counts: bool = True
    """Whether the server hears how many rows were filtered, and why."""
    send_losses: bool = True
    """Whether the server hears the losses of the local training."""


class Node(Section):
    """One node of a deployment."""

    name: str = Field(pattern=NAME_PATTERN)
    """The client's name; the server knows the node by it."""
    device: str = "auto"
    """Where the node computes: `auto` (CUDA if there is one, else the CPU), `cpu`, `cuda` or `cuda:N`."""
    data: NodeData
    """The node's rows."""
    policy: NodePolicy = NodePolicy()
    """What the node refuses."""
    guards: dict[str, GuardTable] = {}
    """Guards of the node's own by name. A recipe's `[guards]` do not travel: only their names do."""
