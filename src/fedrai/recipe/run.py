"""The sections of a run's recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field, PlainSerializer, PlainValidator, TypeAdapter, model_validator

from fedrai import plugins
from fedrai.recipe import robust
from fedrai.recipe.alignment import Alignment
from fedrai.recipe.base import Section
from fedrai.recipe.evaluation import Evaluation
from fedrai.recipe.safety import LABELS, Filter, GuardTable
from fedrai.recipe.sources import Source, as_before
from fedrai.recipe.tracking import Tracking

PLUGINS: plugins.Group = "fedrai.aggregation"
DEFENCES: plugins.Group = "fedrai.defences"


class Model(Section):
    """The base model that every client holds."""

    base: str
    """Model: a folder, a hub id (`org/name@revision`), a `.gguf` file or a name from `fedrai assets list`."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Number format of the base model. `auto`: bfloat16 where the machine computes in it, else float32."""
    device: str = "auto"
    """`auto` (CUDA if there is one, else the CPU), `cpu`, `cuda` or `cuda:N`."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4`: the base model in 4 bits (QLoRA); needs CUDA and the `qlora` extra."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel. `auto`: `eager` for short sequences on a CPU (faster there), else `sdpa`."""


class Adapter(Section):
    """The LoRA adapter that is trained and averaged."""

    start: str = ""
    """Adapter that training starts from: a PEFT folder, or `fedrai:aligned` (comes along; SmolLM2-135M-Instruct made safe); empty: a fresh one."""
    rank: int = Field(16, ge=1, le=512)
    """Rank of the two LoRA factors."""
    alpha: float = Field(32, gt=0)
    """Scale: the product of the factors is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the LoRA branch, while training."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Which linear layers get an adapter: `all-linear` (all but the output layer) or names of modules."""


class Partition(Section):
    """How rows are divided over the clients."""

    scheme: Literal["equal", "dirichlet", "power-law", "files"] = "equal"
    """`equal`: random, equal sizes. `dirichlet`: by label, skewed. `power-law`: random, unequal sizes. `files`: one file a client."""
    alpha: float = Field(0.5, gt=0)
    """Dirichlet concentration: small is skewed, large is even."""
    exponent: float = Field(1.2, gt=0)
    """Power law: client k gets a size in proportion to k^-exponent."""
    files: str = ""
    """For `files`: a pattern such as `sites/*.jsonl`; a file's stem is the client's name."""


class Harm(Section):
    """Where the harmful rows go (experiments)."""

    placement: Literal["spread", "concentrated"] = "spread"
    """`spread`: every client holds `share` harmful rows. `concentrated`: only the malicious clients do."""
    share: float = Field(0.0, ge=0, le=1)
    """Part of an affected client's rows that is harmful; they take the place of benign rows."""
    malicious_clients: int = Field(0, ge=0)
    """For `concentrated`: how many clients are malicious (chosen by the seed)."""


class Data(Section):
    """The clients' rows."""

    sources: list[Source] = []
    """The datasets. With `partition.scheme = "files"` the rows are those of its files, and a source only says how they are read (`columns`, `where`, `encoding` ...): for all of them alike."""
    rows_per_client: int = Field(0, ge=0)
    """Mean number of rows of a client; 0 divides all rows there are."""
    max_length: int = Field(512, ge=8)
    """Longest conversation in tokens; longer ones are cut at the end."""
    on_bad_rows: Literal["stop", "skip"] = "stop"
    """`stop`: a bad row stops the run before it starts. `skip`: bad rows are counted and left out."""
    partition: Partition = Partition()
    """How rows are divided over the clients."""
    harm: Harm = Harm()
    """Where the harmful rows go."""


