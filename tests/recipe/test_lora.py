"""`aggregation.lora` and `adapter.ranks`: what is refused and why; the hash of earlier recipes."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from fedrai import recipe
from fedrai.errors import RecipeError
from fedrai.recipe.lora import CARRYING, MOMENTS, PRODUCTS
from fedrai.recipe.sections import ALGORITHMS, Recipe

BASE = {"model": {"base": "tiny"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
ALL = ("plain", "ffa", "rolora", *PRODUCTS)


def load(aggregation: dict[str, Any], adapter: dict[str, Any], **more: Any) -> Recipe:
    rule = {"algorithm": "fedavg", **aggregation}
    return recipe.validate({**BASE, "aggregation": rule, "adapter": adapter, **more})


def refused(aggregation: dict[str, Any], adapter: dict[str, Any], **more: Any) -> str:
    with pytest.raises(RecipeError) as error:
        load(aggregation, adapter, **more)
    return error.value.message


def adapter_for(rule: str) -> dict[str, Any]:
    return {"rank": 8, "ranks": [2]} if rule in CARRYING else {}


@pytest.mark.parametrize("rule", ALL)
@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox"])
def test_the_mean_goes_with_every_rule(rule: str, algorithm: str) -> None:
    made = load({"algorithm": algorithm, "lora": rule}, adapter_for(rule))
    assert made.aggregation.lora == rule


@pytest.mark.parametrize("rule", PRODUCTS)
@pytest.mark.parametrize("algorithm", MOMENTS)
def test_moments_do_not_fit_factors_that_are_made_anew(rule: str, algorithm: str) -> None:
    message = refused({"algorithm": algorithm, "lora": rule}, adapter_for(rule))
    assert f'aggregation.lora = "{rule}" fits the factors anew in each round' in message
    assert f"moments which {algorithm} keeps of them" in message


@pytest.mark.parametrize("rule", PRODUCTS)
@pytest.mark.parametrize("algorithm", ["median", "krum"])
def test_a_robust_rule_works_on_factors(rule: str, algorithm: str) -> None:
    message = refused({"algorithm": algorithm, "lora": rule}, adapter_for(rule))
    assert f"averages products of factors, and {algorithm} works on each factor's values" in message


@pytest.mark.parametrize("algorithm", MOMENTS)
def test_moments_would_move_a_factor_that_is_frozen(algorithm: str) -> None:
    assert "go on moving the factor" in refused({"algorithm": algorithm, "lora": "rolora"}, {})
    load({"algorithm": algorithm, "lora": "ffa"}, {})  # frozen in all rounds: its moments are zero


@pytest.mark.parametrize("algorithm", ["fedadam", "median"])
def test_zeros_of_smaller_ranks_are_no_values(algorithm: str) -> None:
    message = refused({"algorithm": algorithm}, {"ranks": [4]})
    assert f"but {algorithm} would count them as such" in message


@pytest.mark.parametrize("rule", CARRYING)
@pytest.mark.parametrize("ranks", [[], [4, 16], {"a": 4}, {"a": 4, "*": 16}])
def test_rules_with_held_ranks_need_some(rule: str, ranks: Any) -> None:
    message = refused({"lora": rule}, {"rank": 16, "ranks": ranks})
    assert "set adapter.ranks below adapter.rank = 16, for example adapter.ranks = [4]" in message
    for fitting in ([4, 8], {"a": 4, "*": 8}):
        load({"lora": rule}, {"rank": 16, "ranks": fitting})


@pytest.mark.parametrize("rule", CARRYING)
def test_defences_write_all_ranks(rule: str) -> None:
    adapter = {"rank": 16, "ranks": [4], "start": "fedrai:aligned"}
    message = refused({"lora": rule}, adapter, defence={"method": "mean"})
    assert "mean writes all ranks of the aggregated adapter" in message
    assert f'aggregation.lora = "{rule}" keeps apart those that clients train' in message


@pytest.mark.parametrize("rule", ["ffa", "rolora", *CARRYING])
def test_asft_needs_both_factors(rule: str) -> None:
    adapter = {**adapter_for(rule), "start": "fedrai:aligned"}
    message = refused({"lora": rule}, adapter, defence={"method": "asft"})
    assert "asft penalises the product of both factors" in message
    load({"lora": rule}, adapter, defence={"method": "lisa"})


def test_vetting_compares_whole_updates() -> None:
    vetting = {"action": "record"}
    assert "clients receive or train a part" in refused({}, {"ranks": [4]}, vetting=vetting)
    load({"lora": "ffa"}, {}, vetting=vetting)


def test_modes_without_clients_of_their_own() -> None:
    local = {"federation": {"mode": "local"}}
    assert "nothing is aggregated" in refused({"lora": "ffa"}, {}, **local)
    for mode in ("local", "centralised"):
        message = refused({}, {"ranks": [4]}, federation={"mode": mode})
        assert f'federation.mode = "{mode}" has no clients of different ranks' in message
    load({"lora": "flexlora"}, {}, federation={"mode": "centralised"})


@pytest.mark.parametrize("ranks", [[0], [17], {"a": 17}, {"*": -1}])
def test_a_rank_lies_within_the_adapter(ranks: Any) -> None:
    assert "is not between 1 and adapter.rank = 16" in refused({}, {"ranks": ranks})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_defaults_leave_the_hash_as_it_was(algorithm: str) -> None:
    extra = {"malicious": 1} if algorithm in ("median", "bulyan") else {}
    made = load({"algorithm": algorithm, **extra}, {}).hashed_body()
    assert "lora" not in made["aggregation"]
    assert "ranks" not in made["adapter"]
    other = load({"lora": "ffa"}, {"ranks": [4]}).hashed_body()
    assert other["aggregation"]["lora"] == "ffa"
    assert other["adapter"]["ranks"] == [4]


def test_a_recipe_is_the_same_after_writing_and_reading() -> None:
    made = load({"lora": "raflora"}, {"ranks": {"client-01": 4, "*": 2}})
    again = recipe.validate(tomllib.loads(recipe.to_toml(made)))
    assert again == made
