"""The sections of the safety filter and of its guards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from fedrai.recipe import keys
from fedrai.recipe.base import EndpointSection, KindSection, Section

EMBEDDED = "embedded"  # the guard that comes with the package
LABELS = "labels"  # the perfect guard of experiments
LEAST_EPSILON = 2.0**-20  # finer noise is not drawn


class Filter(Section):
    """The safety filter: a guard judges every row of a client before the first step."""

    added_keys = ("pairs",)

    mode: Literal["off", "audit", "drop", "replace"] = "off"
    """`off`: no guard is loaded. `audit`: count only. `drop`: unsafe rows are left out. `replace`: an unsafe answer is replaced by a refusal that fits its request."""
    replaced: keys.Share = 1.0
    """`replace`: share of the unsafe rows that get a refusal, drawn by the seed; the others are dropped. A few refusals preserve the model's own; many teach it to refuse harmless requests."""
    pairs: Literal["drop", "swap"] = "drop"
    """What `drop` and `replace` do with a preference pair whose chosen answer is unsafe; an unsafe rejected answer is as it should be. `drop`: the pair is left out. `swap`: the two answers change places if the rejected one is judged safe; else the pair is left out."""
    guard: str = "embedded"
    """A name from `fedrai guard list` or `[guards]`, a folder that `fedrai guard train` wrote, a hub id, or `labels` (the sources' own `harmful`: a perfect filter, for experiments)."""
    judge: Literal["prompt", "response", "pair"] = "pair"
    """What the guard judges: the request, the answer alone, or the answer given its request. Every exchange of a row is judged."""
    threshold: keys.Threshold = "strict"
    """Probability from which a row is unsafe: the guard's own `strict` or `loose`, or a number. `strict` finds more harmful rows and loses more harmless ones."""
    calibration: str = ""
    """File that `fedrai guard calibrate` wrote for this guard; it sets `strict` and `loose`. Empty: the guard's own."""
    unscored: Literal["drop", "keep"] = "drop"
    """What happens to rows that the guard could not judge. `drop`: an unjudged row is not known to be safe."""
    on_guard_failure: Literal["stop", "continue"] = "stop"
    """If the guard fails: `stop` the client, or `continue` without a filter, which the run records."""
    refusals: str = ""
    """`replace`: a TOML file of refusals by category. Empty: the embedded ones."""
    count_epsilon: float = Field(0.0, ge=0)
    """Noise on the counts that are sent to the server: epsilon of differential privacy for each count. 0: exact counts."""

    @model_validator(mode="after")
    def _keys_fit(self) -> Filter:
        if self.guard == LABELS and self.calibration:
            raise ValueError('guard = "labels" is exact: it takes no calibration')
        if 0 < self.count_epsilon < LEAST_EPSILON:
            raise ValueError(f"count_epsilon must be 0 or at least {LEAST_EPSILON:.1e}")
        return self


class Generative(KindSection):
    """A guard that is a language model with a policy and labels."""

    kind: Literal["generative"]
    """One forward pass for each row; docs/guards.md lists the formats."""
    model: str
    """Folder, hub id or asset."""
    format: str = ""
    """Name of the format. Empty: derived from the owner and name of a hub model, or from a folder's name."""
    dtype: keys.DType = "auto"
    device: keys.Device = "auto"
    max_length: int = Field(4096, ge=64)
    """Longest prompt in tokens."""
    batch_tokens: int = Field(8192, ge=64)
    """Most tokens of a batch, with padding. Larger is faster and takes more memory."""


class Classifier(KindSection):
    """A guard that is a sequence classifier."""

    kind: Literal["classifier"]
    """Any sequence classifier of the hub."""
    model: str
    """Folder, hub id or asset."""
    unsafe_labels: list[str] = []
    """Labels that mean unsafe. Empty: recognised by their names."""
    pair: bool = False
    """Whether request and answer are given as two texts. Off: the last turn alone."""
    dtype: keys.DType = "auto"
    device: keys.Device = "auto"


class Endpoint(EndpointSection, KindSection):
    """A guard behind an OpenAI-style endpoint with logprobs, such as vLLM's."""

    kind: Literal["endpoint"]
    """Rows are sent to this address: check who operates it."""
    unsafe: list[str] = ["unsafe"]
    """Labels that mean unsafe."""
    safe: list[str] = ["safe"]
    """Labels that mean safe."""
    api: Literal["chat", "completions"] = "chat"
    """Which of the two APIs is called."""
    template: str = ""
    """The whole prompt as a text with `{request}` and `{answer}`, or `{conversation}`. Empty: the turns are sent as they are."""
    prefill: str = ""
    """Start of the reply that the guard continues."""
    lead: str = ""
    """What the guard writes before its label, such as `Safety:`."""
    categories: dict[str, str] = {}
    """The guard's category after an unsafe label, and the category to report for it."""
    revision: str = ""
    """Your name for this version of the guard. Verdicts are cached under it: change it when the guard changes."""


class Rules(KindSection):
    """Regular expressions and words of your own."""

    kind: Literal["rules"]
    """A match is unsafe, everything else is safe."""
    words: list[str] = []
    """Whole words or phrases, in any case."""
    file: str = ""
    """A file of rules in place of the other keys: a word or phrase a line, `re:` before a regular expression, `[category]` before its rules."""
    patterns: list[str] = []
    """Regular expressions."""
    categories: dict[str, list[str]] = {}
    """Regular expressions by hazard category."""


