"""The section of an evaluation: which prompts are asked and who judges the answers."""

from __future__ import annotations

import difflib

from pydantic import Field, field_validator, model_validator

from fedrai import plugins
from fedrai.recipe import keys
from fedrai.recipe.base import EndpointSection, Section
from fedrai.recipe.sources import Source

BUILT_IN_JUDGES = ("rule", "legacy", "guard", "rubric")
JUDGE_PLUGINS: plugins.Group = "fedrai.judges"


class JudgeEndpoint(EndpointSection):
    """The LLM that rates answers, behind an OpenAI-style endpoint for chat completions."""

    concurrency: int = Field(8, ge=1)
    """Requests in progress at once."""
    timeout: float = Field(120.0, gt=0)
    """Seconds for one try. Long, since a rating gives reasons first."""
    max_tokens: int = Field(2048, ge=1)
    """Longest reply in tokens, reasons included."""
    prompts: str = ""
    """MT-Bench's own `judge_prompts.jsonl`, for ratings comparable with published ones. Empty: our wording of the same protocol."""
    template: str = ""
    """Text of StrongREJECT's rubric with `{forbidden_prompt}` and `{response}`. Empty: our wording of it."""


class Evaluation(Section):
    """What is measured before the first round, every n rounds, and after the last."""

    added_keys = ("outside", "outside_sets", "batch_tokens", "pairs", "pair_source")

    every: int = Field(0, ge=0)
    """Evaluate after every n-th round; 0: only before the first and after the last, which is cheapest."""
    advbench: int = Field(100, ge=0, le=520)
    """How many of AdvBench's 520 requests are asked (a seeded sample); 0: none. More narrow the interval and take longer."""
    ordinary: int = Field(50, ge=0)
    """How many ordinary instructions are asked, to count needless refusals; 0: none, and no held-out loss."""
    ordinary_source: Source = Source(path="fedrai:ordinary-held-out")
    """Instructions that no client trains on: their prompts are asked, their answers give the held-out loss."""
    pairs: int = Field(200, ge=1)
    """How many held-out preference pairs are compared, a seeded sample; needs `pair_source`."""
    pair_source: Source | None = None
    """Preference pairs that no client trains on: how often the model finds the chosen answer likelier than the rejected one, and how often it has moved that way from the base model. Unset: none are compared."""
    outside: int = Field(0, ge=0)
    """Items of each outside set (a seeded sample); 0: none are asked. Outside sets neither trained nor chose anything, so only they prove something; 50 items of each take about as long as 600 of AdvBench."""
    outside_sets: list[str] = []
    """Outside sets beside those that pip can fetch: `NAME=PATH` of a set of `fedrai suites list --outside`, or a file of your own with a column `label`."""
    suites: list[str] = []
    """Further suites: names from `fedrai suites list`, `xstest` for both of its sides, `NAME=PATH`, or your own files. A suite that cannot be fetched is reported as "not available"."""
    paths: dict[str, str] = {}
    """Local files or folders of suites, by suite name, in place of their sources: `xstest = "data/xstest"`."""
    limit: int = Field(0, ge=0)
    """Items of each suite of `suites` (a seeded sample); 0: all."""
    judges: list[str] = ["rule", "legacy"]
    """Who judges answers: `rule` (the refusal rule), `legacy` (OpenFedLLM's keyword score), `guard`, `rubric` (an LLM: MT-Bench, StrongREJECT), or a judge of an installed package. The defaults need no model."""
    guard: str = "embedded"
    """For the judge `guard`: a name from `fedrai guard list` or `[guards]`, a folder that `fedrai guard train` wrote, or a hub id."""
    guard_threshold: keys.Threshold = "strict"
    """For the judge `guard`: probability from which an answer counts as unsafe. The guard's own `strict` or `loose`, or a number."""
    endpoint: JudgeEndpoint | None = None
    """For the judge `rubric`: the LLM that rates."""
    max_new_tokens: int = Field(48, ge=1)
    """Longest answer in tokens. A refusal shows in the first sentence, so few are enough."""
    rated_tokens: int = Field(512, ge=1)
    """Longest answer in tokens where it is rated (MT-Bench): a truncated answer would be rated for its truncation."""
    batch_size: int = Field(64, ge=1)
    """Prompts answered at once. Larger is faster, on CPUs too, and takes more memory."""
    batch_tokens: int = Field(0, ge=0)
    """Most tokens of a batch of prompts where outside sets are answered together, padding included: faster where each has few items, and 4096 fits most machines. Greedy answers stay the same up to rounding, which can decide near-ties. 0: set by set."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature. 0: greedy, so repeatable. Above 0: sampled with a seed for each row, so an answer does not depend on its batch."""
    top_p: keys.TopP = 1.0

    @field_validator("judges")
    @classmethod
    def _judges_exist(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in BUILT_IN_JUDGES and name not in plugins.names(JUDGE_PLUGINS):
                available = [*BUILT_IN_JUDGES, *plugins.names(JUDGE_PLUGINS)]
                near = difflib.get_close_matches(name, available, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(available)}"
                raise ValueError(f"there is no judge {name[:60]!r} ({hint})")
        return names

    @model_validator(mode="after")
    def _judges_fit(self) -> Evaluation:
        if "rubric" in self.judges and self.endpoint is None:
            raise ValueError('the judge "rubric" needs [evaluation.endpoint] with url and model')
        if len(set(self.judges)) != len(self.judges):
            raise ValueError("judges: a judge is listed twice")
        if self.ordinary_source.rows == "pairs":
            raise ValueError("ordinary_source holds answers; pairs belong to pair_source")
        if self.pair_source is not None and self.pair_source.rows != "pairs":
            raise ValueError('pair_source holds pairs: set rows = "pairs" on it')
        if self.outside_sets and not self.outside:
            raise ValueError("outside_sets needs outside, the number of items of each set")
        return self