class Training(Section):
    """Local training on a client."""

    local_steps: int = Field(10, ge=1)
    """Optimiser steps a client takes in a round."""
    batch_size: int = Field(16, ge=1)
    """Rows in an optimiser step."""
    micro_batch_size: int = Field(0, ge=0)
    """Rows that go through the model at once; gradients are accumulated up to `batch_size`. 0: all at once."""
    group_by_length: bool = True
    """Fill batches with rows of like length: up to a fifth faster. Off: random batches, which mix kinds of rows better."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the steps of the whole run, after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Steps (of the whole run) over which the learning rate rises from 0."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """`torch.compile` the layers: faster after a start of about half a minute; needs a C++ compiler on CPUs."""

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> Training:
        if self.micro_batch_size > self.batch_size:
            raise ValueError("micro_batch_size must not be larger than batch_size")
        return self


class Federation(Section):
    """Who takes part, and for how long."""

    mode: Literal["federated", "centralised", "local"] = "federated"
    """`federated`; or a baseline: `centralised` (all rows in one place, same number of steps), `local` (each client alone)."""
    clients: int = Field(10, ge=1)
    """How many clients there are (with `files`: given by the files)."""
    clients_per_round: int = Field(0, ge=0)
    """How many are sampled a round; 0: all."""
    rounds: int = Field(1, ge=1)
    """Rounds of training and aggregation."""
    min_clients: int = Field(1, ge=1)
    """Fewest usable updates a round needs; with fewer the run stops."""
    round_timeout: float = Field(0, ge=0)
    """Seconds after which a round goes on with the replies it has; 0: wait for all."""
    quorum: int = Field(0, ge=0)
    """Usable updates with which a round closes, without waiting for the others; 0: wait for all. Without a meaning in one process (`--engine local`), where clients train one after the other and nobody is late: there all are waited for."""

    weight_cap: float = Field(10, ge=0)
    """Most that a client's rows count in the mean, as a multiple of the median of the others' in that round; and with three updates or more, no client counts more than all others together. 0: what clients state counts. Only where clients are on other machines: in one process the server knows the rows itself."""

    @property
    def sampled(self) -> int:
        """Clients a round."""
        return min(self.clients_per_round or self.clients, self.clients)

    @model_validator(mode="after")
    def _counts_fit(self) -> Federation:
        if self.clients_per_round > self.clients:
            raise ValueError("clients_per_round must not be larger than clients")
        if self.mode == "federated" and self.min_clients > self.sampled:
            raise ValueError("min_clients must not be larger than the clients of a round")
        if self.mode == "federated" and self.quorum > self.sampled:
            raise ValueError("quorum must not be larger than the clients of a round")
        if 0 < self.quorum < self.min_clients:
            raise ValueError("quorum must not be smaller than min_clients")
        return self


class FedAvg(Section):
    """Weighted mean (arXiv 1602.05629)."""

    algorithm: Literal["fedavg"] = "fedavg"
    """Weighted mean of the adapters, weighted by rows."""


class FedProx(Section):
    """FedAvg with a proximal term on the client (arXiv 1812.06127)."""

    algorithm: Literal["fedprox"]
    """Weighted mean; each client is held near the global adapter."""
    proximal_mu: float = Field(0.01, ge=0)
    """Weight of the proximal term mu/2 * ||w - w_global||^2 in the local loss."""


class FedAvgM(Section):
    """Server momentum (arXiv 1909.06335)."""

    algorithm: Literal["fedavgm"]
    """Weighted mean with server momentum."""
    server_learning_rate: float = Field(1.0, gt=0)
    """Server learning rate."""
    server_momentum: float = Field(0.9, ge=0, lt=1)
    """Server momentum."""


class FedOpt(Section):
    """Adaptive server optimisers (arXiv 2003.00295)."""

    algorithm: Literal["fedadam", "fedyogi", "fedadagrad"]
    """Server-side Adam, Yogi or Adagrad on the mean update."""
    eta: float = Field(1e-3, gt=0)
    """Server learning rate."""
    beta_1: float = Field(0.9, ge=0, lt=1)
    """First-moment decay (not used by Adagrad)."""
    beta_2: float = Field(0.99, ge=0, lt=1)
    """Second-moment decay (not used by Adagrad)."""
    tau: float = Field(1e-3, gt=0)
    """Degree of adaptivity, added to the root of the second moment."""


class Robust(Section):
    """Aggregation that withstands some malicious updates.

    Too few updates make each of these a plain mean. The bounds are held against the recipe and, when
    clients are late or set aside, against the updates that came; with too few the run stops.
    """

    algorithm: Literal["median", "trimmed-mean", "krum", "multi-krum", "bulyan"]
    """Coordinate-wise median, trimmed mean (arXiv 1803.01498), Krum, Multi-Krum (NeurIPS 2017), Bulyan (arXiv 1802.07927)."""
    malicious: int = Field(0, ge=0)
    """Updates of a round assumed to be malicious, f. With n that came, Krum and Multi-Krum need n >= 2f + 3, Bulyan 4f + 3 and f >= 1, the median 2f + 1 and three at least; the trimmed mean must cut f at each end."""
    trim: float = Field(0.2, ge=0, lt=0.5)
    """Trimmed mean: part cut off at each end, rounded down; it must cut one update at least."""
    selected: int = Field(1, ge=1)
    """Multi-Krum: updates that are averaged; n - f at most, and fewer than n."""


class InstalledRule(Section):
    """A rule of an installed package."""

    algorithm: str
    """Its name among the package's entry points `fedrai.aggregation`; see docs/extending.md."""
    settings: dict[str, Any] = {}
    """What it is called with."""


