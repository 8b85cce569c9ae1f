"""The objects that an alignment works with, and the requests that it takes in a round."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedrai.constitution.critics import CriticModel
from fedrai.constitution.document import Constitution
from fedrai.constitution.gathering import RequestSets
from fedrai.constitution.records import Request, RevisionRecord
from fedrai.constitution.requests import sample
from fedrai.constitution.verifying import Checks
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe.sections import Alignment, Recipe

OnEvent = Callable[..., None]
"""Called with a kind of event and its fields; may raise to stop."""


@dataclass(frozen=True, slots=True)
class PhaseTools:
    """The objects that an alignment works with.

    Attributes:
        model: the base model; its adapter is overwritten.
        constitution: principles and demonstrations.
        critic: criticises and revises.
        checks: what a revision must pass.
        harmless_threshold: probability from which an answer to a harmless request is unsafe.
        requests: the requests, without those of evaluations.
        pool: those whose answers are revised: red-team requests, or harmless ones (the control).
        examples: requests with answers that are trained on as revisions are.
        start: adapter that the run started from, whose answers anchor the probe; None: a fresh one.
        on_event: called with progress.
    """

    model: LanguageModel
    constitution: Constitution
    critic: CriticModel
    checks: Checks
    harmless_threshold: float
    requests: RequestSets
    pool: Sequence[Request]
    examples: Sequence[RevisionRecord]
    start: AdapterState | None
    on_event: OnEvent


def round_requests(
    recipe: Recipe, number: int, pool: Sequence[Request], harmless: Sequence[Request]
) -> tuple[Sequence[Request], Sequence[Request]]:
    """The requests of a round: all of them for an epoch, else as many as its steps draw.

    Args:
        recipe: the run's recipe.
        number: round number, from 1.
        pool: requests whose answers are revised.
        harmless: harmless requests.
    """
    if recipe.constitution.schedule == "full":
        return pool, harmless
    seed = recipe.seed_for("constitution-requests", number)
    sides = zip((pool, harmless), _draws(recipe.constitution), strict=True)
    samples = [sample(side, count, seed) if count else [] for side, count in sides]
    return samples[0], samples[1]


def _draws(section: Alignment) -> tuple[int, int]:
    """How many revised and harmless requests the steps draw."""
    mix, share = section.mix, section.harmless_pairs
    drawn = (
        mix.refusals * mix.rows + (1 - share) * mix.pairs,
        (1 - mix.refusals) * mix.rows + share * mix.pairs,
    )
    harmful, harmless = (math.ceil(section.steps * each) for each in drawn)
    return harmful, harmless


def mining_pools(
    recipe: Recipe, number: int, requests: RequestSets, counts: tuple[int, int]
) -> tuple[list[Request], list[Request]]:
    """The harmful and harmless requests that are asked in a round, to find those that fail.

    A side of which the round takes none has none, nor has the harmful one in the control, whose
    revisions are of ordinary requests.

    Args:
        recipe: the run's recipe.
        number: round number, from 1, which decides the draw.
        requests: holds the candidates.
        counts: revised and harmless requests that the round takes.
    """
    section = recipe.constitution
    control = section.style == "benign"
    seed = recipe.seed_for("constitution-mining", number)
    taken = (0 if control else counts[0], counts[1])
    harmful, harmless = (
        sample(side, section.mined_from, seed) if section.mined_from and count else []
        for side, count in zip(requests.candidates, taken, strict=True)
    )
    return harmful, harmless


def probe_requests(
    recipe: Recipe, tools: PhaseTools
) -> tuple[Sequence[Request], Sequence[Request]]:
    """The same few dozen requests in every round: those held out, else some of the others."""
    seed, probe = recipe.seed_for("constitution-probe"), recipe.constitution.probe
    held_harmful, held_harmless = tools.requests.held_out
    harmful = held_harmful or tools.requests.harmful or [one.request for one in tools.examples]
    return (
        sample(harmful, probe.harmful, seed),
        sample(held_harmless or tools.requests.harmless, probe.harmless, seed),
    )
