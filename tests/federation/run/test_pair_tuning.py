"""Preference tuning in whole runs of a tiny model: alone, after SFT, and with what it combines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from driver import fill_cache, write_recipe
from local_runs import execute
from scripted_grid import record

# isort: split
from fedrai import recipe, report
from fedrai.errors import DataError
from fedrai.federation import variates
from fedrai.federation.aggregation import build
from fedrai.federation.aggregation.scaffold import Variates
from fedrai.federation.protocol import shapes_of
from fedrai.federation.run import local, pair_tuning
from fedrai.federation.run.preparation import Callbacks
from fedrai.federation.shared_round import server_state
from fedrai.model import LanguageModel, read_adapter
from fedrai.recipe.sections import Recipe
from fedrai.report.preference import charts, table
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of
from fedrai.runs.record import RunRecord, read
from fedrai.training.local import split

PAIRS = """
[[data.sources]]
path = "{folder}/pairs.jsonl"
rows = "pairs"
"""
HARMFUL = """
[[data.sources]]
path = "{folder}/harmful.jsonl"
rows = "pairs"
harmful = true
"""
SHORT = (
    "training.batch_size=2", "training.local_steps=2", "federation.rounds=2", "evaluation.every=0",
    "evaluation.advbench=1", "evaluation.ordinary=1", "training.dpo.beta=2",
)  # fmt: skip


def write_pairs(file: Path, count: int, word: str) -> None:
    rows = [
        {
            "prompt": f"{word} {n}?",
            "chosen": "Yes, " + "a" * (n % 3 + 1),
            "rejected": "No, " + "b" * (n % 4 + 1),
        }
        for n in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Recipes of pairs, of answers and pairs, and of pairs with harmful ones."""
    place = tmp_path_factory.mktemp("pairs")
    fill_cache(place / "cache")
    write_pairs(place / "pairs.jsonl", 24, "pair")
    write_pairs(place / "harmful.jsonl", 12, "harm")
    write_pairs(place / "held.jsonl", 5, "held")
    file = write_recipe(place, tiny_model, PAIRS.format(folder=place))
    answers = f'[[data.sources]]\npath = "{place}/rows.jsonl"\n'
    text = file.read_text()
    (place / "sft+dpo.toml").write_text(text)
    (place / "dpo.toml").write_text(text.replace(answers, ""))
    (place / "harm.toml").write_text(text.replace(answers, "") + HARMFUL.format(folder=place))
    return place


@pytest.fixture
def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    monkeypatch.setenv("FEDRAI_CACHE", str(folder / "cache"))

    def make(name: str, *overrides: str) -> Recipe:
        method = f'training.method="{name}"' if name != "harm" else 'training.method="dpo"'
        return recipe.load(folder / f"{name}.toml", [method, *SHORT, *overrides])

    return make


def decided(run: RunFolder) -> dict[str, bytes]:
    files = sorted(run.path.rglob("*.safetensors"))
    return {str(file.relative_to(run.path)): file.read_bytes() for file in files}


def bits(run: RunFolder, number: int) -> str:
    return digest_of(read_adapter(run.round_folder(number) / "adapter"))


class Killed(BaseException):
    """Stands for a process that ends here."""


