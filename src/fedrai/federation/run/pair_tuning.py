"""The preference tuning of a recipe's clients, and the steps of both trainings together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedrai.federation.run.preparation import local_steps, sft_settings
from fedrai.model import AdapterState
from fedrai.recipe.alignment import Objective
from fedrai.recipe.sections import Recipe
from fedrai.records import TrainingRow
from fedrai.training.local import split
from fedrai.training.pair_settings import PairSettings
from fedrai.training.sft import SftSettings, learning_rates


def pair_settings(recipe: Recipe, start: AdapterState | None, pairs: int) -> PairSettings:
    """The preference tuning of a client with so many pairs, as the recipe sets it.

    Args:
        recipe: the recipe.
        start: the adapter that the run started from; None: it has none.
        pairs: number of pairs.
    """
    training = recipe.training
    section, steps = training.dpo, local_steps(recipe, pairs, training.dpo.local_steps)
    return PairSettings(
        steps=steps,
        learning_rate=learning_rates(
            section.learning_rate or training.learning_rate,
            schedule=training.schedule,
            warmup_steps=training.warmup_steps,
            total_steps=recipe.federation.rounds * steps,
        ),
        objective=Objective(
            sft=0, preference=1, beta=section.beta, kind=section.kind, smoothing=section.smoothing
        ),
        from_start=section.reference == "start",
        start=start,
    )


def steps_of(recipe: Recipe, rows: Sequence[TrainingRow]) -> int:
    """Optimiser steps of a client in a round, on answers and on pairs; 0 without rows."""
    answers, pairs = split(rows)
    steps = local_steps(recipe, len(answers)) if answers else 0
    return steps + (pair_settings(recipe, None, len(pairs)).steps if pairs else 0)


def rate_sum(recipe: Recipe, number: int, rows: int) -> float:
    """The learning rates of all steps of a client with so many rows in a round (from 1), summed.

    Only for recipes whose clients have rows of one kind.
    """
    settings: SftSettings | PairSettings
    if recipe.training.method == "sft":
        settings = sft_settings(recipe, rows)
    else:
        settings = pair_settings(recipe, None, rows)
    return replace(settings, first_step=(number - 1) * settings.steps).rate_sum
