"""Arms that differ only in what the server does train their clients once in the first round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from driver import fill_cache, outcome, write_recipe

# isort: split
from fedrai.federation import client
from fedrai.federation.run.kept_trainings import KeptTrainings, is_plain
from fedrai.model import AdapterState, LanguageModel
from fedrai.recipe import loading
from fedrai.records import Message, Tokens, TrainingStep
from fedrai.report.comparing.running import TRAININGS, compare
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of
from fedrai.training import sft
from fedrai.training.sft import SftSettings, train

ARMS = """
[arms.mean]
[arms.adam.aggregation]
algorithm = "fedadam"
[arms.proximal.aggregation]
algorithm = "fedprox"
[arms.other.training]
learning_rate = 1e-4
"""
SETTINGS = SftSettings(2, 2, lambda step: 1e-3 / (step + 1))


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_recipe(tmp_path, tiny_model, ARMS)
    monkeypatch.setenv("FEDRAI_CACHE", str(fill_cache(tmp_path / "cache")))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each local training."""
    calls: list[int] = []

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(1)
        return train(*given, **named)

    monkeypatch.setattr(client, "train", counted)
    monkeypatch.setattr(sft, "train", counted)
    return calls


def run_arms(out: Path, *arms: str, **more: Any) -> None:
    compare(loading.select_arms(loading.load(Path("tiny.toml")), arms), out, **more)


@pytest.mark.slow
def test_arms_of_the_same_clients_train_the_first_round_once(
    folder: Path, trained: list[int]
) -> None:
    """Two clients in each of three rounds; the second arm trains in the last two only."""
    run_arms(folder / "alone", "adam", sharing=False)
    trained.clear()
    run_arms(folder / "together", "mean", "adam")
    assert len(trained) == 3 * 2 + 2 * 2
    assert outcome(folder / "together/adam") == outcome(folder / "alone/adam")
    taken = [e["steps"] for e in RunFolder(folder / "together/adam").events()
             if e["event"] == "training-taken"]  # fmt: skip
    assert len(taken) == 2
    assert all(steps > 0 for steps in taken)
    assert not (folder / "together" / TRAININGS).exists()


@pytest.mark.slow
def test_other_settings_of_the_clients_are_trained_anew(folder: Path, trained: list[int]) -> None:
    """A proximal term and another learning rate give other updates."""
    run_arms(folder / "out", "mean", "proximal", "other")
    assert len(trained) == 3 * 3 * 2


@pytest.fixture
def rows(tiny: LanguageModel) -> list[Tokens]:
    pairs = [("How far?", "Two miles."), ("Why?", "Because."), ("Late?", "Not yet, no.")]
    return [tiny.chat.train_tokens([Message("user", a), Message("assistant", b)], 64)
            for a, b in pairs]  # fmt: skip


@pytest.fixture
def start(tiny: LanguageModel) -> AdapterState:
    return tiny.fresh_adapter(3)


def kept_in(folder: Path, context: str = "") -> tuple[KeptTrainings, list[int]]:
    taken: list[int] = []
    return KeptTrainings(train, folder, context, taken.append), taken


def test_a_kept_training_is_the_same_to_the_bit(
    tiny: LanguageModel, start: AdapterState, rows: list[Tokens], tmp_path: Path
) -> None:
    kept, taken = kept_in(tmp_path / "kept")
    first, figures = kept(tiny, start, rows, SETTINGS, seed=1)
    assert taken == []
    steps: list[TrainingStep] = []
    second, again = kept(tiny, start, rows, SETTINGS, seed=1, on_step=steps.append)
    assert taken == [2]
    assert digest_of(first) == digest_of(second)
    assert again == figures
    assert [(step.step, step.loss) for step in steps] == list(enumerate(figures.losses, 1))


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "seed": lambda call: call.update(seed=2),
    "row": lambda call: call.update(rows=call["rows"][1:]),
    "start": lambda call: call.update(start={n: t + 1e-3 for n, t in call["start"].items()}),
    "rate": lambda call: call.update(settings=replace(SETTINGS, learning_rate=lambda _: 1e-3)),
    "size": lambda call: call.update(settings=replace(SETTINGS, batch_size=1)),
    "mu": lambda call: call.update(settings=replace(SETTINGS, proximal_mu=0.1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_the_result_is_in_the_key(
    tiny: LanguageModel, start: AdapterState, rows: list[Tokens], tmp_path: Path, change: str
) -> None:
    kept, taken = kept_in(tmp_path)
    call: dict[str, Any] = {"start": start, "rows": rows, "settings": SETTINGS, "seed": 1}
    kept(tiny, **call)
    CHANGES[change](call)
    kept(tiny, **call)
    assert taken == []


def test_another_model_or_a_later_round_takes_nothing(
    tiny: LanguageModel, start: AdapterState, rows: list[Tokens], tmp_path: Path
) -> None:
    kept_in(tmp_path)[0](tiny, start, rows, SETTINGS, seed=1)
    other, taken = kept_in(tmp_path, "another model")
    other(tiny, start, rows, SETTINGS, seed=1)
    later = replace(SETTINGS, first_step=2)
    kept, taken_later = kept_in(tmp_path)
    for _ in range(2):
        kept(tiny, start, rows, later, seed=1)
    assert (taken, taken_later) == ([], [])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_trained_again(
    tiny: LanguageModel, start: AdapterState, rows: list[Tokens], tmp_path: Path
) -> None:
    kept, taken = kept_in(tmp_path)
    adapter, _ = kept(tiny, start, rows, SETTINGS, seed=1)
    (file,) = tmp_path.iterdir()
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)
    again, _ = kept(tiny, start, rows, SETTINGS, seed=1)
    assert taken == []
    assert all(torch.equal(adapter[name], again[name]) for name in adapter)
    kept(tiny, start, rows, SETTINGS, seed=1)
    assert taken == [2]


def test_settings_that_hold_more_than_numbers_are_not_kept() -> None:
    assert is_plain(SETTINGS)
    assert not is_plain(replace(SETTINGS, clip_norm=torch.ones(1)))  # type: ignore[arg-type]
