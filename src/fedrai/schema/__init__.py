"""The sections of a recipe: every key, its bounds and what it means.

`recipe.py` reads and writes recipes; the reference in `docs/` is made from the docstrings here.
"""

from fedrai.schema.alignment import Alignment
from fedrai.schema.base import Section
from fedrai.schema.evaluation import Evaluation, JudgeEndpoint
from fedrai.schema.node import NAME_PATTERN, Node, NodePolicy
from fedrai.schema.offer import Offer, OfferedModel
from fedrai.schema.run import (
    ALGORITHMS,
    Data,
    FedAvg,
    FedOpt,
    FedProx,
    Recipe,
    Robust,
    sections,
    seed_for,
)
from fedrai.schema.safety import EMBEDDED, GUARD_KINDS, LABELS, Filter, GuardTable, GuardTraining
from fedrai.schema.sources import Columns, Source
from fedrai.schema.standalone import AlignRecipe

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
    "Evaluation",
    "FedAvg",
    "FedOpt",
    "FedProx",
    "Filter",
    "GuardTable",
    "GuardTraining",
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
