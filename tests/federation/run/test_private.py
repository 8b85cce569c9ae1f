"""Runs with noise: what is recorded and sent, the same after a kill, and the end of a budget."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")

from driver import (
    COMMIT,
    fill_cache,
    killed_cases,
    lean,
    outcome,
    run_cases,
    write_recipe,
    write_rows,
)

# isort: split
import fedrai
from fedrai.cli import cli
from fedrai.errors import EvaluationError
from fedrai.federation.privacy.accounting import epsilon_of
from fedrai.federation.round import sample_clients
from fedrai.model import read_adapter
from fedrai.model.parts import factor_of
from fedrai.report import build
from fedrai.runs import RunFolder
from fedrai.runs.record import read, summarise

pytestmark = pytest.mark.slow

NOISE = {
    "server": 'noise = "server"\nclip = 0.5\nnoise_multiplier = 2.0',
    "ffa": 'noise = "server"\nclip = 0.5\nepsilon = 9.0\nexact_numbers = "send"',
    "client": 'noise = "client"\nclip = 0.5\nnoise_multiplier = 2.0',
    "spent": 'noise = "server"\nclip = 0.5\nnoise_multiplier = 2.0\nepsilon = 5.0',
}
KILLED = ("server",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def results(folder: Path, tiny_model: Path) -> dict[str, Any]:
    """Whole, killed and resumed runs, in one process that forks."""
    cache = fill_cache(folder / "cache")
    text = write_recipe(folder / "data", tiny_model).read_text()
    text = lean(text, clients=3, clients_per_round=2)
    text = text.replace("[federation]\n", '[federation]\nweights = "uniform"\n')
    text = text.replace("max_length = 96\n", "max_length = 96\nrows_per_client = 8\n")
    write_rows(folder / "data/rows.jsonl", 60)
    cases: list[dict[str, Any]] = []
    for name, section in NOISE.items():
        file, rule = folder / "data" / f"{name}.toml", "ffa" if name == "ffa" else "plain"
        rule = f'[aggregation]\nalgorithm = "fedavg"\nlora = "{rule}"\n'
        file.write_text(f"{text}\n[privacy]\n{section}\n{rule}")
        cases.append({"name": name, "argv": ["run", file, "--out", name]})
        if name in KILLED:
            cases += killed_cases(name, file, COMMIT)
    return run_cases(cases, tiny_model, folder, cache)


def body(run: Path, number: int) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((run / f"rounds/{number:04d}/round.json").read_text())
    return made


def asked_most(rounds: int) -> int:
    """Rounds of the client that is asked most often, with 2 of 3 clients and the seed 7."""
    names = [f"client-{n:02d}" for n in (1, 2, 3)]
    asked = [name for n in range(1, rounds + 1) for name in sample_clients(names, 2, 7, n)]
    return max(map(asked.count, names))


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_resumes_to_the_same_bits_and_counts_them_once(
    name: str, folder: Path, results: dict[str, Any]
) -> None:
    assert results[name]["code"] == 0, results[name]["err"]
    assert results[f"{name}-killed"]["code"] == -signal.SIGKILL
    assert results[f"{name}-resumed"]["code"] == 0, results[f"{name}-resumed"]["err"]
    assert outcome(folder / f"{name}-killed") == outcome(folder / name)
    accounts = [json.loads((folder / n / "privacy.json").read_text())
                for n in (name, f"{name}-killed")]  # fmt: skip
    assert accounts[0] == accounts[1]
    assert len(accounts[0]["releases"]) == 2


@pytest.mark.parametrize("name", ["server", "client"])
def test_a_round_records_the_cost_so_far(name: str, folder: Path, results: dict[str, Any]) -> None:
    for number in (1, 2):
        made = body(folder / name, number)["privacy"]
        most = asked_most(number)
        assert made["releases"] == most
        assert made["epsilon"] == pytest.approx(epsilon_of({2.0: most}, 1e-5))
        assert made["delta"] == 1e-5
        assert not made["secret"]
    assert made["deviation"] == pytest.approx({"server": 1 / 2, "client": 1 / 2**0.5}[name])
    record = read(RunFolder(folder / name)).privacy
    assert record is not None
    assert record.epsilon == made["epsilon"]
    assert f"privacy: epsilon {made['epsilon']:.3g}, delta 1e-05" in results[name]["err"]
    summary = summarise(RunFolder(folder / name))
    assert (summary.epsilon, summary.delta) == (made["epsilon"], 1e-5)
    assert "an experiment" in summary.privacy


def test_numbers_without_noise_are_neither_sent_nor_recorded(
    folder: Path, results: dict[str, Any]
) -> None:
    for name, norms in (("server", 0), ("client", 2)):  # a client's norm is that of its noise
        made = body(folder / name, 1)
        assert all(numbers == {} for numbers in made["clients"].values())
        assert len(made["clients"]) == 2
        assert len(made["update_norms"]) == norms
        assert made["loss_last"] is None
        assert ("aggregation_error" in made) == (name == "client")
    sent = body(folder / "ffa", 1)
    assert all({"num-examples", "loss-last"} <= set(one) for one in sent["clients"].values())
    assert len(sent["update_norms"]) == 2


def test_noise_falls_on_what_is_trained(folder: Path, results: dict[str, Any]) -> None:
    """On B alone with FFA, and about of the recorded deviation."""
    first, last = (read_adapter(folder / f"ffa/rounds/{n:04d}/adapter") for n in (1, 2))
    changes = []
    for name in first:
        assert torch.equal(first[name], last[name]) == (factor_of(name) == "A")
        changes.append((last[name] - first[name]).flatten() * (factor_of(name) == "B"))
    moved = torch.cat([part for part in changes if part.any()])
    assert float(moved.std()) == pytest.approx(
        body(folder / "ffa", 2)["privacy"]["deviation"], rel=0.1
    )


def test_noise_is_found_for_an_epsilon(folder: Path, results: dict[str, Any]) -> None:
    assert results["ffa"]["code"] == 0, results["ffa"]["err"]
    made = body(folder / "ffa", 2)["privacy"]
    assert made["epsilon"] == pytest.approx(9.0)
    assert made["noise_multiplier"] != 2.0


def test_a_run_stops_before_its_budget_is_exceeded(folder: Path, results: dict[str, Any]) -> None:
    """One round of a client costs 4.4 and two 6.6; client-03 is in both of the first two."""
    assert [asked_most(n) for n in (1, 2)] == [1, 2]
    assert results["spent"]["code"] != 0
    assert "round 2 would raise the privacy cost to epsilon" in results["spent"]["err"]
    assert RunFolder(folder / "spent").rounds() == [1]
    assert RunFolder(folder / "spent").evaluations() == [0, 1]


def test_membership_is_checked_on_the_runs_own_rows(
    folder: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 x 8 of 60 rows went to clients; as many of the other 36 are drawn. No text is shown."""
    monkeypatch.setenv("FEDRAI_CACHE", str(folder / "cache"))
    shown = CliRunner().invoke(cli, ["privacy", "check", str(folder / "server")])
    assert shown.exit_code == 0, shown.output
    assert "24 rows that were trained on, 24 others" in shown.output
    (check,) = read(RunFolder(folder / "server")).membership
    assert (check.number, check.own_rows, check.members, check.others) == (2, True, 24, 24)
    for figures in (check.auroc, check.found):
        assert set(figures) == {"loss", "ratio"}
        assert all(0 <= low <= value <= high <= 1 for value, low, high in figures.values())
    assert "item" not in (folder / "server/membership/0002.json").read_text() + shown.output
    found = fedrai.check_membership(
        folder / "server", folder / "data/rows.jsonl", folder / "data/rows.jsonl"
    )
    assert found.attacks["loss"].auroc.value == 0.5
    with pytest.raises(EvaluationError, match="one side of the membership check is missing"):
        fedrai.check_membership(folder / "server", folder / "data/rows.jsonl")


def test_the_card_has_the_cost_and_says_that_it_is_an_experiment(
    folder: Path, results: dict[str, Any]
) -> None:
    argv = ["export", str(folder / "server"), "--unreleased", "--out", str(folder / "exported")]
    assert CliRunner().invoke(cli, argv).exit_code == 0
    card = (folder / "exported/README.md").read_text()
    assert "| differential privacy | epsilon 6.57, delta 1e-05 against whoever receives" in card
    assert "it protects nobody" in card


def test_the_report_shows_the_cost(folder: Path, results: dict[str, Any]) -> None:
    page = build([folder / "server"], folder / "report.html").read_text()
    assert "Privacy by round" in page
    assert "it protects nobody" in page
    assert "Membership inference: server" in page
