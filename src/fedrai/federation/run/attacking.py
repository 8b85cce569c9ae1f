"""The rows of a run's malicious clients, as `[attack]` asks for them.

Honest clients keep the rows that they have without an attack. A malicious client gets as many rows
of the harmful sources as it holds rows: shuffled and dealt, from the start again where there are
too few.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from fedrai.data import partition
from fedrai.federation import attacks
from fedrai.federation.attacks.acting import Malicious, choose
from fedrai.federation.attacks.base import Holdings
from fedrai.federation.run.rows import usable_rows
from fedrai.federation.run.tokenizing import tokenized
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.records import Example, TrainingRow

Shards = Mapping[str, Sequence[Example]]


def malicious_of(
    recipe: Recipe,
    lm: LanguageModel,
    shards: Shards,
    honest_rows: Mapping[str, Sequence[TrainingRow]],
    tokens: dict[Example, TrainingRow],
) -> Malicious | None:
    """The malicious clients of a recipe; None if it has none.

    Args:
        recipe: the recipe.
        lm: the model, for the tokens of harmful rows.
        shards: rows by client, before the filter.
        honest_rows: tokenized rows by client, after it.
        tokens: tokens of rows, which are added to.

    Raises:
        DataError: a harmful source cannot be used.
        DependencyError, FederationError: the attack's package cannot be used.
    """
    settings = recipe.attack
    if not settings.active:
        return None
    attack = attacks.build(settings)
    holding = [name for name, rows in shards.items() if rows]
    names = choose(holding, settings.count(len(shards)), recipe.seed)
    held = _holdings(recipe, {name: shards[name] for name in names}, _harmful(recipe, lm, tokens))
    chosen = {name: attack.rows(held[name]) for name in names}
    return Malicious(
        attack=attack,
        settings=settings,
        seed=recipe.seed,
        rows={name: _tokens(recipe, lm, rows, tokens) for name, rows in chosen.items()},
        honest_rows={name: honest_rows[name] for name in names},
        held={name: len(shards[name]) for name in names},
        harmful={name: sum(row.harmful for row in rows) for name, rows in chosen.items()},
    )


def _harmful(
    recipe: Recipe, lm: LanguageModel, tokens: dict[Example, TrainingRow]
) -> list[Example]:
    """The usable rows of all harmful sources, shuffled; none where the attack needs none."""
    if not recipe.attack.uses_harmful_rows:
        return []
    pool = [
        (usable_rows(source, recipe.data.on_bad_rows,
                     lambda part: tokenized(lm, part, recipe.data, tokens),
                     lambda _columns: None)[0], source.share)
        for source in recipe.data.sources if source.harmful
    ]  # fmt: skip
    return partition.mix(pool, 0, recipe.seed_for("attack-mixture"))


def _holdings(recipe: Recipe, shards: Shards, harmful: Sequence[Example]) -> dict[str, Holdings]:
    """What each malicious client can take its rows from."""
    endless = itertools.cycle(harmful)
    dealt = {name: list(itertools.islice(endless, len(rows))) for name, rows in shards.items()}
    pooled = list(dict.fromkeys(row for name in sorted(dealt) for row in dealt[name]))
    return {
        name: Holdings(rows, dealt[name], pooled, recipe.seed_for("attack-rows", 0, name))
        for name, rows in shards.items()
    }


def _tokens(
    recipe: Recipe, lm: LanguageModel, rows: Sequence[Example], tokens: dict[Example, TrainingRow]
) -> list[TrainingRow]:
    """The tokens of rows, some of which the attack may have made up."""
    tokenized(lm, [row for row in rows if row not in tokens], recipe.data, tokens)
    return [tokens[row] for row in rows if row in tokens]
