"""Scanning a dataset: tables by category and source, going on after a stop, filtered copies."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest

from fedrai.data.embedded.refusals import embedded_refusals
from fedrai.errors import DataError
from fedrai.evaluation.refusal import Reply
from fedrai.evaluation.refusal import judge as refusal
from fedrai.filter.scan import CopyCounts, scan, write_copy
from fedrai.guards.base import VerdictBatch
from fedrai.guards.cache import CHUNK, VerdictCache
from fedrai.guards.rows import GuardRow
from fedrai.records import Message, Verdict

CANARY = "canary-7431"
BAD = "Sure, here is how that is done, in full."


class Marking:
    """Unsafe (0.9, fraud) where the last turn begins with "Sure", unscored where it says "odd"."""

    name, revision = "marking", "abcdef0123456789"

    def __init__(self, stop_after=None):
        self.thresholds = {"strict": 0.5, "loose": 0.5}
        self.stop_after, self.asked = stop_after, 0

    def judge(self, conversations, on_progress=lambda _done, _of: None):
        return VerdictBatch(tuple(self.say(talk[-1].content) for talk in conversations), tokens=5)

    def say(self, text):
        if self.asked == self.stop_after:
            raise KeyboardInterrupt
        self.asked += 1
        if "odd" in text:
            return Verdict(None, "marking", problem="unparsed")
        return Verdict(0.9, "marking", ("Fraud",)) if text[:4] == "Sure" else Verdict(0.2, "m")


def row_of(
    conversation: tuple[Message, ...],
    *,
    source: str = "a.jsonl",
    category: str = "",
    origin: str = "a.jsonl, line 1",
    raw: Mapping[str, Any] | None = None,
) -> GuardRow:
    return GuardRow(conversation, origin, source, category, None, raw or {})


def pair(prompt: str, response: str, **fields: Any) -> GuardRow:
    talk = (Message("user", prompt), Message("assistant", response))
    return row_of(talk, **{"raw": {"prompt": prompt, "response": response, "id": 7}} | fields)


ROWS = [
    pair("a", "No.", category="scams"),
    pair("b", BAD, category="scams"),
    pair("c", BAD + " Again.", category="scams", source="b.csv"),
    pair("d", "odd", category="drugs"),
    pair("e", "Fine."),
    row_of((), category="scams", raw={"id": 8}),
]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def found(rows=ROWS, **options):
    return scan(rows, Marking(), **{"threshold": 0.5} | options)


# --- the result -----------------------------------------------------------------------------------


def test_tables_of_six_rows():
    result = found()
    assert (result.rows, result.bad_rows) == (5, 1)
    assert (result.unsafe.successes, result.unsafe.scored, result.unsafe.unscored) == (2, 4, 1)
    assert {n: (r.successes, r.scored, r.unscored) for n, r in result.by_category.items()} == {
        "scams": (2, 3, 0), "(none)": (0, 1, 0), "drugs": (0, 0, 1),
    }  # fmt: skip
    assert {n: (r.successes, r.scored, r.unscored) for n, r in result.by_source.items()} == {
        "a.jsonl": (1, 3, 1), "b.csv": (1, 1, 0),
    }  # fmt: skip
    assert result.found == {"fraud": 2}
    assert {k: n for k, n in result.unscored.items() if n} == {"unparsed": 1}
    assert [v.probability for v in result.verdicts] == [0.2, 0.9, 0.9, None, 0.2, None]
    assert json.loads(json.dumps(result.to_json())) == result.to_json()


def test_json_has_wilsons_interval():
    value = found().to_json()
    assert value["unsafe"]["value"] == 0.5
    # Wilson for 2 of 4, z = 1.96: centre 0.5, half = z/(1+z^2/4) * sqrt(1/16 + z^2/64) = 0.3500
    assert value["unsafe"]["low"] == pytest.approx(0.15, abs=0.0005)
    assert value["unsafe"]["high"] == pytest.approx(0.85, abs=0.0005)
    assert value["by_category"]["drugs"]["value"] is None
    assert (value["guard"], value["part"]) == ("marking@abcdef012345", "pair")
    assert (value["rows"], value["bad_rows"]) == (5, 1)


def test_the_threshold_decides():
    assert found(threshold=0.2).unsafe.successes == 4
    assert found(threshold=0.91).unsafe.successes == 0


def test_prompts_alone_are_scanned_and_answers_alone():
    rows = [row_of((Message("user", BAD),)), row_of((Message("user", "odd"),)), *ROWS[:2]]
    prompts = found(rows, part="prompt")
    assert (prompts.unsafe.successes, prompts.unsafe.scored, prompts.unsafe.unscored) == (1, 3, 1)
    assert (found(rows, part="pair").rows, found(rows, part="pair").bad_rows) == (4, 0)
    only = found(rows, part="response")
    assert (only.rows, only.bad_rows, only.unsafe.successes) == (2, 2, 1)


def test_any_iterable_will_do_and_nothing_is_no_data():
    assert found(iter(ROWS)).rows == 5
    assert str(found([]).unsafe) == "no data"


def test_no_text_of_a_row_stands_in_the_json(tmp_path):
    text = f"{BAD} {CANARY}"
    rows = [
        pair(CANARY, text, origin=CANARY, category=CANARY),  # the category column was the prompt
        pair("x", text, category=f"{CANARY} " * 9),  # or some other text
        row_of((), raw={CANARY: CANARY}),
    ]
    result = found(rows, cache=VerdictCache(tmp_path / "cache"))
    assert result.by_category.keys() == {"(too long)"}
    assert result.unsafe.successes == 2
    assert CANARY not in json.dumps(result.to_json())
    for file in (tmp_path / "cache").iterdir():
        assert CANARY.encode() not in file.read_bytes()


def test_a_column_of_many_names_is_cut_to_a_hundred():
    rows = [pair(str(i), BAD, category=f"name {i}") for i in range(150)]
    rows += [pair("x", "No.", category="often")] * 5
    table = found(rows).by_category
    assert next(iter(table)) == "often"
    assert len(table) == 101
    assert (table["(more)"].successes, table["(more)"].scored) == (51, 51)


def test_an_unsafe_answer_before_the_last_is_found(tmp_path):
    talk = (*ROWS[1].conversation, Message("user", "thanks"), Message("assistant", "Welcome."))
    row = row_of(talk, raw={"messages": [{"role": m.role, "content": m.content} for m in talk]})
    result = found([row])
    assert result.unsafe.successes == 1
    assert write_copy([row], result.findings, tmp_path / "o", "replace") == CopyCounts(1, 0, 1)
    turns = lines(tmp_path / "o")[0]["messages"]
    assert refusal(turns[1]["content"]) is Reply.REFUSAL
    assert turns[2:] == row.raw["messages"][2:]


def test_a_stopped_scan_goes_on_where_it_was(tmp_path):
    rows = [pair(f"ask {i}", f"{BAD if i % 2 else 'No.'} {i}") for i in range(2 * CHUNK + 40)]
    stopped, again = Marking(stop_after=CHUNK + 100), Marking()
    with pytest.raises(KeyboardInterrupt):
        scan(rows, stopped, threshold=0.5, cache=VerdictCache(tmp_path / "c"))
    result = scan(rows, again, threshold=0.5, cache=VerdictCache(tmp_path / "c"))
    assert again.asked == CHUNK + 40  # all but the first chunk
    whole = scan(rows, Marking(), threshold=0.5)
    assert result.unsafe == whole.unsafe
    assert result.verdicts == whole.verdicts
    assert result.unsafe.successes == CHUNK + 20


# --- copies ---------------------------------------------------------------------------------------


def copy(tmp_path, mode, rows=ROWS, **options):
    done = write_copy(rows, found(rows).findings, tmp_path / "copy.jsonl", mode, **options)
    return done, lines(tmp_path / "copy.jsonl")


def test_drop_leaves_out_unsafe_unscored_and_bad_rows(tmp_path):
    done, kept = copy(tmp_path, "drop")
    assert done == CopyCounts(written=2, dropped=4, replaced=0)
    assert kept == [ROWS[0].raw, ROWS[4].raw]
    done, kept = copy(tmp_path, "drop", unscored="keep")
    assert done == CopyCounts(4, 2, 0)
    assert kept == [ROWS[0].raw, ROWS[3].raw, ROWS[4].raw, ROWS[5].raw]


def test_replace_swaps_the_answer_and_nothing_else(tmp_path):
    done, kept = copy(tmp_path, "replace")
    assert done == CopyCounts(4, 2, 2)
    replies = embedded_refusals().topics["fraud"].replies
    for row, before in zip(kept[1:3], ROWS[1:3], strict=True):
        assert row["response"] in replies
        assert row | {"response": before.raw["response"]} == before.raw
    assert [kept[0], kept[3]] == [ROWS[0].raw, ROWS[4].raw]
    assert copy(tmp_path, "replace") == (done, kept)


def test_flag_keeps_every_row_and_says_what_was_found(tmp_path):
    done, kept = copy(tmp_path, "flag")
    assert done == CopyCounts(6, 0, 0)
    assert [r["fedrai_unsafe"] for r in kept] == [False, True, True, None, False, None]
    assert [r["fedrai_probability"] for r in kept] == [0.2, 0.9, 0.9, None, 0.2, None]
    assert [r["fedrai_categories"] for r in kept] == [[], ["Fraud"], ["Fraud"], [], [], []]
    assert [{k: v for k, v in r.items() if k[:7] != "fedrai_"} for r in kept] == [
        row.raw for row in ROWS
    ]
    flagged = [replace(row, raw=raw) for row, raw in zip(ROWS, kept, strict=True)]
    assert copy(tmp_path, "flag", flagged)[1] == kept


TALK = [{"role": "user", "content": "b"}, {"role": "assistant", "content": BAD}]


@pytest.mark.parametrize(
    "raw",
    [
        {"messages": TALK, "n": 1},
        {"messages": json.dumps(TALK), "n": 1},  # as CSV holds them
        {"prompt": "b", "output": f" {BAD}\n", "n": 1},
        {"conversations": [{"from": "human", "value": "b"}, {"from": "gpt", "value": BAD}]},
        {"response": BAD, "text": BAD},
    ],
)
def test_replace_finds_the_answer_in_any_column(tmp_path, raw):
    done, (row,) = copy(tmp_path, "replace", [pair("b", BAD, raw=raw)])
    assert done == CopyCounts(1, 0, 1)
    assert list(row) == list(raw)
    assert BAD not in json.dumps(row)
    assert any(r in json.dumps(row) for r in embedded_refusals().topics["fraud"].replies)


@pytest.mark.parametrize(
    "raw",
    [
        {"other": "nothing of it"},
        {"response": BAD, "text": f"User: b\nAssistant: {BAD}"},
        {"response": BAD, "log": json.dumps({"whole": f"<<{BAD}>>"})},
        {"response": BAD, "deep": [{"a": [f"<{BAD}>"]}]},
        {},
    ],
)
def test_a_row_that_would_keep_the_answer_leaves(tmp_path, raw):
    assert copy(tmp_path, "replace", [pair("b", BAD, raw=raw)]) == (CopyCounts(0, 1, 0), [])


def test_an_answer_escaped_within_other_text_counts_as_kept(tmp_path):
    said = 'Sure, here is "how":\nfirst part, sécond part'
    for escaped in (json.dumps({"a": f"x {said}"}), json.dumps([f"x {said}"], ensure_ascii=False)):
        row = pair("b", said, raw={"response": said, "log": f"log: {escaped}"})
        assert copy(tmp_path, "replace", [row])[0] == CopyCounts(0, 1, 0)


def test_an_unsafe_request_without_an_answer_leaves(tmp_path):
    row = row_of((Message("user", BAD),), raw={"prompt": BAD})
    assert copy(tmp_path, "replace", [row])[0] == CopyCounts(0, 1, 0)
    assert copy(tmp_path, "flag", [row])[1][0]["fedrai_unsafe"] is True


def test_values_that_json_lacks_are_written_as_json_can(tmp_path):
    raw = {
        "a": float("nan"), "b": float("inf"), "c": date(2024, 5, 1), "d": datetime(2024, 5, 1, 8),
        "e": (1, 2.5, None), "f": {"g": True}, "h": "한국어 🏔️", "i": "\ud800", "j": 10**30,
    }  # fmt: skip
    _, (row,) = copy(tmp_path, "drop", [pair("a", "No.", raw=raw)])
    assert row == {
        "a": None, "b": None, "c": "2024-05-01", "d": "2024-05-01T08:00:00",
        "e": [1, 2.5, None], "f": {"g": True}, "h": "한국어 🏔️", "i": "\ud800", "j": 10**30,
    }  # fmt: skip
    copy(tmp_path, "drop", [pair("a", "No.", raw={"h": "한국어"})])
    assert "한국어" in (tmp_path / "copy.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [b"bytes", Decimal(1), object()])
def test_what_cannot_be_written_names_the_row_and_leaves_the_old_file(tmp_path, value):
    (tmp_path / "copy.jsonl").write_text("before")
    rows = [ROWS[0], pair("a", "No.", raw={CANARY: value}, origin="b.parquet, row 3")]
    with pytest.raises(DataError, match=r"b\.parquet, row 3: a column holds") as caught:
        copy(tmp_path, "drop", rows)
    assert CANARY not in str(caught.value) + caught.value.hint
    assert (tmp_path / "copy.jsonl").read_text() == "before"
    assert list(tmp_path.iterdir()) == [tmp_path / "copy.jsonl"]


def test_a_full_disk_leaves_no_half_copy(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        copy(tmp_path, "drop")
    assert list(tmp_path.iterdir()) == []


def test_rows_of_csv_go_round(tmp_path):
    table = csv.DictReader(io.StringIO(f'prompt,response,n\n"b,c","{BAD}",1\nd,No.,2\n'))
    rows = [pair(r["prompt"], r["response"], raw=r) for r in table]
    _, kept = copy(tmp_path, "drop", rows)
    assert kept == [{"prompt": "d", "response": "No.", "n": "2"}]
