"""The evidence for the constitution: statistics and tables by hand, one evaluation end to end."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from driver import fill_cache
from fedrai.errors import EvaluationError, GuardError
from fedrai.evaluation.legacy import legacy_safe
from fedrai.evaluation.refusal import Reply, judge
from fedrai.federation.run import preparation
from fedrai.model import LanguageModel
from fedrai.rates import Rate

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import asking
import constitution
import evidence
import frontier

SUITES = {suite: f"{suite} prompts" for _, suite in evidence.MEASURES.values()}


def result(arm: str, seed: int, safe: list[bool | None], loss: float = 2.0) -> evidence.Result:
    """A model with these outcomes on AdvBench and XSTest's safe prompts; else nothing refused."""
    no = [False] * 4
    outcomes = dict.fromkeys(evidence.MEASURES, no) | {"safe": safe, "xstest-refused": safe}
    kinds = ["homonyms", "homonyms", "privacy", "privacy"]
    return evidence.Result(arm, seed, outcomes, kinds, SUITES, loss, {})


# --- differences ----------------------------------------------------------------------------------


def test_a_difference_that_is_everywhere_the_same_has_no_width() -> None:
    ours, theirs = [[True] * 5] * 3, [[False] * 5] * 3
    assert evidence.difference(ours, theirs) == evidence.Difference(100, 100, 100, 3)
    assert evidence.difference(ours, ours) == evidence.Difference(0, 0, 0, 3)
    assert str(evidence.difference(theirs, ours)) == "-100.0 [-100.0, -100.0]"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [([[True, True]], [[False, True]]), ([[True] * 9] * 2, [[False] * 9, [True] * 9])],
    ids=["two prompts", "two seeds"],
)
def test_two_units_give_their_three_means(ours: Any, theirs: Any) -> None:
    """One gains and one does not: a draw gives 0, 50 or 100 with chances 1/4, 1/2, 1/4."""
    found = evidence.difference(ours, theirs)
    assert (found.points, found.low, found.high) == (50, 0, 100)


def test_interval_of_many_prompts_is_that_of_the_normal_law() -> None:
    ours = [[number % 4 == 0 for number in range(800)]]
    found = evidence.difference(ours, [[False] * 800])
    half = 100 * 1.96 * (0.25 * 0.75 / 800) ** 0.5
    assert found.points == 25
    assert found.low == pytest.approx(25 - half, abs=0.35)
    assert found.high == pytest.approx(25 + half, abs=0.35)


def test_pairs_are_taken_prompt_by_prompt() -> None:
    """Both arms vary over prompts alike: their rates are uncertain, their difference is not."""
    ours = [[number % 2 == 0 for number in range(40)]]
    assert str(evidence.difference(ours, ours)) == "+0.0 [+0.0, +0.0]"


def test_unscored_prompts_are_left_out_of_both_arms() -> None:
    found = evidence.difference([[True, None, True, True]], [[False, False, None, True]])
    assert found.points == 50  # of the first and the last
    assert evidence.difference([[None, True]], [[True, None]]) is None


def test_the_bootstrap_has_a_seed() -> None:
    ours, theirs = [[n % 3 == 0 for n in range(50)]] * 2, [[n % 5 == 0 for n in range(50)]] * 2
    one, two = (evidence.difference(ours, theirs, 200, seed) for seed in (1, 2))
    assert one == evidence.difference(ours, theirs, 200, 1)
    assert one != two
    assert one.points == two.points


# --- tables ---------------------------------------------------------------------------------------

RESULTS = [
    result("fedavg", 0, [False, False, False, True], 2.0),
    result("fedavg", 1, [False, False, True, True], 2.5),
    result("both", 1, [True, True, True, None], 2.5),
    result("both", 0, [True, True, True, True], 2.1),
]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_arms_are_means_over_seeds_with_each_seed() -> None:
    head, _, fedavg, both = map(cells, evidence.arms_table(RESULTS).splitlines())
    assert head[:3] == ["arm", "seeds", "AdvBench safe, rule"]
    assert fedavg[:3] == ["fedavg", "0, 1", "37.5 (25.0, 50.0)"]
    assert both[:3] == ["both", "0, 1", "100.0 (100.0, 100.0)"]
    assert fedavg[-2:] == ["0.0 (0.0, 0.0)", "2.2500 (2.0000, 2.5000)"]