def test_both_trainings_are_recorded_and_a_killed_run_ends_in_the_same_bits(
    settings: Callable[..., Recipe], tiny: LanguageModel, folder: Path, tmp_path: Path
) -> None:
    held = f'evaluation.pair_source={{path="{folder}/held.jsonl",rows="pairs"}}'
    given = settings("sft+dpo", held, "evaluation.pairs=4")
    whole, prepared = execute(given, tiny, tmp_path / "whole")
    body = record(whole, 1)
    for name, numbers in body["clients"].items():
        answers, pairs = split(prepared.rows[name])
        assert answers
        assert numbers["pairs"] == len(pairs)
        assert numbers["steps"] == 4 == pair_tuning.steps_of(given, prepared.rows[name])
        assert numbers["loss-first"] > 5  # of a random model on bytes: log 256
        assert 0 <= numbers["reward-accuracy"] <= 1
    sizes = {name: numbers["num-examples"] for name, numbers in body["clients"].items()}
    mean = sum(n * body["clients"][name]["reward-margin"] for name, n in sizes.items())
    assert body["preference"]["margin"] == pytest.approx(mean / sum(sizes.values()))
    before, after = (
        json.loads((whole.path / f"evaluations/{n:04d}/metrics.json").read_text())["scores"]
        for n in (0, 2)
    )
    for name in ("held-out-pairs", "held-out-pairs-normalised", "held-out-rewards"):
        assert after[name]["count"] == 4
    assert "held-out-pairs" in before
    assert "held-out-rewards" not in before  # a fresh adapter is the base model
    _shown(read(whole), body)
    html = report.build([whole.path], tmp_path / "report.html").read_text()
    assert html.count("Preference tuning by round and client") == 2  # the table and its frame

    steps = iter(range(100))

    def stop(_client: str, _step: Any) -> None:
        if next(steps) == 11:  # among the pairs of round 2's first client
            raise Killed

    with pytest.raises(Killed):
        execute(given, tiny, tmp_path / "cut", Callbacks(step=stop))
    again, _ = execute(given, tiny, tmp_path / "cut")
    assert decided(again) == decided(whole)


def _shown(run: RunRecord, body: dict[str, Any]) -> None:
    """The record and the report have the round's figures."""
    tuned = run.rounds[0].preference
    assert tuned is not None
    assert tuned.accuracy == body["preference"]["accuracy"]
    (chart,) = charts([run])
    assert next(point.y for point in chart.curves[0].points) == tuned.accuracy
    shown = table([run])
    assert shown is not None
    lines = [[cell.text for cell in line.cells] for line in shown.rows]
    assert len(lines) == 2 * 3  # two clients a round, and their mean
    first = min(body["clients"])
    assert lines[0][2] == first
    assert lines[0][6] == f"{body['clients'][first]['reward-margin']:.3f}"
    assert lines[2][2] == "weighted mean"


RULES = {
    "fedprox": ["aggregation.algorithm=fedprox", "aggregation.proximal_mu=0.5"],
    "fedadam": ["aggregation.algorithm=fedadam"],
    "scaffold": ["aggregation.algorithm=scaffold"],
    "median": ["aggregation.algorithm=median"],
    "tokens": ["federation.weights=tokens"],
    "rolora": ["aggregation.algorithm=fedavg", "aggregation.lora=rolora"],
    "flora": ["aggregation.algorithm=fedavg", "aggregation.lora=flora", "adapter.ranks=[1,2,1]"],
}


