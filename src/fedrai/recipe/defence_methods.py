"""The settings of defences, one section a method, and what the recipe must know of each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedrai.recipe.base import Section


class Mean(Section):
    """Mean of weights with the start (arXiv 2412.19512)."""

    share: float = Field(0.5, gt=0, le=1)
    """Weight of `adapter.start` in the adapter; the aggregated one has the rest."""


class Resta(Section):
    """Adding the safety vector, aligned minus unaligned (RESTA, arXiv 2402.11746)."""

    strength: float = Field(0.5, gt=0)
    """Multiple of the safety vector that is added to the aggregated model."""
    drop: float = Field(0.0, ge=0, lt=1)
    """DARE (arXiv 2311.03099): share of the clients' change that is dropped at random, before the rest is scaled up to keep its mean. 0: none."""
    unaligned: Literal["base", "harmful"] = "base"
    """`base`: the base model without an adapter. `harmful`: the start, trained by the server on harmful rows once in a run, as in the paper."""
    rows: str = "fedrai:harmful"
    """`harmful`: the harmful rows, `fedrai:harmful` or a file."""
    steps: int = Field(40, ge=1)
    """`harmful`: optimiser steps of 8 rows."""
    learning_rate: float = Field(2e-4, gt=0)
    """`harmful`: learning rate of AdamW."""


class SafeLora(Section):
    """Projection of layers that deviate (Safe LoRA, arXiv 2405.16833)."""

    threshold: float = Field(0.55, ge=0, le=1)
    """A layer is projected if the cosine between its change and the projected change is below this. With SmolLM2-135M and `fedrai:aligned` the median layer has 0.55 after three rounds, and none is below 0.4."""
    projection: Literal["published", "orthogonal"] = "published"
    """`published`: C = V V^T / ||V||, which enlarges the change in strong directions of V and shrinks it in weak ones. `orthogonal`: onto the columns of V, with the same size."""


class SafeMerge(Section):
    """Merging of layers that deviate with the start (SafeMERGE, arXiv 2503.17239)."""

    threshold: float = Field(0.55, ge=0, le=1)
    """A layer is merged if the cosine of Safe LoRA's test is below this."""
    share: float = Field(0.2, gt=0, le=1)
    """Weight of the start in a merged layer."""


class CsuLora(Section):
    """Closest safe update (CSULoRA, arXiv 2605.30640)."""

    energy: float = Field(0.9, gt=0, le=1)
    """Size of the aligned subspace: the fewest directions with this share of the start's energy in a layer."""
    partial: float = Field(1.0, ge=0)
    """Penalty of the part of a change that is aligned on one side only. 0: it is kept."""
    outside: float = Field(4.0, ge=0)
    """Penalty of the part that is aligned on neither side. 0: it is kept."""


class Antidote(Section):
    """Pruning of the weights that matter most for harmful answers (Antidote, arXiv 2408.09600)."""

    share: float = Field(0.1, gt=0, lt=1)
    """Share of the adapter's weights that is pruned."""
    rows: str = "fedrai:harmful"
    """Harmful rows on which importance is measured, `fedrai:harmful` or a file."""
    count: int = Field(64, ge=1)
    """Size of the seeded sample of these rows; each goes through the model once, forward and backward."""
    prune_to: Literal["start", "zero"] = "start"
    """`start`: a pruned weight returns to its value in `adapter.start`, so only the clients' change is pruned. `zero`: it becomes zero."""


class PostHoc(Section):
    """Training on safe answers that the start gave itself (arXiv 2406.10630)."""

    harmful: list[str] = ["fedrai:red-team"]
    """Harmful requests, as in `constitution.requests`; those of evaluations are left out."""
    harmless: list[str] = ["fedrai:look-alikes", "fedrai:ordinary"]
    """Harmless requests, as in `constitution.harmless`."""
    count: int = Field(64, ge=1)
    """Size of the seeded sample of requests of each kind, which the start answers once in a run."""
    max_new_tokens: int = Field(48, ge=1)
    """Longest answer in tokens."""
    steps: int = Field(20, ge=1)
    """Optimiser steps after each round."""
    batch_size: int = Field(8, ge=1)
    """Rows of a step."""
    learning_rate: float = Field(2e-4, gt=0)
    """Learning rate of AdamW."""


class Lisa(Section):
    """Alternating alignment steps and steps on a client's own rows (Lisa, arXiv 2405.18641)."""

    rows: str = "fedrai:safe-answers"
    """Safe rows of the alignment steps, `fedrai:safe-answers` or a file."""
    align_steps: int = Field(2, ge=1)
    """Alignment steps before each group of the client's own steps. They come in addition."""
    own_steps: int = Field(8, ge=1)
    """Steps on the client's own rows in a group; the paper has nine for each alignment step."""
    rho: float = Field(1.0, ge=0)
    """Weight of the proximal term rho/2 * ||w - w_other||^2 to the weights where the other kind of steps ended."""


class ConstrainedSft(Section):
    """Limits on each token's drift from the start (constrained SFT, arXiv 2406.05946)."""

    beta_first: float = Field(0.5, gt=0)
    """Limit of an answer's first token; a larger one keeps its probability closer to the start's."""
    beta_opening: float = Field(2.0, gt=0)
    """Limit of the other tokens of the opening."""
    opening: int = Field(5, ge=1)
    """Tokens of the opening."""
    beta_rest: float = Field(0.1, gt=0)
    """Limit of all later tokens; towards 0 it is plain training."""


class Asft(Section):
    """Penalty on change outside of the alignment direction (AsFT, arXiv 2506.08473)."""

    strength: float = Field(1.0, gt=0)
    """Weight of the squared norm of the change's part that is orthogonal to what the start adds."""


SERVER: dict[str, type[Section]] = {
    "mean": Mean,
    "resta": Resta,
    "safe-lora": SafeLora,
    "safe-merge": SafeMerge,
    "csulora": CsuLora,
    "antidote": Antidote,
    "post-hoc": PostHoc,
}
"""Methods that change the aggregated adapter, with their sections."""
CLIENTS: dict[str, type[Section]] = {
    "lisa": Lisa,
    "constrained-sft": ConstrainedSft,
    "asft": Asft,
}
"""Methods that change the training of clients, with their sections."""
NEED_START = (
    "mean", "resta", "safe-lora", "safe-merge", "csulora", "post-hoc", "constrained-sft", "asft",
)  # fmt: skip
REFITTED = ("resta", "safe-lora", "safe-merge", "csulora")
"""Methods that write the adapter's factors anew."""
ALIKE = {
    ("mean", "resta"): "both add the start to all layers alike; one strength is enough",
    ("safe-lora", "safe-merge"): "both correct the layers that fail the same test",
    ("safe-lora", "csulora"): "both remove from the change what is outside the start's directions",
    ("safe-merge", "csulora"): "the second would judge layers that the first has corrected",
    ("lisa", "constrained-sft"):
        "lisa's alignment steps move the answers that constrained-sft keeps close to the start",
    ("lisa", "asft"):
        "lisa pulls the weights towards those after its alignment steps, asft towards the start",
}  # fmt: skip
"""Pairs that cannot be combined, with the reason."""
