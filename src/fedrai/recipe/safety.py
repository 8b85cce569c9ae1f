"""The sections of the safety filter and of its guards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import Field, field_validator, model_validator

from fedrai.recipe.base import Section, strict_or_number

EMBEDDED = "embedded"  # the guard that comes with the package
LABELS = "labels"  # the perfect guard of experiments
LEAST_EPSILON = 2.0**-20  # finer noise is not drawn


class Filter(Section):
    """The safety filter: a guard judges every row of a client before the first step."""

    mode: Literal["off", "audit", "drop", "replace"] = "off"
    """`audit`: only count. `drop`: unsafe rows leave. `replace`: an unsafe answer becomes a refusal that fits its request."""
    replaced: float = Field(1.0, ge=0, le=1)
    """`replace`: part of the unsafe rows that get a refusal, drawn by the seed; the others are dropped. Some refusals keep a model's own alive, many teach it to refuse what is harmless."""
    guard: str = "embedded"
    """A name from `fedrai guard list` or `[guards]`, a folder that `fedrai guard train` made, a hub id, or `labels` (the sources' own `harmful`, a perfect filter for experiments)."""
    judge: Literal["prompt", "response", "pair"] = "pair"
    """What is judged: the request, the answer by itself, or the answer in the light of its request. Every exchange of a row counts."""
    threshold: Literal["strict", "loose"] | float = "strict"
    """Probability from which a row is unsafe: the guard's own `strict` or `loose`, or a number."""
    calibration: str = ""
    """File that `fedrai guard calibrate` wrote for this guard; it sets `strict` and `loose`."""
    unscored: Literal["drop", "keep"] = "drop"
    """What happens to rows that the guard could not judge."""
    on_guard_failure: Literal["stop", "continue"] = "stop"
    """When the guard cannot work: `stop` the client, or `continue` without a filter (said in the run)."""
    refusals: str = ""
    """For `replace`: a TOML file of refusals by category in place of the ones that come along."""
    count_epsilon: float = Field(0.0, ge=0)
    """Counts sent to the server carry noise: epsilon of differential privacy for each count; 0: exact."""

    _threshold_is_a_probability = field_validator("threshold", mode="before")(strict_or_number)

    @model_validator(mode="after")
    def _parts_fit(self) -> Filter:
        if self.guard == LABELS and self.calibration:
            raise ValueError('guard = "labels" is right already: it takes no calibration')
        if 0 < self.count_epsilon < LEAST_EPSILON:
            raise ValueError(f"count_epsilon must be 0 or at least {LEAST_EPSILON:.1e}")
        return self


class Generative(Section):
    """A guard that is a language model with a policy and labels."""

    kind: Literal["generative"]
    """One forward pass a row; see docs/guards.md for the formats."""
    model: str
    """Folder, hub id or asset."""
    format: str = ""
    """Name of the format; empty: told by the owner and name of a hub model, or by a folder's name."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Number format."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    max_length: int = Field(4096, ge=64)
    """Most tokens of a prompt."""
    batch_tokens: int = Field(8192, ge=64)
    """Tokens of a batch, with padding."""


class Classifier(Section):
    """A guard that is a sequence classifier."""

    kind: Literal["classifier"]
    """Any classifier of the hub."""
    model: str
    """Folder, hub id or asset."""
    unsafe_labels: list[str] = []
    """Labels that mean unsafe; empty: recognised by their names."""
    pair: bool = False
    """Request and answer as two texts; off: the last turn alone."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Number format."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""


class Endpoint(Section):
    """A guard behind an OpenAI-style endpoint with logprobs, such as vLLM's."""

    kind: Literal["endpoint"]
    """Rows go to this address: mind whose machine that is."""
    url: str
    """Base address, such as `http://localhost:8000/v1`."""
    model: str
    """The model's name there."""
    unsafe: list[str] = ["unsafe"]
    """Labels that mean unsafe."""
    safe: list[str] = ["safe"]
    """Labels that mean safe."""
    api: Literal["chat", "completions"] = "chat"
    """Which of the two interfaces is asked."""
    template: str = ""
    """The whole question as a text with `{request}` and `{answer}`, or `{conversation}`; empty: the turns as they are."""
    prefill: str = ""
    """Beginning of the answer that the guard is made to go on from."""
    lead: str = ""
    """What the guard says before its label, such as `Safety:`."""
    categories: dict[str, str] = {}
    """What the guard writes for a category after an unsafe label, and what is reported."""
    api_key_env: str = ""
    """Name of the environment variable with the key."""
    concurrency: int = Field(8, ge=1, le=256)
    """Requests at once."""
    retries: int = Field(4, ge=0)
    """Further tries of a request that failed."""
    timeout: float = Field(60, gt=0)
    """Seconds an answer may take."""
    allow_plain_http: bool = False
    """Allow an address without TLS on another machine."""
    revision: str = ""
    """What you call this version of the guard; verdicts are cached under it."""


