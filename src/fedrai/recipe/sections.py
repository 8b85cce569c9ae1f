"""The sections of a recipe: every key, its bounds and what it means.

`recipe/loading.py` reads and writes recipes; the reference in `docs/` is made from the docstrings here.
"""

from fedrai.recipe.alignment import Alignment
from fedrai.recipe.base import Section
from fedrai.recipe.evaluation import Evaluation, JudgeEndpoint
from fedrai.recipe.node import NAME_PATTERN, Node, NodePolicy
from fedrai.recipe.offer import Offer, OfferedModel
from fedrai.recipe.run import (
    ALGORITHMS,
    Data,
    Defence,
    FedAvg,
    FedOpt,
    FedProx,
    InstalledRule,
    Recipe,
    Robust,
    sections,
    seed_for,
)
from fedrai.recipe.safety import EMBEDDED, GUARD_KINDS, LABELS, Filter, GuardTable, GuardTraining
from fedrai.recipe.sources import Columns, Source
from fedrai.recipe.standalone import AlignRecipe

__all__ = [
    "ALGORITHMS",
    "EMBEDDED",
    "GUARD_KINDS",
    "LABELS",
    "NAME_PATTERN",
    "AlignRecipe",
    "Alignment",
    "Columns",
    "Data",
    "Defence",
    "Evaluation",
    "FedAvg",
    "FedOpt",
    "FedProx",
    "Filter",
    "GuardTable",
    "GuardTraining",
    "InstalledRule",
    "JudgeEndpoint",
    "Node",
    "NodePolicy",
    "Offer",
    "OfferedModel",
    "Recipe",
    "Robust",
    "Section",
    "Source",
    "sections",
    "seed_for",
]
