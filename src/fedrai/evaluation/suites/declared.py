"""The suites known by name: the source of each, and how it is asked, judged and read.

Sources are catalogue assets (in wheels, available wherever pip works), hub files and URLs, each
pinned by its SHA-256. A file of the user's own replaces them: `NAME=PATH`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from fedrai import assets

Form = Literal["request", "dialogue"]
Judge = Literal["refusal", "preference", "rating", "strongreject"]
Metric = Literal["refused", "accuracy", "score", "harm"]
Direction = Literal["up", "down", "none"]

ADVBENCH = "advbench"
ADVBENCH_SIZE = 520

_GITHUB = "https://raw.githubusercontent.com"
_XSTEST = "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d"
_HHH = "dcfb44272d5d0414832f5dbb8c2a05ebc2614234"
_MT_BENCH = "0e6d3e4beaab66f4d3f93db72541a4abab8af28d"
_JAILBREAKBENCH = "886acc352a31533ffbcf4ef22c744658688086fc"


@dataclass(frozen=True, slots=True)
class Declaration:
    """A suite before it is read.

    Attributes:
        name: its name in recipes and commands.
        title: the name in the literature.
        what: one line for a listing.
        paper: its publication; empty for a suite of the user's own.
        home: its web page, to download a suite without a pinned source.
        source: spec for `assets.fetch`, with its checksum; empty: only from the user's path.
        commit: commit of the source; empty where `source` names its version itself.
        licence: SPDX name of the data's licence.
        form: a request as one turn, or a dialogue with marked turns.
        judge: `refusal` (the refusal rule and the legacy list), `preference` (log-probabilities of
            two answers), `rating` (an LLM gives 1 to 10), `strongreject` (an LLM's rubric of
            refusal, specificity and convincingness).
        metric: its figure: share refused, share of pairs decided correctly, mean rating, mean harm
            (0 to 1).
        direction: whether higher or lower is better; "none" where the suite does not say.
        count: items of the whole suite; 0 for any number.
        where: column and value; only these rows are read, where the file has that column.
        companion: spec of a second file with reference answers; empty for none.
        companion_names: names of that file beside a file of the user's.
        file_names: names of the suite's file in a folder of the user's.
        manner: for a set of the outside ones (`split.toml`), how its requests are put; empty: it is
            none of them.
    """

    name: str
    title: str
    what: str
    licence: str
    judge: Judge
    metric: Metric
    direction: Direction
    count: int
    paper: str = ""
    home: str = ""
    source: str = ""
    commit: str = ""
    form: Form = "request"
    where: tuple[str, str] = ("", "")
    companion: str = ""
    companion_names: tuple[str, ...] = ()
    file_names: tuple[str, ...] = ()
    manner: str = ""

    @property
    def is_outside(self) -> bool:
        """Whether it is one of the outside sets, which neither trained nor chose anything."""
        return bool(self.manner)

    @property
    def sha256(self) -> str:
        """The source's pin in lower-case hex; empty where there is no source."""
        return assets.parse(self.source).sha256 if self.source else ""

    @property
    def revision(self) -> str:
        """Version, commit or hub revision of the source; empty where there is no source."""
        return self.commit or (assets.parse(self.source).revision if self.source else "")

    @property
    def origin(self) -> str:
        """The source without its checksum; empty where there is none."""
        return assets.parse(self.source).label if self.source else ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = ("name", "title", "what", "paper", "home", "licence", "form", "judge", "metric",
                 "direction", "count", "origin", "revision", "sha256")  # fmt: skip
        outside = {"manner": self.manner} if self.is_outside else {}
        return {name: getattr(self, name) for name in plain} | outside


def _xstest(label: str, what: str, direction: Direction, count: int) -> Declaration:
    return Declaration(
        name=f"xstest-{label}",
        title=f"XSTest, {label} prompts",
        what=what,
        paper="arXiv 2308.01263",
        home="https://github.com/paul-rottger/exaggerated-safety",
        source=f"{_GITHUB}/paul-rottger/exaggerated-safety/{_XSTEST}/xstest_prompts.csv"
        "#sha256=11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
        commit=_XSTEST,
        licence="CC-BY-4.0",
        judge="refusal",
        metric="refused",
        direction=direction,
        count=count,
        where=("label", label),
        file_names=("xstest_prompts.csv",),
    )


_REFUSED: Mapping[str, Any] = {"judge": "refusal", "metric": "refused", "direction": "up"}

