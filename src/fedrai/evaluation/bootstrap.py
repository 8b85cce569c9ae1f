"""Estimates for arms of several seeds, all evaluated on the same prompts.

Outcomes of an arm are a table (S, P): a row for each seed, a column for each prompt, `None` where
an answer could not be scored. The estimate of an arm is the mean over its seeds of each seed's
rate. S x P outcomes are not S x P independent draws: the seeds share their prompts, and the prompts
of a seed share its training. The interval is therefore the percentile interval of a bootstrap that
draws seeds and prompts, both with replacement, and takes the outcomes where they cross (the
pigeonhole bootstrap; Owen 2007, Annals of Applied Statistics 1, 386). Differences are taken prompt
by prompt and seed by seed, before any averaging.

Limits: with one seed the interval covers the draw of prompts only, not another training run; with
few seeds it underestimates the spread between runs. Two equal arms, 100 prompts, 200 experiments
each: where seeds do not differ, the 95 % interval held 0 in 98 to 100 % (crossed draws err on the
wide side); where they do (standard deviation 0.3 on a probit scale, prompts 1), in 61 % with one
seed, 84 % with two, 88 % with three, 94 % with five and 93 % with ten. `Estimate.seeds` therefore
belongs beside every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrai.errors import EvaluationError
from fedrai.evaluation.statistics import percentile_interval

Outcomes = Sequence[bool | None]
Shares = Sequence[float | None]
"""Outcomes from 0 to 1: the share of a prompt's answers, where it was answered several times."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Resampling:
    """Settings of the bootstrap.

    Attributes:
        confidence: confidence level of the interval, between 0 and 1.
        resamples: how many are drawn.
        seed: for the draws.

    Raises:
        EvaluationError: a setting is out of range.
    """

    confidence: float = 0.95
    resamples: int = 2_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1 or self.resamples < 1:
            raise EvaluationError(
                "a bootstrap needs 0 < confidence < 1 and at least one resample, got "
                f"confidence={self.confidence}, resamples={self.resamples}"
            )


