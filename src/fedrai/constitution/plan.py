"""What one round's alignment is told: its settings, what it works with, and whom it tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fedrai.constitution.critics import CriticModel
from fedrai.constitution.document import Constitution
from fedrai.constitution.gathering import RequestSets
from fedrai.constitution.records import Request, RevisionRecord
from fedrai.constitution.requests import sample
from fedrai.constitution.revising import Settings
from fedrai.constitution.schedule import Bounds, Schedule
from fedrai.constitution.verifying import Checks
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.alignment import Goal

Tell = Callable[..., None]
"""Hears of what happens: a kind of event and its fields; may raise to stop."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to align; the fields are those of the recipe's `[constitution]`."""

    schedule: Schedule
    every: int
    anchor: float
    steps: int
    rows: int
    pairs: int
    refusals: float
    look_alikes: float
    harmless_pairs: float
    reference_share: float
    base_answers: bool
    objective: Goal
    learning_rate: float
    warmup_steps: int
    cooldown_steps: int
    weight_decay: float
    clip_norm: float
    micro_batch_tokens: int
    max_length: int
    probe_harmful: int
    probe_harmless: int
    probe_every: int
    bounds: Bounds
    early_stop: bool
    reuse: float
    seed: Callable[[str, int], int] = field(repr=False)


@dataclass(frozen=True, slots=True)
class PhaseTools:
    """What it works with.

    Attributes:
        model: the base model; its adapter is overwritten.
        constitution: principles and demonstrations.
        critic: criticises and revises.
        checks: what a revision must pass.
        harmless_threshold: probability from which an answer to a harmless request is unsafe.
        settings: of critique and revision.
        gathered: the requests, without those of evaluations.
        pool: those whose answers are revised: red-team requests, or harmless ones (the control).
        examples: requests with answers that are trained on as revisions are.
        start: adapter that the run started from, whose answers anchor the probe; None: a fresh one.
        tell: hears of progress.
    """

    model: LanguageModel
    constitution: Constitution
    critic: CriticModel
    checks: Checks
    harmless_threshold: float
    settings: Settings
    gathered: RequestSets
    pool: Sequence[Request]
    examples: Sequence[RevisionRecord]
    start: AdapterState | None
    tell: Tell


def requests_for(
    plan: Plan, number: int, pool: Sequence[Request], others: Sequence[Request]
) -> tuple[Sequence[Request], Sequence[Request]]:
    """The requests of a round: all of them for an epoch, else as many as its steps draw.

    Args:
        plan: how to align.
        number: of the round.
        pool: requests whose answers are revised.
        others: harmless requests.
    """
    if plan.schedule == "full":
        return pool, others
    seed = plan.seed("constitution-requests", number)
    harmful = plan.refusals * plan.rows + (1 - plan.harmless_pairs) * plan.pairs
    harmless = (1 - plan.refusals) * plan.rows + plan.harmless_pairs * plan.pairs
    counts = (math.ceil(plan.steps * n) for n in (harmful, harmless))
    sides = zip((pool, others), counts, strict=True)
    drawn = [sample(side, count, seed) if count else [] for side, count in sides]
    return drawn[0], drawn[1]


def probe_requests(plan: Plan, tools: PhaseTools) -> tuple[Sequence[Request], Sequence[Request]]:
    """The same few dozen requests in every round: those held back, else some of the others."""
    seed, (held, apart) = plan.seed("constitution-probe", 0), tools.gathered.held
    harmful = held or tools.gathered.harmful or [record.request for record in tools.examples]
    return (
        sample(harmful, plan.probe_harmful, seed),
        sample(apart or tools.gathered.harmless, plan.probe_harmless, seed),
    )