def test_differences_are_paired_by_seed_and_prompt() -> None:
    head, _, both = map(cells, evidence.differences_table(RESULTS, "fedavg").splitlines())
    assert head[0] == "less fedavg"
    assert both[:2] == ["both", "0, 1"]
    # seed 0: 1, 1, 1, 0; seed 1: 1, 1, 0 and one prompt not scored: the mean of 3/4 and 2/3
    assert both[2].startswith("+70.8 [")
    assert both[-2:] == ["+0.0 [+0.0, +0.0]", "+2.5 % (+5.0, +0.0)"]


def test_only_seeds_that_both_arms_have_are_compared() -> None:
    lines = evidence.differences_table([*RESULTS[:3], result("late", 7, [True] * 4)], "fedavg")
    both, late = map(cells, lines.splitlines()[2:])
    assert both[:2] == ["both", "1"]
    assert both[2].startswith("+66.7 [")
    assert late[:3] == ["late", "none shared", ""]


def test_kinds_and_rates_keep_their_counts() -> None:
    assert evidence.by_kind(RESULTS[2]) == {"homonyms": Rate(2, 2), "privacy": Rate(1, 1, 1)}
    assert cells(evidence.kinds_table(RESULTS[2:3]).splitlines()[2]) == ["both", "1", "2/2", "1/1"]
    shown = cells(evidence.rates_table(RESULTS[2:3]).splitlines()[2])
    assert shown[2] == "100.0 % [43.9, 100.0], 1 unscored"  # Wilson: 3 / (3 + 1.96^2)


def test_results_survive_their_file(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    body = {"models": [r.to_json() for r in RESULTS]}
    file.write_text(json.dumps(body))
    found = evidence.load_results([file])
    assert evidence.arms_table(found) == evidence.arms_table(RESULTS)
    assert body["models"][2]["rates"]["safe"]["unscored"] == 1
    assert body["models"][2]["xstest-refused-by-kind"]["privacy"]["scored"] == 1
    with pytest.raises(EvaluationError, match="fedavg has seed 0 twice"):
        evidence.load_results([file, file])
    file.write_text("{}")
    with pytest.raises(EvaluationError, match="holds no results"):
        evidence.load_results([file])


def test_what_cannot_be_compared() -> None:
    with pytest.raises(EvaluationError, match="no results of an arm none"):
        evidence.differences_table(RESULTS, "none")
    other = result("other", 0, [True] * 4)
    other = evidence.Result(**{**{k: getattr(other, k) for k in other.__dataclass_fields__},
                               "prompts": SUITES | {"advbench": "others"}})  # fmt: skip
    with pytest.raises(EvaluationError, match="asked different advbench prompts"):
        evidence.differences_table([*RESULTS, other], "fedavg")


# --- frontier -------------------------------------------------------------------------------------


def tried(safe: int, xstest: int, ordinary: int = 0, label: str = "t") -> dict[str, Any]:
    return {"label": label, "share": 0.5, "steps": 100, "learning_rate": 1e-3, "note": "kept",
            "safe": f"{safe}/100", "xstest_refused": f"{xstest}/100",
            "ordinary_refused": f"{ordinary}/100"}  # fmt: skip


def load(folder: Path, *rows: dict[str, Any]) -> list[frontier.Try]:
    file = folder / "tries.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    return frontier.load_tries([file])


def test_frontier_holds_what_nothing_beats(tmp_path: Path) -> None:
    places = [(74, 11), (72, 10), (95, 73), (70, 11), (40, 10), (95, 80)]
    tries = load(tmp_path, *(tried(*place) for place in places))
    best = [(t.safe.successes, t.xstest.successes) for t in frontier.frontier(tries)]
    assert best == [(72, 10), (74, 11), (95, 73)]
    lines = frontier.tries_table(tries).splitlines()[2:]
    assert [cells(line)[0] for line in lines] == ["1*", "2*", "3*", "4", "5", "6"]
    assert cells(lines[0])[1:6] == ["t", "0.5", "100", "0.001", "74.0 % [64.6, 81.6]"]


def test_points_lie_where_their_rates_say(tmp_path: Path) -> None:
    tries = load(tmp_path, tried(50, 20, 0, "a <b>"), tried(100, 45, 11), tried(0, 0, 10))
    root = ElementTree.fromstring(frontier.draw(tries))
    circles = root.findall(".//{*}g/{*}circle")
    at = [(float(c.get("cx")), float(c.get("cy"))) for c in circles]
    # the plot is 672 wide from 64, for 0 to 50 %, and 420 high from 44, for 100 to 0 %
    assert at == [(332.8, 254.0), (668.8, 44.0), (64.0, 464.0)]
    assert len({c.get("fill") for c in circles}) == 3  # ordinary refused up to 2, up to 10, more
    title = root.find(".//{*}g/{*}title").text
    assert title.startswith("1. a <b>: share 0.5, 100 steps, learning rate 0.001; safe 50.0 %")
    line = root.find(".//{*}polyline").get("points")
    assert line == "64.0,464.0 332.8,464.0 332.8,254.0 668.8,254.0 668.8,44.0"
    # of 90 in 100 the interval's lower end is 82.6 %, so the plot begins at 80
    alone = ElementTree.fromstring(frontier.draw(load(tmp_path, tried(90, 5, 0))))
    assert float(alone.find(".//{*}g/{*}circle").get("cy")) == 254.0
    assert [t.text for t in alone.findall("{*}text")][:3] == ["80", "90", "100"]


@pytest.mark.parametrize(
    "change", [{"safe": "0.7"}, {"safe": "5/4"}, {"safe": "0/0"}, {"safe": 3}, {"steps": "many"}]
)
def test_a_try_that_cannot_be_read(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match=r"tries\.jsonl, line 2: no try"):
        load(tmp_path, tried(1, 1), tried(1, 1) | change)
    missing = tried(1, 1)
    del missing["share"]
    with pytest.raises(EvaluationError, match="line 1: no try"):
        load(tmp_path, missing)
    with pytest.raises(EvaluationError, match="there are no tries"):
        load(tmp_path)


# --- end to end -----------------------------------------------------------------------------------


def write_xstest(file: Path, safe: int = 250, unsafe: int = 200) -> Path:
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["id", "prompt", "type", "label"])
        rows = [("safe", safe), ("unsafe", unsafe)]
        labels = [label for label, count in rows for _ in range(count)]
        for number, label in enumerate(labels, 1):
            writer.writerow([f"v2-{number}", f"item {number}?", f"kind {number % 2}", label])
    return file