class Defence(Section):
    """What the server does to the aggregated adapter before the constitution and the next round."""

    method: str = ""
    """A name among the entry points `fedrai.defences` of installed packages; empty: none. See docs/extending.md."""
    settings: dict[str, Any] = {}
    """What it is called with."""

    @model_validator(mode="after")
    def _is_installed(self) -> Defence:
        if self.method and self.method not in plugins.names(DEFENCES):
            raise ValueError(f"no defence {self.method!r}; {plugins.installed(DEFENCES)}")
        return self


_BuiltIn = Annotated[FedAvg | FedProx | FedAvgM | FedOpt | Robust, Field(discriminator="algorithm")]
_BUILT_IN: TypeAdapter[Section] = TypeAdapter(_BuiltIn)


def _rule(value: Any) -> Section:
    """The section of a rule: of those here, else of an installed package with its name."""
    name = value.get("algorithm") if isinstance(value, Mapping) else None
    if isinstance(value, InstalledRule):
        return value
    if isinstance(name, str) and name not in ALGORITHMS and name in plugins.names(PLUGINS):
        return InstalledRule.model_validate(value)
    return _BUILT_IN.validate_python(value)


Aggregation = Annotated[
    FedAvg | FedProx | FedAvgM | FedOpt | Robust | InstalledRule,
    PlainValidator(_rule),
    PlainSerializer(lambda rule: rule.model_dump()),
]