class Rules(Section):
    """A user's own regular expressions and words."""

    kind: Literal["rules"]
    """A match is unsafe, everything else is not."""
    words: list[str] = []
    """Whole words or phrases, whatever their case."""
    file: str = ""
    """A file of rules in place of the keys here: a word or phrase a line, `re:` before a pattern, `[category]` before its rules."""
    patterns: list[str] = []
    """Regular expressions."""
    categories: dict[str, list[str]] = {}
    """Regular expressions by the category that they stand for."""


class Cascading(Section):
    """A cheap guard first, a dearer one for what the first is not sure of."""

    kind: Literal["cascade"]
    """Two guards by name."""
    first: str
    """Judges every row."""
    second: str
    """Judges the rows in the band."""
    low: float = Field(0.1, ge=0, le=1)
    """Lower end of the band."""
    high: float = Field(0.9, ge=0, le=1)
    """Upper end of the band."""


class Either(Section):
    """Several guards; a row is unsafe if one of them says so."""

    kind: Literal["any"]
    """Guards by name."""
    guards: list[str] = Field(min_length=1)
    """Their names."""


class InstalledGuard(Section):
    """A guard of an installed package."""

    kind: Literal["plugin"]
    """See docs/extending.md; without settings, its name alone will do where a guard is named."""
    plugin: str
    """Its name among the package's entry points `fedrai.guards`."""
    settings: dict[str, Any] = {}
    """What it is called with."""


GuardTable = Annotated[
    Generative | Classifier | Endpoint | Rules | Cascading | Either | InstalledGuard,
    Field(discriminator="kind"),
]
"""A guard in `[guards.NAME]`; `kind` decides which other keys there are."""

GUARD_KINDS: Mapping[str, type[Section]] = {
    get_args(get_type_hints(model)["kind"])[0]: model
    for model in (Generative, Classifier, Endpoint, Rules, Cascading, Either, InstalledGuard)
}
"""Kinds of guards by name, with the section that holds their settings."""


class GuardTraining(Section):
    """A recipe for `fedrai guard train`."""

    name: str = Field("guard", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the guard."""
    seed: int = Field(0, ge=0)
    """All randomness comes from it."""
    base: str = "smollm2-135m-instruct"
    """Model whose body is fine-tuned: language model or encoder; folder, hub id or asset."""
    layers: int = Field(0, ge=0)
    """How many of its layers are used, from the first; 0: all."""
    rank: int = Field(8, ge=1, le=512)
    """Rank of the LoRA factors."""
    alpha: float = Field(16, gt=0)
    """The adapter's scale is alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    start: str = ""
    """Folder of a guard to go on from, of the same base, layers and rank; its frame and categories stay. Empty: a fresh adapter."""
    frame: list[str] = []
    """Special tokens before the request, between request and answer, after the answer; empty: ChatML or BERT's, as the tokenizer has them."""
    max_length: int = Field(256, ge=32)
    """Most tokens of a text; longer ones are judged in windows."""
    rows: list[str] = []
    """Files of labelled rows: `prompt`, perhaps `response`, `prompt_unsafe` and `unsafe` (0 to 1: how sure it is), `category`."""
    prompt_label: str = "prompt_unsafe"
    """Column that says whether the request is unsafe."""
    pair_label: str = "unsafe"
    """Column that says whether the answer is unsafe (of rows without an answer: the request)."""
    held_out: float = Field(0.08, gt=0, lt=1)
    """Part of the requests, by hash, that is not trained on: it calibrates and measures."""
    caps: dict[str, int] = {}
    """Most rows of a source, by the rows' `source` column."""
    weights: dict[str, float] = {}
    """Weight of a source in the loss; 1 where nothing is said."""
    epochs: float = Field(2.0, gt=0)
    """Passes over the rows."""
    batch_size: int = Field(32, ge=1)
    """Rows of a step."""
    micro_batch_tokens: int = Field(2048, ge=64)
    """Tokens that go through the model at once, with padding."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak of AdamW; linear warm-up, then cosine."""
    warmup_steps: int = Field(30, ge=0)
    """Steps of the warm-up."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decoupled weight decay."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    category_weight: float = Field(0.1, ge=0)
    """Weight of the categories in the loss."""
    strict_fpr: float = Field(0.05, gt=0, lt=1)
    """`strict`: false alarms on held-out safe rows."""
    pair_fpr: float = Field(0.0, ge=0, lt=1)
    """False alarms on held-out safe answers at the strict threshold; 0: as `strict_fpr`."""
    loose_fpr: float = Field(0.01, gt=0, lt=1)
    """`loose`: the same."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Number format of the base."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
