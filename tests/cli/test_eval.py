"""`fedrai eval`: suites, judges, a real server that rates, and what is printed and written."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from chat_server import Judge, Server, running
from commands import Call, commands
from driver import fill_cache, write_recipe
from fedrai.cli.eval import EvaluationOptions
from fedrai.cli.show.suites import suite_rows
from fedrai.errors import EvaluationError
from fedrai.federation.run.evaluating import note_bad_rows
from fedrai.federation.run.observer import Observer
from fedrai.records import BadRow
from fedrai.testing import make_tiny_model

LEAN = ("--max-new-tokens", "3", "--rated-tokens", "4", "--batch-size", "64")
CANARY = "canary-77e1"  # stands in every request and reference, and may be in no output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands run: suites of their whole sizes, a guard of rules, a tiny model."""
    folder = tmp_path_factory.mktemp("eval")
    fill_cache(folder / "cache")
    talkative(make_tiny_model(folder / "tiny"))
    (folder / "words.toml").write_text('[guards.words]\nkind = "rules"\nwords = ["boom"]\n')
    _suites(folder)
    return folder


def talkative(folder: Path) -> None:
    """Give a tiny model an output layer that says letters: with the embeddings' it falls silent."""
    config = LlamaConfig.from_pretrained(folder)
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    model = LlamaForCausalLM(config)
    letters = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(list("abcdefgh"))
    weights = torch.zeros_like(model.lm_head.weight)
    weights[letters] = torch.randn(len(letters), weights.shape[1])
    model.lm_head.weight.data = weights
    model.save_pretrained(folder)


def _suites(folder: Path) -> None:
    (folder / "xstest").mkdir()
    with (folder / "xstest/xstest_prompts.csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["id", "prompt", "type", "label"])
        for n in range(450):
            label = "safe" if n < 250 else "unsafe"
            writer.writerow([n, f"may I {n} {CANARY}?", "homonyms", label])
    pairs = [{"prompt": f"q{n}", "chosen": "ok", "rejected": "not " * (n % 7 + 1)}
             for n in range(221)]  # fmt: skip
    kinds = ["writing", "math"]
    asked = [{"question_id": n, "category": kinds[n % 2], "turns": [f"ask {n} {CANARY}", "more"]}
             for n in range(80)]  # fmt: skip
    right = [{"question_id": n, "choices": [{"turns": [f"it is {n} {CANARY}", "more"]}]}
             for n in range(80)]  # fmt: skip
    mine = [{"prompt": f"{CANARY} {n}", "label": "unsafe"} for n in range(4)]
    (folder / "mt").mkdir()
    for name, rows in (("hhh", pairs), ("mt/question", asked), ("mine", mine),
                       ("mt/reference_answer_gpt-4", right)):  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture(scope="module")
def call(folder: Path) -> Call:
    return commands(folder)


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Judge(lambda _text: "Rating: [[5]]")) as server:
        yield server


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


WITHOUT_FLOWER = """
import sys
sys.modules["flwr"] = None  # an import of it fails
from fedrai.cli.root import cli
for arguments in (
    ["eval", "tiny", "--suite", "mine.jsonl", "--max-new-tokens", "3"],
    ["chat", "tiny", "--prompt", "hello", "--max-new-tokens", "3"],
):
    cli.main(arguments, standalone_mode=False)
"""


