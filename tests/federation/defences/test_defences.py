"""Each defence of the server against its formula on full matrices, and against values by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrai.federation.defences import Defended, Tools, build
from fedrai.federation.defences.base import Task
from fedrai.federation.defences.csulora import CsuLora
from fedrai.federation.defences.mean import MeanWithStart
from fedrai.federation.defences.resta import Resta, thinned
from fedrai.federation.defences.safe_lora import SafeLora
from fedrai.federation.defences.safe_merge import SafeMerge
from fedrai.model import AdapterState
from fedrai.recipe.sections import Defence
from fedrai.runs.costs import Cost

LAYERS = ("x", "y")
OUT, IN = 6, 5
SEEDS = st.integers(0, 9999)


def adapter(seed: int, rank: int = 2, size: float = 1.0) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{layer}.lora_{part}.weight": size * torch.randn(shape, generator=generator)
        for layer in LAYERS
        for part, shape in (("A", (rank, IN)), ("B", (OUT, rank)))
    }


def near(start: AdapterState, seed: int, size: float = 0.3) -> AdapterState:
    rank = start["x.lora_A.weight"].shape[0]
    moved = adapter(seed, rank, size)
    return {name: start[name] + moved[name] for name in start}


def full(state: AdapterState, layer: str) -> Tensor:
    return state[f"{layer}.lora_B.weight"].double() @ state[f"{layer}.lora_A.weight"].double()


def cut(matrix: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=2e-4, rtol=1e-4)


def task(aggregated: AdapterState) -> Task:
    return Task(1, aggregated, aggregated)


# --- mean -----------------------------------------------------------------------------------------


def test_mean_by_hand() -> None:
    start, aggregated = {"w": torch.tensor([4.0, 0.0])}, {"w": torch.tensor([0.0, 8.0])}
    method = MeanWithStart(start, 0.25)
    assert method.after(task(aggregated)).adapter["w"].tolist() == [1.0, 6.0]


# --- resta ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0.1, 2))
def test_resta_adds_the_safety_vector_and_cuts_to_the_rank(seed: int, strength: float) -> None:
    start, unaligned = adapter(seed), adapter(seed + 1)
    aggregated = near(start, seed + 2)
    for other in (None, unaligned):
        unaligned = None if other is None else (lambda: (adapter(seed + 1), Cost(tokens=3)))
        outcome = Resta(start, unaligned, strength).after(task(aggregated))
        assert outcome.cost.tokens == (0 if other is None else 3)
        lost = kept = 0.0
        for layer in LAYERS:
            vector = full(start, layer) - (0 if other is None else full(other, layer))
            want = full(aggregated, layer) + strength * vector
            best = cut(want, 2)
            assert same(full(outcome.adapter, layer), best)
            lost += float((want - best).square().sum())
            kept += float(best.square().sum())
        truncation = (lost / (lost + kept)) ** 0.5
        assert outcome.report["truncation"] == pytest.approx(truncation, abs=1e-6)
        assert (outcome.report["layers"], outcome.report["of"]) == (2, 2)


def test_resta_by_hand() -> None:
    # W = 2, aligned 3: 2 + 0.5 * 3 = 3.5; with an unaligned 1: 2 + 0.5 * (3 - 1) = 3
    def one(value: float) -> AdapterState:
        return {"z.lora_A.weight": torch.ones(1, 1), "z.lora_B.weight": torch.tensor([[value]])}

    for unaligned, want in ((None, 3.5), (lambda: (one(1), Cost()), 3.0)):
        made = Resta(one(3), unaligned, 0.5).after(task(one(2)))
        assert float(full(made.adapter, "z")) == pytest.approx(want, rel=1e-6)
        assert made.report["truncation"] == pytest.approx(0, abs=1e-7)


def test_dare_keeps_the_mean_of_the_product() -> None:
    start, total = adapter(1), torch.zeros(OUT, IN, dtype=torch.float64)
    aggregated = near(start, 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4000):
        total += full(thinned(start, aggregated, 0.3, generator), "x")
    assert torch.allclose(total / 4000, full(aggregated, "x"), atol=0.06)


def test_dare_drops_and_scales_by_the_round_and_the_seed() -> None:
    start, aggregated = adapter(1), near(adapter(1), 2)
    thin = thinned(start, aggregated, 0.5, torch.Generator().manual_seed(3))
    name = "x.lora_A.weight"
    moved, kept = aggregated[name] - start[name], thin[name] - start[name]
    dropped = kept == 0
    assert 0 < int(dropped.sum()) < dropped.numel()
    assert torch.allclose(kept[~dropped], 2 * moved[~dropped], atol=1e-6)

    def made(seed: int, number: int) -> Tensor:
        method = Resta(start, None, 0.5, 0.5, seed)
        return method.after(Task(number, aggregated, aggregated)).adapter[name]

    assert torch.equal(made(1, 1), made(1, 1))
    assert not torch.equal(made(1, 1), made(1, 2))
    assert not torch.equal(made(1, 1), made(2, 1))


# --- safe-lora and safe-merge ---------------------------------------------------------------------


def cosine_and_projected(
    start: AdapterState, aggregated: AdapterState, layer: str, scale: float, projection: str
) -> tuple[float, Tensor]:
    v = scale * full(start, layer)
    matrix = v @ v.T / v.norm()
    if projection == "orthogonal":
        matrix = v @ torch.linalg.pinv(v)
    moved = full(aggregated, layer) - full(start, layer)
    projected = matrix @ moved
    return float((projected * moved).sum() / (projected.norm() * moved.norm())), projected


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.floats(0, 1), st.sampled_from(["published", "orthogonal"]))
def test_safe_lora_projects_the_layers_below_the_threshold(
    seed: int, threshold: float, projection: str
) -> None:
    start = adapter(seed)
    aggregated = near(start, seed + 1)
    method = SafeLora(start, 2.0, threshold, projection)  # type: ignore[arg-type]
    outcome = method.after(task(aggregated))
    values = []
    for layer in LAYERS:
        value, projected = cosine_and_projected(start, aggregated, layer, 2.0, projection)
        values.append(value)
        want = full(aggregated, layer)
        if value < threshold:
            want = cut(full(start, layer) + projected, 2)
        assert same(full(outcome.adapter, layer), want)
    assert outcome.report["layers"] == sum(value < threshold for value in values)
    assert outcome.report["cosine_least"] == pytest.approx(min(values), abs=1e-6)
    assert outcome.report["cosine_median"] == pytest.approx(sum(values) / 2, abs=1e-6)


def diagonal(a: float, b: float) -> AdapterState:
    return {"z.lora_A.weight": torch.eye(2), "z.lora_B.weight": torch.diag(torch.tensor([a, b]))}


def test_safe_lora_by_hand() -> None:
    # V = diag(2, 0): C = diag(4, 0) / 2 = diag(2, 0). dW = diag(3, 4): C dW = diag(6, 0), whose
    # cosine to dW is 18 / (6 * 5) = 0.6.
    start, aggregated = diagonal(2, 0), diagonal(5, 4)
    made = SafeLora(start, 1.0, 0.61).after(task(aggregated))
    assert same(full(made.adapter, "z"), torch.diag(torch.tensor([8.0, 0.0])).double())
    assert made.report["cosine_least"] == pytest.approx(0.6)
    made = SafeLora(start, 1.0, 0.61, "orthogonal").after(task(aggregated))
    assert same(full(made.adapter, "z"), torch.diag(torch.tensor([5.0, 0.0])).double())
    kept = SafeLora(start, 1.0, 0.59).after(task(aggregated))
    assert kept.adapter["z.lora_B.weight"] is aggregated["z.lora_B.weight"]
    assert kept.report["layers"] == 0


def test_layers_without_a_direction_or_a_change_are_left_alone() -> None:
    nothing = diagonal(0, 0)
    for start, aggregated in ((nothing, diagonal(5, 4)), (diagonal(2, 1), diagonal(2, 1))):
        for method in (SafeLora(start, 1.0, 1.0), SafeMerge(start, 1.0, 1.0, 0.5)):
            made = method.after(task(aggregated))
            assert made.adapter["z.lora_B.weight"] is aggregated["z.lora_B.weight"]
            assert made.report["cosine_least"] is None
    made = CsuLora(nothing, 0.9, 1.0, 1.0).after(task(diagonal(5, 4)))
    assert made.report["layers"] == 0


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0, 1), st.floats(0.1, 1))
def test_safe_merge_merges_the_layers_below_the_threshold(
    seed: int, threshold: float, share: float
) -> None:
    start = adapter(seed)
    aggregated = near(start, seed + 1)
    outcome = SafeMerge(start, 2.0, threshold, share).after(task(aggregated))
    for layer in LAYERS:
        value, _ = cosine_and_projected(start, aggregated, layer, 2.0, "published")
        want = full(aggregated, layer)
        if value < threshold:
            want = cut((1 - share) * want + share * full(start, layer), 2)
        assert same(full(outcome.adapter, layer), want)


# --- csulora --------------------------------------------------------------------------------------


def dense_csulora(
    start: Tensor, moved: Tensor, energy: float, partial: float, outside: float
) -> Tensor:
    u, s, v = torch.linalg.svd(start)
    squares = s**2
    size = next(k for k in range(1, 7) if float(squares[:k].sum() / squares.sum()) >= energy - 1e-9)
    p, q = u[:, :size] @ u[:, :size].T, v[:size].T @ v[:size]
    rest_p, rest_q = torch.eye(len(p)) - p, torch.eye(len(q)) - q
    some = p @ moved @ rest_q + rest_p @ moved @ q
    none = rest_p @ moved @ rest_q
    shares = [float(part.square().sum() / moved.square().sum()) for part in (some, none)]
    return (
        p @ moved @ q + some / (1 + partial * shares[0]) + none / (1 + outside * shares[1])
    )  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.floats(0.3, 1), st.floats(0, 10), st.floats(0, 10))
def test_csulora_is_its_closed_form(
    seed: int, energy: float, partial: float, outside: float
) -> None:
    start = adapter(seed)
    aggregated = near(start, seed + 1)
    outcome = CsuLora(start, energy, partial, outside).after(task(aggregated))
    for layer in LAYERS:
        moved = full(aggregated, layer) - full(start, layer)
        safe = dense_csulora(full(start, layer), moved, energy, partial, outside)
        assert same(full(outcome.adapter, layer), cut(full(start, layer) + safe, 2))
    parts = [outcome.report[name] for name in ("aligned", "partial", "outside")]
    assert sum(parts) == pytest.approx(1)


def test_csulora_minimises_its_objective() -> None:
    """No small step away from the closed form has a lower value."""
    generator = torch.Generator().manual_seed(1)
    moved = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    p = torch.diag(torch.tensor([1.0, 1, 0, 0])).double()
    rest = torch.eye(4).double() - p

    def parts(x: Tensor) -> tuple[Tensor, Tensor]:
        return p @ x @ rest + rest @ x @ p, rest @ x @ rest

    shares = [float(part.square().sum() / moved.square().sum()) for part in parts(moved)]

    def value(x: Tensor) -> float:
        some, none = parts(x)
        penalty = 3 * shares[0] * some.square().sum() + 5 * shares[1] * none.square().sum()
        return float((x - moved).square().sum() + penalty)

    # the aligned subspace of diag(2, 2, 0, 0) is the first two axes
    best = dense_csulora(torch.diag(torch.tensor([2.0, 2, 0, 0])).double(), moved, 1.0, 3.0, 5.0)
    for _ in range(50):
        step = 1e-3 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
        assert value(best + step) > value(best)


def test_csulora_by_hand() -> None:
    # aligned: the first axis. dW = diag(3, 4): aligned 3, outside 4 with 16/25 of the energy;
    # outside is divided by 1 + 2.5 * 16 / 25 = 2.6.
    made = CsuLora(diagonal(2, 0), 0.9, 7.0, 2.5).after(task(diagonal(5, 4)))
    want = torch.diag(torch.tensor([5.0, 4 / 2.6])).double()
    assert same(full(made.adapter, "z"), want)
    assert made.report["aligned"] == pytest.approx(9 / 25)
    assert made.report["outside"] == pytest.approx(16 / 25)


# --- chains ---------------------------------------------------------------------------------------


def made_by(defence: Defence, start: AdapterState, aggregated: AdapterState) -> Defended:
    defend = build(defence, Tools(7, 2.0, start))
    assert defend is not None
    return defend(1, aggregated, aggregated)


def test_a_chain_applies_its_methods_in_order() -> None:
    start = adapter(1)
    aggregated = near(start, 2)
    section = Defence.model_validate({"method": ["safe-lora", "mean"], "mean": {"share": 0.3},
                                      "safe_lora": {"threshold": 1.0}})  # fmt: skip
    done = made_by(section, start, aggregated)
    first = SafeLora(start, 2.0, 1.0).after(task(aggregated)).adapter
    both = MeanWithStart(start, 0.3).after(task(first)).adapter
    assert all(torch.equal(done.adapter[name], both[name]) for name in both)
    assert [step["method"] for step in done.steps] == ["safe-lora", "mean"]
    other = made_by(section.model_copy(update={"method": ["mean", "safe-lora"]}), start, aggregated)
    assert not torch.equal(other.adapter["x.lora_A.weight"], both["x.lora_A.weight"])


@pytest.mark.parametrize("method", ["mean", "resta", "safe-lora", "safe-merge", "csulora"])
def test_a_step_says_how_far_it_moved_the_matrices(method: str) -> None:
    start = adapter(1)
    aggregated = near(start, 2)
    section = Defence.model_validate(
        {"method": method, "safe_lora": {"threshold": 1.0}, "safe_merge": {"threshold": 1.0}}
    )
    done = made_by(section, start, aggregated)
    squares = [
        float((full(done.adapter, layer) - full(aggregated, layer)).square().sum())
        for layer in LAYERS
    ]
    assert done.steps[0]["moved"] == pytest.approx(sum(squares) ** 0.5, rel=1e-4)
    assert done.steps[0]["moved"] > 0


def test_no_method_is_no_defence() -> None:
    assert build(Defence(), Tools()) is None
