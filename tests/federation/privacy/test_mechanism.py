"""Clipping and noise by values worked out by hand, and the secret that noise is drawn from."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from fedrai.errors import FederationError, RunError
from fedrai.federation.privacy import secret
from fedrai.federation.privacy.mechanism import clipped_change, noise_like, noised_mean
from fedrai.federation.privacy.noise import CHUNK, Gaussian

KEY = bytes(range(32))
START = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([0.0])}


def moved(*by: float) -> dict[str, torch.Tensor]:
    """The start with its three weights moved."""
    return {"a": START["a"] + torch.tensor(by[:2]), "b": START["b"] + torch.tensor(by[2:])}


def test_a_long_change_is_scaled_to_the_clip_over_all_weights() -> None:
    """(3, 0, 4) has norm 5; to a norm of 2.5 it is halved."""
    change, norm = clipped_change(START, moved(3, 0, 4), ["a", "b"], 2.5)
    assert norm == 5
    assert torch.allclose(change["a"], torch.tensor([1.5, 0.0]).double())
    assert torch.allclose(change["b"], torch.tensor([2.0]).double())
    assert float(torch.cat([change["a"], change["b"]]).norm()) <= 2.5


def test_a_short_change_stays() -> None:
    change, norm = clipped_change(START, moved(3, 0, 4), ["a", "b"], 6)
    assert norm == 5
    assert change["a"].tolist() == [3, 0]
    assert change["b"].tolist() == [4]


def test_what_is_not_trained_neither_counts_nor_gets_noise() -> None:
    change, norm = clipped_change(START, moved(30, 0, 4), ["b"], 8)
    assert (list(change), norm) == (["b"], 4)
    mean = noised_mean(START, [moved(30, 0, 4)], ["b"], clip=8, multiplier=1, key=KEY)
    assert torch.equal(mean["a"], START["a"])
    assert mean["b"] != 4


def test_without_noise_it_is_the_mean_of_clipped_changes() -> None:
    """(3, 0, 4) at norm 2.5 is (1.5, 0, 2); with (0.5, 0, 0) the mean is (1, 0, 1)."""
    updates = [moved(3, 0, 4), moved(0.5, 0, 0)]
    mean = noised_mean(START, updates, ["a", "b"], clip=2.5, multiplier=0, key=KEY)
    assert torch.allclose(mean["a"], torch.tensor([2.0, 1.0]))
    assert torch.allclose(mean["b"], torch.tensor([1.0]))
    assert mean["a"].dtype == torch.float32


def test_the_noise_is_that_of_the_sum() -> None:
    """The deviation is multiplier x clip on the sum, so a quarter of it on the mean of four."""
    start = {"w": torch.zeros(40_000)}
    mean = noised_mean(start, [start] * 4, ["w"], clip=0.5, multiplier=3, key=KEY)
    assert float(mean["w"].std()) == pytest.approx(3 * 0.5 / 4, rel=0.02)
    assert float(mean["w"].mean()) == pytest.approx(0, abs=0.01)
    alone = noise_like({"w": start["w"].double()}, 1.5, KEY)["w"]
    assert torch.equal(mean["w"], (alone / 4).float())


def test_numbers_are_normal() -> None:
    """Shares of a normal distribution within 1, 2 and 3 deviations; 200,000 draws."""
    drawn = np.abs(Gaussian(KEY).draw(200_000))
    for within, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert (drawn < within).mean() == pytest.approx(share, abs=0.004)


def test_a_key_gives_one_stream_whatever_its_pieces() -> None:
    whole = Gaussian(KEY).draw(CHUNK + 5)
    again = Gaussian(KEY)
    assert np.array_equal(whole, np.concatenate([again.draw(CHUNK), again.draw(5)]))
    assert not np.array_equal(whole[:5], Gaussian(bytes(32)).draw(5))
    with pytest.raises(FederationError, match="32 bytes"):
        Gaussian(b"short")


def test_both_factors_with_noise_err_more_than_one() -> None:
    """The product's error for noise of deviation s on both factors, or on B with A frozen.

    With B of (m, r) and A of (r, n) the expected squares are m s^2 |A|^2 for E A alone, and
    n s^2 |B|^2 for B F and m n r s^4 for E F beside it.
    """
    torch.manual_seed(3)
    rows, rank, columns, spread = 40, 4, 50, 0.3
    b, a = torch.randn(rows, rank).double(), torch.randn(rank, columns).double()
    errors = {"both": 0.0, "one": 0.0}
    for seed in range(20):
        noise = noise_like({"a": a, "b": b}, spread, bytes([seed]) * 32)
        errors["both"] += float(((b + noise["b"]) @ (a + noise["a"]) - b @ a).square().sum()) / 20
        errors["one"] += float(((b + noise["b"]) @ a - b @ a).square().sum()) / 20
    one = rows * spread**2 * float(a.square().sum())
    rest = columns * spread**2 * float(b.square().sum()) + rows * columns * rank * spread**4
    assert errors["one"] == pytest.approx(one, rel=0.15)
    assert errors["both"] == pytest.approx(one + rest, rel=0.15)


def test_a_secret_is_random_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "private/noise.key"
    first = secret.in_file(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret.in_file(file) == first
    assert secret.in_file(tmp_path / "other.key") != first
    assert not first.public
    assert file.read_bytes().hex() not in repr(first)
    file.write_bytes(b"cut")
    with pytest.raises(RunError, match="expected 32 bytes, got 3"):
        secret.in_file(file)


def test_the_seed_gives_the_same_secret_to_everybody() -> None:
    assert secret.of_seed(7) == secret.of_seed(7) != secret.of_seed(8)
    assert secret.of_seed(7).public


def test_other_updates_get_other_noise() -> None:
    """So the difference of two means of one round does not give an update away."""
    source = secret.of_seed(7)
    digests = [source.digest(1, adapters={"a": moved(0, 0, x)}) for x in (1, 1, 2)]
    keys = [source.key(1, digest) for digest in digests]
    assert keys[0] == keys[1] != keys[2]
    assert source.key(2, digests[0]) != keys[0]
