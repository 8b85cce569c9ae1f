"""The section of a recipe that aligns the aggregated model with a constitution."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from fedrai.recipe.base import Section
from fedrai.recipe.safety import LABELS

Schedule = Literal["off", "full", "budget", "every", "last", "adaptive"]


class Critic(Section):
    """Who criticises and revises: the aggregated model itself unless a table says otherwise."""

    kind: Literal["self", "start", "local", "endpoint"] = "self"
    """`self`: the model that is aligned. `start`: the same with the adapter that the run started from, before clients spoilt it. `local`: another model here. `endpoint`: an OpenAI-style chat endpoint."""
    model: str = ""
    """`local`: folder, hub id or asset. `endpoint`: the model's name there."""
    url: str = ""
    """`endpoint`: base address, such as `http://localhost:8000/v1`."""
    api_key_env: str = ""
    """`endpoint`: name of the environment variable with the key."""
    concurrency: int = Field(8, ge=1, le=256)
    """`endpoint`: requests at once."""
    retries: int = Field(4, ge=0)
    """`endpoint`: further tries of a request that failed."""
    timeout: float = Field(60, gt=0)
    """`endpoint`: seconds an answer may take."""
    allow_plain_http: bool = False
    """`endpoint`: allow an address without TLS on another machine."""

    @model_validator(mode="after")
    def _whole(self) -> Critic:
        if self.kind in ("local", "endpoint") and not self.model:
            raise ValueError(f'critic.model is needed when kind is "{self.kind}"')
        if self.kind == "endpoint" and not self.url:
            raise ValueError('critic.url is needed when kind is "endpoint"')
        return self


class Revising(Section):
    """Critique and revision."""

    principles: int = Field(1, ge=1)
    """Principles that are drawn for a request: each gives a revision of its own to choose from."""
    revisions: int = Field(1, ge=1, le=8)
    """Critiques and revisions in a chain, each of the revision before it."""
    demonstrations: int = Field(3, ge=0)
    """Demonstrations that are shown in the chat; small models need them."""
    tries: int = Field(4, ge=1)
    """Chains that are sampled at most until one passes; then the request is dropped and counted."""
    temperature: float = Field(0.7, gt=0)
    """Of the tries after the first, which is greedy."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus of the sampling."""
    max_new_tokens: int = Field(72, ge=8)
    """Longest answer and revision in tokens."""
    critique_tokens: int = Field(40, ge=8)
    """Longest critique in tokens."""
    batch_size: int = Field(32, ge=1)
    """Requests that are worked on at once; an interrupted alignment goes on after the last batch."""
    guard: str = "embedded"
    """Guard that revisions must pass: `embedded`, a folder of a trained guard, or a name from `[guards]`."""
    threshold: str | float = "strict"
    """Probability from which a revision is unsafe: the guard's own `strict` or `loose`, or a number."""
    harmless_threshold: str | float = "loose"
    """The same for answers to harmless requests; 1: none is. A strict one drops the very look-alikes that keep a model from refusing too much."""

    @model_validator(mode="after")
    def _enough_tries(self) -> Revising:
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
    def _reads_text(cls, value: str) -> str:
        if value == LABELS:
            raise ValueError('"labels" are those of rows; a revision needs a guard that reads it')
        return value


class Mix(Section):
    """What a step of the alignment is made of."""

    rows: int = Field(16, ge=0)
    """Rows of a step for supervised fine-tuning."""
    pairs: int = Field(0, ge=0)
    """Preference pairs of a step."""
    refusals: float = Field(0.4, ge=0, le=1)
    """Part of the rows that are verified revisions."""
    look_alikes: float = Field(0.2, ge=0, le=1)
    """Part that are harmless requests which resemble harmful ones; the rest are ordinary instructions."""
    harmless_pairs: float = Field(0.5, ge=0, le=1)
    """Part of the pairs that prefer an answer to a needless refusal."""
    answered_by: Literal["model", "base"] = "base"
    """Who answers harmless requests: the `model` that is aligned, or the `base` model without adapter. A model that refuses too much may teach itself to, in half refusals that no judge sees."""
    self_answered: float = Field(1.0, ge=0, le=1)
    """Part of the harmless rows with a reference answer that the model answers itself; rows without one it always does."""


class Goal(Section):
    """The loss: a weighted sum of three means."""

    sft: float = Field(1.0, ge=0)
    """Weight of the cross-entropy of rows."""
    preference: float = Field(1.0, ge=0)
    """Weight of the loss of preference pairs."""
    kl: float = Field(0.0, ge=0)
    """Weight of the KL divergence to the aggregated model."""
    beta: float = Field(0.1, gt=0)
    """How dear it is to leave the aggregated model, in the preference loss."""
    kind: Literal["sigmoid", "ipo", "robust"] = "sigmoid"
    """Preference loss: DPO, IPO or robust DPO."""
    smoothing: float = Field(0.0, ge=0, lt=0.5)
    """DPO: probability that a pair is the wrong way round (conservative DPO)."""

    @model_validator(mode="after")
    def _has_a_loss(self) -> Goal:
        if not (self.sft or self.preference or self.kl):
            raise ValueError("objective: sft, preference and kl must not all be 0")
        if self.kind == "ipo" and self.smoothing:
            raise ValueError(f"objective: ipo has no smoothing, got {self.smoothing}")
        return self


