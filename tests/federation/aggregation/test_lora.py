"""The rules for LoRA's factors: identities of their products, and numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import driver  # noqa: F401 (imports Flower without a warning of its typer)
from fedrai.errors import FederationError
from fedrai.federation.aggregation import Aggregator, build
from fedrai.federation.aggregation.factors import RULES, Factors
from fedrai.federation.aggregation.lora import Replies, Reply
from fedrai.federation.aggregation.raflora import rank_weights
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.protocol import Update
from fedrai.model.parts import Part
from fedrai.recipe.lora import CARRYING, PRODUCTS, Ranks, ranks_of

pytestmark = pytest.mark.slow

SIZES = {"attention": (5, 7), "head": (9, 4)}  # outputs, inputs
State = dict[str, Tensor]
seeds = st.integers(0, 10**6)


def adapter(seed: int, rank: int = 2, held: int = 0) -> State:
    """An adapter of two layers; `held` further ranks are the same for all seeds."""
    own = torch.Generator().manual_seed(seed)
    common = torch.Generator().manual_seed(10**9)
    state = {}
    for layer, (outputs, inputs) in SIZES.items():
        rows = [torch.randn(n, inputs, generator=g) for n, g in ((rank, own), (held, common))]
        columns = [torch.randn(outputs, n, generator=g) for n, g in ((rank, own), (held, common))]
        state[f"{layer}.lora_A.weight"] = torch.cat(rows)
        state[f"{layer}.lora_B.weight"] = torch.cat(columns, 1)
    return state


def products(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """B A of each layer, as whole matrices."""
    return {
        layer: state[f"{layer}.lora_B.weight"].double() @ state[f"{layer}.lora_A.weight"].double()
        for layer in SIZES
    }


def mean_products(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    parts = [products(state) for state in states]
    total = sum(weights)
    return {
        layer: torch.stack(
            [w / total * part[layer] for w, part in zip(weights, parts, strict=True)]
        ).sum(0)
        for layer in SIZES
    }


def updates(states: Sequence[State], weights: Sequence[float]) -> dict[str, Update]:
    pairs = zip(states, weights, strict=True)
    return {f"c{n}": Update(state, {WEIGHT: weight}) for n, (state, weight) in enumerate(pairs)}


def padded(state: State, rank: int) -> State:
    """The adapter with zeros up to a rank."""
    return {
        name: torch.nn.functional.pad(t, (0, 0, 0, rank - t.shape[0]) if "lora_A" in name
                                      else (0, rank - t.shape[1]))
        for name, t in state.items()
    }  # fmt: skip


def assert_near(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], within: float = 1e-5
) -> None:
    for name in other:
        scale = max(1.0, float(other[name].abs().max()))
        assert float((one[name] - other[name]).abs().max()) <= within * scale, name


def sharing(states: Sequence[State], factor: str) -> list[State]:
    """Adapters that have one factor in common."""
    return [{n: states[0][n] if f"lora_{factor}" in n else t for n, t in state.items()}
            for state in states]  # fmt: skip


weights_of_three = st.lists(st.integers(1, 50), min_size=3, max_size=3)


# --- the mean of products -------------------------------------------------------------------------


@given(seeds, weights_of_three)
def test_ffa_gives_the_mean_of_products(seed: int, weights: list[int]) -> None:
    states = sharing([adapter(seed + n) for n in range(3)], "A")
    result = build("fedavg", "ffa").aggregate(1, states[0], updates(states, weights))
    assert_near(products(result), mean_products(states, weights))


@pytest.mark.parametrize(("number", "common"), [(1, "A"), (2, "B"), (3, "A")])
def test_rolora_gives_the_mean_of_products_in_each_round(number: int, common: str) -> None:
    states, weights = sharing([adapter(n) for n in range(3)], common), [1, 2, 5]
    aggregator = build("fedavg", "rolora")
    assert aggregator.part(number, "c0") == Part(frozen=common)
    result = aggregator.aggregate(number, states[0], updates(states, weights))
    assert_near(products(result), mean_products(states, weights))


@given(seeds, weights_of_three)
def test_flexlora_gives_the_mean_of_products_if_the_rank_is_enough(
    seed: int, weights: list[int]
) -> None:
    states = [padded(adapter(seed + n, 1), 3) for n in range(3)]
    result = build("fedavg", "flexlora").aggregate(1, states[0], updates(states, weights))
    assert_near(products(result), mean_products(states, weights))


@given(seeds, weights_of_three)
def test_the_error_of_flexlora_is_that_of_the_discarded_singular_values(
    seed: int, weights: list[int]
) -> None:
    states = [adapter(seed + n) for n in range(3)]
    result = build("fedavg", "flexlora").aggregate(1, states[0], updates(states, weights))
    made = products(result)
    for layer, matrix in mean_products(states, weights).items():
        lost = torch.linalg.svdvals(matrix)[2:].square().sum().sqrt()
        assert float((matrix - made[layer]).norm()) == pytest.approx(float(lost), abs=1e-5)


def test_flexlora_balances_the_factors() -> None:
    states = [adapter(n) for n in range(3)]
    result = build("fedavg", "flexlora").aggregate(1, states[0], updates(states, [1, 1, 1]))
    for layer in SIZES:
        first, second = result[f"{layer}.lora_A.weight"], result[f"{layer}.lora_B.weight"]
        assert torch.allclose(first @ first.T, second.T @ second, atol=1e-4)


@pytest.mark.parametrize("rule", CARRYING)
@given(seed=seeds, weights=weights_of_three)
def test_rules_with_held_ranks_give_the_mean_of_products_while_it_fits(
    rule: str, seed: int, weights: list[int]
) -> None:
    """A layer of 4 inputs has rank 4 at most: 2 trained ranks and 7 held ones hold all."""
    states = [adapter(seed + n, 2, 7) for n in range(3)]
    aggregator = build("fedavg", rule, Ranks(9, others=2))
    result = aggregator.aggregate(1, states[0], updates(states, weights))
    assert_near(products(result), mean_products(states, weights), 3e-5)


def test_flora_trains_a_fresh_adapter_in_each_round() -> None:
    states = [adapter(n, 2, 7) for n in range(3)]
    aggregator = build("fedavg", "flora", Ranks(9, others=2), seed=5)
    first, second = (aggregator.aggregate(n, states[0], updates(states, [1] * 3)) for n in (1, 2))
    for layer, (_, inputs) in SIZES.items():
        fresh = first[f"{layer}.lora_A.weight"][:2]
        assert not first[f"{layer}.lora_B.weight"][:, :2].any()
        assert 0 < float(fresh.abs().max()) <= 1 / math.sqrt(inputs)
        assert not torch.equal(fresh, second[f"{layer}.lora_A.weight"][:2])
    again = build("fedavg", "flora", Ranks(9, others=2), seed=5)
    same = again.aggregate(1, states[0], updates(states, [1] * 3))
    assert all(torch.equal(first[name], same[name]) for name in first)


def test_fedex_keeps_the_means_of_the_factors() -> None:
    """What clients go on training is what `plain` gives, and the rest is beside it."""
    states, weights = [adapter(n, 2, 7) for n in range(3)], [1, 2, 5]
    plain = build("fedavg").aggregate(1, states[0], updates(states, weights))
    fedex = build("fedavg", "fedex", Ranks(9, others=2))
    result = fedex.aggregate(1, states[0], updates(states, weights))
    for name, tensor in result.items():
        cut = Part(rank=2).cut(name, tensor)
        assert torch.allclose(cut, Part(rank=2).cut(name, plain[name]), atol=1e-6)


def test_fedex_folds_the_residual_in_times_the_scale() -> None:
    """The base model with the adapter is the weighted mean of the clients' models."""
    states, weights, scale = [adapter(n, 2, 7) for n in range(3)], [1, 2, 5], 4.0
    base = {layer: torch.randn(size).double() for layer, size in SIZES.items()}
    fedex = build("fedavg", "fedex", Ranks(9, others=2))
    made = products(fedex.aggregate(1, states[0], updates(states, weights)))
    for layer in SIZES:
        models = [base[layer] + scale * products(state)[layer] for state in states]
        mean = sum(w / 8 * model for w, model in zip(weights, models, strict=True))
        assert torch.allclose(base[layer] + scale * made[layer], mean, atol=1e-4)


