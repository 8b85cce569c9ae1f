"""The sections of a recipe, gathered from the modules of this package.

A key's bounds and meaning stand at its field; `docs/recipe.md` is generated from them.
"""

from fedrai.recipe.aggregation import (
    ALGORITHMS,
    FedAvg,
    FedOpt,
    FedProx,
    InstalledRule,
    QFedAvg,
    Robust,
    Scaffold,
)
from fedrai.recipe.alignment import Alignment
from fedrai.recipe.attack import Attack
from fedrai.recipe.base import Section, sections
from fedrai.recipe.data import Data
from fedrai.recipe.defence import Defence
from fedrai.recipe.evaluation import Evaluation, JudgeEndpoint
from fedrai.recipe.node import NAME_PATTERN, Node, NodePolicy
from fedrai.recipe.offer import Offer, OfferedModel
from fedrai.recipe.privacy import Privacy
from fedrai.recipe.release import Release
from fedrai.recipe.run import Recipe, seed_for
from fedrai.recipe.safety import EMBEDDED, GUARD_KINDS, LABELS, Filter, GuardTable, GuardTraining
from fedrai.recipe.sources import Columns, Source
from fedrai.recipe.standalone import AlignRecipe
from fedrai.recipe.vetting import Vetting

__all__ = [
    "ALGORITHMS",
    "EMBEDDED",
    "GUARD_KINDS",
    "LABELS",
    "NAME_PATTERN",
    "AlignRecipe",
    "Alignment",
    "Attack",
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
    "Privacy",
    "QFedAvg",
    "Recipe",
    "Release",
    "Robust",
    "Scaffold",
    "Section",
    "Source",
    "Vetting",
    "sections",
    "seed_for",
]