class CascadeGuard(KindSection):
    """A cheap guard first, a more expensive one where the first is not sure."""

    kind: Literal["cascade"]
    """Two guards by name."""
    first: str
    """Guard that judges every row."""
    second: str
    """Guard that judges the rows whose probability lies between `low` and `high`."""
    low: keys.Share = 0.1
    """Lower end of the first guard's uncertain range."""
    high: keys.Share = 0.9
    """Upper end of the first guard's uncertain range."""


class AnyOfGuards(KindSection):
    """Several guards; a row is unsafe if any of them finds it unsafe."""

    kind: Literal["any"]
    """Guards by name."""
    guards: list[str] = Field(min_length=1)
    """Names of the guards."""


class InstalledGuard(KindSection):
    """A guard of an installed package."""

    kind: Literal["plugin"]
    """See docs/extending.md. Without settings, a recipe may give the plugin's name in place of this table."""
    plugin: str
    """Its name among the entry points `fedrai.guards`."""
    settings: dict[str, Any] = {}
    """Arguments that it is called with."""


GuardTable = Annotated[
    Generative | Classifier | Endpoint | Rules | CascadeGuard | AnyOfGuards | InstalledGuard,
    Field(discriminator="kind"),
]
"""A guard in `[guards.NAME]`; `kind` decides which other keys there are."""

GUARD_KINDS: Mapping[str, type[Section]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model
    for model in (
        Generative,
        Classifier,
        Endpoint,
        Rules,
        CascadeGuard,
        AnyOfGuards,
        InstalledGuard,
    )
}
"""Kinds of guards by name, with the section that holds their settings."""


class GuardTraining(Section):
    """A recipe for `fedrai guard train`."""

    name: keys.Name = "guard"
    """Name of the guard."""
    seed: keys.Seed = 0
    base: str = "smollm2-135m-instruct"
    """Model whose layers are fine-tuned: a language model or an encoder, as folder, hub id or asset. The default fits a CPU."""
    layers: int = Field(0, ge=0)
    """How many of its layers are used, from the first; 0: all. Fewer are faster."""
    rank: keys.Rank = 8
    alpha: keys.Alpha = 16
    dropout: keys.Dropout = 0.0
    start: str = ""
    """Folder of a guard to continue from, with the same base, layers and rank; its frame and categories are kept. Empty: a fresh adapter."""
    frame: list[str] = []
    """Special tokens before the request, between request and answer, and after the answer. Empty: ChatML's or BERT's, whichever the tokenizer has."""
    max_length: int = Field(256, ge=32)
    """Longest text in tokens; longer ones are judged in windows of this length."""
    opening: int = Field(0, ge=0)
    """Tokens of an answer's beginning that are repeated in each later window of it, so that the rest of an answer that declines is read as that. If above 0, training uses any window of an answer, not the first one only."""
    rows: list[str] = []
    """Files of labelled rows: `prompt`, optionally `response`, `prompt_unsafe` and `unsafe` (0 to 1, the certainty), `category`."""
    prompt_label: str = "prompt_unsafe"
    """Column that says whether the request is unsafe."""
    pair_label: str = "unsafe"
    """Column that says whether the answer is unsafe; in rows without an answer, whether the request is."""
    held_out: float = Field(0.08, gt=0, lt=1)
    """Share of the requests, chosen by hash, that is not trained on; it calibrates and measures the guard."""
    development: list[str] = []
    """Files of labelled rows that calibrate and measure the guard in place of the held-out share; their requests are never trained on. Use rows of other sources than those of `rows`."""
    caps: dict[str, int] = {}
    """Most rows of a source, by the rows' `source` column."""
    weights: dict[str, float] = {}
    """Weight of a source in the loss; 1 for sources that are not listed."""
    epochs: float = Field(2.0, gt=0)
    """Passes over the rows."""
    batch_size: int = Field(32, ge=1)
    """Rows of an optimiser step."""
    micro_batch_tokens: keys.MicroBatchTokens = 2048
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate of AdamW, after a linear warm-up; then it follows a cosine to 0."""
    warmup_steps: int = Field(30, ge=0)
    """Steps over which the learning rate rises from 0."""
    weight_decay: keys.WeightDecay = 0.01
    clip_norm: keys.ClipNorm = 1.0
    category_weight: float = Field(0.1, ge=0)
    """Weight of the categories in the loss. Low, so that the verdict dominates."""
    strict_fpr: float = Field(0.05, gt=0, lt=1)
    """False positive rate on held-out safe rows that sets the `strict` threshold."""
    pair_fpr: float = Field(0.0, ge=0, lt=1)
    """False positive rate on held-out safe answers at the strict threshold; 0: as `strict_fpr`."""
    loose_fpr: float = Field(0.01, gt=0, lt=1)
    """False positive rate on held-out safe rows that sets the `loose` threshold."""
    threshold_sources: list[str] = []
    """Sources of the held-out safe rows whose false alarms set the thresholds; the others are only measured. Empty: all."""
    dtype: keys.DType = "auto"
    device: keys.Device = "auto"