DEFAULT = Resampling()


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure of one arm, or of two arms' difference, with its interval.

    Attributes:
        value: the mean over seeds.
        low: lower end of the interval.
        high: upper end.
        seeds: runs with a scored prompt; with one, the interval does not cover training.
        prompts: prompts that are scored in at least one seed, in all suites together.
        unscored: outcomes of those seeds that are missing; in no figure.
    """

    value: float
    low: float
    high: float
    seeds: int
    prompts: int
    unscored: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def seeds_mean(outcomes: Sequence[Shares], resampling: Resampling = DEFAULT) -> Estimate | None:
    """The rate of one arm: the mean over its seeds.

    Args:
        outcomes: outcomes by seed and prompt, (S, P).
        resampling: settings of the bootstrap.

    Returns:
        The rate from 0 to 1; `None` where nothing was scored.

    Raises:
        EvaluationError: the table has no rows, or rows of different lengths.
    """
    return _estimate([table_of(outcomes)], lambda means: means[0], resampling)


def paired_difference(
    ours: Sequence[Shares], theirs: Sequence[Shares], resampling: Resampling = DEFAULT
) -> Estimate | None:
    """Ours less theirs, over the prompts that are scored in both arms.

    Args:
        ours: outcomes by seed and prompt, (S, P).
        theirs: outcomes of the same seeds and prompts, (S, P).
        resampling: settings of the bootstrap.

    Returns:
        The difference from -1 to 1; `None` where no prompt was scored in both.

    Raises:
        EvaluationError: the tables differ in shape, or as in `seeds_mean`.
    """
    return _estimate([gaps(ours, theirs)], lambda means: means[0], resampling)


def both_sides(
    refused: Sequence[Shares], answered: Sequence[Shares], resampling: Resampling = DEFAULT
) -> Estimate | None:
    """One figure for safety and over-refusal: the mean over seeds of each seed's harmonic mean.

    Args:
        refused: harmful requests (AdvBench) that were refused, by seed and prompt, (S, P).
        answered: safe requests (XSTest's safe prompts) that were answered, (S, Q); the same seeds.
        resampling: settings of the bootstrap; the seeds are drawn once for both suites.

    Returns:
        The score from 0 to 1, over the seeds with scored prompts in both suites; `None` where there
        are none.

    Raises:
        EvaluationError: the tables differ in seeds, or as in `seeds_mean`.
    """
    return _estimate([table_of(refused), table_of(answered)], _harmonic, resampling)


def both_sides_difference(
    ours: tuple[Sequence[Shares], Sequence[Shares]],
    theirs: tuple[Sequence[Shares], Sequence[Shares]],
    resampling: Resampling = DEFAULT,
) -> Estimate | None:
    """Ours less theirs in `both_sides`; both arms share the draws of prompts and seeds.

    Args:
        ours: (refused, answered) as in `both_sides`.
        theirs: those of the same seeds and prompts. A prompt counts if it is scored in both arms.
        resampling: settings of the bootstrap.

    Raises:
        EvaluationError: the tables differ in shape, or as in `seeds_mean`.
    """
    suites = []
    for a, b in zip(ours, theirs, strict=True):
        missing = np.isnan(gaps(a, b))
        suites.append(np.stack([np.where(missing, np.nan, table_of(arm)) for arm in (a, b)]))
    return _estimate(
        suites,
        lambda means: _harmonic([m[0] for m in means]) - _harmonic([m[1] for m in means]),
        resampling,
    )


# --- the bootstrap ----------------------------------------------------------------------------


def _estimate(
    suites: Sequence[Floats],
    figure: Callable[[Sequence[Floats]], Floats],
    resampling: Resampling,
) -> Estimate | None:
    """The figure of the data and of resamples.

    Args:
        suites: outcomes of each suite, (S, P) or, by arm, (A, S, P); nan: not scored.
        figure: from each suite's rates, (..., S, R), to the figure of each seed, (S, R); nan where
            a seed has none.
        resampling: settings of the bootstrap.

    Returns:
        The mean of the figure over the seeds that have one; `None` where none has.
    """
    runs = suites[0].shape[-2]
    if any(suite.shape[-2] != runs for suite in suites):
        raise EvaluationError(f"suites differ in seeds: {[suite.shape[-2] for suite in suites]}")
    whole = figure([_rates(suite, np.ones((1, suite.shape[-1]))) for suite in suites])  # (S, 1)
    scored = ~np.isnan(whole[:, 0])
    if not scored.any():
        return None
    kept = [suite[..., scored, :] for suite in suites]
    ends = percentile_interval(_resample(kept, figure, resampling), resampling.confidence)
    # pairs are scored in both arms or in neither, so that the first arm's table speaks for both
    missing = [np.isnan(suite if suite.ndim == 2 else suite[0]) for suite in kept]
    return Estimate(
        float(whole[scored].mean()),
        *ends,
        seeds=int(scored.sum()),
        prompts=sum(int((~table.all(0)).sum()) for table in missing),
        unscored=sum(int(table.sum()) for table in missing),
    )


def _resample(
    suites: Sequence[Floats],
    figure: Callable[[Sequence[Floats]], Floats],
    resampling: Resampling,
) -> Floats:
    """The figure of each resample, (R,); nan where it has no scored prompt."""
    draw = np.random.default_rng(resampling.seed)
    sizes = [suites[0].shape[-2], *(suite.shape[-1] for suite in suites)]
    times = [np.zeros((resampling.resamples, size)) for size in sizes]  # draws of each unit
    for number in range(resampling.resamples):
        for counts, size in zip(times, sizes, strict=True):
            counts[number] = np.bincount(draw.integers(size, size=size), minlength=size)
    rates = [_rates(suite, drawn) for suite, drawn in zip(suites, times[1:], strict=True)]
    return mean_over_seeds(figure(rates), times[0].T)


def mean_over_seeds(figures: Floats, times: Floats) -> Floats:
    """The mean of figures (S, R) of seeds drawn so many times (S, R); nan are left out."""
    weights = times * ~np.isnan(figures)
    return quotient((weights * np.nan_to_num(figures)).sum(0), weights.sum(0))


def _rates(suite: Floats, times: Floats) -> Floats:
    """Rates (..., S, R) of outcomes (..., S, P) whose prompts were drawn so many times (R, P)."""
    return quotient(np.nan_to_num(suite) @ times.T, (~np.isnan(suite)).astype(float) @ times.T)


def _harmonic(rates: Sequence[Floats]) -> Floats:
    first, second = rates
    zero = np.where(first + second == 0, 0.0, np.nan)  # nan stays nan
    mean = quotient(2 * first * second, first + second)
    return np.where(np.isnan(mean), zero, mean)


def quotient(above: Floats, below: Floats) -> Floats:
    """Quotients of arrays of one shape; nan where the lower one is not above 0."""
    out: Floats = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def table_of(outcomes: Sequence[Shares]) -> Floats:
    """Outcomes as an array, (S, P); nan: not scored.

    Raises:
        EvaluationError: the table has no rows, or rows of different lengths.
    """
    lengths = {len(row) for row in outcomes}
    if len(lengths) != 1:
        raise EvaluationError(
            "outcomes need a row for each seed and the same prompts in each, got "
            f"{len(outcomes)} rows of lengths {sorted(lengths)}"
        )
    return np.array([[np.nan if o is None else float(o) for o in row] for row in outcomes])


def gaps(ours: Sequence[Shares], theirs: Sequence[Shares]) -> Floats:
    """Differences, (S, P), each from -1 to 1 or nan.

    Raises:
        EvaluationError: the tables differ in shape, or as in `table_of`.
    """
    a, b = table_of(ours), table_of(theirs)
    if a.shape != b.shape:
        raise EvaluationError(
            f"arms need the same seeds and prompts, got {a.shape[0]} x {a.shape[1]} and "
            f"{b.shape[0]} x {b.shape[1]} outcomes"
        )
    return a - b