def test_xstest_is_read_by_label_and_must_be_whole(tmp_path: Path) -> None:
    found = asking.read_xstest(write_xstest(tmp_path / "xstest.csv"))
    assert [(i.number, kind) for i, kind in found["safe"][:2]] == [(1, "kind 1"), (2, "kind 0")]
    assert found["unsafe"][0][0].prompt == "item 251?"
    with pytest.raises(EvaluationError, match=r"has \{'safe': 249, 'unsafe': 200\}"):
        asking.read_xstest(write_xstest(tmp_path / "short.csv", 249))
    (tmp_path / "other.csv").write_text("id,prompt\n1,x\n")
    with pytest.raises(EvaluationError, match="does not hold XSTest's prompts"):
        asking.read_xstest(tmp_path / "other.csv")


def test_names_of_arms() -> None:
    assert constitution.parse("both@2=runs/a=b") == ("both", 2, "runs/a=b")
    assert constitution.parse("both=runs/both") == ("both", None, "runs/both")
    assert constitution.parse("fedrai:aligned") == (None, None, "fedrai:aligned")
    assert constitution.parse("runs/x=y") == (None, None, "runs/x=y")


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, tiny: LanguageModel, monkeypatch: Any) -> Path:
    """A folder with the tiny model, an adapter of it, a guard, and made-up suites."""
    fill_cache(tmp_path / "cache")
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_model)
    draw = torch.Generator().manual_seed(1)
    state = {n: torch.randn(p.shape, generator=draw) for n, p in tiny.parameters.items()}
    tiny.save_adapter(tmp_path / "tuned", state)
    tiny.save_adapter(tmp_path / "zero", {n: t * 0 for n, t in state.items()})
    write_xstest(tmp_path / "xstest.csv")
    (tmp_path / "guard.toml").write_text('[guards.words]\nkind = "rules"\npatterns = ["[02468]"]\n')
    return tmp_path


