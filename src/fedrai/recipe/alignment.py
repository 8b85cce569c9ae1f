"""The section of a recipe that aligns the aggregated model with a constitution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fedrai.recipe import keys
from fedrai.recipe.base import EndpointSection, KindSection, Section
from fedrai.recipe.safety import LABELS

Schedule = Literal["off", "full", "budget", "every", "last", "adaptive"]


class Critic(EndpointSection, KindSection):
    """The model that criticises and revises. `kind` decides which keys apply: `local` needs `model`; `endpoint` needs `url` and `model` and takes the rest."""

    kind: Literal["self", "start", "local", "endpoint"] = "self"
    """`self`: the model that is aligned, so no second model is loaded. `start`: the same model with the adapter that the run started from, before the clients changed it. `local`: another model on this machine. `endpoint`: an OpenAI-style chat endpoint."""
    url: str = ""
    """`endpoint`: base address, such as `http://localhost:8000/v1`."""
    model: str = ""
    """`local`: folder, hub id or asset. `endpoint`: name of the model there."""

    @model_validator(mode="after")
    def _has_a_model(self) -> Critic:
        if self.kind in ("local", "endpoint") and not self.model:
            raise ValueError(f'critic.model is needed when kind is "{self.kind}"')
        if self.kind == "endpoint" and not self.url:
            raise ValueError('critic.url is needed when kind is "endpoint"')
        return self


class RevisionSettings(Section):
    """Critique and revision."""

    principles: int = Field(1, ge=1)
    """Principles drawn for each request. Each gives its own revision, of which one is chosen; the cost grows with the number."""
    revisions: int = Field(1, ge=1, le=8)
    """Critique and revision steps in a chain, each on the previous revision; the cost grows with the number."""
    demonstrations: int = Field(3, ge=0)
    """Demonstrations shown in the chat. Small models need them; a large one may do without (0)."""
    tries: int = Field(4, ge=1)
    """Most chains sampled until a revision passes; then the request is dropped and counted. A small model rarely passes at the first try."""
    temperature: float = Field(0.7, gt=0)
    """Sampling temperature of all tries but the first, which is greedy."""
    top_p: keys.TopP = 0.95
    max_new_tokens: int = Field(72, ge=8)
    """Longest answer and longest revision, in tokens: enough for two or three sentences."""
    critique_tokens: int = Field(40, ge=8)
    """Longest critique, in tokens: one sentence."""
    batch_size: int = Field(32, ge=1)
    """Requests processed at once. Larger is faster and takes more memory; an interrupted alignment resumes after the last complete batch."""
    guard: str = "embedded"
    """Guard that a revision must pass: `embedded`, the folder of a trained guard, or a name from `[guards]`."""
    threshold: str | float = "strict"
    """Probability from which a revision counts as unsafe: the guard's own `strict` or `loose`, or a number. `strict`, since the model is trained on what passes."""
    harmless_threshold: str | float = "loose"
    """The same for answers to harmless requests; 1 drops none. A strict threshold drops the look-alikes that teach the model not to over-refuse."""

    @model_validator(mode="after")
    def _tries_suffice(self) -> RevisionSettings:
        if self.tries < self.principles:
            raise ValueError(
                f"{self.principles} principles need as many tries, but tries is {self.tries}"
            )
        return self

    @field_validator("threshold", "harmless_threshold")
    @classmethod
    def _threshold_is_a_probability(cls, value: str | float) -> str | float:
        if isinstance(value, float) and not 0 <= value <= 1:
            raise ValueError(f"expected a name of the guard or a number from 0 to 1, got {value}")
        return value

    @field_validator("guard")
    @classmethod
    def _guard_reads_text(cls, value: str) -> str:
        if value == LABELS:
            raise ValueError('"labels" only knows rows; a revision needs a guard that reads it')
        return value


