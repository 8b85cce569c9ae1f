"""The server's account of rounds: repeated ones, those of other runs, and secret samples."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")

from fedrai.errors import FederationError, RecipeError
from fedrai.federation.privacy import secret
from fedrai.federation.privacy.accounting import epsilon_of, multiplier_for
from fedrai.federation.privacy.guarantee import Guarantee
from fedrai.federation.privacy.ledger import Releases
from fedrai.federation.protocol import Update
from fedrai.federation.run import private
from fedrai.recipe.privacy import Privacy
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder

START = {"w": torch.zeros(3)}
DELTA = 1e-5


def guarantee(file: Path, *, public: bool = True, **keys: Any) -> Guarantee:
    settings = Privacy.model_validate({"noise": "server", "noise_multiplier": 2.0, **keys})
    source = secret.of_seed(1) if public else secret.Secret(bytes(32), False)
    return Guarantee(settings, Releases(file), 2.0, source)


def updates(*values: float) -> dict[str, Update]:
    return {
        name: Update({"w": torch.full((3,), value)}, {"num-examples": 1.0})
        for name, value in zip("abc", values, strict=False)
    }


def mean_of(one: Guarantee, *values: float) -> torch.Tensor:
    one.begin(1, ["a", "b"], 4)
    (made,) = one.noised(START, updates(*values), ["w"]).values()
    return made.adapter["w"]


def test_a_repeated_round_counts_once_with_the_same_updates_only(tmp_path: Path) -> None:
    file = tmp_path / "privacy.json"
    first = mean_of(guarantee(file), 0.1, 0.2)
    again = guarantee(file)
    assert torch.equal(mean_of(again, 0.1, 0.2), first)
    assert again.record(2)["epsilon"] == epsilon_of({2.0: 1}, DELTA)
    other = guarantee(file)
    moved = mean_of(other, 0.1, 0.3) - first
    assert float((moved - 0.05).abs().max()) > 0.1  # other noise: the difference hides the update
    assert other.record(2)["epsilon"] == epsilon_of({2.0: 2}, DELTA)


def test_a_repeated_round_keeps_to_the_budget(tmp_path: Path) -> None:
    limit = epsilon_of({2.0: 1}, DELTA)
    mean_of(guarantee(tmp_path / "privacy.json", epsilon=limit), 0.1)
    again = guarantee(tmp_path / "privacy.json", epsilon=limit)
    assert again.exceeded(1, ["a", "b"], 4) == ""
    assert "round 2 would raise the privacy cost" in again.exceeded(2, ["a", "b"], 4)
    assert again.exceeded(2, ["c", "d"], 4) == ""  # they have not been asked yet
    with pytest.raises(FederationError, match=r"privacy\.epsilon allows"):
        mean_of(again, 0.2)


def test_a_round_of_another_run_costs_the_same(tmp_path: Path) -> None:
    own = guarantee(tmp_path / "own.json")
    mean_of(own, 0.1, 0.2)
    record = {"clients": {"a": {}}, "set_aside": {"b": "no-reply-in-time"}}
    other = guarantee(tmp_path / "other.json")
    other.take(1, {**record, "privacy": own.record(2)})
    assert Releases(tmp_path / "other.json").all == Releases(tmp_path / "own.json").all


def test_clients_that_add_noise_pay_when_they_are_asked(tmp_path: Path) -> None:
    one = guarantee(tmp_path / "privacy.json", noise="client")
    for number, asked in ((1, "ab"), (1, "ab"), (2, "ac"), (2, "ad")):
        one.begin(number, asked, 4)
    made = updates(0.1)
    assert one.noised(START, made, ["w"]) is made
    assert one.record(1)["releases"] == 3  # of a; rounds with the same clients count once


def test_samples_are_secret_on_a_deployment_that_counts_on_it(tmp_path: Path) -> None:
    file = tmp_path / "privacy.json"
    assert guarantee(file, public=False).sampling_seed(7) == 7
    assert guarantee(file, amplification=True).sampling_seed(7) == 7
    hidden = guarantee(file, public=False, amplification=True)
    assert hidden.sampling_seed(7) != 7
    assert hidden.sampling_seed(7) == hidden.sampling_seed(8)


@pytest.mark.parametrize(
    ("engine", "noise", "secret_noise", "has_key"),
    [("local", "server", False, False), ("simulation", "server", False, False),
     ("flower", "server", True, True), ("flower", "client", True, False)],
)  # fmt: skip
def test_noise_is_secret_on_a_deployment_alone(
    tmp_path: Path, engine: str, noise: str, secret_noise: bool, has_key: bool
) -> None:
    """The server has a key in its run folder; with noise on the clients each node has its own."""
    recipe = Recipe.model_validate(
        {
            "model": {"base": "m"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "federation": {"weights": "uniform", "rounds": 3},
            "privacy": {"noise": noise, "epsilon": 8},
        }
    )
    prepared: Any = SimpleNamespace(recipe=recipe, engine=engine, rows={})
    made = private.guarantee(prepared, RunFolder(tmp_path))
    assert made is not None
    made.begin(1, ["a"], 10)
    made.noised(START, updates(0.1), ["w"])
    record = made.record(1)
    assert record["secret"] is secret_noise
    assert (tmp_path / private.KEY).is_file() is has_key
    assert record["noise_multiplier"] == multiplier_for(8, DELTA, 3)  # any client may be asked
    again = private.guarantee(prepared, RunFolder(tmp_path))
    assert again is not None
    again.begin(1, ["a"], 10)
    again.noised(START, updates(0.1), ["w"])
    assert again.record(1) == record


def test_names_tell_how_often_a_client_is_asked() -> None:
    """2 of 3 clients in 3 rounds: none is asked three times with the seed 7."""
    recipe = Recipe.model_validate(
        {
            "seed": 7,
            "model": {"base": "m"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "federation": {
                "weights": "uniform", "rounds": 3, "clients": 3, "clients_per_round": 2
            },
            "privacy": {"noise": "server", "epsilon": 8},
        }
    )  # fmt: skip
    names = [f"client-{n:02d}" for n in (1, 2, 3)]
    assert private.planned_multiplier(recipe, names) == multiplier_for(8, DELTA, 2)
    assert private.planned_multiplier(recipe) == multiplier_for(8, DELTA, 3)
    with pytest.raises(RecipeError, match="not below 1 / 100000 clients"):
        private.check(recipe, [f"{n}" for n in range(100_000)])