def test_the_ranks_of_fedex_and_flora_are_cut_to_what_there_is() -> None:
    states = [adapter(n, 2, 1) for n in range(3)]
    for rule in CARRYING:
        aggregator = build("fedavg", rule, Ranks(3, others=2))
        result = aggregator.aggregate(1, states[0], updates(states, [1] * 3))
        assert {n: t.shape for n, t in result.items()} == {n: t.shape for n, t in states[0].items()}
        error = aggregator.error(result, states[0], updates(states, [1] * 3))
        assert error is not None
        assert 0.05 < error["of_product"] < 1


# --- clients of different ranks -------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["plain", "ffa", "flexlora", "raflora"])
def test_padding_changes_no_product(rule: str) -> None:
    """Zero ranks at the end change neither a client's product nor the aggregate's."""
    states = sharing([adapter(n) for n in range(3)], "A")
    small = build("fedavg", rule).aggregate(1, states[0], updates(states, [1, 2, 3]))
    large = [padded(state, 4) for state in states]
    assert_near(products(large[1]), products(states[1]), 0)
    wide = build("fedavg", rule, Ranks(4, others=2))
    result = wide.aggregate(1, large[0], updates(large, [1, 2, 3]))
    if rule in ("flexlora", "raflora"):  # here the larger rank cuts less
        assert_near(products(result), mean_products(states, [1, 2, 3]))
    else:
        assert_near(products(result), products(small))