class Recipe(Section):
    """A whole recipe."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder."""
    seed: int = Field(0, ge=0)
    """All randomness comes from it."""
    seeds: list[Annotated[int, Field(ge=0)]] = []
    """For `fedrai compare`: every arm runs once with each of these in the place of `seed`; empty: `seed` alone."""
    model: Model
    """The base model."""
    adapter: Adapter = Adapter()
    """The LoRA adapter."""
    data: Data
    """The clients' rows."""
    filter: Filter = Filter()
    """The safety filter on the clients' rows."""
    training: Training = Training()
    """Local training."""
    federation: Federation = Federation()
    """Clients and rounds."""
    aggregation: Aggregation = FedAvg()
    """How updates become the next global adapter."""
    defence: Defence = Defence()
    """What the server does to the aggregated adapter."""
    constitution: Alignment = Alignment()
    """Alignment of the aggregated model with a constitution."""
    evaluation: Evaluation = Evaluation()
    """What is measured."""
    tracking: Tracking = Tracking()
    """Where figures are also sent."""
    guards: dict[str, GuardTable] = {}
    """Guards of your own by name; `kind` decides which other keys there are."""
    arms: dict[str, dict[str, Any]] = {}
    """For `fedrai compare`: named variants, each a table of `section.key = value` overrides."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds names a seed twice")
        files = self.data.partition.scheme == "files"
        if files and not self.data.partition.files:
            raise ValueError('data.partition.files is needed when scheme is "files"')
        if files and len({repr(s.read_as) for s in self.data.sources}) > 1:
            raise ValueError(
                'data.sources: with partition.scheme = "files" one source says how all files are'
                " read (columns, where, encoding ...), and these differ"
            )
        if not files and not self.data.sources:
            raise ValueError("data.sources is empty: name at least one dataset")
        for harmful in (False, True):
            if len({s.share is None for s in self.data.sources if s.harmful is harmful}) > 1:
                raise ValueError("data.sources: set share on all sources of a kind, or on none")
        self._robust_enough()
        self._labels_known()
        self._alignable()
        if self.defence.method and self.federation.mode == "local":
            raise ValueError(
                'defence.method: there is no aggregated model with federation.mode = "local"'
            )
        harm = self.data.harm
        if not files and harm.share > 0 and not any(s.harmful for s in self.data.sources):
            raise ValueError("data.harm.share is above 0, but no source has harmful = true")
        if harm.placement == "concentrated" and harm.malicious_clients > self.federation.clients:
            raise ValueError("data.harm.malicious_clients is larger than federation.clients")
        return self

    def _labels_known(self) -> None:
        if LABELS in self.guards:
            raise ValueError(f"guards.{LABELS}: this name stands for the sources' own labels")
        used = self.filter.mode != "off" and self.filter.guard == LABELS
        if used and not any(source.harmful for source in self.data.sources):
            raise ValueError(
                'filter.guard = "labels" is for experiments: it needs sources with harmful = true'
            )

    def _alignable(self) -> None:
        aligns = self.constitution.schedule != "off"
        if aligns and self.federation.mode == "local":
            raise ValueError(
                'constitution.schedule: there is no aggregated model with federation.mode = "local"'
            )
        if aligns and self.constitution.anchor and not self.adapter.start:
            raise ValueError("constitution.anchor needs adapter.start, an adapter to go back to")

    def _robust_enough(self) -> None:
        """Robust aggregation needs enough updates to be more than a mean; see `robust`.

        With `files` it is not known yet how many clients there are: the round tells.
        """
        rule, sampled = self.aggregation, self.federation.quorum or self.federation.sampled
        known = self.data.partition.scheme != "files" and self.federation.mode == "federated"
        if known and isinstance(rule, Robust):
            settings = rule.model_dump()
            closes = "closes with" if self.federation.quorum else "samples"
            if found := robust.objection(settings.pop("algorithm"), settings, sampled):
                raise ValueError(f"{found}; a round {closes} {sampled}")

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved recipe (canonical JSON, without arms, seeds and tracking), in hex."""
        body = as_before(self.model_dump(mode="json", exclude={"arms", "seeds", "tracking"}))
        if self.federation.weight_cap == Federation().weight_cap:
            del body["federation"]["weight_cap"]  # came later: runs begun before keep their hash
        if self.defence == Defence():
            del body["defence"]  # the same
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def seed_for(self, purpose: str, round_: int = 0, client: str = "") -> int:
        """The seed of one use of randomness; see `seed_for`."""
        return seed_for(self.seed, purpose, round_, client)


def seed_for(seed: int, purpose: str, round_: int = 0, client: str = "") -> int:
    """Derive an independent 63-bit seed for one use of randomness.

    Args:
        seed: the recipe's seed.
        purpose: what it is for ("sampling", "order", "dropout" ...).
        round_: round number, 0 outside rounds.
        client: client name, empty on the server.
    """
    key = json.dumps([seed, purpose, round_, client]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


ALGORITHMS: Mapping[str, type[Section]] = {
    name: model
    for model in (FedAvg, FedProx, FedAvgM, FedOpt, Robust)
    for name in get_args(get_type_hints(model)["algorithm"])
}
"""Aggregation algorithms by name, with the section that holds their settings."""


def sections(model: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    """The fields of a section that are sections themselves, with their models."""
    found = []
    for name, field in model.model_fields.items():
        within = get_args(field.annotation)
        wrapped = get_origin(field.annotation) is list or within[1:] == (NoneType,)
        inner = within[0] if wrapped else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found.append((name, inner))
    return found
