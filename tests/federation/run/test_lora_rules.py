"""Runs with each rule for LoRA's factors: what is sent, what is recorded, the same after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from driver import COMMIT, fill_cache, killed_cases, lean, outcome, run_cases, write_recipe

# isort: split
from fedrai.model import read_adapter
from fedrai.model.parts import Part, factor_of
from fedrai.model.products import change_norm
from fedrai.report.charts import Chart
from fedrai.report.flat import rounds
from fedrai.report.results import curves
from fedrai.runs import RunFolder
from fedrai.runs.record import read

pytestmark = pytest.mark.slow

RULES = {
    "ffa": ("", 'lora = "ffa"'),
    "rolora": ("", 'lora = "rolora"'),
    "flexlora": ("", 'lora = "flexlora"'),
    "raflora": ("ranks = [1, 4]", 'lora = "raflora"'),
    "flora": ("ranks = [2, 1]", 'lora = "flora"'),
    "fedex": ("ranks = [2]", 'lora = "fedex"'),
    "cut": ("ranks = { client-01 = 2 }", 'lora = "plain"'),
}
KILLED = ("rolora", "raflora", "flora")  # what a round does depends on its number, ranks, seed
HEADER = 300  # bytes at most: the array's name and its format


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rules")


@pytest.fixture(scope="module")
def results(folder: Path, tiny_model: Path) -> dict[str, Any]:
    """Whole, killed and resumed runs by rule, in one process that forks."""
    cache = fill_cache(folder / "cache")
    text = lean(write_recipe(folder / "data", tiny_model).read_text())
    cases: list[dict[str, Any]] = []
    for name, (adapter, rule) in {"plain": ("", 'lora = "plain"'), **RULES}.items():
        file = folder / "data" / f"{name}.toml"
        made = text.replace("[adapter]\n", f"[adapter]\n{adapter}\n")
        file.write_text(f'{made}\n[aggregation]\nalgorithm = "fedavg"\n{rule}\n')
        cases.append({"name": name, "argv": ["run", file, "--out", name]})
        if name in KILLED:
            cases += killed_cases(name, file, COMMIT)
    return run_cases(cases, tiny_model, folder, cache)


def round_of(run: Path, number: int = 1) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((run / f"rounds/{number:04d}/round.json").read_text())
    return body


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_resumes_to_the_same_bits(
    name: str, folder: Path, results: dict[str, Any]
) -> None:
    assert results[name]["code"] == 0, results[name]["err"]
    assert results[f"{name}-killed"]["code"] == -signal.SIGKILL
    assert results[f"{name}-resumed"]["code"] == 0, results[f"{name}-resumed"]["err"]
    assert outcome(folder / f"{name}-killed") == outcome(folder / name)
    assert outcome(folder / name) != outcome(folder / "plain")


@pytest.mark.parametrize(
    ("name", "up"),
    [("ffa", {1: "B", 2: "B"}), ("rolora", {1: "B", 2: "A"}), ("flora", {1: "AB"})],
)
def test_messages_hold_what_is_trained(
    name: str, up: dict[int, str], folder: Path, results: dict[str, Any]
) -> None:
    """Bytes of float32 weights, and a header for each message."""
    assert results[name]["code"] == 0, results[name]["err"]
    adapter = read_adapter(folder / name / "rounds/0001/adapter")
    trained = {"flora": (2, 1)}.get(name, (4, 4))
    for number, factors in up.items():
        cost = round_of(folder / name, number)["costs"]["training"]
        sent = sum(
            4 * Part(rank=rank).cut(key, tensor).numel()
            for rank in trained
            for key, tensor in adapter.items()
            if factor_of(key) in factors
        )
        assert 0 <= cost["bytes_up"] - sent < 2 * HEADER
        assert (
            0 <= cost["bytes_down"] - 2 * sum(4 * t.numel() for t in adapter.values()) < 2 * HEADER
        )


def test_a_client_of_a_smaller_rank_gets_and_sends_it_alone(
    folder: Path, results: dict[str, Any]
) -> None:
    adapter = read_adapter(folder / "cut/rounds/0001/adapter")
    whole = sum(4 * tensor.numel() for tensor in adapter.values())
    cost = round_of(folder / "cut")["costs"]["training"]
    for direction in ("bytes_up", "bytes_down"):
        assert 0 <= cost[direction] - (whole + whole / 2) < 2 * HEADER


def test_ffa_leaves_the_first_factor_alone(folder: Path, results: dict[str, Any]) -> None:
    first, last = (read_adapter(folder / f"ffa/rounds/{n:04d}/adapter") for n in (1, 2))
    for name in first:
        assert torch.equal(first[name], last[name]) == (factor_of(name) == "A")


def test_rolora_trains_the_factors_in_turn(folder: Path, results: dict[str, Any]) -> None:
    """B in the first round, so A in the second."""
    first, second = (read_adapter(folder / f"rolora/rounds/{n:04d}/adapter") for n in (1, 2))
    for name in first:
        assert torch.equal(first[name], second[name]) == (factor_of(name) == "B")


def test_flora_ends_a_round_with_a_fresh_adapter(folder: Path, results: dict[str, Any]) -> None:
    adapter = read_adapter(folder / "flora/rounds/0002/adapter")
    empty = {name: torch.zeros_like(tensor) for name, tensor in adapter.items()}
    for name, tensor in adapter.items():
        if factor_of(name) == "B":
            assert not tensor[:, :2].any()
    assert change_norm(empty, adapter) > 0


@pytest.mark.parametrize("name", ["plain", *RULES])
def test_a_round_records_its_error(name: str, folder: Path, results: dict[str, Any]) -> None:
    errors = [round_of(folder / name, n)["aggregation_error"] for n in (1, 2)]
    assert read(RunFolder(folder / name)).rounds[1].aggregation_error == errors[1]["of_change"]
    assert [row["aggregation_error"] for row in rounds(read(RunFolder(folder / name)))] == [
        error["of_change"] for error in errors
    ]
    if name in ("ffa", "rolora"):
        assert all(error["of_product"] < 1e-5 for error in errors)
        assert "aggregation:" not in results[name]["err"]
    if name == "plain":
        assert all(1e-4 < error["of_product"] < 1 for error in errors)
        shown = f"aggregation: {100 * errors[0]['of_change']:.1f} % of the mean change"
        assert shown in results[name]["err"]


def test_fedex_loses_less_than_the_plain_rule(folder: Path, results: dict[str, Any]) -> None:
    """Rank 2 with what rank 2 beside it holds of the residual, against rank 4 by itself."""
    plain, fedex = (round_of(folder / n)["aggregation_error"]["of_change"]
                    for n in ("plain", "fedex"))  # fmt: skip
    assert fedex < plain


def test_the_report_has_a_curve_of_errors(folder: Path, results: dict[str, Any]) -> None:
    charts: list[Chart] = curves(
        [read(RunFolder(folder / "plain")), read(RunFolder(folder / "ffa"))]
    )["charts"]
    (chart,) = (chart for chart in charts if chart.name == "chart-aggregation")
    assert [[point.x for point in curve.points] for curve in chart.curves] == [[1, 2]] * 2
    assert chart.curves[0].points[0].y > 1e-4 > chart.curves[1].points[0].y