@given(seeds, weights_of_three)
def test_raflora_is_flexlora_where_ranks_are_equal(seed: int, weights: list[int]) -> None:
    states = [padded(adapter(seed + n), 4) for n in range(3)]
    for ranks in (Ranks(4), Ranks(4, others=2)):
        one, other = (
            build("fedavg", rule, ranks).aggregate(1, states[0], updates(states, weights))
            for rule in ("flexlora", "raflora")
        )
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_raflora_weighs_each_rank_by_those_that_have_it() -> None:
    ranks = Ranks(4, {"c0": 1, "c1": 2, "c2": 3}, 4)
    state = padded(adapter(0, 3), 4)
    replies = [Reply(1, 1, state), Reply(2, 2, state), Reply(5, 3, state)]
    weights, kept = rank_weights(Replies(1, state, replies, ranks))
    by_hand = [[1 / 8, 0, 0, 0], [2 / 8, 2 / 7, 0, 0], [5 / 8, 5 / 7, 1, 0]]
    assert [row.tolist() for row in weights] == by_hand
    assert kept.tolist() == [0, 0, 0, 1]  # a client of rank 4 was not sampled
    only = Ranks(4, {"c0": 1, "c1": 2, "c2": 3}, 3)
    assert not rank_weights(Replies(1, state, replies, only))[1].any()


def test_raflora_keeps_high_ranks_that_flexlora_shrinks() -> None:
    """One of two clients has both ranks: its second direction counts whole, not by half."""
    a, b = torch.eye(4)[:2], torch.eye(5)[:, :2] * torch.tensor([3.0, 2.0])
    state = {"x.lora_A.weight": a, "x.lora_B.weight": b}
    small = {n: Part(rank=1).cut(n, t) for n, t in state.items()}
    states = [padded(small, 2), state]
    ranks = Ranks(2, {"c0": 1})
    values = {}
    for rule in ("flexlora", "raflora"):
        result = build("fedavg", rule, ranks).aggregate(1, state, updates(states, [1, 1]))
        matrix = result["x.lora_B.weight"] @ result["x.lora_A.weight"]
        values[rule] = torch.linalg.svdvals(matrix)[:2].tolist()
    assert values["flexlora"] == pytest.approx([3, 1], abs=1e-5)
    assert values["raflora"] == pytest.approx([3, 2], abs=1e-5)


