"""The sections of `node.toml`: what one node of a deployment has, and what it lets others ask of it.

The file stays on the node's machine. `recipe.load_node` reads it; paths of data are relative to the
folder that it lies in. `fedrai node FILE` runs a node; a plain `flower-supernode` gets the file as
`--node-config 'config="/path/node.toml"'`.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from fedrai.recipe.base import Section, strict_or_number
from fedrai.recipe.safety import EMBEDDED, GuardTable
from fedrai.recipe.sources import Source

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
PINNED = re.compile(r"(hf:)?[^/@]+/[^/@]+@[0-9a-f]{40}(/.+)?|.+#sha256=[0-9a-f]{64}")
Sendable = Literal[
    "losses", "filter-counts", "bad-rows", "steps", "tokens", "label-tokens", "seconds",
    "operations", "peak-bytes", "update-norm",
]  # fmt: skip
"""Numbers that may go with an update, as `protocol.METRIC_NAMES` has them; `losses` stands for
those of the local training, `filter-counts` for all counts of the filter. `update-norm` is known
for files that name it: it is not sent any more, since the server measures it from what it is sent."""


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
    """Guards that the filter may use: `embedded`, names of this file's `[guards]`, folders, and models of the hub with their commit (`org/name@COMMIT`, 40 hex digits; a recipe names them so too). Empty: `embedded` and this file's `[guards]`. `labels` is always refused."""
    threshold_at_most: Literal["strict", "loose"] | float = "loose"
    """Highest probability from which a row may count as unsafe: the guard's own `strict` or `loose`, or a number; a filter with a higher one lets more through."""
    judge: list[Literal["prompt", "response", "pair"]] = ["pair"]
    """What the filter may judge (`filter.judge`): requests alone and answers alone let through what only both together show; empty: any."""
    max_local_steps: int = Field(0, ge=0)
    """Most optimiser steps of a round; 0: no limit."""
    max_batch_size: int = Field(0, ge=0)
    """Most rows of an optimiser step; 0: no limit."""
    max_length: int = Field(0, ge=0)
    """Most tokens of a row (a recipe's `data.max_length`); 0: no limit."""
    max_rounds: int = Field(0, ge=0)
    """Most rounds of a run; 0: no limit."""
    send: list[Sendable] = [name for name in get_args(Sendable) if name != "update-norm"]
    """Numbers that the server hears beside the adapter and the number of rows, which the mean needs."""

    _threshold_is_a_probability = field_validator("threshold_at_most", mode="before")(
        strict_or_number
    )


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

    @property
    def allowed_guards(self) -> list[str]:
        """Guards that a recipe may name: the policy's, or `embedded` and this file's own."""
        return self.policy.guards or [EMBEDDED, *self.guards]

    @model_validator(mode="after")
    def _guards_are_pinned(self) -> Node:
        """A branch or a tag of the hub is whatever its owner makes of it, after this was written."""
        for name in self.policy.guards:
            if name not in self.guards and not _is_pinned(name):
                raise ValueError(
                    f"policy.guards names {name!r}, a model elsewhere, without its commit: write"
                    f" {name.partition('@')[0]}@COMMIT (40 hex digits); a folder begins with ./"
                )
        return self


def _is_pinned(guard: str) -> bool:
    """Whether a guard's name says which bytes it means, or is a plain name or a file of this node."""
    here = guard.startswith((".", "/", "~")) or guard.partition(":")[0].endswith(".toml")
    return here or not re.search("[/:]", guard) or bool(PINNED.fullmatch(guard))
