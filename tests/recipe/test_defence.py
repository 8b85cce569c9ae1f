"""The section `[defence]`: its names, settings, hash, and the combinations that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from fedrai import recipe
from fedrai.deployment.offer import make_offer
from fedrai.errors import RecipeError
from fedrai.recipe.defence_methods import ALIKE, CLIENTS, NEED_START, REFITTED, SERVER
from fedrai.recipe.sections import Defence, Recipe

BASE = {"model": {"base": "tiny"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
ALIGNED = {**BASE, "adapter": {"start": "fedrai:aligned"}}


def load(defence: dict[str, Any], **more: Any) -> Recipe:
    return recipe.validate({**ALIGNED, "defence": defence, **more})


def refused(defence: dict[str, Any], **more: Any) -> str:
    with pytest.raises(RecipeError) as error:
        load(defence, **more)
    return error.value.message


def test_one_method_or_a_list_in_its_order() -> None:
    assert load({"method": "resta"}).defence.methods == ["resta"]
    assert load({"method": ["safe-lora", "mean"]}).defence.methods == ["safe-lora", "mean"]
    assert Defence().methods == []
    assert load({"method": []}).defence.on_server == []


def test_each_method_has_documented_settings() -> None:
    for name, model in {**SERVER, **CLIENTS}.items():
        assert type(Defence().section(name)) is model
        assert all(field.description for field in model.model_fields.values())
    made = load({"method": "resta", "resta": {"strength": 0.7}})
    assert made.defence.resta.strength == 0.7


def test_errors_name_the_nearest_method_or_key() -> None:
    assert "no defence 'resst'; did you mean resta?" in refused({"method": "resst"})
    assert "built in: mean, resta" in refused({"method": "zzz"})
    key = refused({"method": "resta", "resta": {"strenght": 1}})
    assert "unknown key defence.resta.strenght (did you mean strength?)" in key
    table = refused({"method": "safe-lora", "safe-lora": {"threshold": 1}})
    assert "unknown key defence.safe-lora (did you mean safe_lora?)" in table
    assert "expected the name of a method or a list of names, got [3]" in refused({"method": [3]})


@pytest.mark.parametrize("pair", list(ALIKE))
def test_two_that_do_the_same_are_refused_in_either_order(pair: tuple[str, str]) -> None:
    for names in (pair, pair[::-1]):
        message = refused({"method": list(names)})
        assert f"{names[0]} and {names[1]} do not combine: {ALIKE[pair]}" in message


def test_a_method_twice_is_refused() -> None:
    assert "listed twice" in refused({"method": ["mean", "mean"]})


@pytest.mark.parametrize("method", [*NEED_START, "antidote"])
def test_without_a_start_there_is_nothing_to_return_to(method: str) -> None:
    with pytest.raises(RecipeError, match=f"{method} needs adapter.start"):
        recipe.validate({**BASE, "defence": {"method": method}})


def test_without_a_start_antidote_prunes_to_zero_and_lisa_works() -> None:
    for section in ({"method": "antidote", "antidote": {"prune_to": "zero"}}, {"method": "lisa"}):
        assert recipe.validate({**BASE, "defence": section}).defence.methods


@pytest.mark.parametrize("method", SERVER)
def test_local_mode_has_no_aggregated_model(method: str) -> None:
    assert "no aggregated model" in refused({"method": method}, federation={"mode": "local"})


@pytest.mark.parametrize("method", CLIENTS)
def test_local_mode_has_clients(method: str) -> None:
    made = load({"method": method}, federation={"mode": "local"})
    assert (made.defence.on_clients, made.defence.on_server) == ([method], [])


def test_lisa_and_fedprox_pull_to_different_weights() -> None:
    rule = {"algorithm": "fedprox"}
    assert "both have a proximal term" in refused({"method": "lisa"}, aggregation=rule)
    assert load({"method": "asft"}, aggregation=rule)


def test_the_mean_with_the_start_is_taken_once() -> None:
    anchored = {"schedule": "last", "anchor": 0.3}
    assert "set one of them" in refused({"method": "mean"}, constitution=anchored)
    assert load({"method": "csulora"}, constitution=anchored)
    assert load({"method": "mean"}, constitution={"schedule": "last"})


def test_server_and_client_methods_combine() -> None:
    made = load({"method": ["asft", "constrained-sft", "safe-merge", "mean", "post-hoc"]}).defence
    assert made.on_server == ["safe-merge", "mean", "post-hoc"]
    assert made.on_clients == ["asft", "constrained-sft"]


def test_a_deployment_has_no_client_side_defences() -> None:
    with pytest.raises(RecipeError, match="asft, constrained-sft works in the clients' training"):
        make_offer(load({"method": ["asft", "constrained-sft"]}), "")
    assert make_offer(load({"method": "mean"}), "") == make_offer(load({}), "")


def test_what_clients_train_depends_on_their_defence_alone() -> None:
    plain, server = load({}), load({"method": "mean"})
    assert plain.clients_hash == server.clients_hash
    lisa = load({"method": "lisa"})
    assert lisa.clients_hash == load({"method": ["lisa", "mean"]}).clients_hash
    assert lisa.clients_hash != plain.clients_hash
    assert lisa.clients_hash != load({"method": "lisa", "lisa": {"rho": 2}}).clients_hash


@pytest.mark.parametrize("method", REFITTED)
@pytest.mark.parametrize("rule", ["fedavgm", "fedadam", "fedyogi", "fedadagrad", "scaffold"])
def test_new_factors_do_not_fit_old_moments(method: str, rule: str) -> None:
    message = refused({"method": ["mean", method] if method != "resta" else method},
                      aggregation={"algorithm": rule})  # fmt: skip
    state = "control variates" if rule == "scaffold" else "moments"
    assert f"the {state} which {rule} keeps" in message
    assert load({"method": "mean"}, aggregation={"algorithm": rule})
    assert load({"method": method}, aggregation={"algorithm": "median"})


def test_a_section_with_defaults_leaves_the_hash_as_it_was() -> None:
    plain = recipe.validate(ALIGNED)
    assert plain.hash == load({"resta": {"strength": 0.5}}).hash
    assert "defence" not in plain.hashed_body()
    named = load({"method": "mean", "resta": {"strength": 0.5}})
    assert named.hashed_body()["defence"] == {"method": "mean", "settings": {}}
    assert named.hash != load({"method": "mean", "mean": {"share": 0.4}}).hash
    assert named.hash != plain.hash


def test_a_recipe_is_the_same_after_writing_and_reading() -> None:
    made = load({"method": ["safe-lora", "mean"], "mean": {"share": 0.25}})
    again = recipe.validate(recipe.loading.parse_toml(recipe.to_toml(made)))
    assert again.defence == made.defence
    assert again.hash == made.hash


def test_arms_choose_a_method() -> None:
    made = load({}, arms={"a": {"defence.method": "resta", "defence.resta.strength": 0.9}})
    assert recipe.arm(made, "a").defence.resta.strength == 0.9