def test_a_client_of_a_small_rank_starts_from_the_best_approximation() -> None:
    state, part = adapter(3, 4), Part(rank=2)
    start = Factors("flexlora", Ranks(4, others=2)).start(state, part)
    for layer, matrix in products(state).items():
        lost = torch.linalg.svdvals(matrix)[2:].norm()
        assert float((products(start)[layer] - matrix).norm()) == pytest.approx(float(lost), 1e-5)
        assert not start[f"{layer}.lora_A.weight"][2:].any()
        assert not start[f"{layer}.lora_B.weight"][:, 2:].any()


def test_a_client_of_a_small_rank_starts_from_the_first_ranks_of_a_fresh_adapter() -> None:
    state = {n: t if "lora_A" in n else torch.zeros_like(t) for n, t in adapter(3, 4).items()}
    for rule in ("plain", "flexlora"):
        start = Factors(rule, Ranks(4, others=2)).start(state, Part(rank=2))
        for layer in SIZES:
            name = f"{layer}.lora_A.weight"
            assert torch.equal(start[name][:2], state[name][:2])
            assert not start[name][2:].any()


def test_ranks_by_name_and_by_cycle() -> None:
    by_name = ranks_of({"b": 4, "*": 2}, 8, [])
    assert [by_name.of(name) for name in "abc"] == [2, 4, 2]
    assert by_name.highest == 4
    some = ranks_of({"b": 4}, 8, [])
    assert [some.of(name) for name in "ab"] == [0, 4]  # 0: the adapter's
    assert some.highest == 0
    cycle = ranks_of([2, 8], 8, ["c", "a", "b"])
    assert [cycle.of(name) for name in "abc"] == [2, 0, 2]
    assert [ranks_of([3], 8, []).of(name) for name in "xy"] == [3, 3]
    assert ranks_of([], 8, ["a"]) == Ranks(8)


# --- properties of every rule ---------------------------------------------------------------------


def made(rule: str) -> tuple[Aggregator, list[State]]:
    """An aggregator, and what three clients may send it in round 1."""
    if rule in CARRYING:
        return build("fedavg", rule, Ranks(9, others=2)), [adapter(n, 2, 7) for n in range(3)]
    states = [adapter(n, 3) for n in range(3)]
    return build("fedavg", rule), sharing(states, "A") if rule in ("ffa", "rolora") else states


@pytest.mark.parametrize("rule", RULES)
def test_order_of_clients_changes_no_bit(rule: str) -> None:
    aggregator, states = made(rule)
    given_ = updates(states, [3, 1, 2])
    turned = dict(sorted(given_.items(), reverse=True))
    one, other = (aggregator.aggregate(1, states[0], some) for some in (given_, turned))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [1, 4])
def test_equal_clients_give_the_product_of_one(rule: str, count: int) -> None:
    aggregator, states = made(rule)
    result = aggregator.aggregate(1, states[0], updates([states[1]] * count, [2] * count))
    assert_near(products(result), products(states[1]), 3e-5)


@pytest.mark.parametrize("rule", RULES)
def test_weight_zero_changes_nothing(rule: str) -> None:
    aggregator, states = made(rule)
    three = aggregator.aggregate(1, states[0], updates(states, [3, 1, 0]))
    two = aggregator.aggregate(1, states[0], updates(states[:2], [3, 1]))
    assert all(torch.equal(three[name], two[name]) for name in two)