EVALUATE = ("evaluate", "left@3=tuned", "zero", "--xstest", "xstest.csv", "--out", "out/r.json",
            "--guard", "guard.toml", "--threshold", "0.5", "--max-new-tokens", "6",
            "--max-length", "96", "--limit", "5")  # fmt: skip


def test_a_tiny_model_end_to_end(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loads: list[object] = []
    real = preparation.load_model
    monkeypatch.setattr(
        preparation, "load_model", lambda *given: loads.append(given) or real(*given)
    )
    assert constitution.main(list(EVALUATE)) == 0
    assert len(loads) == 1  # both adapters are of one shape
    shown = capsys.readouterr()
    assert "| left | 3 |" in shown.out
    assert "| zero | 0 |" in shown.out
    first, second = evidence.load_results([place / "out" / "r.json"])
    assert (first.arm, first.seed, second.arm, second.seed) == ("left", 3, "zero", 0)
    assert first.held_out_loss != second.held_out_loss
    folders = sorted((place / "out" / "r-answers").iterdir())
    assert len(folders) == 2
    rows = [json.loads(line) for line in (folders[0] / "advbench.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [f"request number {n}" for n in range(5)]
    replies = [judge(row["answer"]) for row in rows]
    assert first.outcomes["safe"] == [
        None if r is Reply.UNSCORED else r is Reply.REFUSAL for r in replies
    ]
    assert first.outcomes["safe-legacy"] == [legacy_safe(row["answer"]) for row in rows]
    assert first.kinds == ["kind 1", "kind 0", "kind 1", "kind 0", "kind 1"]
    assert all(row["answer"] not in shown.out + shown.err for row in rows if row["answer"].strip())

    before = (place / "out" / "r.json").read_bytes()
    monkeypatch.setattr(asking, "generate", lambda *_, **__: pytest.fail("answered already"))
    monkeypatch.setattr(asking, "held_out_loss", lambda *_: pytest.fail("measured already"))
    assert constitution.main(list(EVALUATE)) == 0
    assert (place / "out" / "r.json").read_bytes() == before


def test_answers_that_are_missing_are_made_and_only_those(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert constitution.main(list(EVALUATE)) == 0
    file = sorted((place / "out" / "r-answers").glob("zero-*/ordinary.jsonl"))[0]
    whole = file.read_text()
    file.write_text("".join(whole.splitlines(keepends=True)[::2]))
    asked: list[int] = []
    real = asking.generate
    monkeypatch.setattr(
        asking, "generate", lambda lm, p, **k: asked.append(len(p)) or real(lm, p, **k)
    )
    assert constitution.main(list(EVALUATE)) == 0
    assert asked == [2]
    assert file.read_text() == whole


def test_guards_verdicts_count_as_safe_below_the_threshold(place: Path) -> None:
    guard = asking.load_guard("guard.toml")
    items = [asking.suites.Item(n, "x") for n in range(3)]
    found = asking._safe(guard, items, ["odd 7", "even 8", "none"], 0.5)
    assert found == [True, False, True]
    assert asking.threshold_of(guard, "0.25") == 0.25
    assert asking.threshold_of(guard, "strict") == guard.thresholds["strict"]
    with pytest.raises(GuardError, match="has no threshold high"):
        asking.threshold_of(guard, "high")


def test_table_and_frontier_commands(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = {"models": [r.to_json() for r in RESULTS]}
    Path("results.json").write_text(json.dumps(body))
    assert constitution.main(["table", "results.json", "--kinds"]) == 0
    shown = capsys.readouterr().out
    assert "| less fedavg |" in shown
    assert "| arm | seed | homonyms | privacy |" in shown
    Path("tries.jsonl").write_text(json.dumps(tried(74, 11)) + "\n")
    assert constitution.main(["frontier", "tries.jsonl", "--out", "f.svg"]) == 0
    assert ElementTree.fromstring(Path("f.svg").read_text()).tag.endswith("svg")
    assert constitution.main(["table", "tries.jsonl"]) == 2
    assert capsys.readouterr().err.startswith("error: tries.jsonl holds no results")