class Mix(Section):
    """The composition of an optimiser step of the alignment."""

    rows: int = Field(16, ge=0)
    """Rows of a step for supervised fine-tuning."""
    pairs: int = Field(0, ge=0)
    """Preference pairs of a step. 0: supervised fine-tuning only, the cheapest variant."""
    refusals: keys.Share = 0.4
    """Share of the rows that are verified revisions."""
    look_alikes: keys.Share = 0.2
    """Share of the rows that are harmless requests which resemble harmful ones, against over-refusal. The rest are ordinary instructions."""
    harmless_pairs: keys.Share = 0.5
    """Share of the pairs that prefer an answer to a needless refusal; the others prefer a revision to a harmful answer."""
    answered_by: Literal["model", "base"] = "base"
    """Which model answers harmless requests: the `model` that is aligned, or the `base` model without adapter. A model that over-refuses would learn from its own partial refusals, which the judge does not detect."""
    examples: float | None = Field(None, ge=0, le=1)
    """Share of the revision rows that are `examples` of the recipe; the others are revisions of this alignment. Hundreds of examples would leave a few mined revisions hardly a row. Where there are only examples or only revisions, they make up all revision rows. Unset: in proportion to their numbers."""
    self_answered: keys.Share = 1.0
    """Share of the harmless rows with a reference answer that are answered by the model all the same. Rows without one always are."""


class Objective(Section):
    """The loss: a weighted sum of three means."""

    sft: float = Field(1.0, ge=0)
    """Weight of the cross-entropy of rows."""
    preference: float = Field(1.0, ge=0)
    """Weight of the loss of preference pairs. Their log-probabilities are sums over tokens: with `mix.pairs`, 1 can outweigh the rows; 0.1 is a good start."""
    kl: float = Field(0.0, ge=0)
    """Weight of the KL divergence to the aggregated model. 0 saves its forward pass."""
    beta: float = Field(0.1, gt=0)
    """Preference loss: strength of the pull towards the aggregated model; 0.1 as in most DPO work."""
    kind: Literal["sigmoid", "ipo", "robust"] = "sigmoid"
    """Preference loss: DPO, IPO or robust DPO."""
    smoothing: float = Field(0.0, ge=0, lt=0.5)
    """DPO: probability that a pair has its sides swapped (conservative DPO). 0: pairs are trusted."""

    @model_validator(mode="after")
    def _has_a_loss(self) -> Objective:
        if not (self.sft or self.preference or self.kl):
            raise ValueError("objective: sft, preference and kl must not all be 0")
        if self.kind == "ipo" and self.smoothing:
            raise ValueError(f"objective: ipo has no smoothing, got {self.smoothing}")
        return self


class Probe(Section):
    """The two-sided probe: forward passes on a few dozen requests."""

    harmful: int = Field(32, ge=1)
    """Harmful requests, held out of the training. The margin is how much likelier a refusing opening is than a complying one. A few dozen keep the probe cheap."""
    harmless: int = Field(32, ge=1)
    """Harmless requests, half of them look-alikes, all held out. The margin is how much likelier an answering opening is than a refusing one."""
    drift: float = Field(0.1, gt=0, le=1)
    """`adaptive`: fall of either side's share, since the last alignment or below its target, that starts an alignment. 1: only the last round is probed."""
    safe: keys.Share = 0.9
    """Share of harmful requests with a margin above 0 that satisfies the probe."""
    useful: keys.Share = 0.9
    """Share of harmless requests with a margin above 0 that satisfies the probe."""
    every: int = Field(5, ge=0)
    """Steps between two probes during an alignment; 0: none, so no early stop."""