@pytest.mark.parametrize("rule", RULES)
def test_total_weight_zero_is_an_error(rule: str) -> None:
    aggregator, states = made(rule)
    with pytest.raises(FederationError, match=r"^round 1: the total weight of the updates is 0"):
        aggregator.aggregate(1, states[0], updates(states, [0, 0, 0]))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_leaves_its_inputs_alone_and_gives_float32(rule: str) -> None:
    aggregator, states = made(rule)
    before = [{name: t.clone() for name, t in state.items()} for state in states]
    result = aggregator.aggregate(1, states[0], updates(states, [3, 1, 2]))
    assert {t.dtype for t in result.values()} == {torch.float32}
    assert set(result) == set(states[0])
    for one, other in zip(states, before, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("algorithm", ["fedavgm", "fedadam", "median"])
def test_a_frozen_factor_keeps_its_bits_with_other_algorithms(algorithm: str) -> None:
    settings = {
        "fedavgm": {"server_learning_rate": 0.7, "server_momentum": 0.9},
        "fedadam": {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    }.get(algorithm, {"malicious": 0})
    states = sharing([adapter(n) for n in range(3)], "A")
    aggregator = build(algorithm, "ffa", **settings)
    current = states[0]
    for number in (1, 2):
        current = aggregator.aggregate(number, current, updates(states, [3, 1, 2]))
    for layer in SIZES:
        name = f"{layer}.lora_A.weight"
        assert torch.equal(current[name], states[0][name])
        assert not torch.equal(
            current[f"{layer}.lora_B.weight"], states[0][f"{layer}.lora_B.weight"]
        )


@pytest.mark.parametrize("rule", PRODUCTS)
def test_values_that_are_too_large_are_refused(rule: str) -> None:
    aggregator, states = made(rule)
    far = [{name: 1e6 * t for name, t in state.items()} for state in states]
    with pytest.raises(FederationError, match="above 65504"):
        aggregator.aggregate(1, states[0], updates(far, [1, 1, 1]))


# --- the error of an aggregate --------------------------------------------------------------------


def test_the_error_by_hand() -> None:
    """Rank 1 in a layer of 1: B A is 2 * 1 and 4 * 3; means 3 * 2 = 6, mean of products 7."""
    numbers = [(1.0, 2.0), (3.0, 4.0)]
    states = [{"x.lora_A.weight": torch.tensor([[a]]), "x.lora_B.weight": torch.tensor([[b]])}
              for a, b in numbers]  # fmt: skip
    start = {"x.lora_A.weight": torch.tensor([[1.0]]), "x.lora_B.weight": torch.tensor([[5.0]])}
    aggregator, given_ = build("fedavg"), updates(states, [1, 1])
    error = aggregator.error(aggregator.aggregate(1, start, given_), start, given_)
    assert error == pytest.approx({"of_product": 1 / 7, "of_change": 1 / 2})


@given(seeds, weights_of_three)
def test_the_error_of_the_plain_rule_is_the_covariance(seed: int, weights: list[int]) -> None:
    states, start = [adapter(seed + n) for n in range(3)], adapter(seed + 7)
    aggregator, given_ = build("fedavg"), updates(states, weights)
    result = aggregator.aggregate(1, start, given_)
    error = aggregator.error(result, start, given_)
    mean, made_ = mean_products(states, weights), products(result)
    wanted = math.hypot(*(float((made_[n] - mean[n]).norm()) for n in SIZES))
    size = math.hypot(*(float(mean[n].norm()) for n in SIZES))
    change = math.hypot(*(float((mean[n] - products(start)[n]).norm()) for n in SIZES))
    assert error is not None
    assert error["of_product"] == pytest.approx(wanted / size, rel=1e-4)
    assert error["of_change"] == pytest.approx(wanted / change, rel=1e-4)


def test_exact_rules_have_no_error_and_others_are_not_asked() -> None:
    for rule in ("ffa", "rolora"):
        aggregator, states = made(rule)
        given_ = updates(states, [3, 1, 2])
        error = aggregator.error(aggregator.aggregate(1, states[0], given_), states[0], given_)
        assert error is not None
        assert error["of_product"] < 1e-6
    states = [adapter(n) for n in range(3)]
    given_ = updates(states, [1, 1, 1])
    assert build("median", malicious=1).error(states[0], states[0], given_) is None
    assert build("fedavg").error({"x": states[0]["head.lora_A.weight"]}, states[0], {}) is None
