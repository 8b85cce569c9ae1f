"""Preference tuning on clients: the section `[training.dpo]`, and what it combines with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from fedrai.recipe.attack import Attack
from fedrai.recipe.base import Section
from fedrai.recipe.defence import Defence
from fedrai.recipe.sources import RowKind, Source
from fedrai.recipe.vetting import Vetting

Method = Literal["sft", "dpo", "sft+dpo"]
KINDS: dict[Method, tuple[RowKind, ...]] = {
    "sft": ("answers",),
    "dpo": ("pairs",),
    "sft+dpo": ("answers", "pairs"),
}
"""Kinds of rows that each method trains on."""


class Dpo(Section):
    """Direct preference optimisation on a client's pairs (arXiv 2305.18290)."""

    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference; 0.1 as in most DPO work. Smaller lets the model move further."""
    reference: Literal["round", "start"] = "round"
    """The model that the pull is towards. `round`: the global adapter that the round begins with, so that it moves with the run. `start`: the adapter that the run began with (`adapter.start`, or the base model), so that all rounds together stay near it."""
    learning_rate: float = Field(0, ge=0)
    """Peak learning rate of AdamW, with `training.schedule` and `warmup_steps`; 0: `training.learning_rate`."""
    local_steps: int = Field(0, ge=0)
    """Optimiser steps of a client in a round, of `training.batch_size` pairs; 0: as many as `training.local_steps`. `training.local_epochs` counts passes over the pairs instead."""
    kind: Literal["sigmoid", "ipo", "robust"] = "sigmoid"
    """The loss: DPO, IPO (arXiv 2310.12036; mean per token, so that length does not count) or robust DPO (arXiv 2403.00409)."""
    smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability that a pair has its sides swapped (conservative or robust DPO). 0: pairs are trusted."""

    @model_validator(mode="after")
    def _loss_exists(self) -> Dpo:
        if self.kind == "ipo" and self.smoothing:
            raise ValueError(f"dpo: ipo has no smoothing, got {self.smoothing}")
        return self


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of a recipe a method must fit.

    Attributes:
        sources: those of the clients' rows.
        files: whether each client has a file of its own.
        rule: `aggregation.algorithm`.
        defence: the section.
        vetting: the section.
        attack: the section.
    """

    sources: Sequence[Source]
    files: bool
    rule: str
    defence: Defence
    vetting: Vetting
    attack: Attack


def problem(method: Method, parts: Surroundings) -> str:
    """Why a recipe cannot have this `training.method`; empty: it can."""
    return _sources_problem(method, parts) or (
        "" if method == "sft" else _rest_problem(method, parts)
    )


def _sources_problem(method: Method, parts: Surroundings) -> str:
    """Whether sources hold what the method trains on."""
    kinds, sources = KINDS[method], parts.sources
    if parts.files and len(kinds) > 1:
        return (
            'training.method = "sft+dpo": with partition.scheme = "files" all files are read alike,'
            " so that they hold either answers or pairs"
        )
    if wrong := next((source for source in sources if source.rows not in kinds), None):
        return _wrong_kind(wrong, method)
    if method == "sft":
        return ""
    held = {source.rows for source in sources if parts.files or not source.harmful}
    if missing := [kind for kind in kinds if kind not in held]:
        return f'training.method = "{method}" needs a source with rows = "{missing[0]}"'
    return ""


def _wrong_kind(source: Source, method: Method) -> str:
    if source.rows == "pairs":
        return (
            f'data.sources: {source.label} holds pairs (rows = "pairs"), which training.method ='
            ' "sft" does not train on; set it to "dpo" or "sft+dpo", or leave rows out, so that the'
            " chosen answers are trained on"
        )
    return (
        f'data.sources: {source.label} holds answers, which training.method = "{method}" does not'
        ' train on; if its rows have two answers each, set rows = "pairs" on it; else set'
        ' training.method = "sft+dpo", or leave the source out'
    )


def _rest_problem(method: Method, parts: Surroundings) -> str:
    if names := parts.defence.on_clients:
        return (
            f"defence.method: {names[0]} changes the cross-entropy training of answers, and"
            f' training.method = "{method}" trains on pairs, which it would leave undefended'
        )
    if parts.rule == "qfedavg":
        return (
            'aggregation.algorithm = "qfedavg" weighs clients by the loss of their first batch of'
            " answers; that of pairs begins at the same value (log 2) on every client"
        )
    if parts.rule == "scaffold" and method == "sft+dpo":
        return (
            'aggregation.algorithm = "scaffold": the server follows a client\'s variate by the'
            " learning rates of its steps, which it cannot tell where they depend on how many"
            ' answers and pairs a client holds; use training.method = "dpo" or "sft"'
        )
    if parts.vetting.action != "off" and "linear" in parts.vetting.scores:
        return (
            "vetting.scores: linear compares updates with those of shadow clients, which are"
            f' trained on answers, not as training.method = "{method}" trains clients'
        )
    if parts.attack.has_trigger:
        return (
            'attack.kind = "backdoor" makes rows of requests and answers; there is no such attack'
            f' with training.method = "{method}"'
        )
    return ""