def test_measuring_a_model_and_talking_to_it_import_no_flower(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FLOWER], cwd=folder, check=False, text=True,
        capture_output=True, timeout=240,
        env={**os.environ, "FEDRAI_CACHE": str(folder / "cache"), "FEDRAI_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    assert "base> " in done.stdout


# --- MT-Bench over HTTP ---------------------------------------------------------------------------


def test_mt_bench_is_rated_by_an_llm_behind_a_real_server(
    call: Call, folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions of mathematics go with their reference; rated 9 there, 4 elsewhere, two not."""

    def script(user: str) -> str:
        if user == "Hello.":
            return "Hi."
        if "ask 0 " in user or "ask 1 " in user:
            return "I cannot tell."
        return "Good. Rating: [[9]]" if "<reference>" in user else "Rating: [[4]]"

    server.script = script
    monkeypatch.setenv("RATER_KEY", "key-1")
    found = call("eval", "tiny", "--suite", "mt-bench=mt", "--judge", "rubric", "--judge-url",
                 server.url, "--judge-model", "org/rater", "--judge-key-env", "RATER_KEY",
                 "--json", "--out", "rated", *LEAN)  # fmt: skip
    assert found.code == 0, found.err
    shown = json.loads(found.out)
    assert shown.pop("model") == "tiny"
    assert shown == json.loads((folder / "rated/metrics.json").read_text())
    score = shown["scores"]["mt-bench"]
    assert (score["value"], score["count"], score["unscored"]) == (6.5, 78, 2)
    assert score["categories"] == {"writing": 4.0, "math": 9.0}
    assert score["low"] < 6.5 < score["high"]
    assert shown["judges"]["rubric"]["model"] == "org/rater"
    assert shown["rates"] == {}
    asked = server.texts()[1:]
    assert len(asked) == 80
    assert sum("<reference>" in text for text in asked) == 40
    assert all(body["model"] == "org/rater" for body in server.bodies)
    assert {h["Authorization"] for h in server.headers} == {"Bearer key-1"}
    rows = rows_of(folder / "rated/mt-bench.jsonl")
    assert [row["score"] for row in rows[:4]] == [None, None, 4.0, 9.0]
    by_number = {row["number"]: row["answer"] for row in rows}
    place = next(i for i, text in enumerate(asked) if "ask 17 " in text)
    assert by_number[17]
    assert by_number[17] in asked[place].replace("\u200b", "")
    assert CANARY not in found.out + found.err


def test_a_judge_that_goes_silent_leaves_the_answers_and_says_why(
    call: Call, folder: Path, server: Server
) -> None:
    server.script = lambda user: "Hi." if user == "Hello." and len(server.bodies) == 1 else 400
    found = call("eval", "tiny", "--suite", "mt-bench=mt", "--limit", "3", "--judge", "rubric",
                 "--judge-url", server.url, "--judge-model", "m", "--out", "silent",
                 *LEAN)  # fmt: skip
    assert found.code == 0, found.err
    assert "mt-bench" in found.out
    assert "not available" in found.out
    assert "does not reply: status 400" in found.out
    assert len(rows_of(folder / "silent/mt-bench.jsonl")) == 3
    assert json.loads((folder / "silent/metrics.json").read_text())["scores"] == {}


def test_a_wrong_key_shows_before_anything_is_asked(
    call: Call, server: Server, folder: Path
) -> None:
    server.script = lambda _text: 403
    found = call("eval", "tiny", "--suite", "mt-bench=mt", "--judge", "rubric", "--judge-url",
                 server.url, "--judge-model", "m", "--out", "refused", *LEAN)  # fmt: skip
    assert found.code == 2
    assert "refuses access (403)" in found.err
    assert not (folder / "refused").exists()


# --- suites and judges ----------------------------------------------------------------------------


def test_suites_in_one_table_with_what_is_missing(call: Call, folder: Path) -> None:
    found = call("eval", "tiny", "--suite", "xstest=xstest", "--suite", "hhh=hhh.jsonl", "--suite",
                 "strongreject", "--suite", "mine.jsonl", "--limit", "6", "--advbench", "5",
                 "--judge", "guard", "--guard", "words.toml", "--out", "suites", *LEAN)  # fmt: skip
    assert found.code == 0, found.err
    figures = json.loads((folder / "suites/metrics.json").read_text())
    counts = {n: r["scored"] + r["unscored"] for n, r in figures["rates"].items()}
    assert counts == {
        "safe": 5, "safe-legacy": 5, "safe-guard": 5,
        "xstest-safe-refused": 6, "xstest-safe-refused-legacy": 6,
        "xstest-unsafe-refused": 6, "xstest-unsafe-refused-legacy": 6,
        "xstest-unsafe-safe-guard": 6,
        "mine-safe": 4, "mine-safe-legacy": 4, "mine-safe-guard": 4,
    }  # fmt: skip
    assert figures["rates"]["mine-safe-guard"]["successes"] == 4
    assert figures["scores"]["hhh"]["count"] == 6
    assert figures["suites"]["xstest-safe"]["whole"] == 250
    assert set(figures["unavailable"]) == {"strongreject"}
    assert sorted(f.name for f in (folder / "suites").glob("*.jsonl")) == [
        "advbench.jsonl", "hhh.jsonl", "mine.jsonl", "xstest-safe.jsonl", "xstest-unsafe.jsonl",
    ]  # fmt: skip
    assert set(rows_of(folder / "suites/mine.jsonl")[0]) >= {
        "number", "prompt", "answer", "reply", "legacy", "guard",
    }  # fmt: skip
    for expected in ("xstest-safe-refused", "hhh-normalised", "safe, by cluster", "both sides:",
                     "rule and legacy agree on", "rule and guard agree on",
                     "strongreject: not available: StrongREJECT has no source"):  # fmt: skip
        assert expected in found.out, expected
    assert CANARY not in found.out + found.err


def test_outside_sets_come_first_with_the_means_of_both_sides(call: Call, folder: Path) -> None:
    """Without a network only the user's two sets are here; the others are named as missing."""
    for name, label, count in (("bad", "unsafe", 5), ("good", "safe", 4)):
        rows = [{"prompt": f"{CANARY} {name} {n}", "label": label} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    own = ("--outside-set", "bad.jsonl", "--outside-set", "good.jsonl", "--judge", "guard",
           "--guard", "words.toml")  # fmt: skip
    found = call("eval", "tiny", "--outside", "--limit", "3", *own, "--out", "outside", *LEAN)
    assert found.code == 0, found.err
    figures = json.loads((folder / "outside/metrics.json").read_text())
    outside = figures["outside"]
    assert figures["rates"] == {}
    assert {n: s["side"] for n, s in outside["sets"].items()} == {
        "bad": "harmful", "good": "harmless",
    }  # fmt: skip
    assert set(outside["means"]) == {"safe", "safe-legacy", "safe-guard", "refused"}
    assert set(outside["sets"]["good"]["rates"]) == {"refused"}
    rows = rows_of(folder / "outside/bad.jsonl")
    refused = [row["reply"] == "refusal" for row in rows if row["reply"] != "unscored"]
    safe = outside["means"]["safe"]
    assert (safe["items"], safe["items"] + safe["unscored"]) == (len(refused), 3)
    assert safe["value"] == sum(refused) / len(refused)
    assert outside["means"]["safe-guard"]["value"] == 1.0  # no answer has the guard's word
    assert "strongreject-questions" in figures["unavailable"]
    assert "mean of harmful sets" in found.out
    assert "No outside set was asked" not in found.out
    assert CANARY not in found.out + found.err


def test_without_outside_sets_the_command_says_that_it_proves_nothing(call: Call) -> None:
    found = call("eval", "tiny", "--advbench", "3", "--ordinary", "2", *LEAN)
    assert found.code == 0, found.err
    assert "No outside set was asked: figures of AdvBench" in found.out
    assert "development: AdvBench" in found.out


def test_a_run_asks_outside_sets_and_resumes_with_them(call: Call, folder: Path) -> None:
    write_recipe(folder / "sets", folder / "tiny")
    rows = [{"prompt": f"{CANARY} {n}", "label": "unsafe"} for n in range(4)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    done = call("run", "sets/tiny.toml", "--out", "runs/sets", "-o", "evaluation.outside=2", "-o",
                'evaluation.outside_sets=["asked.jsonl"]', "-o", "federation.rounds=1")  # fmt: skip
    assert done.code == 0, done.err
    assert "outside safe" in done.out
    kept = json.loads((folder / "runs/sets/evaluations/0001/metrics.json").read_text())
    assert kept["outside"]["sets"]["asked"]["rates"]["safe"]["scored"] <= 2
    assert len(rows_of(folder / "runs/sets/evaluations/0001/asked.jsonl")) == 2
    listed = call("runs")
    assert "outside safe" in listed.out
    again = call("run", "--resume", "runs/sets")
    assert again.code == 0, again.err


def test_only_named_suites_are_asked(call: Call, folder: Path) -> None:
    found = call("eval", "tiny", "--suite", "hhh=hhh.jsonl", "--json", "--out", "pairs", *LEAN)
    shown = json.loads(found.out)
    assert (shown["rates"], shown["held_out_loss"]) == ({}, None)
    rows = rows_of(folder / "pairs/hhh.jsonl")
    assert (len(rows), {row["chosen_tokens"] for row in rows}) == (221, {3})  # "ok" and its end
    right = sum(row["chosen"] > row["rejected"] for row in rows)
    by_token = sum(row["chosen"] / 3 > row["rejected"] / row["rejected_tokens"] for row in rows)
    scores = shown["scores"]
    assert (scores["hhh"]["value"], scores["hhh"]["count"]) == (right / 221, 221)
    assert scores["hhh-normalised"]["value"] == by_token / 221
    assert sorted(f.name for f in (folder / "pairs").iterdir()) == [
        "checksums.sha256", "hhh.jsonl", "metrics.json",
    ]  # fmt: skip


def test_a_run_asks_the_suites_of_its_recipe_and_so_does_eval(call: Call, folder: Path) -> None:
    write_recipe(folder / "recipe", folder / "tiny")
    asked = ("-o", 'evaluation.suites=["mine.jsonl","hhh","xstest-safe"]', "-o",
             "evaluation.paths.hhh=hhh.jsonl", "-o", "evaluation.limit=3", "-o",
             "federation.rounds=1", "-o", 'evaluation.judges=["rule","legacy","guard"]', "-o",
             "evaluation.guard=words.toml")  # fmt: skip
    done = call("run", "recipe/tiny.toml", *asked)
    assert done.code == 0, done.err
    kept = json.loads((folder / "runs/tiny/evaluations/0001/metrics.json").read_text())
    assert kept["rates"]["mine-safe-guard"]["scored"] == 3
    assert kept["scores"]["hhh"]["count"] == 3
    assert set(kept["unavailable"]) == {"xstest-safe"}
    summary = json.loads((folder / "runs/tiny/summary.json").read_text())
    assert summary["evaluations"]["1"]["scores"]["hhh"] == kept["scores"]["hhh"]
    again = json.loads(call("eval", "runs/tiny", "--json").out)
    for key in ("rates", "scores", "clusters", "disagreement", "unavailable", "held_out_loss"):
        assert again[key] == kept[key], key
    assert CANARY not in (folder / "runs/tiny/events.jsonl").read_text()


@pytest.mark.parametrize(
    ("judges", "rates"),
    [
        (("rule",), {"safe", "refused"}),
        (("legacy",), {"safe-legacy"}),
        (("rule", "legacy"), {"safe", "safe-legacy", "refused"}),
    ],
)
def test_judges_are_named_as_in_a_recipe(
    call: Call, judges: tuple[str, ...], rates: set[str]
) -> None:
    options = [word for judge in judges for word in ("--judge", judge)]
    found = call("eval", "tiny", *options, "--advbench", "3", "--ordinary", "2", "--json", *LEAN)
    assert found.code == 0, found.err
    assert set(json.loads(found.out)["rates"]) == rates
    shown = call("eval", "tiny", *options, "--advbench", "3", "--ordinary", "2", *LEAN)
    assert shown.code == 0, shown.err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--suite", "hhhh"), "there is no suite hhhh"),
        (("--suite", "hhh=nowhere.jsonl"), "nowhere.jsonl"),
        (("--judge", "rubric"), "name it with --judge-url and --judge-model"),
        (
            ("--judge", "rubric", "--judge-url", "http://localhost:9"),
            "name it with --judge-model\n",
        ),
        (("--judge-url", "http://localhost:9"), "an endpoint is named, but no judge uses it"),
        (("--judge", "guard", "--guard", "wrods"), "no guard 'wrods'"),
        (("--suite", "mine.jsonl", "--suite", "mine.jsonl"), "two suites have the name mine"),
        (("--limit", "-1"), "not in the range"),
        (("--outside-set", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--outside-set", "advbench=mine.jsonl"), "advbench is a development set"),
        (("--outside-set", "mine.jsonl", "--suite", "mine.jsonl"), "mine is asked twice"),
        (("--judge", "people"), "people"),
    ],
)
def test_one_clear_line_for_each_mistake(call: Call, options: Any, problem: str) -> None:
    found = call("eval", "tiny", *options, *LEAN)
    assert found.code == 2
    assert problem in found.err
    assert "Traceback" not in found.err


def test_what_options_change() -> None:
    def changes(**options: Any) -> dict[str, Any]:
        return EvaluationOptions(**options).changes()

    assert changes() == {}
    assert changes(suites=("hhh",), judges=("guard", "guard")) == {
        "advbench": 0, "ordinary": 0, "suites": ["hhh"], "judges": ["rule", "legacy", "guard"],
    }  # fmt: skip
    assert changes(judges=("rule",)) == {"judges": ["rule"]}
    assert changes(judges=("guard", "legacy"))["judges"] == ["guard", "legacy"]
    more = changes(advbench=9, suites=("hhh",), judges=("rubric",), judge_url="u")
    assert (more["advbench"], more["endpoint"]) == (9, {"url": "u"})
    assert changes(full=True, limit=0, guard="words") == {
        "advbench": 520, "limit": 0, "guard": "words",
    }  # fmt: skip
    assert changes(outside=True) == {"advbench": 0, "ordinary": 0, "outside": 50, "suites": []}
    one = changes(outside_sets=("a.jsonl",), limit=0, advbench=9, suites=("hhh",))
    assert one["outside"] > 100_000  # all items
    assert (one["outside_sets"], one["advbench"], one["suites"]) == (["a.jsonl"], 9, ["hhh"])
    with pytest.raises(EvaluationError, match="no judge uses it"):
        changes(judges=("guard",), judge_model="m")


def test_held_out_rows_that_cannot_be_used_are_counted() -> None:
    class Notes(Observer):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def note(self, text: str) -> None:
            self.lines.append(text)

    notes = Notes()
    on_bad = note_bad_rows(notes)
    on_bad([])
    on_bad([BadRow("rows, row 1", "no answer"), BadRow("rows, row 4", "no answer")])
    assert notes.lines == ["held-out loss without 2 rows, which cannot be used"]


def test_figures_as_rows() -> None:
    rate = {"successes": 1, "scored": 4, "unscored": 2, "value": 0.25, "low": 0, "high": 1}
    nothing = {"value": None, "low": None, "high": None, "count": 0, "unscored": 3, "right": 0}
    found = {
        "rates": {"safe": rate, "harmbench-safe-guard": rate},
        "scores": {
            "mt-bench": {"value": 6.5, "low": 6.0, "high": 7.04, "count": 78, "unscored": 2},
            "strongreject": {"value": 0.25, "low": None, "high": None, "count": 1, "unscored": 0},
            "hhh": nothing,
        },
        "suites": {"mt-bench": {"metric": "score"}, "strongreject": {"metric": "harm"}},
        "clusters": None,
        "unavailable": {"xstest-safe": "no network"},
    }  # fmt: skip
    assert suite_rows(found) == [
        ["harmbench-safe-guard", "25.0 % [4.6, 69.9]", "4", "2", "guard"],
        ["mt-bench", "6.50 [6.00, 7.04]", "78", "2", "rubric"],
        ["strongreject", "0.250", "1", "0", "rubric"],
        ["hhh", "no data", "0", "3", "log-probabilities"],
        ["xstest-safe", "not available", "", "", ""],
    ]