_ENTRIES = (
    Declaration(
        name=ADVBENCH,
        title="AdvBench",
        what="harmful instructions",
        paper="arXiv 2307.15043",
        home="https://github.com/llm-attacks/llm-attacks",
        source="advbench",
        licence="MIT",
        count=ADVBENCH_SIZE,
        file_names=("harmful_behaviors.csv", "adv_bench.prompt"),
        **_REFUSED,
    ),
    Declaration(
        name="harmbench",
        title="HarmBench",
        what="harmful behaviours, the 200 standard ones (text, without context)",
        paper="arXiv 2402.04249",
        home="https://github.com/centerforaisafety/HarmBench",
        source="harmbench",
        licence="MIT",
        count=200,
        where=("functionalcategory", "standard"),
        file_names=("harmbench_behaviors_text_all.csv", "harmbench_prompts.txt"),
        **_REFUSED,
    ),
    Declaration(
        name="do-not-answer",
        title="Do-Not-Answer",
        what="questions that a responsible model should decline",
        paper="arXiv 2308.13387",
        home="https://github.com/Libr-AI/do-not-answer",
        source="do-not-answer",
        licence="Apache-2.0",
        count=939,
        **_REFUSED,
    ),
    Declaration(
        name="strongreject",
        title="StrongREJECT",
        what="forbidden prompts that have a specific answer to grade",
        paper="arXiv 2402.10260",
        home="https://github.com/alexandrasouly/strongreject",
        licence="MIT",
        judge="strongreject",
        metric="harm",
        direction="down",
        count=313,
        file_names=("strongreject_dataset.csv",),
    ),
    Declaration(
        name="jailbreakbench",
        title="JailbreakBench",
        what="misuse behaviours, ten of each of ten kinds",
        paper="arXiv 2404.01318",
        home="https://github.com/JailbreakBench/jailbreakbench",
        source=f"hf:datasets/JailbreakBench/JBB-Behaviors@{_JAILBREAKBENCH}/data/"
        "harmful-behaviors.csv"
        "#sha256=4a8ec6832056b631eb092dccc60d37a61c3d441268268888b3d006288afeffa1",
        licence="MIT",
        count=100,
        file_names=("harmful-behaviors.csv",),
        **_REFUSED,
    ),
    _xstest("safe", "harmless prompts that look harmful: over-refusal", "down", 250),
    _xstest("unsafe", "harmful prompts that contrast with them", "up", 200),
    Declaration(
        name="hhh",
        title="HHH alignment",
        what="pairs of answers: helpful, honest, harmless, other",
        paper="arXiv 2112.00861",
        home="https://github.com/google/BIG-bench/tree/main/bigbench/benchmark_tasks/hhh_alignment",
        source=f"{_GITHUB}/prometheus-eval/prometheus-eval/{_HHH}/eval/benchmark/data/"
        "hhh_alignment_eval.json"
        "#sha256=fe6655dfeec99d04d582692767c736f2385b5e067f0b894d1b73a32af7be9c9e",
        commit=_HHH,
        licence="Apache-2.0",
        form="dialogue",
        judge="preference",
        metric="accuracy",
        direction="up",
        count=221,
        file_names=("hhh_alignment_eval.json", "hhh_alignment_pairs.jsonl"),
    ),
    Declaration(
        name="mt-bench",
        title="MT-Bench, first turns",
        what="open questions of eight kinds, rated by an LLM",
        paper="arXiv 2306.05685",
        home="https://github.com/lm-sys/FastChat/tree/main/fastchat/llm_judge",
        source=f"{_GITHUB}/lm-sys/FastChat/{_MT_BENCH}/fastchat/llm_judge/data/mt_bench/"
        "question.jsonl"
        "#sha256=119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
        companion=f"{_GITHUB}/lm-sys/FastChat/{_MT_BENCH}/fastchat/llm_judge/data/mt_bench/"
        "reference_answer/gpt-4.jsonl"
        "#sha256=f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
        companion_names=("reference_answer_gpt-4.jsonl", "reference_answer/gpt-4.jsonl"),
        commit=_MT_BENCH,
        licence="Apache-2.0",
        judge="rating",
        metric="score",
        direction="up",
        count=80,
        file_names=("question.jsonl",),
    ),
)

_KNOWN: Mapping[str, Declaration] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def declared_suites() -> Mapping[str, Declaration]:
    """Every declared suite by its name, in the order of a listing."""
    return _KNOWN
