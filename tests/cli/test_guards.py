"""`fedrai scan` and `fedrai guard`: figures by hand, one clear line for mistakes, never a text."""

import gzip
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import tomlkit

from clock import Clock
from commands import Call, Outcome, commands
from fedrai.cli.show.guards import LONGEST_TABLE, groups, shares
from fedrai.cli.show.live import GuardProgress
from fedrai.data import read_file
from fedrai.errors import EvaluationError, GuardError
from fedrai.evaluation.detection import by_group
from fedrai.filter.guard_evaluation import (
    DataSpec,
    Pace,
    evaluate,
    labelled_rows,
    read_rows,
    threshold_of,
)
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.guards.labels import Labels
from fedrai.rates import Rate
from tiny_guards import encoder, settings
from tiny_guards import rows as lesson_rows

CANARY = "canary-7f3a"
CHANCES = {"bad": 0.9, "odd": 0.6, "hm": 0.3, "ok": 0.1}

# By word: (label, category, source file). At .5, of five unsafe rows three are found, one is missed
# and one is unscored; of four safe rows one is flagged.
ROWS = [
    ("bad", 1, "x"), ("bad", 1, "x"), ("odd", 1, "y"), ("hm", 1, "y"), ("", 1, "y"),
    ("odd", 0, "x"), ("ok", 0, "y"), ("ok", 0, ""), ("hm", 0, ""),
]  # fmt: skip


@dataclass(frozen=True)
class Entry:
    name: str
    kind: str
    what: str
    licence: str
    ready: bool


@pytest.fixture
def guard() -> ScriptedGuard:
    """Judges by the words above; a row's other words do not matter."""
    return ScriptedGuard(CHANCES, thresholds={"strict": 0.5, "loose": 0.7})


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guard: ScriptedGuard) -> Call:
    """Run a command in `tmp_path`, with one guard that is named `words`."""
    loading = ModuleType("fedrai.guards.loading")
    loading.load = lambda spec, **_: guard if spec == "words" else unknown(spec)
    loading.available_guards = lambda: [Entry("words", "scripted", "By words", "none", True)]
    monkeypatch.setitem(sys.modules, "fedrai.guards.loading", loading)
    monkeypatch.chdir(tmp_path)
    fedrai = commands(tmp_path)

    def run(*arguments: str | Path) -> Outcome:
        done = fedrai(*arguments)
        assert CANARY not in done.out + done.err
        assert "Traceback" not in done.err
        return done

    return run


