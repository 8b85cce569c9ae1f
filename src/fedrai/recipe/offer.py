"""The part of a recipe that is sent to clients: nothing that only the server needs.

The server makes it (`deployment/offer.py`). A client validates it with the same sections and checks
it against its own policy before it reads a row.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedrai.recipe import keys
from fedrai.recipe.base import Section
from fedrai.recipe.messages import Messages
from fedrai.recipe.node import Sendable
from fedrai.recipe.privacy import Privacy
from fedrai.recipe.safety import Filter
from fedrai.recipe.training import Training


class OfferedModel(Section):
    """The base model and the shape of its adapter."""

    base: str
    """`model.base` of the recipe."""
    fingerprint: str
    """Fingerprint of the server's copy; a client with another copy refuses."""
    dtype: keys.DType
    quantization: keys.Quantization
    attention: keys.Attention
    rank: keys.Rank
    alpha: keys.Alpha
    dropout: keys.Dropout
    target_modules: keys.TargetModules


class Offer(Section):
    """The whole offer."""

    fedrai: str
    """Version of the package; it must be the same on both sides."""
    seed: keys.Seed
    rounds: int = Field(ge=1)
    """Rounds of the run."""
    max_length: keys.MaxLength
    """Longest conversation in tokens."""
    on_bad_rows: Literal["stop", "skip"]
    """What a client does with unusable rows."""
    proximal_mu: float = Field(ge=0)
    """Weight of FedProx's proximal term; 0: none."""
    needs: list[Sendable] = []
    """Numbers that the mean needs, by their names in a node's `policy.send`; a node that does not send them refuses."""
    variates: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    """SCAFFOLD: the run, under which a node keeps its control variate; empty: the rule has none."""
    messages: Messages = Messages()
    """How adapters are written."""
    run: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    """The run, under which a node counts what its noise has hidden and keeps what its lossy messages lost; empty: there is no noise and no loss."""
    privacy: Privacy = Privacy()
    """Differential privacy, with the noise multiplier that the run uses."""
    model: OfferedModel
    """The base model."""
    training: Training
    """Local training."""
    filter: Filter
    """The safety filter."""
