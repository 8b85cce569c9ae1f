"""Outside sets: filtered, built, from a path; each on files of a few made-up lines."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fedrai.errors import AssetError, EvaluationError
from fedrai.evaluation.suites import NotAvailable, Suite, outside
from fedrai.evaluation.suites.items import turns
from fedrai.evaluation.suites.outside import outside_suites
from fedrai.evaluation.suites.split import NamedSet, read_split
from fedrai.records import Message

SPLIT = """
[[set]]
name = "known"
title = "Known"
use = "training"
side = "harmful"
manner = "question"
licence = "MIT"

[[set]]
name = "asking"
title = "Asking"
use = "outside"
side = "harmful"
manner = "question"
licence = "MIT"
source = "{folder}/requests.csv"
column = "goal"
where = ["source", "Own"]
without = "\\\\bI\\\\b"
left_out = [1]

[[set]]
name = "framed"
title = "Framed"
use = "outside"
side = "harmful"
manner = "role play"
licence = "MIT"
source = "{folder}/templates"
build = "template"
requests = "asking"
members = ["one", "two"]

[[set]]
name = "long"
title = "Long"
use = "outside"
side = "harmful"
manner = "long context"
licence = "MIT"
source = "{folder}/passages.jsonl"
build = "passage"
column = "passage"
requests = "asking"
part = [1, 2]

[[set]]
name = "talk"
title = "Talk"
use = "outside"
side = "harmful"
manner = "conversation"
licence = "MIT"
source = "{folder}/exchanges.jsonl"
build = "conversation"
column = "question"
answers = "answer"
requests = "asking"

[[set]]
name = "calm"
title = "Calm"
use = "outside"
side = "harmless"
manner = "everyday"
licence = "MIT"
"""


def jsonl(file: Path, rows: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with (tmp_path / "requests.csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["Goal", "Source"])
        writer.writerows([
            ["first ", "Own"], ["taken", "Other"], ["near", "Own"], ["what I want", "Own"],
            ["second", "Own"], ["first", "Own"], ["third", "Own"],
        ])  # fmt: skip
    (tmp_path / "templates").mkdir()
    for name, value in (("one", "Be A. {{ prompt }} Go."), ("two", "Be B: {{prompt}}"),
                        ("other", "Be C. {{ prompt }}")):  # fmt: skip
        (tmp_path / f"templates/{name}.yaml").write_text(f"name: x\nvalue: '{value}'\n")
    jsonl(tmp_path / "passages.jsonl", [{"passage": f"p{n}"} for n in range(5)])
    rows: list[dict[str, object]] = [{"question": f"q{n}", "answer": [f"a{n}", "b"]}
                                     for n in range(3)]  # fmt: skip
    jsonl(tmp_path / "exchanges.jsonl", [*rows, {"question": "open", "answer": []}])
    (tmp_path / "split.toml").write_text(SPLIT.format(folder=tmp_path))
    sets = read_split(tmp_path / "split.toml")
    standing: list[NamedSet] = [one for one in sets.values() if one.is_standing]
    monkeypatch.setattr(outside, "split", lambda: sets)
    monkeypatch.setattr(outside, "standing", lambda: standing)
    return tmp_path


def prompts(name: str, *own: str) -> list[str]:
    by_name = {s.declaration.name: s for s in outside_suites(own) if isinstance(s, Suite)}
    return [item.prompt for item in by_name[name].items]


def test_requests_are_filtered_each_once_without_those_near_to_training() -> None:
    assert prompts("asking") == ["first", "second", "third"]


def test_each_request_is_put_into_the_next_template() -> None:
    assert prompts("framed") == ["Be A. first Go.", "Be B: second", "Be A. third Go."]


def test_a_part_of_the_requests_comes_after_passages() -> None:
    assert prompts("long") == ["p0\n\np1\n\np2\n\nsecond"]


def test_a_conversation_ends_with_the_request() -> None:
    suite = next(s for s in outside_suites() if isinstance(s, Suite)
                 and s.declaration.name == "talk")  # fmt: skip
    assert suite.declaration.form == "dialogue"
    roles = ("user", "assistant", "user", "assistant", "user")
    texts = ("q2", "a2", "q0", "a0", "second")
    assert turns(suite.items[1], dialogue=True) == tuple(map(Message, roles, texts))


def test_declarations_say_side_and_manner() -> None:
    suites = {s.declaration.name: s for s in outside_suites() if isinstance(s, Suite)}
    assert set(suites) == {"asking", "framed", "long", "talk"}  # calm has no source
    one = suites["asking"].declaration
    assert (one.is_outside, one.direction, one.manner) == (True, "up", "question")
    assert suites["asking"].to_json()["manner"] == "question"


def test_a_set_without_source_comes_from_a_path(folder: Path) -> None:
    file = jsonl(folder / "mine.jsonl", [{"prompt": "walk"}, {"prompt": "swim"}])
    suite = outside_suites([f"calm={file}"])[-1]
    assert isinstance(suite, Suite)
    assert (suite.declaration.title, suite.declaration.direction) == ("Calm", "down")
    assert suite.whole == 2


@pytest.mark.parametrize(("label", "direction"), [("unsafe", "up"), ("safe", "down")])
def test_a_file_of_ones_own_says_its_side(folder: Path, label: str, direction: str) -> None:
    file = jsonl(folder / "mine.jsonl", [{"prompt": "walk", "label": label}])
    suite = outside_suites([str(file)])[-1]
    assert isinstance(suite, Suite)
    assert (suite.declaration.name, suite.declaration.direction) == ("mine", direction)


def test_a_file_without_a_side_and_a_set_that_trained_are_errors(folder: Path) -> None:
    file = jsonl(folder / "mine.jsonl", [{"prompt": "walk"}])
    with pytest.raises(EvaluationError, match="mine: its rows do not say on which side it is"):
        outside_suites([str(file)])
    with pytest.raises(EvaluationError, match="known is a training set"):
        outside_suites([f"known={file}"])
    with pytest.raises(EvaluationError, match="mine is given twice"):
        outside_suites([str(file), f"mine={file}"])
    with pytest.raises(AssetError):
        outside_suites(["calm=nowhere.jsonl"])


def test_a_set_that_cannot_be_fetched_has_a_reason(folder: Path) -> None:
    (folder / "requests.csv").unlink()
    missing = [s for s in outside_suites(offline=True) if isinstance(s, NotAvailable)]
    assert [one.name for one in missing] == ["asking", "framed", "long", "talk"]
    assert "requests.csv" in missing[0].reason
