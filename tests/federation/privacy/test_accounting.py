"""Epsilon against closed forms, and that it moves the right way."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")

from fedrai.errors import RunError
from fedrai.federation.privacy.accounting import (
    amplified_epsilon,
    amplified_multiplier,
    epsilon_of,
    multiplier_for,
    planned_multiplier,
)
from fedrai.federation.privacy.ledger import (
    Release,
    Releases,
    of_most_asked,
    of_secret_samples,
)
from fedrai.recipe.privacy import Privacy

DELTA = 1e-5


def delta_of(epsilon: float, multiplier: float, rounds: int) -> float:
    """Balle and Wang (2018), theorem 8, of one Gaussian with the sensitivity 2 C of a replacement.

    Rounds compose to one with mu = sensitivity / deviation times their root (Dong et al., 2019).
    """
    mu = 2 / multiplier * math.sqrt(rounds)
    normal = lambda x: math.erfc(-x / math.sqrt(2)) / 2  # noqa: E731
    return normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * normal(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize("multiplier", [0.8, 2.0, 10.0])
@pytest.mark.parametrize("rounds", [1, 2, 30])
def test_composed_rounds_are_the_closed_form(multiplier: float, rounds: int) -> None:
    epsilon = epsilon_of({multiplier: rounds}, DELTA)
    assert delta_of(epsilon, multiplier, rounds) == pytest.approx(DELTA, rel=1e-6)


def test_four_rounds_are_one_with_half_the_noise() -> None:
    assert epsilon_of({3.0: 4}, DELTA) == pytest.approx(epsilon_of({1.5: 1}, DELTA), rel=1e-9)


def test_rounds_of_different_noise_add_up_in_squares() -> None:
    """1/3^2 + 1/4^2 = 1/2.4^2."""
    both = epsilon_of({3.0: 1, 4.0: 1}, DELTA)
    assert both == pytest.approx(epsilon_of({2.4: 1}, DELTA), rel=1e-9)


def test_nothing_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon_of({}, DELTA) == 0
    assert epsilon_of({0.0: 1}, DELTA) == math.inf


def test_the_distribution_of_the_privacy_loss_agrees() -> None:
    """An accountant that composes numerically, with discretised losses, errs on the upper side."""
    import dp_accounting as dp

    accountant = dp.pld.PLDAccountant()
    accountant.compose(dp.GaussianDpEvent(2.0 / 2), 3)
    exact, numeric = epsilon_of({2.0: 3}, DELTA), accountant.get_epsilon(DELTA)
    assert exact <= numeric <= exact * 1.001


@pytest.mark.parametrize("rounds", [1, 7])
def test_a_multiplier_is_found_for_an_epsilon(rounds: int) -> None:
    found = multiplier_for(4.0, DELTA, rounds)
    assert delta_of(4.0, found, rounds) == pytest.approx(DELTA, rel=1e-6)


def test_less_noise_more_rounds_and_more_clients_cost_more() -> None:
    costs = [epsilon_of({z: n}, DELTA) for z, n in ((4.0, 2), (2.0, 2), (2.0, 5))]
    assert costs == sorted(set(costs))
    sampled = [amplified_epsilon(2.0, [(60, drawn)] * 4, DELTA) for drawn in (3, 12, 60)]
    assert sampled == sorted(set(sampled))
    assert sampled[-1] == epsilon_of({2.0: 4}, DELTA)


def test_a_sample_hides_nothing_from_the_only_member_that_was_not_asked() -> None:
    """9 of 10: whoever was left out knows the rest."""
    assert amplified_epsilon(2.0, [(10, 9)], DELTA) == epsilon_of({2.0: 1}, DELTA)


def test_secret_samples_are_renyi_divergences_without_replacement() -> None:
    """Of m = 5 among the N - 1 = 49 others; the noise multiplier is z / 2."""
    import dp_accounting as dp

    relation = dp.NeighboringRelation.REPLACE_ONE
    accountant = dp.rdp.RdpAccountant(neighboring_relation=relation)
    event = dp.SampledWithoutReplacementDpEvent(49, 5, dp.GaussianDpEvent(1.5))
    expected = accountant.compose(event, 6).get_epsilon(DELTA)
    assert amplified_epsilon(3.0, [(50, 5)] * 6, DELTA) == pytest.approx(expected, rel=0.01)
    assert expected < epsilon_of({3.0: 6}, DELTA)


def test_a_multiplier_is_found_with_secret_samples() -> None:
    found = amplified_multiplier(4.0, DELTA, 3, (40, 4))
    assert found < multiplier_for(4.0, DELTA, 3)
    assert 3.9 < amplified_epsilon(found, [(40, 4)] * 3, DELTA) <= 4.0


def test_a_recipes_multiplier_comes_first() -> None:
    own = Privacy(noise="server", noise_multiplier=1.5, epsilon=8)
    assert planned_multiplier(own, 10, 5, (10, 5)) == 1.5
    target = Privacy(noise="server", epsilon=8)
    assert planned_multiplier(target, 10, 5, (10, 5)) == multiplier_for(8, DELTA, 5)


def test_the_client_that_is_asked_most_often_decides() -> None:
    """a and b twice, c once; the sum over all clients would be three rounds."""
    rounds = [("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")]
    releases = [Release("", n, "x", 2.0, asked, 4) for n, asked in enumerate(rounds, 1)]
    assert of_most_asked(releases, DELTA) == (epsilon_of({2.0: 3}, DELTA), 3)
    assert of_most_asked([], DELTA) == (0.0, 0)


def test_a_round_that_was_made_twice_gains_nothing_by_sampling() -> None:
    rounds = [Release("", n, "x", 3.0, tuple("abcde"), 50) for n in (1, 2)]
    assert of_secret_samples(rounds, DELTA)[0] == amplified_epsilon(3.0, [(50, 5)] * 2, DELTA)
    again = [*rounds, Release("", 2, "y", 3.0, tuple("abcde"), 50)]
    assert of_secret_samples(again, DELTA) == (epsilon_of({3.0: 3}, DELTA), 3)


def test_the_same_bits_count_once(tmp_path: Path) -> None:
    file = tmp_path / "privacy.json"
    for digest in ("one", "one", "two"):
        Releases(file).add(Release("", 1, digest, 2.0, ("a",), 1))
    assert [one.digest for one in Releases(file).all] == ["one", "two"]


def test_a_damaged_account_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "privacy.json"
    file.write_text('{"releases": [{"round": 1}]}')
    with pytest.raises(RunError, match=r"privacy\.json cannot be read"):
        Releases(file)
