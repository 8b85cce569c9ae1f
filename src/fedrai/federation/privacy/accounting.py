"""What noise costs: epsilon for a delta, by Google's dp-accounting.

**What is protected.** All data of one client together. Two data sets are neighbours if they differ
in the whole data of one client, in whatever way ("replace one"); who the clients are is public. For
every set S of what may be published (all rounds' models), P(S) <= e^epsilon P'(S) + delta.

**Sensitivity.** A round publishes sum_i c_i + z C N(0, I), where |c_i| <= C is client i's clipped
change. If client i's data is replaced, c_i moves from one point of a ball of radius C to another,
by 2 C at most. The mechanism's own noise multiplier, deviation / sensitivity, is therefore z / 2.
(With "zero out", where a client's data is replaced by none, it would be z; that is what figures of
federated learning often state, and it makes epsilon about half as large.) A client that was asked
and sent nothing counts as c_i = 0, which lies in the ball: the sum's guarantee holds whether or not
a reply depends on data. Which clients replied is published beside the sum and is outside of it.

**Rounds.** Later rounds start from published models, so rounds compose adaptively; T releases of
Gaussian noise with multiplier s are exactly as private as one with s / sqrt(T) (Dong, Roth and Su,
arXiv 1905.02383), whose epsilon is known in closed form (Balle and Wang, arXiv 1805.06530). A
client's data enters only rounds in which it is asked. As the recipe's seed is public, so is who is
asked when, and the guarantee is that of the client that is asked most often: T is the largest
number of rounds of one client. Nothing is gained by sampling beyond that.

**Amplification** (`privacy.amplification`), only if the sample of each round stays secret: m of N
clients without replacement, uniformly; the Renyi bound of Wang, Balle and Kasiviswanathan (arXiv
1808.00087, theorem 27) for "replace one", again with z / 2. A member knows whether it was asked
itself; to one that was not, the sample is m of the N - 1 others, and that is what is counted. The
smaller of this and of all rounds without amplification holds.

**Noise on the client.** One message is c_i + z C N(0, I), with the same sensitivity and the same
multiplier z / 2; T messages compose as above. The guarantee is local: it holds against the server
and for each client by itself, whatever the others do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import ModuleType

from fedrai.errors import DependencyError
from fedrai.recipe.privacy import Privacy

SENSITIVITY = 2.0  # of the sum of changes, by `clip`: one client's change may turn around
Sampling = tuple[int, int]
"""The clients present in a round, and how many of them were drawn."""
ORDERS = (1.25, 1.5, 1.75, *range(2, 17), 20, 24, 28, 32, 40, 48, 64, 96, 128)
"""Of Renyi divergences; the bound holds for any choice of them, and more cost time."""
LEAST = 1e-2  # smaller noise multipliers are not looked for


def load() -> ModuleType:
    """dp-accounting.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import dp_accounting
    except ImportError:
        raise DependencyError(
            "differential privacy needs dp-accounting", hint='pip install "fedrai[privacy]"'
        ) from None
    return dp_accounting  # type: ignore[no-any-return]


def epsilon_of(releases: Mapping[float, int], delta: float) -> float:
    """Epsilon of noised releases of one client's data.

    Args:
        releases: how many there were, by `noise_multiplier` (deviation / clip).
        delta: of the guarantee.

    Returns:
        Epsilon; infinite if a release had no noise, 0 if there was none.
    """
    load()
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    if any(count and not multiplier for multiplier, count in releases.items()):
        return math.inf
    squares = sum(n * (SENSITIVITY / multiplier) ** 2 for multiplier, n in releases.items() if n)
    return float(get_epsilon_gaussian(1 / math.sqrt(squares), delta)) if squares else 0.0


def multiplier_for(epsilon: float, delta: float, rounds: int) -> float:
    """The `noise_multiplier` with which so many releases of one client's data cost an epsilon."""
    load()
    from dp_accounting.gaussian_mechanism import get_sigma_gaussian

    return SENSITIVITY * math.sqrt(rounds) * float(get_sigma_gaussian(epsilon, delta))


def amplified_epsilon(multiplier: float, rounds: Sequence[Sampling], delta: float) -> float:
    """Epsilon of rounds whose samples are secret; never more than without amplification.

    Args:
        multiplier: deviation of the noise on the sum, by `clip`.
        rounds: (clients present, clients drawn) of each.
        delta: of the guarantee.
    """
    without = epsilon_of({multiplier: len(rounds)}, delta)
    if not multiplier or all(drawn >= present - 1 for present, drawn in rounds):
        return without
    counts = {one: list(rounds).count(one) for one in rounds}
    return min(without, _by_renyi(multiplier, tuple(sorted(counts.items())), delta))


@lru_cache(maxsize=64)
def _by_renyi(multiplier: float, rounds: tuple[tuple[Sampling, int], ...], delta: float) -> float:
    dp = load()
    accountant = dp.rdp.RdpAccountant(ORDERS, dp.NeighboringRelation.REPLACE_ONE)
    inner = dp.GaussianDpEvent(multiplier / SENSITIVITY)
    for (present, drawn), count in rounds:
        others = max(1, present - 1)  # to a member that was not asked itself
        event = dp.SampledWithoutReplacementDpEvent(others, min(drawn, others), inner)
        accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


def amplified_multiplier(epsilon: float, delta: float, rounds: int, sampling: Sampling) -> float:
    """The `noise_multiplier` with which rounds with secret samples cost an epsilon; to 0.5 %."""
    high = multiplier_for(epsilon, delta, rounds)
    low = high / 2
    while low > LEAST and amplified_epsilon(low, [sampling] * rounds, delta) <= epsilon:
        low, high = low / 2, low
    while high - low > 5e-3 * high:
        middle = (low + high) / 2
        fits = amplified_epsilon(middle, [sampling] * rounds, delta) <= epsilon
        low, high = (low, middle) if fits else (middle, high)
    return high


def planned_multiplier(privacy: Privacy, rounds: int, most: int, sampling: Sampling) -> float:
    """The recipe's noise multiplier, or the one with which the planned rounds cost its epsilon.

    Args:
        privacy: the section.
        rounds: all rounds of the run.
        most: rounds in which the client that is asked most often is asked.
        sampling: clients, and how many of them are drawn for a round.
    """
    if privacy.noise_multiplier:
        return privacy.noise_multiplier
    if privacy.amplification:
        return amplified_multiplier(privacy.epsilon, privacy.delta, rounds, sampling)
    return multiplier_for(privacy.epsilon, privacy.delta, most)