class Alignment(Section):
    """Constitutional AI on the server, after aggregation (arXiv 2212.08073)."""

    schedule: Schedule = "off"
    """`full`: an epoch each round. `budget`: `steps` each round. `every`: `steps` every `every` rounds. `last`: `steps` after the last round. `adaptive`: when the probe asks for it."""
    file: str = "embedded"
    """The constitution: `embedded`, or a TOML or JSON file."""
    requests: list[str] = ["fedrai:red-team"]
    """Red-team requests: `fedrai:red-team`, `harmbench`, `do-not-answer`, or files."""
    harmless: list[str] = ["fedrai:look-alikes", "fedrai:ordinary"]
    """Harmless requests: `fedrai:look-alikes`, `fedrai:ordinary`, or files."""
    examples: list[str] = []
    """Harmful requests with good answers to train on beside the revisions: `fedrai:safe-answers`, or files. A request without an answer gets the embedded refusal of its topic."""
    request_count: int = Field(0, ge=0)
    """Size of the seeded sample of red-team requests; 0: all. `full` goes through the whole sample each time, the others through as many as their steps need."""
    harmless_count: int = Field(0, ge=0)
    """Size of the seeded sample of harmless requests, half of them look-alikes; 0: all."""
    mined_from: int = Field(0, ge=0)
    """Requests a side, drawn anew for each alignment, that the model to be aligned first answers briefly. Harmful ones that it does not decline are taken first as red-team requests, and harmless ones that it declines as up to half of the harmless requests; the rest of the pool fills both up. No material of an earlier round is reused. Of 256, a model that fails 10 % fails 26. 0: no mining."""
    style: Literal["constitution", "benign"] = "constitution"
    """`benign`: the control arm of an experiment, the same training on revisions of answers to ordinary instructions."""
    anchor: float = Field(0.0, ge=0, lt=1)
    """Weight of `adapter.start` in the adapter that the alignment starts from; the aggregated adapter has the rest. Such a mean of weights recovers much of what clients damaged, at no cost (as in arXiv 2109.01903). 0: the aggregated adapter alone."""
    steps: int = Field(50, ge=0)
    """Optimiser steps of an alignment (`full` goes through all revisions instead). 50 is the paper's cheap variant. 0: no training and no requests, only the mean of weights of `anchor`."""
    every: int = Field(1, ge=1)
    """`every`: rounds from one alignment to the next."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate of AdamW after a linear warm-up. Then it follows a cosine to 0, or stays constant until the probe is satisfied where the probe may end the alignment."""
    warmup_steps: int = Field(5, ge=0)
    """Steps over which the learning rate rises from 0."""
    cooldown_steps: int = Field(16, ge=0)
    """Where the probe may end the alignment: steps over which the learning rate then falls to 0, rounded up to whole intervals of `probe.every`. A model learns to refuse before it learns to tell requests apart, which takes small steps."""
    weight_decay: keys.WeightDecay = 0.0
    clip_norm: keys.ClipNorm = 1.0
    micro_batch_tokens: keys.MicroBatchTokens = 2048
    early_stop: bool = False
    """End an alignment of `budget`, `every` or `last` when the probe is satisfied. `adaptive` always does, `full` never."""
    reuse: keys.Share = 0.5
    """`adaptive`, `every`, `budget`: the revisions of an earlier round are reused while at least this share of their first answers is still likely under the model. 0: always reused."""
    critic: Critic = Critic()
    """The model that criticises and revises."""
    revising: RevisionSettings = RevisionSettings()
    """Critique and revision."""
    mix: Mix = Mix()
    """The composition of a step."""
    objective: Objective = Objective()
    """The loss."""
    probe: Probe = Probe()
    """What starts and ends an alignment."""

    @property
    def harmless_pairs(self) -> float:
        """Part of the pairs that are of harmless requests; none in the control."""
        return 0.0 if self.style == "benign" else self.mix.harmless_pairs

    @model_validator(mode="after")
    def _trains_something(self) -> Alignment:
        if not self.mix.rows + self.mix.pairs:
            raise ValueError("mix: a step needs rows or pairs")
        if self.mix.refusals + self.mix.look_alikes > 1:
            raise ValueError(
                "mix: refusals and look_alikes are shares of the rows; their sum must be at most 1"
            )
        if self.schedule not in ("off", "full") and not (self.steps or self.anchor):
            raise ValueError("steps = 0 changes nothing without anchor")
        return self

    @model_validator(mode="after")
    def _pool_suffices(self) -> Alignment:
        most = max(self.request_count, self.harmless_count)
        if 0 < self.mined_from < most:
            raise ValueError(
                f"mined_from = {self.mined_from} is a smaller pool than the {most} requests to take"
                " of it (request_count, harmless_count)"
            )
        if self.mix.examples and not self.examples:
            raise ValueError("mix.examples is a share of `examples`, which is empty")
        return self


def without_later_keys(section: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved `[constitution]` without keys that were added later, where they are unset.

    So a recipe's hash is the same as before these keys existed.
    """
    mix = {k: v for k, v in section["mix"].items() if k != "examples" or v is not None}
    rest = {k: v for k, v in section.items() if k != "mined_from" or v}
    return rest | {"mix": mix}