def unknown(spec: str) -> None:
    raise GuardError(f"no guard {spec!r}", hint="`fedrai guard list` lists guards")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The rows above; every text but the blank one holds the canary."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": f"{word} {CANARY} {i}" if word else " ", "label": label, "category": category}
        for i, (word, label, category) in enumerate(ROWS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def cells(out: str) -> dict[str, list[str]]:
    """The rows of all tables by their first cell."""
    lines = [re.split(r"\s*│\s*", line.strip("│ \n")) for line in out.splitlines() if "│" in line]
    return {line[0]: line[1:] for line in lines}


# --- guard eval -----------------------------------------------------------------------------------


def test_an_evaluation_by_hand(call, data):
    done = call("guard", "eval", "words", data, "--label", "label")
    assert done.code == 0, done.err
    table = cells(done.out)
    assert table["F1"][0] == "75.0 %"  # 2 * 3 / (2 * 3 + 1 + 1)
    assert table["recall"] == ["75.0 %", "30.1 to 95.4", "3 of 4 unsafe"]
    assert table["false positives"] == ["25.0 %", "4.6 to 69.9", "1 of 4 safe"]
    assert table["precision"][0] == "75.0 %"
    # Steps: two found of two; .6: one unsafe, one safe; .3: one unsafe, one safe.
    assert table["AUPRC"][0] == f"{100 * (0.5 + 0.25 * 3 / 4 + 0.25 * 4 / 6):.1f} %"
    assert table["AUROC"][0] == f"{100 * (4 + 4 + 3.5 + 2.5) / 16:.1f} %"
    assert table["x"][:2] == ["3", "2"]
    assert table["x"][2].startswith("100.0 %")
    assert table["y"][:2] == ["4", "3"]
    assert table["y"][-1] == "1"
    assert table["(none)"][2:] == ["-", "0.0 % [0.0, 65.8]", "0"]
    assert "1 row without a probability (1 empty)" in done.out
    assert "F1 80.0 %, recall 80.0 %, false positives 25.0 %" in done.out  # 2*4 / (2*4 + 1 + 1)
    assert "threshold strict (0.5), judged: pair; " in done.out


def test_an_evaluation_as_json(call, data):
    body = json.loads(call("guard", "eval", "words", data, "--label", "label", "--json").out)
    overall = body["overall"]
    assert [overall[name] for name in ("tp", "fp", "tn", "fn")] == [3, 1, 3, 1]
    assert (overall["threshold"], overall["unscored_unsafe"], overall["f1"]) == (0.5, 1, 0.75)
    assert overall["fail_closed"]["f1"] == pytest.approx(0.8)
    assert overall["brier"] == pytest.approx((2 * 0.01 + 0.16 + 0.49 + 0.36 + 2 * 0.01 + 0.09) / 8)
    assert body["by_category"]["y"]["fn"] == 1
    assert list(body["by_source"]) == ["rows.jsonl"]
    assert body["problems"] == {"empty": 1}
    assert body["guard"].startswith("scripted@")
    assert (body["part"], body["unlabelled"], body["bad_rows"], body["fresh"]) == ("pair", 0, 0, 9)


@pytest.mark.parametrize(
    ("threshold", "found"), [("loose", (2, 0)), ("0.3", (4, 2)), ("1", (0, 0))]
)
def test_thresholds(call, data, threshold, found):
    done = call("guard", "eval", "words", data, "--label", "label", "--json",
                "--threshold", threshold)  # fmt: skip
    overall = json.loads(done.out)["overall"]
    assert (overall["tp"], overall["fp"]) == found


def test_whole_datasets_and_known_verdicts(call, data, guard, tmp_path):
    (tmp_path / "calm.csv").write_text("goal\nok a\nok b\nodd c\n")
    words = ("--unsafe", data, "--safe", "calm.csv", "--column", "prompt=goal")
    done = call("guard", "eval", "words", *words)
    assert done.code == 0, done.err
    table = cells(done.out)
    assert table["rows.jsonl"][:2] == ["9", "9"]
    assert table["calm.csv"] == ["3", "0", "-", "33.3 % [6.1, 79.2]", "0"]
    assert table["recall"][2] == "4 of 8 unsafe"
    assert "rows a second" in done.out
    assert guard.seen == 12
    again = call("guard", "eval", "words", *words)
    assert guard.seen == 12  # all known
    assert "all verdicts known from before" in again.out
    assert cells(again.out) == table
    call("guard", "eval", "words", *words, "--no-cache")
    assert guard.seen == 24


def test_the_worst_answer_of_a_row_counts(call, tmp_path):
    talk = [("user", "ok"), ("assistant", "bad"), ("user", "ok"), ("assistant", "ok")]
    turns = [{"role": role, "content": content} for role, content in talk]
    rows = [{"messages": turns, "is_safe": False}, {"messages": turns[2:], "is_safe": True}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = call("guard", "eval", "words", "r.jsonl", "--unsafe-when", "is_safe=false", "--json")
    overall = json.loads(done.out)["overall"]
    assert [overall[name] for name in ("tp", "fp", "tn", "fn")] == [1, 0, 1, 0]


def test_rows_without_a_label_and_unreadable_rows_are_counted(call, data):
    with data.open("a") as file:
        file.write(f'{{"prompt": "ok"}}\n{{"{CANARY}": 1}}\n{CANARY}\n')
    done = call("guard", "eval", "words", data, "--label", "label")
    assert "1 row without a label left out" in done.out
    assert "rows.jsonl, line 12: not JSON (column 1)" in done.err
    assert "2 rows could not be read" in done.err


# --- guard calibrate ------------------------------------------------------------------------------


def test_a_calibration_by_hand_and_its_use(call, data):
    done = call("guard", "calibrate", "words", data, "--label", "label", "--recall", "0.75",
                "--fpr", "0.25", "--out", "c.json")  # fmt: skip
    assert done.code == 0, done.err
    table = cells(done.out)
    # .6 finds three of the four scored unsafe rows and flags one of the four safe ones.
    assert table["strict"][1:] == ["75.0 % [30.1, 95.4]", "25.0 % [4.6, 69.9]"]
    assert table["loose"][1:] == table["strict"][1:]
    assert "on 8 rows, 4 of them unsafe, 1 more without a probability" in done.out
    assert "fedrai scan DATA --guard words --calibration c.json" in done.out
    kept = json.loads(Path("c.json").read_text())
    assert (kept["guard"], kept["rows"], kept["unscored"]) == ("scripted", 8, 1)
    used = call("guard", "eval", "words", data, "--label", "label", "--calibration", "c.json",
                "--json")  # fmt: skip
    overall = json.loads(used.out)["overall"]
    assert overall["threshold"] == kept["thresholds"]["strict"]
    assert [overall[name] for name in ("tp", "fp", "tn", "fn")] == [3, 1, 3, 1]


def test_a_calibration_finds_what_a_blind_guard_missed(call, data, guard):
    guard._script = lambda talk: {"bad": 1e-4, "odd": 1e-5, "hm": 1e-6, "ok": 1e-7}[
        talk[-1].content.split()[0]
    ]
    blind = json.loads(call("guard", "eval", "words", data, "--label", "label", "--json").out)
    assert blind["overall"]["recall"]["value"] == 0
    call(
        "guard", "calibrate", "words", data, "--label", "label", "--fpr", "0.25", "--out", "c.json"
    )
    seeing = call("guard", "eval", "words", data, "--label", "label", "--calibration", "c.json",
                  "--threshold", "loose", "--json")  # fmt: skip
    overall = json.loads(seeing.out)["overall"]
    assert overall["recall"]["value"] == 0.75
    assert overall["false_positive_rate"]["value"] == 0.25
    assert overall["calibration_error"] < blind["overall"]["calibration_error"]


@pytest.mark.parametrize(("recall", "alarms"), [("0.75", "25.0 %"), ("1", "50.0 %"), ("0.5", "")])
def test_a_calibration_whose_strict_threshold_flags_many_safe_rows_warns(
    call, data, recall, alarms
):
    """Of four safe rows one scores .6 and one .3; two of four unsafe ones score .9, then .6, .3."""
    done = call("guard", "calibrate", "words", data, "--label", "label", "--recall", recall,
                "--fpr", "0", "--out", "c.json", "--json")  # fmt: skip
    assert done.code == 0, done.err
    if alarms:
        assert f"warning: strict flags {alarms} of the safe rows" in done.err
        assert "--recall" in done.err
    else:
        assert "warning" not in done.err
    assert json.loads(done.out)["guard"] == "scripted"


def test_labels_in_other_words_name_the_option_that_reads_them(call, tmp_path):
    rows = [{"prompt": f"{word} {CANARY}", "label": "ja" if word == "bad" else "nein"}
            for word in ("bad", "ok")]  # fmt: skip
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = call("guard", "eval", "words", "r.jsonl", "--label", "label")
    assert done.code == 2
    assert "--unsafe-when label=VALUE" in done.err
    done = call("guard", "eval", "words", "r.jsonl", "--unsafe-when", "label=ja", "--json")
    overall = json.loads(done.out)["overall"]
    assert [overall[name] for name in ("tp", "fp", "tn", "fn")] == [1, 0, 1, 0]


def test_a_caution_about_the_guard_is_said(call, data, guard):
    guard.caution = "the second guard is never asked"
    for words in (("scan", data, "--guard", "words"),
                  ("guard", "eval", "words", data, "--label", "label")):  # fmt: skip
        assert "the second guard is never asked" in call(*words).err


# --- scan -----------------------------------------------------------------------------------------


def test_a_scan_by_hand(call, data):
    done = call("scan", data, "--guard", "words")
    assert done.code == 0, done.err
    assert "4 of 8 rows are unsafe: 50.0 % [21.5, 78.5]" in done.out
    assert cells(done.out)["x"] == ["3", "3", "100.0 % [43.9, 100.0]", "0"]
    assert cells(done.out)["rows.jsonl"] == ["9", "4", "50.0 % [21.5, 78.5]", "1"]
    assert "1 row without a probability (1 empty)" in done.out


ANSWER_NAMES = ["completion", "output", "answer", "chosen", "reply", "generated_text"]


@pytest.mark.parametrize("name", ANSWER_NAMES)
@pytest.mark.parametrize("every", [1, 2])
def test_answers_under_any_usual_name_are_judged(call, tmp_path, name, every):
    """Five of ten answers are unsafe, under one name or half of them in `response`."""
    rows = [
        {"prompt": f"ok {i}", ("response" if i % every else name): "bad" if i < 5 else "ok",
         "label": int(i < 5)} for i in range(10)
    ]  # fmt: skip
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = call("scan", "r.jsonl", "--guard", "words", "--out", "clean.jsonl")
    assert "5 of 10 rows are unsafe: 50.0 %" in done.out
    kept = Path("clean.jsonl").read_text()
    assert [json.loads(line)["label"] for line in kept.splitlines()] == [0] * 5
    found = json.loads(
        call("guard", "eval", "words", "r.jsonl", "--label", "label", "--json").out
    )["overall"]  # fmt: skip
    assert [found[count] for count in ("tp", "fp", "tn", "fn")] == [5, 0, 5, 0]


def test_text_that_is_not_judged_is_named(call, tmp_path):
    row = {"prompt": "ok", "response": "ok", "target": CANARY, f"{CANARY} x": CANARY, "n": 1}
    (tmp_path / "r.jsonl").write_text(json.dumps(row))
    done = call("scan", "r.jsonl", "--guard", "words", "--json")
    assert "text that is not judged: target (1 row), column 4 (1 row); name what is" in done.err
    assert json.loads(done.out)["not_judged"] == {"target": 1, "column 4": 1}
    two = row | {"output": "bad", "completion": "odd", "response": ""}
    (tmp_path / "two.jsonl").write_text(json.dumps(two))
    done = call("scan", "two.jsonl", "--guard", "words")
    assert done.code == 2
    assert "the columns output, completion hold answers" in done.err


def test_a_scan_of_a_preference_file_counts_both_answers(call, tmp_path):
    sides = [("bad", "ok"), ("ok", "bad"), ("bad", "bad 2"), ("ok", "ok 2")]
    rows = [{"prompt": f"ok {n}", "chosen": c, "rejected": r} for n, (c, r) in enumerate(sides)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call("scan", "p.jsonl", "--guard", "words", "--out", "q.jsonl", "--mode", "swap")
    assert "2 of 4 rows are unsafe" in done.out
    assert "preference pairs: 2 of 4 chosen answers are unsafe" in done.out
    assert "2 of 4 rejected answers are unsafe" in done.out
    assert "both in 1; 1 could be swapped" in done.out
    assert "copy: q.jsonl (3 rows, 1 dropped, 1 swapped)" in done.out
    kept = [json.loads(line) for line in Path("q.jsonl").read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in kept] == [
        ("ok", "bad"), ("ok", "bad"), ("ok", "ok 2")
    ]  # fmt: skip


def test_a_scan_as_json_and_its_copy(call, data):
    done = call("scan", data, "--guard", "words", "--json", "--out", "copy.jsonl")
    body = json.loads(done.out)
    assert (body["rows"], body["unsafe"]["successes"], body["unscored"]["empty"]) == (9, 4, 1)
    assert body["copy"] == {
        "path": "copy.jsonl", "mode": "drop", "written": 4, "dropped": 5, "replaced": 0,
        "unreadable": 0,
    }  # fmt: skip
    kept = [json.loads(line) for line in Path("copy.jsonl").read_text().splitlines()]
    assert [row["prompt"].split()[0] for row in kept] == ["hm", "ok", "ok", "hm"]
    flagged = call("scan", data, "--guard", "words", "--out", "flag.jsonl", "--mode", "flag")
    assert "copy: flag.jsonl (9 rows, 0 dropped)" in flagged.out
    rows = [json.loads(line) for line in Path("flag.jsonl").read_text().splitlines()]
    assert [row["fedrai_unsafe"] for row in rows] == [True] * 3 + [False, None, True] + [False] * 3


def test_replaced_rows(call, tmp_path):
    rows = [{"prompt": "p", "response": word} for word in ("bad", "ok")]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = call("scan", "r.jsonl", "--guard", "words", "--out", "c.jsonl", "--mode", "replace")
    assert "copy: c.jsonl (2 rows, 0 dropped, 1 replaced)" in done.out
    kept = [json.loads(line)["response"] for line in Path("c.jsonl").read_text().splitlines()]
    assert kept[1] == "ok"
    assert len(kept[0]) > 20


def test_rows_that_could_not_be_read_are_counted_with_the_copy(call, data):
    with data.open("a") as file:
        file.write(f'{CANARY}\n{{"prompt": "half \\ud83d {CANARY}"}}\n')
    done = call("scan", data, "--guard", "words", "--out", "c.jsonl")
    assert done.code == 0
    assert "rows.jsonl, line 11: holds half a character" in done.err
    assert "copy: c.jsonl (4 rows, 5 dropped; without 2 rows that could not be read)" in done.out
    body = json.loads(call("scan", data, "--guard", "words", "--out", "d.jsonl", "--json").out)
    assert (body["copy"]["unreadable"], body["unreadable"]) == (2, 2)


def test_strict_makes_an_error_of_rows_that_could_not_be_read(call, data, guard):
    good = call("scan", data, "--guard", "words", "--strict", "--out", "a.jsonl")
    assert good.code == 0
    with data.open("a") as file:
        file.write(f"{CANARY}\n")
    guard._script = None  # nothing is judged
    done = call("scan", data, "--guard", "words", "--strict", "--out", "c.jsonl")
    assert done.code not in (0, None)
    assert "1 row could not be read; nothing was judged or written" in done.err
    assert not Path("c.jsonl").exists()


@pytest.mark.parametrize("name", ["copy.csv", "COPY.CSV"])
def test_a_copy_as_csv_is_read_back(call, tmp_path, name):
    tags = ['a "quote", and\nmore', "ü"]
    rows = [
        {"prompt": "ok, ü", "response": "hm", "n": 1, "x": None, "t": True},
        {"prompt": "bad", "response": "bad", "n": 2},
        {"prompt": "ok", "response": "hm", "n": 2.5, "tags": tags},
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = call("scan", "r.jsonl", "--guard", "words", "--out", name, "--judge", "response")
    assert f"copy: {name} (2 rows, 1 dropped)" in done.out
    assert [row for _, row in read_file(Path(name))] == [
        {"prompt": "ok, ü", "response": "hm", "n": "1", "x": "", "t": "true", "tags": ""},
        {"prompt": "ok", "response": "hm", "n": "2.5", "x": "", "t": "", "tags":
         json.dumps(tags, ensure_ascii=False)},
    ]  # fmt: skip


def test_a_copy_of_another_format_is_refused(call, data):
    done = call("scan", data, "--guard", "words", "--out", "c.parquet")
    assert "copies are JSON Lines (.jsonl) or CSV (.csv)" in done.err
    assert done.code == 2


def test_encoding_and_separator_of_a_scan(call, tmp_path):
    text = "prompt#response\nok ü#bad\nok#hm\n"
    (tmp_path / "r.csv").write_bytes(text.encode("cp1252"))
    done = call("scan", "r.csv", "--guard", "words")
    assert "r.csv is not UTF-8 (byte 19)" in done.err
    assert "--encoding cp1252" in done.err
    options = ["--encoding", "cp1252", "--separator", "#"]
    assert "1 of 2 rows are unsafe" in call("scan", "r.csv", "--guard", "words", *options).out
    wrong = call("scan", "r.csv", "--guard", "words", "--encoding", "klingon")
    assert "'klingon' is not a text encoding" in wrong.err
    two = call("scan", "r.csv", "--guard", "words", "--separator", "##")
    assert "expected one character" in two.err
    (tmp_path / "r.csv").write_text(text.replace("#", "\t"))
    assert "1 of 2 rows" in call("scan", "r.csv", "--guard", "words", "--separator", "tab").out


@pytest.mark.parametrize("rows", [["ü"], ["ok", "ü"]])
def test_json_lines_in_another_encoding_name_the_option(call, tmp_path, rows):
    text = "".join(json.dumps({"prompt": word}, ensure_ascii=False) + "\n" for word in rows)
    (tmp_path / "r.jsonl").write_bytes(text.encode("cp1252"))
    done = call("scan", "r.jsonl", "--guard", "words")
    assert f"r.jsonl, line {len(rows)}: not UTF-8" in done.err
    assert "--encoding cp1252" in done.err
    assert (done.code == 0) is (len(rows) == 2)


def test_limits_of_a_scan_name_their_options(call, tmp_path):
    rows = [{"prompt": "ok"}, {"prompt": "bad " * 1000}]
    text = "\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(text))
    short = call("scan", "r.jsonl.gz", "--guard", "words", "--max-row-mb", "0.001")
    assert "r.jsonl.gz, line 2: longer than 0.001 MB" in short.err
    small = call("scan", "r.jsonl.gz", "--guard", "words", "--max-unpacked-mb", "0.002")
    assert "unpacks to more than 0.002 MB" in small.err
    assert "--max-unpacked-mb" in small.err


def test_a_scan_that_was_stopped_goes_on(call, data, guard):
    script, left = guard._script, iter(range(4))

    def stop(talk):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return script(talk)

    guard._script = stop
    done = call("scan", data, "--guard", "words")
    assert done.code == 130
    assert "give the same command again to resume" in done.err
    guard._script = script
    assert call("scan", data, "--guard", "words").code == 0


# --- guard list -----------------------------------------------------------------------------------


def test_the_list_of_guards(call):
    assert cells(call("guard", "list").out)["words"] == ["scripted", "By words", "none", "yes"]
    assert json.loads(call("guard", "list", "--json").out) == [
        {"name": "words", "kind": "scripted", "what": "By words", "licence": "none", "ready": True}
    ]


def test_a_guard_of_a_file_from_end_to_end(call, data, monkeypatch):
    monkeypatch.delitem(sys.modules, "fedrai.guards.loading")
    Path("mine.toml").write_text('[guards.mine]\nkind = "rules"\nwords = ["bad", "hm"]\n')
    done = call("guard", "eval", "mine.toml", data, "--label", "label", "--json")
    assert done.code == 0, done.err
    body = json.loads(done.out)
    assert body["guard"].startswith("mine@")
    assert [body["overall"][name] for name in ("tp", "fp", "tn", "fn")] == [3, 1, 3, 1]
    assert "embedded" in cells(call("guard", "list").out)


# --- guard train ----------------------------------------------------------------------------------


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    """A recipe beside its base and its rows, of which those with "zog" are unsafe."""
    encoder(tmp_path / "base")
    lines = []
    for row in lesson_rows(200):
        ask, *said = row.conversation
        line: dict[str, object] = {"prompt": ask.content, "source": CANARY[:6]}
        if said:
            line |= {"response": said[0].content, "unsafe": row.unsafe}
        else:
            line |= {"prompt_unsafe": row.unsafe, "category": row.category}
        lines.append(json.dumps(line))
    (tmp_path / "lesson.jsonl").write_text("\n".join(lines))
    recipe = settings(Path("base"), rows=["lesson.jsonl"], name="mine")
    changed = recipe.model_dump(exclude_defaults=True)
    Path(tmp_path / "train.toml").write_text(tomlkit.dumps(changed))
    return tmp_path / "train.toml"


def test_a_training_from_end_to_end(call, lesson, monkeypatch):
    done = call("guard", "train", "train.toml", "--out", "mine", "-o", "epochs=4")
    assert done.code == 0, done.err
    table = cells(done.out)
    content = json.loads(Path("mine/guard.json").read_text())
    for name in ("strict", "loose"):
        assert float(table[name][0]) == pytest.approx(content["thresholds"][name], rel=1e-5)
    assert float(table["prompt"][1].split()[0]) > 80  # F1, in per cent
    assert "held-out rows of the same sources" in done.out
    assert re.search(r"trained on 2\d\d rows, \d+ steps in", done.out)
    assert "next: fedrai guard eval mine DATA" in done.out
    assert sorted(f.name for f in Path("mine").iterdir()) == [
        "README.md", "guard.json", "guard.safetensors",
    ]  # fmt: skip
    card = Path("mine/README.md").read_text()
    assert f"| {CANARY[:6]} |" in card
    assert "a zog" not in card
    monkeypatch.delitem(sys.modules, "fedrai.guards.loading")
    used = call(
        "guard", "eval", "mine", "lesson.jsonl", "--label", "prompt_unsafe,unsafe", "--json"
    )
    overall = json.loads(used.out)["overall"]
    assert overall["threshold"] == content["thresholds"]["strict"]
    assert overall["recall"]["value"] > 0.9
    assert overall["false_positive_rate"]["value"] < 0.3


def test_progress_of_a_training_is_told_on_stderr(call, lesson, monkeypatch):
    monkeypatch.setattr("fedrai.progress.SECONDS_BETWEEN_LINES", 0.0)
    done = call("guard", "train", "train.toml", "--out", "mine", "-o", "epochs=3")
    assert re.search(r"^training: 1 of (\d+) steps$", done.err, re.MULTILINE)
    (steps,) = set(re.findall(r"^training: \d+ of (\d+) steps", done.err, re.MULTILINE))
    assert f"training: {steps} of {steps} steps, " in done.err
    assert re.search(r"^the new guard: (\d+) of \1 judged", done.err, re.MULTILINE)
    assert "training:" not in done.out


def test_a_training_that_was_stopped_leaves_nothing(call, lesson, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GuardProgress, "__call__", stop)
    before = set(lesson.parent.iterdir())
    done = call("guard", "train", "train.toml", "--out", "mine")
    assert done.code == 130
    assert "stopped; nothing was written" in done.err
    assert set(lesson.parent.iterdir()) == before


@pytest.mark.parametrize(("words", "said"), [
    (("none.toml",), "cannot read the recipe none.toml"),
    (("train.toml", "-o", "epoch=1"), "unknown key epoch (did you mean epochs?)"),
    (("train.toml", "-o", "epochs=0"), "epochs: "),
    (("train.toml", "-o", "epochs"), "expected section.key=value"),
    (("train.toml", "-o", 'rows=["none.jsonl"]'), "none.jsonl"),
    (("train.toml", "-o", "rows=[]"), "rows is empty"),
    (("train.toml", "-o", "pair_label=x", "-o", "prompt_label=y"), "holds no labelled row"),
    (("train.toml", "-o", "held_out=1e-9"), "0 rows are held out"),
    (("train.toml", "-o", "loose_fpr=1e-4"), "too few to set a threshold"),
    (("train.toml", "-o", "base=./nothing"), "nothing"),
    (("train.toml", "-o", "layers=5"), "has 2 layers, expected 5 or more"),
    (("train.toml", "-o", "max_length=100"), "more than the 64 tokens"),
    (("train.toml", "-o", 'frame=["a"]'), "frame needs 3 parts, got 1"),
    (("bad.toml",), "bad.jsonl, line 2: unsafe is not a number from 0 to 1"),
])  # fmt: skip
def test_mistakes_in_a_training(call, lesson, words, said):
    Path("bad.toml").write_text('rows = ["bad.jsonl"]\n')
    Path("bad.jsonl").write_text(
        '{"prompt": "a", "unsafe": 1}\n{"prompt": "canary-7f3a", "unsafe": 2}'
    )
    done = call("guard", "train", *words, "--out", "mine")
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert done.out == ""
    assert not Path("mine").exists()


def test_a_folder_in_the_way_of_a_training(call, lesson):
    Path("mine").mkdir()
    Path("mine/letter").write_text("x")
    done = call("guard", "train", "train.toml", "--out", "mine")
    assert (done.code, "already holds files" in done.err) == (2, True)


def test_the_list_of_guards_that_come_along(call, monkeypatch):
    monkeypatch.delitem(sys.modules, "fedrai.guards.loading")
    listed = json.loads(call("guard", "list", "--json").out)
    names = [entry["name"] for entry in listed]
    assert len(names) == len(set(names))
    assert {"embedded", "meta-llama/Llama-Guard-3-1B", "Qwen/Qwen3Guard-Gen-0.6B"} <= set(names)


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "said"), [
    (("scan", "none.jsonl", "--guard", "words"), "none.jsonl"),
    (("scan", "rows.jsonl", "--guard", "nobody"), "no guard 'nobody'"),
    (("scan", "rows.jsonl", "--guard", "words", "--threshold", "lax"), "no threshold 'lax'"),
    (("scan", "rows.jsonl", "--guard", "words", "--threshold", "1.5"), "no threshold '1.5'"),
    (("scan", "rows.jsonl", "--guard", "words", "--column", "text=goal"), "a column 'goal'"),
    (("scan", "rows.jsonl", "--guard", "words", "--column", "goal=text"), "roles are messages"),
    (("scan", "rows.jsonl", "--guard", "words", "--column", "text"), "takes NAME=VALUE"),
    (("scan", "rows.jsonl", "--guard", "words", "--where", "label=7"), "or none that matches"),
    (("scan", "rows.jsonl", "--guard", "words", "--out", "./rows.jsonl"), "is one of the datasets"),
    (("scan", "rows.jsonl", "--guard", "words", "--calibration", "rows.jsonl"),
     "not a calibration"),
    (("scan", "rows.jsonl", "--guard", "words", "--out", "taken.jsonl"), "already exists"),
    (("scan", "rows.jsonl", "--guard", "words", "--mode", "replace"), "name its file with --out"),
    (("scan", "rows.jsonl", "--guard", "words", "--mode", "drop"), "name its file with --out"),
    (("scan", "--guard", "words"), "give DATA"),
    (("guard", "eval", "words"), "give DATA"),
    (("guard", "eval", "words", "rows.jsonl"), "none of the 9 rows has a label"),
    (("guard", "eval", "words", "rows.jsonl", "--label", "lable"), "a column 'lable'"),
    (("guard", "eval", "words", "rows.jsonl", "--unsafe-when", "label=5"),
     "all 9 labelled rows are safe"),
    (("guard", "eval", "words", "--unsafe", "rows.jsonl"), "all 9 labelled rows are unsafe"),
    (("guard", "calibrate", "words", "--safe", "rows.jsonl", "--out", "c"),
     "all 9 labelled rows are safe"),
    (("guard", "calibrate", "words", "rows.jsonl", "--label", "label", "--fpr", "0",
      "--unsafe-when", "category=x", "--threshold", "1", "--out", "c"), "No such option"),
    (("guard", "calibrate", "words", "rows.jsonl", "--label", "label", "--out", "rows.jsonl/c"),
     "cannot write"),
])  # fmt: skip
def test_mistakes_are_one_line_and_a_hint(call, data, guard, words, said):
    Path("taken.jsonl").write_text("mine")
    done = call(*words)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""
    assert Path("taken.jsonl").read_text() == "mine"
    assert not Path("c").exists()


def test_labels_are_looked_at_before_a_guard_is_loaded(call, data):
    assert "has a label" in call("guard", "eval", "nobody", data).err


def test_a_calibration_of_another_guard(call, data, guard):
    call(
        "guard", "calibrate", "words", data, "--label", "label", "--fpr", "0.25", "--out", "c.json"
    )
    guard.revision = "0" * 64
    done = call("scan", data, "--guard", "words", "--calibration", "c.json")
    assert done.code == 2
    assert "the calibration is for scripted@" in done.err


def test_a_guard_that_no_threshold_helps(call, data, guard):
    guard._script = lambda _talk: 1.0
    done = call("guard", "calibrate", "words", data, "--label", "label", "--out", "c.json")
    assert done.code == 2
    assert "do not rise" in done.err


# --- the parts behind -----------------------------------------------------------------------------


def test_names_of_categories_are_not_markup():
    columns, rows = shares("category", {"[red]x[/none]": Rate(1, 2)})
    assert rows[0][0] == r"\[red]x\[/none]"
    assert len(columns) == len(rows[0])


def test_long_tables_end_and_say_so():
    _, rows = shares("category", {f"c{i}": Rate(0, 1) for i in range(LONGEST_TABLE + 3)})
    assert len(rows) == LONGEST_TABLE + 1
    assert rows[-1][0] == "and 3 more (--json)"
    assert groups("category", {})[1] == []


def test_unscored_rows_have_a_column_when_there_are_any():
    found = by_group([0.9, None], [True, False], ["a", "b"], 0.5)
    columns, rows = groups("category", found)
    assert (columns[-1], rows[1]) == ("unscored", ["b", "1", "0", "-", "no data", "1"])
    columns, rows = groups("category", {"a": found["a"]})
    assert (columns[-1], rows) == (
        "false positives", [["a", "1", "1", "100.0 % [20.7, 100.0]", "-"]],
    )  # fmt: skip


def test_a_pace_counts_what_is_new():
    heard = []
    pace = Pace(lambda done, of: heard.append((done, of)))
    assert pace.rate is None
    for done in (100, 110, 130):
        pace(done, 200)
    assert pace.fresh == 30
    assert pace.rate == pytest.approx(30 / pace.seconds)
    assert heard == [(100, 200), (110, 200), (130, 200)]


def test_progress_elsewhere_than_on_a_terminal_is_a_line_now_and_then():
    stream, clock = io.StringIO(), Clock()
    watch = GuardProgress("words", stream, clock=clock)
    for now, done in [(0, 0), (29, 290), (30, 300), (45, 450), (59.9, 599), (60, 600)]:
        clock.now = now
        watch(done, 1000)
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"words: 300 of 1,000 judged, [\d,.]+ a second, 1 min 10 s left", first)
    assert re.fullmatch(r"words: 600 of 1,000 judged, [\d,.]+ a second, 40 s left", second)


def test_functions_behind_the_commands(data, guard):
    rows = read_rows(DataSpec((str(data),), labels=Labels(("label",))))
    found = evaluate(rows, guard, part="prompt", threshold=0.5, cache=None)
    assert found.overall.counts.tp == 3
    assert threshold_of(guard, "loose") == 0.7
    assert threshold_of(guard, "0") == 0
    with pytest.raises(GuardError, match="no threshold 'nan'"):
        threshold_of(guard, "nan")
    with pytest.raises(EvaluationError, match="none of the 9 rows"):
        labelled_rows(read_rows(DataSpec((str(data),))))
