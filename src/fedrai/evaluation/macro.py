"""The mean over sets of requests, each counted once, with an interval over sets and items.

A rate over all items of several sets weighs the largest set most, and its interval holds for more
requests of the same sets only. The macro mean is the mean of the sets' own rates. Its interval is
the percentile interval of a bootstrap in two stages (Davison and Hinkley 1997, section 3.8): sets
are drawn with replacement, and within each drawn set its items are, anew for each time that the set
is drawn. So it holds for other sets of the kind that these are a sample of. With several seeds,
these are drawn as well and cross the items, as in `bootstrap.py`.

Limits: with few sets (three or four) it is too narrow, since sets that were never seen cannot be
drawn. A mean of 0 or 1 has Wilson's interval over its items, because its resamples are all alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedrai.errors import EvaluationError
from fedrai.evaluation.bootstrap import (
    DEFAULT,
    Floats,
    Resampling,
    Shares,
    gaps,
    mean_over_seeds,
    quotient,
    table_of,
)
from fedrai.evaluation.statistics import percentile_interval
from fedrai.rates import wilson


@dataclass(frozen=True, slots=True)
class MacroMean:
    """The mean over sets, or two arms' difference in it.

    Attributes:
        value: the mean over seeds of each seed's mean over sets.
        low: lower end of the interval.
        high: upper end.
        sets: sets with a scored item; the others are in no figure.
        seeds: runs with a scored item.
        items: items that are scored in at least one seed, in all sets together.
        unscored: outcomes of those seeds and sets that are missing; in no figure.
    """

    value: float
    low: float
    high: float
    sets: int
    seeds: int
    items: int
    unscored: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def macro_mean(
    sets: Sequence[Sequence[Shares]], resampling: Resampling = DEFAULT
) -> MacroMean | None:
    """The macro mean of one arm.

    Args:
        sets: for each set, its outcomes by seed and item, (S, P); all have the same seeds.
        resampling: settings of the bootstrap.

    Returns:
        The mean from 0 to 1; `None` where nothing was scored.

    Raises:
        EvaluationError: sets differ in their number of seeds, or rows of a set in length.
    """
    mean = _macro([table_of(outcomes) for outcomes in sets], resampling)
    return _with_wilson(mean, resampling) if mean is not None and mean.value in (0, 1) else mean


def macro_difference(
    ours: Sequence[Sequence[Shares]],
    theirs: Sequence[Sequence[Shares]],
    resampling: Resampling = DEFAULT,
) -> MacroMean | None:
    """Ours less theirs, paired by set, seed and item.

    Args:
        ours: as in `macro_mean`.
        theirs: outcomes of the same sets, seeds and items. An item counts if both are scored.
        resampling: settings of the bootstrap; both arms share its draws.

    Returns:
        The difference from -1 to 1; `None` where no item was scored in both.

    Raises:
        EvaluationError: the arms differ in sets, seeds or items.
    """
    if len(ours) != len(theirs):
        raise EvaluationError(f"arms need the same sets, got {len(ours)} and {len(theirs)}")
    return _macro([gaps(a, b) for a, b in zip(ours, theirs, strict=True)], resampling)


def _macro(sets: Sequence[Floats], resampling: Resampling) -> MacroMean | None:
    if len({outcomes.shape[0] for outcomes in sets}) > 1:
        raise EvaluationError(f"sets differ in seeds: {[o.shape[0] for o in sets]}")
    scored = [outcomes for outcomes in sets if not np.isnan(outcomes).all()]
    if not scored:
        return None
    runs = ~np.all([np.isnan(outcomes).all(1) for outcomes in scored], axis=0)
    kept = [outcomes[runs] for outcomes in scored]
    means = _mean(np.stack([_mean(outcomes) for outcomes in kept], axis=-1))  # (S,)
    low, high = percentile_interval(_resample(kept, resampling), resampling.confidence)
    missing = [np.isnan(outcomes) for outcomes in kept]
    return MacroMean(
        float(means.mean()),
        low,
        high,
        sets=len(kept),
        seeds=int(runs.sum()),
        items=sum(int((~table.all(0)).sum()) for table in missing),
        unscored=sum(int(table.sum()) for table in missing),
    )


def _resample(sets: Sequence[Floats], resampling: Resampling) -> Floats:
    """The macro mean of each resample, (R,)."""
    draw = np.random.default_rng(resampling.seed)
    count, runs, number = resampling.resamples, sets[0].shape[0], len(sets)
    drawn = draw.integers(number, size=(count, number))
    means = np.full((runs, count, number), np.nan)
    for place, outcomes in enumerate(sets):
        chosen = drawn == place  # (R, K), K draws of a set in each resample
        size = outcomes.shape[1]
        items = draw.integers(size, size=(int(chosen.sum()), size))  # (M, P)
        means[:, chosen] = _mean(outcomes[:, items])  # (S, M)
    times = draw.multinomial(runs, np.full(runs, 1 / runs), size=count).T  # (S, R)
    return mean_over_seeds(_mean(means), times.astype(float))


def _mean(values: Floats) -> Floats:
    """The mean along the last axis without nan; nan where there is nothing else."""
    return quotient(np.nansum(values, axis=-1), (~np.isnan(values)).sum(-1))


def _with_wilson(mean: MacroMean, resampling: Resampling) -> MacroMean:
    low, high = wilson(mean.value * mean.items, mean.items, resampling.confidence) or (0.0, 1.0)
    return MacroMean(**{**asdict(mean), "low": low, "high": high})
