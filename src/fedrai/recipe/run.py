"""The sections of a run's recipe."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import model_validator

from fedrai.recipe import defence as defences
from fedrai.recipe import keys, lora, messages, preference, robust
from fedrai.recipe import privacy as private
from fedrai.recipe.aggregation import Aggregation, FedAvg, QFedAvg, Robust, Scaffold
from fedrai.recipe.alignment import Alignment
from fedrai.recipe.attack import Attack
from fedrai.recipe.base import Section
from fedrai.recipe.data import Data
from fedrai.recipe.defence import Defence
from fedrai.recipe.defence_methods import REFITTED
from fedrai.recipe.evaluation import Evaluation
from fedrai.recipe.federation import Federation
from fedrai.recipe.messages import Messages
from fedrai.recipe.privacy import Privacy
from fedrai.recipe.release import Release
from fedrai.recipe.safety import LABELS, Filter, GuardTable
from fedrai.recipe.tracking import Tracking
from fedrai.recipe.training import Training
from fedrai.recipe.vetting import Vetting

AFTER_TRAINING = ("name", "constitution", "evaluation", "release")
"""Sections that come after a round's training and aggregation, and the name."""
AFTER_REPLIES = ("aggregation", "vetting", "defence", "attack", "messages", "privacy")
"""Further sections that leave the local training of an honest client alone."""


class Model(Section):
    """The base model, the same on every client."""

    base: str
    """A folder, a hub id (`org/name@revision`), a `.gguf` file or a name from `fedrai assets list`."""
    dtype: keys.DType = "auto"
    device: keys.Device = "auto"
    quantization: keys.Quantization = "none"
    attention: keys.Attention = "auto"


class Adapter(Section):
    """The LoRA adapter that is trained and averaged."""

    added_keys = ("ranks",)

    start: str = ""
    """Adapter to start from: a PEFT folder, or `fedrai:aligned` (shipped: SmolLM2-135M-Instruct made safe). Its rank may be lower than `rank` if alpha / rank is the same. Empty: a fresh one."""
    rank: keys.Rank = 16
    ranks: list[int] | dict[str, int] = []
    """Ranks that clients train where that is not `rank` for all: a list that is gone through in the order of the clients' names, again and again (`[8]`: 8 for all), or a table by name, in which `"*"` stands for all others. `rank` is that of the global adapter, and the scale is alpha / rank for all. Empty: all train `rank`."""
    alpha: keys.Alpha = 32
    dropout: keys.Dropout = 0.0
    target_modules: keys.TargetModules = "all-linear"

    @model_validator(mode="after")
    def _ranks_fit(self) -> Adapter:
        if problem := lora.ranks_problem(self.ranks, self.rank):
            raise ValueError(problem)
        return self


