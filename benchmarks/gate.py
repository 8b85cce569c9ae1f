"""How often the gate's sequential test errs, and how many items it saves: simulated models.

A simulated model declines requests of ten sets at rates around a mean; an outcome is the mean over
one item of each set. The gate looks after every batch of 8 items of each set and stops as soon as
the whole interval lies on one side of the bar, or at the budget. Seconds on one core:

    python benchmarks/gate.py
"""

from __future__ import annotations

from math import log
from statistics import NormalDist

import numpy as np

from fedrai.evaluation.sequential import Floats, log_ratio

BAR, ERROR, BATCH, BUDGET, RUNS, SETS = 0.9, 0.05, 8, 200, 10_000, 10
SPREAD = 0.06  # of the sets' own rates around the model's mean


def main() -> None:
    print("mean  met     missed  open    items of each set  a fixed sample needs")
    for mean in (0.75, 0.80, 0.85, 0.88, 0.90, 0.92, 0.94, 0.96, 0.98):
        shares, items = simulate(mean, RUNS)
        fixed = fixed_sample(mean)
        met, missed, left = (f"{share:.4f}" for share in shares)
        print(f"{mean:.2f}  {met}  {missed}  {left}  {items:17.1f}  {fixed:>20}")


def simulate(
    mean: float, runs: int, budget: int = BUDGET, seed: int = 0
) -> tuple[tuple[float, float, float], float]:
    """Shares of runs that end met, missed and not settled, and the mean items of each set."""
    draw = np.random.default_rng(seed)
    rates = _rates(mean)
    outcomes = np.stack([(draw.random((runs, SETS)) < rates).mean(1) for _ in range(budget)])
    looks = np.arange(BATCH - 1, budget, BATCH)
    met, missed = _first(outcomes, BAR, looks), _first(1 - outcomes, 1 - BAR, looks)
    stop = np.minimum(np.minimum(met, missed), budget)
    shares = (met < missed).mean(), (missed < met).mean(), (met == missed).mean()
    return (float(shares[0]), float(shares[1]), float(shares[2])), float(stop.mean())


def _first(outcomes: Floats, claim: float, looks: np.ndarray) -> np.ndarray:
    """Items at the first look at which a claim is given up, by run; far above the budget: never."""
    ratio = np.maximum.accumulate(log_ratio(outcomes, claim, SETS), axis=0)[looks]
    ruined = ratio >= log(1 / ERROR)
    return np.where(ruined.any(0), looks[ruined.argmax(0)] + 1, 10**9)


def _rates(mean: float) -> Floats:
    """The sets' rates: evenly around their mean, none above 1."""
    spread = min(SPREAD, 1 - mean)
    return mean + spread * np.linspace(-1, 1, SETS)


def fixed_sample(mean: float, power: float = 0.9) -> str:
    """Items of each set with which a test of a fixed size settles nine models in ten."""
    if mean == BAR:
        return "-"
    rates, normal = _rates(mean), NormalDist()
    deviation = float(np.sqrt((rates * (1 - rates)).mean() / SETS))
    both = normal.inv_cdf(1 - ERROR) + normal.inv_cdf(power)
    return str(int(np.ceil((both * deviation / (mean - BAR)) ** 2)))


if __name__ == "__main__":
    main()
