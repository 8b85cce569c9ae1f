"""Preference pairs in the formats that datasets have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedrai import data
from fedrai.data.pairs import pair_of
from fedrai.errors import DataError
from fedrai.recipe.sections import Columns, Source


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


HH = "\n\nHuman: hi\n\nAssistant: yo\n\nHuman: q?\n\nAssistant: {}"
FORMATS: dict[str, dict[str, Any]] = {
    "TRL, texts": {"prompt": "q?", "chosen": "c", "rejected": "r"},
    "TRL, turns": {"prompt": [user("q?")], "chosen": [reply("c")], "rejected": [reply("r")]},
    "TRL, turns as JSON text": {
        "prompt": json.dumps([user("q?")]),
        "chosen": json.dumps([reply("c")]),
        "rejected": json.dumps([reply("r")]),
    },
    "whole conversations": {
        "chosen": [user("q?"), reply("c")],
        "rejected": [user("q?"), reply("r")],
    },
    "whole conversations beside a prompt": {
        "prompt": "q?",
        "chosen": [user("q?"), reply("c")],
        "rejected": [user("q?"), reply("r")],
    },
    "ShareGPT turns": {
        "chosen": [{"from": "human", "value": "q?"}, {"from": "gpt", "value": "c"}],
        "rejected": [{"from": "human", "value": "q?"}, {"from": "gpt", "value": "r"}],
    },
    "another name of the prompt": {"question": "q?", "chosen": "c", "rejected": "r"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_pair(name: str) -> None:
    chosen, rejected = pair_of(FORMATS[name], Columns())
    assert [(m.role, m.content) for m in chosen] == [("user", "q?"), ("assistant", "c")]
    assert [(m.role, m.content) for m in rejected] == [("user", "q?"), ("assistant", "r")]


def test_marked_text_is_read_as_turns() -> None:
    """Anthropic's HH, whole or with the request apart; a blank line alone starts no turn."""
    whole = {"chosen": HH.format("c\n\nmore"), "rejected": HH.format("r")}
    apart = {"prompt": HH.format("").rstrip(), "chosen": "c\n\nmore", "rejected": "r"}
    expected = [("user", "hi"), ("assistant", "yo"), ("user", "q?"), ("assistant", "c\n\nmore")]
    for row in (whole, apart):
        chosen, rejected = pair_of(row, Columns())
        assert [(m.role, m.content) for m in chosen] == expected
        assert rejected[:3] == chosen[:3]
        assert rejected[3].content == "r"


def test_an_answer_may_go_on_over_several_turns() -> None:
    rejected = [user("q?"), reply("r"), user("and?"), reply("s")]
    _, other = pair_of({"chosen": [user("q?"), reply("c")], "rejected": rejected}, Columns())
    assert [m.content for m in other] == ["q?", "r", "and?", "s"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "q?", "chosen": "c"}, "no column 'rejected', which holds one of a pair's"),
        ({"chosen": "c", "rejected": "r"}, "no column 'prompt', and 'chosen' is an answer alone"),
        ({"prompt": "q?", "chosen": "c", "rejected": "c"}, "chosen and rejected are the same"),
        ({"prompt": "q?", "chosen": "c", "rejected": " "}, "rejected is empty"),
        ({"prompt": "q?", "chosen": 1, "rejected": "r"}, "chosen is not text but int"),
        (
            {"chosen": [user("p"), reply("c")], "rejected": [user("q"), reply("r")]},
            "answers to different requests",
        ),
        (
            {"chosen": [user("p"), reply("c")],
             "rejected": [user("p"), reply("c"), user("q"), reply("r")]},
            "only goes on where the other one ends",
        ),
        ({"chosen": [user("p")], "rejected": [user("p"), reply("r")]}, "chosen: turns must be"),
        ({"chosen": HH.format(""), "rejected": HH.format("r")}, "chosen: a turn is empty"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_pair_says_why(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        pair_of(row, Columns())


def load(tmp_path: Path, rows: list[dict[str, Any]], **keys: Any) -> data.Dataset:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = keys.pop("bad_rows", "stop")
    return data.load(Source(path=str(file), rows="pairs", **keys), bad)


def test_a_source_of_pairs_gives_both_conversations(tmp_path: Path) -> None:
    rows = [{"prompt": "q?", "better": "c", "worse": "r", "category": "x"}]
    columns = Columns(chosen="better", rejected="worse")
    (one,) = load(tmp_path, rows, columns=columns, name="votes").examples
    assert [m.content for m in one.messages] == ["q?", "c"]
    assert [m.content for m in one.rejected] == ["q?", "r"]
    assert (one.shared_turns, one.label, one.source) == (1, "x", "votes")


def test_system_turns_are_treated_alike_on_both_sides(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    rows = [
        {"chosen": [system, user("q?"), reply("c")], "rejected": [system, user("q?"), reply("r")]}
    ]
    (one,) = load(tmp_path, rows, system_turns="prepend").examples
    assert one.messages[0].content == one.rejected[0].content == "Be kind.\n\nq?"
    assert one.shared_turns == 1


def test_bad_rows_are_named_by_line_and_counted(tmp_path: Path) -> None:
    rows = [FORMATS["TRL, texts"], {"prompt": "canary", "chosen": "canary", "rejected": "canary"}]
    with pytest.raises(DataError, match="line 2: chosen and rejected are the same") as error:
        load(tmp_path, rows)
    assert "canary" not in str(error.value)
    kept = load(tmp_path, rows, bad_rows="skip")
    assert (len(kept.examples), len(kept.bad_rows)) == (1, 1)


def test_a_file_without_pairs_says_which_columns_it_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'chosen'") as error:
        load(tmp_path, [{"prompt": "q?", "response": "c"}] * 2)
    assert "the columns are prompt, response" in (error.value.hint or "")
