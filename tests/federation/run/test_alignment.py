"""Alignments in the round loop: where they stand in it, what they leave, and how they go on."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from driver import fill_cache, write_recipe

# isort: split
from fedrai.cli import cli
from fedrai.cli.show.display import Display
from fedrai.cli.show.summary import alignment_line, alignments
from fedrai.cli.show.tables import print_comparison
from fedrai.constitution.outcome import Aligned, brief
from fedrai.errors import RunError
from fedrai.federation import clients, protocol
from fedrai.federation.aggregation import build
from fedrai.federation.run import preparation, rounds, running
from fedrai.federation.server import run_rounds
from fedrai.model import AdapterState, LanguageModel, read_adapter
from fedrai.recipe import loading
from fedrai.runs import RunFolder
from fedrai.runs.costs import Cost
from fedrai.runs.files import digest_of
from fedrai.runs.record import AlignmentRecord, ConstitutionRecord, Summary, summarise
from run_folders import MINING
from scripted_grid import NODES, PLAN, ScriptedGrid, honest, kinds, record, shift_after, tools

REPORT: dict[str, Any] = {
    "ran": True,
    "why": "budget: every round",
    "steps": 4,
    "yield": 0.75,
    "probe_before": {"safe": 0.5, "useful": 1.0},
    "probe_after": {"safe": 0.875, "useful": 0.9375},
    "full_operations": 5e12,
}
COST = Cost(seconds=2.0, tokens=100, operations=1e12)


class Scripted:
    """Moves every weight by one and counts its calls.

    Args:
        stops: at which call it is interrupted half-way.
        skips: rounds in which it does nothing.
    """

    def __init__(self, stops: int = 0, skips: Sequence[int] = ()) -> None:
        self.stops, self.skips = stops, skips
        self.calls: list[tuple[int, bool]] = []  # the round, and whether something was there

    def __call__(self, number: int, adapter: AdapterState, work: Path) -> Aligned:
        half = work / "half.txt"
        self.calls.append((number, half.is_file()))
        if number in self.skips:
            return Aligned(adapter, {"ran": False, "why": "no drift"}, Cost(seconds=0.5))
        half.write_text("half")
        if len(self.calls) == self.stops:
            raise KeyboardInterrupt
        return Aligned({name: part + 1 for name, part in adapter.items()}, REPORT, COST)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "", {})


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "POLL", 0.01)


# --- one round ------------------------------------------------------------------------------------


def test_the_aligned_adapter_is_what_is_kept_and_sent(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    grid, align = ScriptedGrid(honest), Scripted()
    plan = dataclasses.replace(PLAN, rounds=2)
    run_rounds(plan, tools(folder, tiny, grid, align=align))
    # the mean moves by (1 * 1 + 3 * 4 + 4 * -2) / 8, the alignment by 1; see test_server
    assert shift_after(folder, tiny, 1) == pytest.approx(5 / 8 + 1, abs=1e-6)
    assert shift_after(folder, tiny, 2) == pytest.approx(2 * (5 / 8 + 1), abs=1e-6)
    kept = read_adapter(folder.round_folder(1) / "adapter")
    for message in grid.asked[3:]:
        sent = protocol.unpack_task(message.content, protocol.shapes_of(kept)).adapter
        assert all(torch.equal(sent[name], kept[name]) for name in kept)
    assert align.calls == [(1, False), (2, False)]
    assert not folder.pending(1).exists()


def test_the_round_keeps_the_report_and_the_cost(folder: RunFolder, tiny: LanguageModel) -> None:
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest), align=Scripted()))
    assert record(folder)["constitution"] == REPORT
    assert record(folder)["costs"]["constitution"] == COST.to_json()
    (event,) = [e for e in folder.events() if e["event"] == "constitution-finished"]
    assert {k: v for k, v in event.items() if k not in ("time", "event")} == {
        "round": 1,
        "steps": 4,
        "yield": 0.75,
        "safe": [0.5, 0.875],
        "useful": [1.0, 0.9375],
    }
    found = kinds(folder)
    assert found.index("client-finished") < found.index("constitution-finished")
    assert found.index("constitution-finished") < found.index("round-finished")


def test_a_round_that_is_skipped_says_why_and_changes_nothing(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest), align=Scripted(skips=[1])))
    assert shift_after(folder, tiny) == pytest.approx(5 / 8, abs=1e-6)
    assert record(folder)["constitution"] == {"ran": False, "why": "no drift"}
    (event,) = [e for e in folder.events() if e["event"].startswith("constitution")]
    assert (event["event"], event["round"], event["why"]) == (
        "constitution-skipped",
        1,
        "no drift",
    )


def test_a_run_without_a_constitution_has_no_word_of_it(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest)))
    assert "constitution" not in record(folder)
    assert list(record(folder)["costs"]) == ["training", "aggregation"]


# --- stopped and resumed --------------------------------------------------------------------------


def bits(folder: RunFolder) -> dict[str, bytes]:
    return {str(f.relative_to(folder.path)): f.read_bytes()
            for f in (folder.path / "rounds").rglob("*.safetensors")}  # fmt: skip


@pytest.mark.parametrize("algorithm", ["fedavg", "fedadam", "fedavgm"])
def test_an_interrupted_alignment_goes_on_to_the_same_bits(
    algorithm: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    settings = {
        "fedavg": {},
        "fedadam": {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        "fedavgm": {"server_learning_rate": 0.7, "server_momentum": 0.9},
    }[algorithm]
    plan = dataclasses.replace(PLAN, rounds=3)

    def start(name: str, align: Scripted) -> tuple[RunFolder, ScriptedGrid]:
        path = tmp_path / name
        run = RunFolder(path) if path.exists() else RunFolder.create(path, "", {})
        run.repair()
        grid = ScriptedGrid(honest)
        aggregator = build(algorithm, **settings)
        run_rounds(plan, tools(run, tiny, grid, align=align, aggregator=aggregator))
        return run, grid

    whole, _ = start("whole", Scripted())
    with pytest.raises(KeyboardInterrupt):
        start("cut", Scripted(stops=2))
    again = Scripted()
    cut, grid = start("cut", again)
    assert again.calls == [(2, True), (3, False)]
    assert len(grid.asked) == len(NODES)  # those of round 3: the updates of round 2 were kept
    assert bits(cut) == bits(whole)
    assert len(bits(whole)) == (3 if algorithm == "fedavg" else 6)


def test_an_alignment_of_another_adapter_starts_over(
    folder: RunFolder, tiny: LanguageModel
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_rounds(PLAN, tools(folder, tiny, ScriptedGrid(honest), align=Scripted(stops=1)))
    (folder.pending(1) / "b.safetensors").unlink()
    silent = ScriptedGrid(lambda _name, _message: [])
    again = Scripted()
    run_rounds(PLAN, tools(folder, tiny, silent, align=again))
    assert again.calls == [(1, False)]
    assert shift_after(folder, tiny) == pytest.approx((1 * 1 + 4 * -2) / 5 + 1, abs=1e-6)


def test_what_a_round_left_for_later_ones_goes_with_the_round(folder: RunFolder) -> None:
    for number in (1, 2, 3):
        (folder.alignments / f"{number:04d}").mkdir(parents=True)
    (folder.alignments / "note.txt").write_text("of no round")
    folder.commit_round(1, lambda path: None)
    folder.commit_round(2, lambda path: None)
    folder.repair()
    assert sorted(f.name for f in folder.alignments.iterdir()) == ["0001", "0002", "note.txt"]


def test_digest_tells_adapters_apart() -> None:
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(2, 2)}
    turned = {"b": torch.zeros(2, 2), "a": torch.tensor([1.0, 2.0])}
    assert digest_of(one) == digest_of(turned)
    others = [
        {**one, "a": torch.tensor([1.0, 2.0000002])},
        {**one, "a": torch.tensor([[1.0, 2.0]])},
        {"c": one["a"], "b": one["b"]},
        {"a": one["a"]},
        {**one, "b": torch.zeros(4)},
    ]
    assert len({digest_of(one), *map(digest_of, others)}) == 6


# --- figures --------------------------------------------------------------------------------------


def test_what_alignments_spent_and_saved() -> None:
    reports: list[dict[str, Any]] = [
        {"ran": True, "why": "", "steps": 10, "full_operations": 100.0},
        {"ran": False, "why": ""},
        {"ran": True, "why": "", "steps": 5, "full_operations": 300.0},
    ]
    found = ConstitutionRecord.of(
        {}, [AlignmentRecord.from_json(report) for report in reports], 60.0
    )
    assert (found.alignments, found.steps, found.full_operations) == (2, 15, 600.0)
    assert found.saving == pytest.approx(0.9)
    more = ConstitutionRecord.of(
        {}, [AlignmentRecord.from_json(report) for report in reports], 1200.0
    )
    assert more.saving == pytest.approx(-1.0)
    never = ConstitutionRecord.of({}, [AlignmentRecord.from_json({"ran": False, "why": ""})], 1.0)
    assert (never.alignments, never.steps, never.saving) == (0, 0, None)


def test_brief_figures_where_a_report_has_none() -> None:
    found = brief({"ran": True, "why": "", "steps": 3})
    assert found == {"steps": 3, "yield": None, "safe": [None, None], "useful": [None, None]}


def test_brief_figures_of_mining() -> None:
    found = brief(REPORT | {"mining": MINING})
    assert found["failed"] == {"harmful": [16, 64], "harmless": [4, 64]}
    line = alignment_line(found)
    assert "failed 16 of 64 harmful requests before, failed 4 of 64 harmless" in line


def test_the_display_tells_of_alignments() -> None:
    stream = io.StringIO()
    display = Display(stream)
    display.event("constitution-started", round=2, why="safety fell by 20 points")
    for done in (1, 2):
        display.event("constitution-progress", phase="revisions", done=done, of=2)
    display.event("constitution-progress", phase="training", done=5, of=5)
    display.event("constitution-skipped", round=3, why="no drift")
    display.event("constitution-finished", round=2, **brief(REPORT))
    said = [line[9:] for line in stream.getvalue().splitlines()]
    assert said == [
        "  constitution: safety fell by 20 points",
        "  constitution: 2 revisions",
        "  constitution: not this round, no drift",
        "  constitution: 4 steps, 75 % of the requests gave a revision, safe 50 % -> 88 %,"
        " useful 100 % -> 94 % (probe)",
    ]


# --- a whole run ----------------------------------------------------------------------------------

RULES = """
[federation]
rounds = 2
[evaluation]
advbench = 4
ordinary = 2
"""


@pytest.fixture
def home(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with a constitution of its own, and a phase that is scripted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDRAI_CACHE", str(fill_cache(tmp_path / "cache")))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    source = Path(loading.__file__).parents[1] / "data" / "embedded" / "constitution.toml"
    (tmp_path / "rules.toml").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "asked.txt").write_text("what is item 4?\n")
    more = '[constitution]\nschedule = "every"\nevery = 2\nfile = "rules.toml"\n'
    more += 'requests = ["./asked.txt"]\n'
    write_recipe(tmp_path, tiny_model, more)
    return tmp_path


def use(monkeypatch: pytest.MonkeyPatch, script: Scripted) -> list[tuple[Path, bool]]:
    """Put a script in the place of the phase; gives what it is told: the folder, and the end."""
    told: list[tuple[Path, bool]] = []

    def phase_for(prepared: preparation.PreparedRun, watch: preparation.Callbacks) -> Any:
        def phase(n: int, adapter: AdapterState, work: Path, kept: Path, last: bool) -> Aligned:
            told.append((kept, last))
            if n not in script.skips:
                watch.event("constitution-started", round=n, why=REPORT["why"])
            watch.event("constitution-progress", phase="answers", done=1, of=2)
            return script(n, adapter, work)

        return phase

    fake = type("aligning", (), {"phase_for": staticmethod(phase_for)})
    monkeypatch.setattr(rounds, "aligning", fake)
    return told


def test_a_run_with_a_constitution(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = use(monkeypatch, Scripted(skips=[1]))
    settings = loading.load(Path("tiny.toml"), ["federation.rounds=2", "evaluation.every=0"])
    running.run(settings, Path("run"))
    run = RunFolder.open(Path("run"))
    assert told == [(Path("run/constitution"), False), (Path("run/constitution"), True)]
    assert "constitution-started" in kinds(run)
    assert "constitution-progress" not in kinds(run)
    assert run.info["constitution"]["schedule"] == "every"

    found, costs = summarise(run).constitution, summarise(run).costs
    assert found is not None
    assert found.full_operations == 2 * 5e12
    assert found.saving == pytest.approx(1 - 1e12 / 1e13)
    assert found.extra == pytest.approx(1e12 / costs["training"].operations)
    assert (found.alignments, found.steps, found.tokens) == (1, 4, 100)
    assert found.seconds == 2.5

    capsys.readouterr()
    print_comparison([("both", summarise(run))])
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("│ both")]
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows]
    assert cells[1][:7] == ["both", "every", "1 of 2", "4", "100", "1.0", "2 s"]
    assert cells[1][8] == "90.0 %"
    second = out[out.index("constitution") - 10 :].splitlines()
    assert max(map(len, second)) <= 100


def test_runs_without_a_constitution_get_no_table_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary("plain", "finished", rounds=1, clients=1, rows=1)
    assert alignments([("plain", summary)]) == []
    print_comparison([("plain", summary)])
    assert "constitution" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["rules.toml", "asked.txt"])
def test_resuming_with_another_constitution_is_refused(
    file: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Scripted(stops=1))
    with pytest.raises(KeyboardInterrupt):
        running.run(loading.load(Path("tiny.toml")), Path("run"))
    before = (home / file).read_text(encoding="utf-8")
    changed = before.replace('version = "2', 'version = "3') if "rules" in file else "other\n"
    assert changed != before
    (home / file).write_text(changed, encoding="utf-8")
    with pytest.raises(RunError, match="the constitution, or a file of requests, changed"):
        running.resume(Path("run"))
    (home / file).write_text(before, encoding="utf-8")
    use(monkeypatch, Scripted())
    running.resume(Path("run"))
    assert json.loads(Path("run/summary.json").read_text())["status"] == "finished"


def test_a_constitution_that_is_missing_stops_before_there_is_a_run(home: Path) -> None:
    from click.testing import CliRunner

    (home / "rules.toml").unlink()
    done = CliRunner().invoke(cli, ["run", "tiny.toml", "--out", "run"])
    assert "cannot read the constitution rules.toml" in str(done.exception)
    assert not (home / "run").exists()
