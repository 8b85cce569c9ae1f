"""What a recipe asks of a client, as one document: nothing that only the server needs.

The server makes it (`runtimes/offer.py`), the client validates it with the same sections and checks
it against its own policy before it touches a row.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedrai.recipe.base import Section
from fedrai.recipe.run import Training
from fedrai.recipe.safety import Filter


class OfferedModel(Section):
    """The base model and the shape of its adapter."""

    base: str
    """As in the recipe."""
    fingerprint: str
    """Of the server's copy; a client with another one refuses."""
    dtype: Literal["auto", "bfloat16", "float32"]
    """Number format."""
    quantization: Literal["none", "nf4"]
    """Quantization of the base model."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"]
    """Attention kernel."""
    rank: int = Field(ge=1, le=512)
    """Rank of the adapter."""
    alpha: float = Field(gt=0)
    """Scale of the adapter."""
    dropout: float = Field(ge=0, lt=1)
    """Dropout of the adapter."""
    target_modules: Literal["all-linear"] | list[str]
    """Which layers have an adapter."""


class Offer(Section):
    """The whole document."""

    fedrai: str
    """Version of the package; both sides must have the same."""
    seed: int = Field(ge=0)
    """The recipe's seed."""
    rounds: int = Field(ge=1)
    """Rounds of the run."""
    max_length: int = Field(ge=8)
    """Longest conversation in tokens."""
    on_bad_rows: Literal["stop", "skip"]
    """What a client does with rows that it cannot use."""
    proximal_mu: float = Field(ge=0)
    """Weight of FedProx's term; 0: none."""
    model: OfferedModel
    """The base model."""
    training: Training
    """Local training."""
    filter: Filter
    """The safety filter."""
