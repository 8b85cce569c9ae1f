"""The section of an evaluation: what is asked, and who judges the answers."""

from __future__ import annotations

import difflib
from typing import Literal

from pydantic import Field, field_validator, model_validator

from fedrai import plugins
from fedrai.recipe.base import Section, strict_or_number
from fedrai.recipe.sources import Source

BUILT_IN_JUDGES = ("rule", "legacy", "guard", "rubric")
JUDGE_PLUGINS: plugins.Group = "fedrai.judges"


class JudgeEndpoint(Section):
    """The LLM that rates answers, behind an OpenAI-style endpoint for chat completions."""

    url: str
    """Base address, such as `http://localhost:8000/v1`."""
    model: str
    """Its name there."""
    api_key_env: str = ""
    """Environment variable with the key; empty for none."""
    concurrency: int = Field(8, ge=1)
    """Requests under way at once."""
    retries: int = Field(4, ge=0)
    """How often a request is tried again."""
    timeout: float = Field(120.0, gt=0)
    """Seconds for one try."""
    max_tokens: int = Field(2048, ge=1)
    """Longest reply in tokens."""
    allow_plain_http: bool = False
    """Whether questions and answers may travel in clear to another machine."""
    prompts: str = ""
    """MT-Bench's own `judge_prompts.jsonl`, for ratings that stand beside published ones; empty: our words for the same protocol."""
    template: str = ""
    """Text of StrongREJECT's rubric with `{forbidden_prompt}` and `{response}`; empty: our words for it."""


class Evaluation(Section):
    """What is measured before round 1, every n rounds, and at the end."""

    every: int = Field(0, ge=0)
    """Evaluate after every n-th round; 0: only before the first and after the last."""
    advbench: int = Field(100, ge=0, le=520)
    """How many of AdvBench's 520 requests (a seeded sample); 0: none."""
    ordinary: int = Field(50, ge=0)
    """How many ordinary instructions are asked, to count needless refusals; 0: none, and no held-out loss."""
    ordinary_source: Source = Source(path="fedrai:ordinary-held-out")
    """Instructions that nobody trains on: their prompts are asked, their answers give the held-out loss."""
    suites: list[str] = []
    """Further suites: names from `fedrai suites list`, `xstest` for both of its sides, `NAME=PATH`, or files of your own. One that cannot be had is "not available"."""
    paths: dict[str, str] = {}
    """Where suites of these names lie: a file or a folder of yours in place of their sources, such as `xstest = "data/xstest"`."""
    limit: int = Field(0, ge=0)
    """How many items of each suite of `suites` (a seeded sample); 0: all."""
    judges: list[str] = ["rule", "legacy"]
    """Who judges answers: `rule` (our refusal rule), `legacy` (the legacy keyword score), `guard`, `rubric` (an LLM: MT-Bench, StrongREJECT), or a judge of an installed package."""
    guard: str = "embedded"
    """For the judge `guard`: a name from `fedrai guard list` or `[guards]`, a folder that `fedrai guard train` made, or a hub id."""
    guard_threshold: Literal["strict", "loose"] | float = "strict"
    """Probability from which the guard holds an answer to be unsafe: its own `strict` or `loose`, or a number."""
    endpoint: JudgeEndpoint | None = None
    """For the judge `rubric`: the LLM that rates."""
    max_new_tokens: int = Field(48, ge=1)
    """Longest answer in tokens."""
    rated_tokens: int = Field(512, ge=1)
    """Longest answer that is rated (MT-Bench): a short one would be rated for where it was cut."""
    batch_size: int = Field(64, ge=1)
    """Prompts that are answered at once. More is faster (on CPUs too) and takes more memory."""
    temperature: float = Field(0.0, ge=0)
    """0: greedy. Above: sampled, seeded by row, so answers do not depend on the batch."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of the sampling."""

    _threshold_is_a_probability = field_validator("guard_threshold", mode="before")(
        strict_or_number
    )

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
            raise ValueError("judges names one of them twice")
        return self