@pytest.mark.parametrize("rule", RULES)
def test_each_kind_of_rule_trains_on_pairs(
    rule: str, settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    all_clients = ("federation.clients_per_round=3", "training.local_epochs=0.5")
    given = settings("dpo", *RULES[rule], *all_clients)
    run, prepared = execute(given, tiny, tmp_path / "run")
    for number in (1, 2):
        body = record(run, number)
        assert body["set_aside"] == {}
        assert len(body["clients"]) == 3
        assert body["preference"]["loss_first"] == pytest.approx(math.log(2), abs=1e-3)
        assert {c["steps"] for c in body["clients"].values()} == {2}  # half of 8 pairs, by twos
    assert {len(rows) for rows in prepared.rows.values()} == {8}


def test_the_server_follows_the_variates_of_clients_with_pairs(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    """What it keeps is the mean of what they keep, though the rate of pairs is one of its own."""
    given = settings("dpo", "aggregation.algorithm=scaffold", "training.dpo.learning_rate=0.01",
                     "training.dpo.local_steps=3", "federation.clients_per_round=3")  # fmt: skip
    run, prepared = execute(given, tiny, tmp_path / "run")
    server = Variates(3, lambda _round, _rows: 1.0)
    aggregator = build("scaffold", variates=server)
    aggregator.restore(server_state(run, 2))
    shapes = shapes_of(tiny.parameters)
    own = [variates.read(run.variates(n), server.counted(n), shapes) for n in prepared.rows]
    for key, common in server.common(tiny.fresh_adapter(1)).items():
        mean = sum(part[key] for part in own if part) / 3  # all hold 8 pairs
        assert torch.allclose(common, mean, atol=1e-5)
        assert bool(common.any()) or "lora_A" in key


def test_the_start_is_the_same_reference_in_round_1_alone(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    own, _ = execute(settings("dpo"), tiny, tmp_path / "round")
    kept = settings("dpo", "training.dpo.reference=start")
    other, _ = execute(kept, tiny, tmp_path / "start")
    assert bits(own, 1) == bits(other, 1)
    assert bits(own, 2) != bits(other, 2)
    losses = [record(run, 2)["preference"]["loss_first"] for run in (own, other)]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3)
    assert abs(losses[1] - math.log(2)) > 0.1


@pytest.mark.parametrize(("pairs", "kept", "swapped"), [("drop", 18, 0), ("swap", 24, 6)])
def test_harmful_pairs_are_placed_and_filtered(
    pairs: str, kept: int, swapped: int, settings: Callable[..., Recipe], tiny: LanguageModel
) -> None:
    given = settings("harm", "data.harm.share=0.25", "filter.mode=drop", "filter.guard=labels",
                     f"filter.pairs={pairs}")  # fmt: skip
    prepared = local.prepare(given, loaded=tiny)
    total = prepared.screening.to_json()["total"]
    assert total["confusion"] == {
        "harmful_in": 6, "harmful_kept": 0, "benign_in": 18, "benign_removed": 0
    }  # fmt: skip
    assert total["pairs"] == {"rows": 24, "unsafe": 6, "swapped": swapped, "dropped": 6 - swapped}
    assert sum(map(len, prepared.rows.values())) == kept
    unfiltered = local.prepare(settings("harm", "data.harm.share=0.25"), loaded=tiny)
    assert sum(unfiltered.harmful.values()) == 6


def test_malicious_clients_train_on_harmful_pairs(
    settings: Callable[..., Recipe], tiny: LanguageModel, tmp_path: Path
) -> None:
    given = settings("harm", "attack.kind=harmful-rows", "attack.share=0.3", "federation.rounds=1",
                     "federation.clients_per_round=3")  # fmt: skip
    run, prepared = execute(given, tiny, tmp_path / "run")
    assert prepared.malicious is not None
    (name,) = prepared.malicious.rows
    assert prepared.malicious.harmful[name] == len(prepared.malicious.rows[name]) == 8
    assert record(run, 1)["clients"][name]["pairs"] == 8


def test_pairs_that_are_too_long_are_counted_as_rows_are(
    settings: Callable[..., Recipe], tiny: LanguageModel, folder: Path
) -> None:
    text = {"prompt": "x" * 200, "chosen": "a", "rejected": "b"}
    late = {"prompt": "q", "chosen": "same" * 30 + "a", "rejected": "same" * 30 + "b"}
    (folder / "long.jsonl").write_text(
        (folder / "pairs.jsonl").read_text() + json.dumps(text) + "\n" + json.dumps(late) + "\n"
    )
    source = f'data.sources=[{{path="{folder}/long.jsonl",rows="pairs"}}]'
    prepared = local.prepare(settings("dpo", source, "data.on_bad_rows=skip"), loaded=tiny)
    assert prepared.info()["bad_row_problems"] == {
        "no answer within the first 96 tokens": 1,
        "the two answers are the same within the first 96 tokens": 1,
    }
    with pytest.raises(DataError, match="no answer within") as error:
        local.prepare(settings("dpo", source), loaded=tiny)
    assert "raise data.max_length" in (error.value.hint or "")
