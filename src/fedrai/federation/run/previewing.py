"""A preview of an alignment, without loading a model."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from fedrai import assets, data
from fedrai.constitution import load as load_constitution
from fedrai.constitution.gathering import estimate
from fedrai.constitution.mixture import epoch_steps
from fedrai.constitution.tools import mining_pools, round_requests
from fedrai.evaluation import suites
from fedrai.federation.run import aligning
from fedrai.federation.run.judging import select_suites
from fedrai.federation.run.preparation import excluded_suites
from fedrai.recipe.sections import Recipe


def preview(recipe: Recipe) -> dict[str, Any]:
    """The requests and estimated cost of the alignment of round 1: counts, no text.

    Steps of an epoch assume a revision for every request. With mining, which requests fail is not
    known without the model; the others then take the place of some that are counted here.

    Raises:
        ConstitutionError, DataError, AssetError: something cannot be read.
    """
    section, mix = recipe.constitution, recipe.constitution.mix
    constitution = load_constitution(section.file)
    progress = assets.RichProgress()
    named = select_suites(recipe, progress).suites  # fetches them
    here = suites.prompts_of(recipe.evaluation.paths, excluded_suites(recipe))
    asked_suites = aligning.suites_for(_ordinary(recipe), named, here)
    requests = aligning.gather_requests(recipe, asked_suites, progress)
    examples = len(aligning.examples_for(recipe, asked_suites, progress))
    pool = aligning.pool_for(section, requests)
    harmful, harmless = round_requests(recipe, 1, pool, requests.harmless)
    pools = mining_pools(recipe, 1, requests, (len(harmful), len(harmless)))
    harmful, harmless = (
        side[: len(pool)] if pool else side
        for side, pool in zip((harmful, harmless), pools, strict=True)
    )
    drawn = replace(requests, harmful=tuple(harmful), harmless=tuple(harmless))
    epoch = section.schedule == "full" and mix.rows * mix.refusals
    steps = epoch_steps(mix, len(harmful), examples) if epoch else section.steps
    rows = steps * (mix.rows + 2 * mix.pairs)
    mined = (*pools[0], *pools[1])
    tokens = estimate(drawn, constitution, section.revising, rows, mined)
    rules = {key: getattr(constitution, key) for key in ("name", "version", "hash")}
    return {
        "model": recipe.model.base,
        "constitution": rules,
        **drawn.to_json(),
        "mined_from": [len(pool) for pool in pools],
        "examples": examples,
        "steps": steps,
        "tokens": asdict(tokens),
    }


def _ordinary(recipe: Recipe) -> list[suites.Item]:
    """The ordinary instructions of the recipe's evaluations."""
    section = recipe.evaluation
    if not section.ordinary:
        return []
    held_out = data.load(section.ordinary_source, "skip").examples
    return suites.ordinary(held_out, section.ordinary, recipe.seed_for("suites"))
