"""The sections of `node.toml`: the data of one node of a deployment, and the recipes that it accepts.

The file stays on the node's machine. `recipe.load_node` reads it; data paths are relative to its
folder. `fedrai node FILE` runs a node; a plain `flower-supernode` gets the file as
`--node-config 'config="/path/node.toml"'`.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import Field, model_validator

from fedrai.recipe import keys
from fedrai.recipe.base import Section
from fedrai.recipe.safety import EMBEDDED, GuardTable
from fedrai.recipe.sources import Source

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
PINNED = re.compile(r"(hf:)?[^/@]+/[^/@]+@[0-9a-f]{40}(/.+)?|.+#sha256=[0-9a-f]{64}")
Sendable = Literal[
    "losses", "filter-counts", "bad-rows", "steps", "tokens", "label-tokens", "seconds",
    "operations", "peak-bytes", "update-norm",
]  # fmt: skip
"""Numbers that may be sent with an update, by their names in `protocol.METRIC_NAMES`; `losses` stands
for those of the local training, `filter-counts` for all counts of the filter. `update-norm` is
accepted for older files but no longer sent: the server measures it from the update."""


class NodeData(Section):
    """The node's rows. They never leave the node."""

    sources: list[Source] = Field(min_length=1)
    """The datasets, as in a recipe; paths are relative to the folder of this file."""


class NodePolicy(Section):
    """Limits for recipes. The node refuses a recipe beyond them, with a reason that the server shows."""

    base_models: list[str] = []
    """Base models that may be fine-tuned, by their names in a recipe. Empty: any."""
    filter: Literal["required", "any"] = "required"
    """`required`: every row must pass a guard before it is trained on (`filter.mode` is `drop` or `replace`, a failing guard stops the client, and unscored rows are dropped). `any`: no requirement."""
    guards: list[str] = []
    """Guards that the filter may use: `embedded`, names of this file's `[guards]`, folders, and hub models with their commit (`org/name@COMMIT`, 40 hex digits, written the same in the recipe). Empty: `embedded` and this file's `[guards]`. `labels` is always refused."""
    threshold_at_most: keys.Threshold = "loose"
    """Highest threshold that `filter.threshold` may have: the guard's own `strict` or `loose`, or a probability. A filter with a higher one lets more harmful rows through."""
    judge: list[Literal["prompt", "response", "pair"]] = ["pair"]
    """Values that `filter.judge` may have. Empty: any. `pair` alone, since some harm shows only in request and answer together."""
    max_local_steps: int = Field(0, ge=0)
    """Most optimiser steps in a round: `training.local_steps`, or what `training.local_epochs` comes to with this node's rows; 0: no limit."""
    max_batch_size: int = Field(0, ge=0)
    """Largest `training.batch_size`, in rows; 0: no limit."""
    max_length: int = Field(0, ge=0)
    """Largest `data.max_length`, in tokens; 0: no limit."""
    max_rounds: int = Field(0, ge=0)
    """Largest `federation.rounds`; 0: no limit."""
    messages: Literal["any", "float32"] = "any"
    """Adapters' numbers on their way: `float32` refuses recipes whose `[messages]` lose some of them."""
    privacy: Literal["any", "required", "client"] = "any"
    """Noise that a recipe must have (`privacy.noise`). `required`: on the server or on this node. `client`: on this node, before anything is sent. `any`: no requirement."""
    max_epsilon: float = Field(0, ge=0)
    """Most that this node's updates may cost together, in all runs that its account holds (`NAME.privacy.json` beside this file); a run without noise, or whose rounds alone would cost more, is refused. The node counts by itself, without amplification. 0: no limit."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """The delta at which `max_epsilon` holds."""
    send: list[Sendable] = [name for name in get_args(Sendable) if name != "update-norm"]
    """Numbers that are sent to the server beside the adapter and the number of rows, which the mean needs."""


class Node(Section):
    """One node of a deployment."""

    name: str = Field(pattern=NAME_PATTERN)
    """The client's name on the server."""
    device: keys.Device = "auto"
    data: NodeData
    """The node's rows."""
    policy: NodePolicy = NodePolicy()
    """Limits for recipes."""
    guards: dict[str, GuardTable] = {}
    """The node's own guards by name. A recipe's `[guards]` tables are not sent to nodes, only their names."""

    @property
    def allowed_guards(self) -> list[str]:
        """Guards that a recipe may name: the policy's, or `embedded` and this file's own."""
        return self.policy.guards or [EMBEDDED, *self.guards]

    @model_validator(mode="after")
    def _guards_are_pinned(self) -> Node:
        """The owner of a hub model can move a branch or a tag; a commit stays."""
        for name in self.policy.guards:
            if name not in self.guards and not _is_pinned(name):
                raise ValueError(
                    f"policy.guards: {name!r} is a hub model without its commit; expected"
                    f" {name.partition('@')[0]}@COMMIT (40 hex digits), or ./FOLDER for a folder"
                )
        return self


def _is_pinned(guard: str) -> bool:
    """Whether a guard is pinned to a commit or checksum, or is a plain name or a file of this node."""
    here = guard.startswith((".", "/", "~")) or guard.partition(":")[0].endswith(".toml")
    return here or not re.search("[/:]", guard) or bool(PINNED.fullmatch(guard))
