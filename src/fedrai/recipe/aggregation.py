"""The sections of an aggregation rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PlainSerializer, PlainValidator, TypeAdapter

from fedrai import plugins
from fedrai.recipe import keys
from fedrai.recipe.base import Section

RULE_PLUGINS: plugins.Group = "fedrai.aggregation"


class FedAvg(Section):
    """Weighted mean (arXiv 1602.05629)."""

    added_keys = ("lora",)

    algorithm: Literal["fedavg"] = "fedavg"
    """Mean of the adapters, weighted by `federation.weights`. The default, since it has nothing to tune."""
    lora: keys.LoraRule = "plain"


class FedProx(Section):
    """FedAvg with a proximal term on the client (arXiv 1812.06127)."""

    added_keys = ("lora",)

    algorithm: Literal["fedprox"]
    """Weighted mean; a term in the local loss keeps each client close to the global adapter."""
    lora: keys.LoraRule = "plain"
    proximal_mu: float = Field(0.01, ge=0)
    """Weight mu of the proximal term mu/2 * ||w - w_global||^2 in the local loss; 0 is FedAvg."""


class FedAvgM(Section):
    """Server momentum (arXiv 1909.06335)."""

    added_keys = ("lora",)

    algorithm: Literal["fedavgm"]
    """Weighted mean with momentum on the server."""
    lora: keys.LoraRule = "plain"
    server_learning_rate: float = Field(1.0, gt=0)
    """Server learning rate; 1 applies the mean update as it is."""
    server_momentum: float = Field(0.9, ge=0, lt=1)
    """Server momentum."""


class FedOpt(Section):
    """Adaptive server optimisers (arXiv 2003.00295)."""

    added_keys = ("lora",)

    algorithm: Literal["fedadam", "fedyogi", "fedadagrad"]
    """Adam, Yogi or Adagrad on the server, applied to the mean update."""
    lora: keys.LoraRule = "plain"
    eta: float = Field(1e-3, gt=0)
    """Server learning rate."""
    beta_1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment (not used by Adagrad)."""
    beta_2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment (not used by Adagrad)."""
    tau: float = Field(1e-3, gt=0)
    """Degree of adaptivity, added to the root of the second moment."""


class Scaffold(Section):
    """Control variates against client drift (arXiv 1910.06378)."""

    algorithm: Literal["scaffold"]
    """Weighted mean; each local step is corrected by what the client's own data adds to the common direction. Clients keep a state of their own; see docs/algorithms.md."""


class QFedAvg(Section):
    """Clients with a higher loss count more (arXiv 1905.10497)."""

    algorithm: Literal["qfedavg"]
    """Updates weighted by the client's loss, for results that differ less among clients. `federation.weights` has no effect."""
    q: float = Field(0.1, ge=0, le=10)
    """Exponent of the loss; 0 is the unweighted mean, larger is fairer."""
    lipschitz: float = Field(1.0, gt=0)
    """The paper's L, which shortens the common step: by q L |update|^2 / loss, relative to 1. The paper sets it to 1 / learning rate, which holds for plain gradient steps; with AdamW that would stop the model."""


class Robust(Section):
    """Aggregation that withstands some malicious updates.

    With too few updates each of these is a plain mean. The bounds are checked against the recipe and,
    when clients are late or set aside, against the updates that arrived; with too few the run stops.
    """

    added_keys = ("lora",)

    algorithm: Literal["median", "trimmed-mean", "krum", "multi-krum", "bulyan"]
    """Coordinate-wise median, trimmed mean (arXiv 1803.01498), Krum, Multi-Krum (NeurIPS 2017), Bulyan (arXiv 1802.07927)."""
    lora: keys.LoraRule = "plain"
    malicious: int = Field(0, ge=0)
    """Updates of a round assumed to be malicious, f. Of n updates, Krum and Multi-Krum need n >= 2f + 3; Bulyan n >= 4f + 3 and f >= 1; the median n >= 2f + 1 and n >= 3; the trimmed mean must cut f at each end."""
    trim: float = Field(0.2, ge=0, lt=0.5)
    """Trimmed mean: share of the updates cut off at each end, rounded down; at least one must be cut."""
    selected: int = Field(1, ge=1)
    """Multi-Krum: updates that are averaged; at most n - f, and fewer than n. 1 is Krum."""


class InstalledRule(Section):
    """A rule of an installed package."""

    algorithm: str
    """Its name among the entry points `fedrai.aggregation`; see docs/extending.md."""
    settings: dict[str, Any] = {}
    """Arguments that it is called with."""


_BUILT_IN: TypeAdapter[Section] = TypeAdapter(
    Annotated[
        FedAvg | FedProx | FedAvgM | FedOpt | Scaffold | QFedAvg | Robust,
        Field(discriminator="algorithm"),
    ]
)

ALGORITHMS: Mapping[str, type[Section]] = {
    name: model
    for model in (FedAvg, FedProx, FedAvgM, FedOpt, Scaffold, QFedAvg, Robust)
    for name in get_args(model.model_fields["algorithm"].annotation)
}
"""Aggregation algorithms by name, with the section that holds their settings."""


def _rule(value: Any) -> Section:
    """The section of a rule: a built-in one, else that of an installed package with its name."""
    name = value.get("algorithm") if isinstance(value, Mapping) else None
    if isinstance(value, InstalledRule):
        return value
    if isinstance(name, str) and name not in ALGORITHMS and name in plugins.names(RULE_PLUGINS):
        return InstalledRule.model_validate(value)
    return _BUILT_IN.validate_python(value)


Aggregation = Annotated[
    FedAvg | FedProx | FedAvgM | FedOpt | Scaffold | QFedAvg | Robust | InstalledRule,
    PlainValidator(_rule),
    PlainSerializer(lambda rule: rule.model_dump()),
]