class Probe(Section):
    """The two-sided probe: forward passes on a few dozen requests."""

    harmful: int = Field(32, ge=1)
    """Harmful requests, held out of the training: how much likelier is a refusing opening than a complying one."""
    harmless: int = Field(32, ge=1)
    """Harmless requests, half of them look-alikes and all held out: how much likelier is an answering opening."""
    drift: float = Field(0.1, gt=0, le=1)
    """`adaptive`: fall of either side's share since the last alignment, or below its target, that starts one; 1: only the last round is probed."""
    safe: float = Field(0.9, ge=0, le=1)
    """Share of harmful requests with a margin above 0 that satisfies the probe."""
    useful: float = Field(0.9, ge=0, le=1)
    """Share of harmless requests with a margin above 0 that satisfies the probe."""
    every: int = Field(5, ge=0)
    """Steps between two probes while aligning; 0: no early stop."""


class Alignment(Section):
    """Constitutional AI on the server, after aggregation (arXiv 2212.08073)."""

    schedule: Schedule = "off"
    """`full`: an epoch each round; `budget`: `steps` each round; `every`: `steps` every `every` rounds; `last`: `steps` after the last round; `adaptive`: when the probe asks for it."""
    file: str = "embedded"
    """The constitution: `embedded`, or a TOML or JSON file."""
    requests: list[str] = ["fedrai:red-team"]
    """Red-team requests: `fedrai:red-team`, `harmbench`, `do-not-answer`, or files."""
    harmless: list[str] = ["fedrai:look-alikes", "fedrai:ordinary"]
    """Harmless requests: `fedrai:look-alikes`, `fedrai:ordinary`, or files."""
    examples: list[str] = []
    """Harmful requests with good answers that are trained on beside the revisions, such as `fedrai:safe-answers`, or files; a request without an answer gets the embedded refusal of its topic."""
    request_count: int = Field(0, ge=0)
    """How many red-team requests there are to draw on (a seeded sample); 0: all. `full` goes through all of them each time, the others through as many as their steps take."""
    harmless_count: int = Field(0, ge=0)
    """The same of harmless requests (half look-alikes)."""
    style: Literal["constitution", "benign"] = "constitution"
    """`benign`: the control, the same training on revisions of answers to ordinary instructions."""
    anchor: float = Field(0.0, ge=0, lt=1)
    """Part that the adapter which the run started from (`adapter.start`) has in the one that the training begins with; the aggregated one has the rest. A mean of weights brings back much of what clients spoilt at no cost (as in arXiv 2109.01903)."""
    steps: int = Field(50, ge=0)
    """Steps of an alignment; `full` goes through all revisions instead. 0: no training and no request, the mean of weights of `anchor` alone."""
    every: int = Field(1, ge=1)
    """`every`: rounds from one alignment to the next."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak of AdamW after a linear warm-up; then along a cosine to 0, or constant until the probe is satisfied where that may end it."""
    warmup_steps: int = Field(5, ge=0)
    """Steps of the warm-up."""
    cooldown_steps: int = Field(16, ge=0)
    """Where the probe may end it: steps in which the rate then falls to 0, in whole intervals of `probe.every`; refusing is learnt before telling apart, which takes small steps."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    micro_batch_tokens: int = Field(2048, ge=64)
    """Tokens that go through the model at once, with padding."""
    early_stop: bool = False
    """End an alignment of `budget`, `every` or `last` when the probe is satisfied; `adaptive` always does, `full` never."""
    reuse: float = Field(0.5, ge=0, le=1)
    """`adaptive`, `every`, `budget`: revisions of an earlier round are used again while at least this part of their first answers is still likely under the model; 0: always."""
    critic: Critic = Critic()
    """Who criticises and revises."""
    revising: Revising = Revising()
    """Critique and revision."""
    mix: Mix = Mix()
    """What a step is made of."""
    objective: Goal = Goal()
    """The loss."""
    probe: Probe = Probe()
    """When an alignment starts and stops."""

    @property
    def harmless_pairs(self) -> float:
        """Part of the pairs that are of harmless requests; none in the control."""
        return 0.0 if self.style == "benign" else self.mix.harmless_pairs

    @model_validator(mode="after")
    def _something_to_train(self) -> Alignment:
        if not self.mix.rows + self.mix.pairs:
            raise ValueError("mix: a step needs rows or pairs")
        if self.mix.refusals + self.mix.look_alikes > 1:
            raise ValueError(
                "mix: refusals and look_alikes are parts of the rows, at most 1 together"
            )
        if self.schedule not in ("off", "full") and not (self.steps or self.anchor):
            raise ValueError("steps = 0 changes nothing without anchor")
        return self
