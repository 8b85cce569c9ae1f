"""The section of messages: how the numbers of adapters are written on their way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedrai.recipe.base import Section
from fedrai.recipe.lora import PRODUCTS

Up = Literal["float32", "bf16", "int8", "int4", "top-k"]
Down = Literal["float32", "bf16", "int8"]


class Messages(Section):
    """How adapters are sent; see docs/algorithms.md. Bytes are relative to float32's."""

    up: Up = "float32"
    """From clients, as the difference from the adapter that they received: `float32` as it is, `bf16` (a half), `int8` and `int4` in blocks with a common scale (a quarter, an eighth), `top-k` the largest changes alone."""
    down: Down = "float32"
    """To clients, the adapter itself; int4 would lose more of its weights than a round changes."""
    block: int = Field(128, ge=16, le=4096)
    """Weights of `int8` and `int4` that have a scale in common."""
    kept: float = Field(0.05, gt=0, le=0.5)
    """Share of the weights that `top-k` sends, with six bytes each."""
    error_feedback: bool = True
    """A client keeps what its message lost and adds it to the next one; docs/algorithms.md says what follows where clients are not asked in every round."""

    @model_validator(mode="after")
    def _check_sparse(self) -> Messages:
        if self.up == "top-k" and not self.error_feedback:
            raise ValueError('up = "top-k" without error_feedback would never send small changes')
        return self

    @property
    def is_lossy(self) -> bool:
        """Whether numbers change on the way."""
        return (self.up, self.down) != ("float32", "float32")

    @property
    def has_residuals(self) -> bool:
        """Whether clients keep what their messages lost."""
        return self.up != "float32" and self.error_feedback


def problem(messages: Messages, mode: str, rule: str, has_ranks: bool, rewriting: str) -> str:
    """Why a recipe cannot have these messages with the rest of it; empty: it can.

    Args:
        messages: the section.
        mode: `federation.mode`.
        rule: `aggregation.lora`.
        has_ranks: whether `adapter.ranks` is set.
        rewriting: a defence that writes the adapter's factors anew; empty: there is none.
    """
    if not messages.is_lossy:
        return ""
    if mode != "federated":
        return f'messages: with federation.mode = "{mode}" no adapters are exchanged'
    if messages.down != "float32" and (has_ranks or rule in PRODUCTS):
        return (
            f'messages.down = "{messages.down}": with adapter.ranks, and with aggregation.lora ='
            f' "{rule}", clients start from factors that are computed for them; use "float32"'
        )
    anew = f'aggregation.lora = "{rule}"' if rule in PRODUCTS else ""
    anew = anew or (f"defence.method = {rewriting}" if rewriting else "")
    if messages.has_residuals and anew:
        return (
            f"messages.error_feedback: {anew} fits the factors anew, and what a message lost of the"
            " old ones does not fit them; set error_feedback = false"
        )
    return ""