class Recipe(Section):
    """A whole recipe."""

    added_keys = ("defence", "attack", "vetting", "messages", "privacy", "release")

    name: keys.Name = "run"
    """Name of the run and of its folder."""
    seed: keys.Seed = 0
    seeds: list[keys.Seed] = []
    """`fedrai compare`: every arm runs once with each of these seeds. Empty: `seed` alone."""
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
    messages: Messages = Messages()
    """How adapters are written on their way between server and clients."""
    vetting: Vetting = Vetting()
    """The server's look at every update before it is aggregated."""
    privacy: Privacy = Privacy()
    """Differential privacy of the clients; see docs/privacy.md."""
    defence: Defence = Defence()
    """What keeps the model safe from clients, besides the filter: on the aggregated adapter, or in their training."""
    attack: Attack = Attack()
    """Malicious clients (experiments)."""
    constitution: Alignment = Alignment()
    """Alignment of the aggregated model with a constitution."""
    evaluation: Evaluation = Evaluation()
    """What is measured."""
    release: Release = Release()
    """The bars that the model has to meet before `fedrai release` hands it out."""
    tracking: Tracking = Tracking()
    """Tracker that also receives the figures."""
    guards: dict[str, GuardTable] = {}
    """Your own guards by name; `kind` decides which other keys a table has."""
    arms: dict[str, dict[str, Any]] = {}
    """`fedrai compare`: named variants of the recipe, each a table of `section.key = value` overrides."""

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is listed twice")
        self._check_sources()
        self._check_robust_rule()
        self._check_labels()
        self._check_alignment()
        self._check_defence()
        self._check_lora()
        self._check_vetting()
        self._check_harm()
        self._check_attack()
        self._check_weights()
        self._check_method()
        self._check_privacy()
        return self

    def _check_privacy(self) -> None:
        federation, rule = self.federation, self.aggregation
        if problem := private.problem(
            self.privacy,
            mode=federation.mode,
            weights=federation.weights,
            clients=0 if self.data.partition.scheme == "files" else federation.clients,
            algorithm=getattr(rule, "algorithm", ""),
            lora=getattr(rule, "lora", "plain"),
            ranks=bool(self.adapter.ranks),
            vetting=self.vetting.action,
            waits=not (federation.quorum or federation.round_timeout),
        ):
            raise ValueError(problem)

    def _check_method(self) -> None:
        rule, files = getattr(self.aggregation, "algorithm", ""), self.data.partition.scheme
        parts = preference.Surroundings(
            self.data.sources, files == "files", rule, self.defence, self.vetting, self.attack
        )
        if problem := preference.problem(self.training.method, parts):
            raise ValueError(problem)

    def _check_vetting(self) -> None:
        if self.vetting.action != "off" and self.federation.mode != "federated":
            raise ValueError(
                "vetting.action: there are no updates of several clients to compare with"
                f' federation.mode = "{self.federation.mode}"'
            )

    def _check_sources(self) -> None:
        files = self.data.partition.scheme == "files"
        if files and not self.data.partition.files:
            raise ValueError('data.partition.files is needed when scheme is "files"')
        if files and len({repr(s.read_as) for s in self.data.sources}) > 1:
            raise ValueError(
                'data.sources: with partition.scheme = "files" all files are read alike, but these'
                " sources differ in how (columns, where, encoding ...)"
            )
        if not files and not self.data.sources:
            raise ValueError("data.sources is empty: it needs at least one dataset")
        if self.data.partition.by_source and self.data.partition.scheme in ("dirichlet", "files"):
            raise ValueError(
                "data.partition.by_source divides rows by source, but scheme ="
                f' "{self.data.partition.scheme}" divides them otherwise; use equal or power-law'
            )
        kinds = ({s.label for s in self.data.sources if s.harmful is h} for h in (False, True))
        if both := set.intersection(*kinds):
            raise ValueError(
                f"data.sources: a harmful and a harmless source have the name {min(both)!r}"
            )
        for harmful in (False, True):
            if len({s.share is None for s in self.data.sources if s.harmful is harmful}) > 1:
                raise ValueError(
                    "data.sources: set share on all sources of a kind (harmful or not), or on none"
                )

    def _check_harm(self) -> None:
        harm, files = self.data.harm, self.data.partition.scheme == "files"
        if not files and harm.share > 0 and not any(s.harmful for s in self.data.sources):
            raise ValueError("data.harm.share is above 0, but no source has harmful = true")
        if harm.placement == "concentrated" and harm.malicious_clients > self.federation.clients:
            raise ValueError("data.harm.malicious_clients is larger than federation.clients")

    def _check_attack(self) -> None:
        if not self.attack.active:
            return
        if self.federation.mode != "federated":
            raise ValueError(
                f'attack.kind: with federation.mode = "{self.federation.mode}" no client sends'
                " an update that others take over"
            )
        if self.attack.needs_harmful_rows and not any(s.harmful for s in self.data.sources):
            raise ValueError(
                f'attack.kind = "{self.attack.kind}" needs a source with harmful = true'
            )

    def _check_weights(self) -> None:
        weights, rule = self.federation.weights, self.aggregation
        if weights == "tokens" and isinstance(rule, Robust | QFedAvg):
            raise ValueError(
                f"federation.weights: {rule.algorithm} does not weigh clients by their data"
            )
        if weights != "rows" and self.attack.active and self.attack.kind == "false-counts":
            raise ValueError(
                'attack.kind = "false-counts" lies about rows, which do not count with'
                f' federation.weights = "{weights}"'
            )

    @property
    def has_variates(self) -> bool:
        """Whether clients keep a control variate; pooled or separate clients have none to share."""
        return isinstance(self.aggregation, Scaffold) and self.federation.mode == "federated"

    @property
    def needed_numbers(self) -> list[str]:
        """Numbers that the mean needs of a client besides its rows, as a node's `policy.send` names them."""
        if self.federation.mode != "federated":
            return []
        tokens = ["label-tokens"] * (self.federation.weights == "tokens")
        return tokens + ["losses"] * isinstance(self.aggregation, QFedAvg)

    def _check_labels(self) -> None:
        if LABELS in self.guards:
            raise ValueError(f"guards.{LABELS}: this name is reserved for the sources' own labels")
        used = self.filter.mode != "off" and self.filter.guard == LABELS
        if used and not any(source.harmful for source in self.data.sources):
            raise ValueError(
                'filter.guard = "labels" is for experiments: it needs sources with harmful = true'
            )

    def _check_alignment(self) -> None:
        aligns = self.constitution.schedule != "off"
        if aligns and self.federation.mode == "local":
            raise ValueError(
                'constitution.schedule: there is no aggregated model with federation.mode = "local"'
            )
        if aligns and self.constitution.anchor and not self.adapter.start:
            raise ValueError(
                "constitution.anchor needs adapter.start, the adapter that it returns to"
            )

    def _check_defence(self) -> None:
        mode, start, rule = self.federation.mode, self.adapter.start, self.aggregation
        name = getattr(rule, "algorithm", "")
        if problem := defences.problem(self.defence, mode, start, name):
            raise ValueError(problem)
        anchored = self.constitution.schedule != "off" and self.constitution.anchor
        if anchored and "mean" in self.defence.methods:
            raise ValueError(
                "defence.method: mean does what constitution.anchor does; set one of them"
            )

    def _check_lora(self) -> None:
        rule, adapter = self.aggregation, self.adapter
        refitted = next((n for n in self.defence.methods if n in REFITTED), "")
        if problem := messages.problem(
            self.messages, self.federation.mode, getattr(rule, "lora", "plain"),
            bool(adapter.ranks), refitted,
        ):  # fmt: skip
            raise ValueError(problem)
        if problem := lora.problem(
            getattr(rule, "lora", "plain"), getattr(rule, "algorithm", ""), adapter.ranks,
            adapter.rank, self.federation.mode, self.defence, self.vetting.action != "off",
        ):  # fmt: skip
            raise ValueError(problem)

    def _check_robust_rule(self) -> None:
        """Check that a robust rule gets enough updates to be more than a mean; see `robust`.

        With `files` the number of clients is not known yet; the round checks it.
        """
        rule, sampled = self.aggregation, self.federation.quorum or self.federation.sampled
        count_known = self.data.partition.scheme != "files" and self.federation.mode == "federated"
        if count_known and isinstance(rule, Robust):
            settings = rule.model_dump()
            closes = "closes with" if self.federation.quorum else "samples"
            if problem := robust.update_count_problem(settings.pop("algorithm"), settings, sampled):
                raise ValueError(f"{problem}; a round {closes} {sampled}")

    @property
    def hash(self) -> str:
        """SHA-256 in hex of the resolved recipe (canonical JSON without arms, seeds and tracking)."""
        return _digest(self._hashed())

    @property
    def training_hash(self) -> str:
        """The same of what decides how clients train and how their updates are aggregated.

        Without the name, the constitution and the evaluation. A constitution changes what clients
        train only through the adapter that they start from, which this hash does not cover.
        """
        body = self._hashed()
        return _digest({key: body[key] for key in body if key not in AFTER_TRAINING})

    @property
    def clients_hash(self) -> str:
        """The same of what decides how honest clients train from a given adapter."""
        body = self._hashed()
        kept = {k: body[k] for k in body if k not in (*AFTER_TRAINING, *AFTER_REPLIES)}
        if names := self.defence.on_clients:
            kept["defence"] = {n: self.defence.section(n).hashed_body() for n in names}
        return _digest(kept)

    def _hashed(self) -> dict[str, Any]:
        """What `hash` covers, by section; an attack without clients is none."""
        attack = self.attack if self.attack.active else Attack()
        body = self.model_copy(update={"attack": attack}).hashed_body()
        return {key: body[key] for key in body if key not in ("arms", "seeds", "tracking")}

    def seed_for(self, purpose: str, round_: int = 0, client: str = "") -> int:
        """The seed of one use of randomness; see `seed_for`."""
        return seed_for(self.seed, purpose, round_, client)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


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
