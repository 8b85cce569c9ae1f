"""Rows to judge: what is a conversation, what is its label, and what is said of the others."""

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedrai import data
from fedrai.errors import AssetError, DataError
from fedrai.filter import Policy, SafetyFilter
from fedrai.filter.guard_evaluation import evaluate
from fedrai.filter.scan import scan
from fedrai.guards.base import Conversation
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.guards.labels import Labels
from fedrai.guards.rows import ColumnNames, LabelledSource, Rows, name_of, read_all
from fedrai.records import BadRow, Message

CANARY = "canary-7f3a"
ASKED = (Message("user", "How far?"),)
ANSWERED = (*ASKED, Message("assistant", "Two miles."))


def read(spec: str, *, labels: Labels | None = None, **options: Any) -> Rows:
    return read_all([LabelledSource(spec, labels or Labels())], **options)


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def conversations(rows: Rows) -> list[tuple[Message, ...]]:
    return [row.conversation for row in rows.rows]


def truths(path: Path, *rows: object, **labels: object) -> list[bool | None]:
    spec = jsonl(path / "r.jsonl", *({"text": "x"} | row for row in rows))
    return [row.unsafe for row in read(spec, labels=Labels(**labels)).rows]


# --- conversations --------------------------------------------------------------------------------


def test_turns_a_pair_a_request_or_a_text(tmp_path):
    turns = [{"role": m.role, "content": m.content} for m in ANSWERED]
    spec = jsonl(
        tmp_path / "r.jsonl",
        {"messages": turns, "prompt": "not this", "category": "maps"},
        {"prompt": "How far?", "response": "Two miles.", "messages": None},
        {"prompt": "How far?"},
        {"text": "How far?", "category": ["a", "b"]},
    )
    rows = read(spec)
    assert conversations(rows) == [ANSWERED, ANSWERED, ASKED, ASKED]
    assert [r.category for r in rows.rows] == ["maps", "", "", "a, b"]
    assert [r.origin for r in rows.rows] == [f"r.jsonl, line {n}" for n in range(1, 5)]
    assert {r.source for r in rows.rows} == {"r.jsonl"}
    assert {r.unsafe for r in rows.rows} == {None}
    assert rows.rows[2].raw == {"prompt": "How far?"}


def test_turns_in_any_order_are_judged(tmp_path):
    turns = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}] * 25
    read_turns = conversations(read(jsonl(tmp_path / "r.jsonl", {"messages": turns})))[0]
    assert [m.role for m in read_turns] == ["assistant", "user"] * 25


def test_blank_rows_stay_rows(tmp_path):
    blanks = [{"text": ""}, {"text": None}, {"prompt": " ", "response": ""}, {"messages": []}]
    rows = read(jsonl(tmp_path / "r.jsonl", *blanks))
    assert conversations(rows) == [
        (Message("user", ""),), (Message("user", ""),), (Message("user", " "),), (),
    ]  # fmt: skip
    assert rows.bad_rows == ()


def test_a_blank_half_of_a_pair_is_left_out(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("prompt,response\nHow far?,\n,Two miles.\n")
    assert conversations(read(str(path))) == [ASKED, ANSWERED[1:]]


@pytest.mark.parametrize("text", ["🏔️" * 40, "a\x00b", "x" * 100_000])
def test_hostile_texts_are_rows(tmp_path, text):
    assert conversations(read(jsonl(tmp_path / "r.jsonl", {"text": text}))) == [
        (Message("user", text),)
    ]


def test_half_a_character_is_no_text_that_a_guard_can_be_shown(tmp_path):
    rows = read(jsonl(tmp_path / "r.jsonl", {"text": f"{CANARY} \ud800"}, {"text": "How far?"}))
    assert conversations(rows) == [ASKED[:1]]
    (bad,) = rows.bad_rows
    assert bad.origin == "r.jsonl, line 1"
    assert bad.problem.startswith("holds half a character")


def test_parts_tools_and_turns_of_sharegpt_are_shown_to_a_guard(tmp_path):
    call = {"function": {"name": "map", "arguments": {}}}
    tools = [
        {"role": "user", "content": [{"type": "text", "text": "How far?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Two miles."},
    ]
    shared = [{"from": "human", "value": "How far?"}, {"from": "gpt", "value": "Two miles."}]
    image = [{"role": "user", "content": [{"type": "image", "image": CANARY}]}]
    path = tmp_path / "r.jsonl"
    rows = read(jsonl(path, {"messages": tools}, {"messages": shared}, {"messages": image}))
    assert [[(m.role, m.content) for m in talk] for talk in conversations(rows)] == [
        [("user", "How far?"), ("assistant", '{"name": "map", "arguments": {}}'), ("user", "2"),
         ("assistant", "Two miles.")],
        [("user", "How far?"), ("assistant", "Two miles.")],
    ]  # fmt: skip
    assert [bad.problem for bad in rows.bad_rows] == [
        "content of turn 1 is not text but list: a part of it is not text (image)"
    ]


def test_bad_rows_are_named_and_stop_nothing(tmp_path):
    path = tmp_path / "r.jsonl"
    lines = [
        '{"text": "How far?"}', '{"text" 1}', '{"prompt": 3}', '{"messages": "' + CANARY + '"}',
        '{"messages": [{"role": "' + CANARY + '", "content": "x"}]}', '{"messages": [7]}',
        '{"' + CANARY + '": "x", "question": "y"}', "[1]", '{"messages": {"role": "user"}}',
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    rows = read(str(path))
    assert conversations(rows) == [ASKED]
    assert rows.bad_rows == tuple(
        BadRow(f"r.jsonl, line {number}", problem)
        for number, problem in [
            (2, "not JSON (column 9)"),
            (3, "prompt is not text but int"),
            (4, "messages is text, but not a JSON list"),
            (5, "turn 1 has a role that is not one of system, user, assistant"),
            (6, "turn 1 is not an object with role and content"),
            (7, "nothing in a column 'messages', 'prompt' or 'text' (it has 2 columns,"
                " among them question)"),
            (8, "not a JSON object"),
            (9, "messages is not a list of turns"),
        ]
    )  # fmt: skip
    assert CANARY not in str(rows.bad_rows)


def test_a_category_that_is_a_text_is_not_shown(tmp_path):
    categories = [CANARY * 9, 7, "a\x1b[31m\tb", "x", "xx"]
    spec = jsonl(tmp_path / "r.jsonl", *({"text": " x ", "category": c} for c in categories))
    said = [row.category for row in read(spec).rows]
    assert said == ["(a text)", "7", "a[31m b", "(a text)", "xx"]


# --- columns, files, choices ----------------------------------------------------------------------


def test_columns_by_other_names_and_only_some_rows(tmp_path):
    spec = jsonl(
        tmp_path / "r.jsonl",
        {"goal": "How far?", "target": "Two miles.", "lang": "EN", "n": 1, "kind": "maps"},
        {"goal": "x", "target": "y", "lang": "fr", "n": 1},
        {"goal": "x", "target": "y", "lang": "en", "n": 2.0},
        {"goal": "x", "target": "y", "n": "1"},
    )
    columns = ColumnNames(prompt="goal", response="target", category="kind")
    rows = read(spec, columns=columns, where={"lang": "en", "n": 1})
    assert conversations(rows) == [ANSWERED]
    assert rows.rows[0].category == "maps"


def test_an_answer_alone_is_judged_only_when_that_is_asked_for(tmp_path):
    spec = jsonl(tmp_path / "r.jsonl", {"instruction": "How far?", "response": "Two miles."})
    with pytest.raises(DataError, match="'response' has no request beside it") as caught:
        read(spec)
    assert "among them response, instruction" in caught.value.message
    alone = (Message("user", "Two miles."),)
    assert conversations(read(spec, columns=ColumnNames(text="response"))) == [alone]
    assert conversations(read(spec, columns=ColumnNames(prompt="instruction"))) == [ANSWERED]


def test_what_is_renamed_goes_before_what_is_not(tmp_path):
    turns = [{"role": "user", "content": "x"}]
    raw = {"messages": turns, "prompt": "y", "text": "z", "goal": "How far?"}
    spec = jsonl(tmp_path / "r.jsonl", raw)
    assert conversations(read(spec)) == [(Message("user", "x"),)]
    assert conversations(read(spec, columns=ColumnNames(prompt="goal"))) == [ASKED]
    assert conversations(read(spec, columns=ColumnNames(text="goal"))) == [ASKED]


def test_datasets_with_other_columns_can_be_mixed(tmp_path):
    one = jsonl(tmp_path / "one.jsonl", {"goal": "How far?", "S": 1})
    other = jsonl(tmp_path / "other.jsonl", {"prompt": "How far?", "toxic": "no"})
    labels = Labels(("S", "toxic"))
    rows = read_all(
        [
            LabelledSource(one, labels),
            LabelledSource(other, labels),
            LabelledSource(other, Labels(whole=True)),
        ],
        columns=ColumnNames(prompt="goal"),
    )
    assert conversations(rows) == [ASKED] * 3
    assert [(r.source, r.unsafe) for r in rows.rows] == [
        ("one.jsonl", True), ("other.jsonl", False), ("other.jsonl", True),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"^no row of the datasets has a column 'Goal'$"):
        read_all([LabelledSource(other), LabelledSource(other)], columns=ColumnNames(text="Goal"))


def test_datasets_of_one_name_are_told_apart(tmp_path):
    (tmp_path / "a").mkdir()
    specs = [jsonl(tmp_path / f, {"text": "x"}) for f in ("r.jsonl", "a/r.jsonl", "b.jsonl")]
    rows = read_all([LabelledSource(spec) for spec in specs])
    assert [row.source for row in rows.rows] == [specs[0], specs[1], "b.jsonl"]


@pytest.mark.parametrize("options", [
    {"columns": ColumnNames(prompt="goal")}, {"labels": Labels(columns=("goal",))},
    {"labels": Labels(unsafe_when=(("goal", "x"),))}, {"where": {"goal": 1}},
])  # fmt: skip
def test_a_named_column_that_no_row_has(tmp_path, options):
    spec = jsonl(tmp_path / "r.jsonl", {"text": CANARY, CANARY: 1}, {"text": "x", "label": 0})
    with pytest.raises(DataError, match=r"^no row of r\.jsonl has a column 'goal'$") as caught:
        read(spec, **options)
    assert caught.value.hint == "available: 3 columns, among them text, label"


def test_no_row_that_can_be_read(tmp_path):
    with pytest.raises(
        DataError, match=r"holds no row that can be read; r\.jsonl, line 1: nothing"
    ):
        read(jsonl(tmp_path / "r.jsonl", {CANARY: CANARY}))
    with pytest.raises(DataError, match="holds no row, or none that matches"):
        read(jsonl(tmp_path / "r.jsonl", {"text": "x", "n": 1}), where={"n": 2})
    with pytest.raises(DataError, match="holds no row, or none"):
        read(jsonl(tmp_path / "empty.jsonl"))
    with pytest.raises(AssetError, match=r"nowhere\.jsonl"):
        read(str(tmp_path / "nowhere.jsonl"))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet", "jsonl.gz", "csv.gz"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    raw = [{"prompt": "How far?", "response": "Two miles.", "label": str(n)} for n in (1, 0)]
    path = tmp_path / f"r.{suffix}"
    text = {
        "jsonl": "\n".join(map(json.dumps, raw)),
        "json": json.dumps(raw),
        "csv": "prompt,response,label\nHow far?,Two miles.,1\nHow far?,Two miles.,0\n",
    }.get(suffix.removesuffix(".gz"))
    if text is None:
        pq.write_table(pa.Table.from_pylist(raw), path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    rows = read(str(path), labels=Labels(("label",)))
    assert [(r.conversation, r.unsafe, r.source) for r in rows.rows] == [
        (ANSWERED, True, f"r.{suffix}"), (ANSWERED, False, f"r.{suffix}"),
    ]  # fmt: skip
    word = "row" if suffix in ("json", "parquet") else "line"
    first = 2 if suffix.startswith("csv") else 1
    assert rows.rows[0].origin == f"r.{suffix}, {word} {first}"


def test_a_gzip_that_breaks_off(tmp_path):
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "x"}\n' * 5000)[:-20])
    with pytest.raises(DataError, match=r"^r\.jsonl\.gz is damaged: it does not unpack as gzip$"):
        read(str(path))


@pytest.mark.parametrize(("spec", "name"), [
    ("data/rows.jsonl", "rows.jsonl"), ("hf:datasets/org/rows@v1", "org/rows@v1"),
    ("org/rows", "org/rows"), ("fedrai:ordinary", "fedrai:ordinary"), ("advbench", "advbench"),
])  # fmt: skip
def test_names_of_sources(spec, name):
    assert name_of(spec) == name


def test_embedded_sets_can_be_read_whole_as_safe():
    rows = read("fedrai:ordinary-held-out", labels=Labels(whole=False))
    assert len(rows.rows) > 20
    assert {(r.unsafe, r.source) for r in rows.rows} == {(False, "fedrai:ordinary-held-out")}


# --- answers under other names --------------------------------------------------------------------

OTHER_NAMES = ["completion", "output", "answer", "chosen", "reply", "generated_text", "Response",
               "rejected", "model_output", "assistantResponse", "OUTPUTS", "response_0",
               "responseA"]  # fmt: skip


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_an_answer_has_any_usual_name(tmp_path, name):
    turns = [{"role": "user", "content": "How far?"}]
    spec = jsonl(
        tmp_path / "r.jsonl",
        {"prompt": "How far?", name: "Two miles."},
        {"prompt": "How far?", "response": "Two miles."},
        {"prompt": "How far?", "response": " ", name: "Two miles."},
        {"messages": turns, name: "Two miles."},
        {"prompt": "How far?", name: " "},
        {"prompt": "How far?", name: 7},
    )
    rows = read(spec)
    assert conversations(rows) == [ANSWERED] * 4 + [ASKED] * 2
    assert (rows.not_judged(), rows.bad_rows) == ({}, ())


@pytest.mark.parametrize("name", ["prompt_id", "target", "input", "outputs_path", "chosen_by"])
def test_other_names_are_none_of_an_answer_and_are_named(tmp_path, name):
    rows = read(jsonl(tmp_path / "r.jsonl", *[{"prompt": "How far?", name: "Two miles."}] * 3))
    assert conversations(rows) == [ASKED] * 3
    known = name in ("target", "input")
    assert rows.not_judged() == {name if known else "column 2": 3}


def test_which_of_several_answers_is_asked_and_not_guessed(tmp_path):
    both = {"prompt": "How far?", "chosen": "Two miles.", "rejected": CANARY}
    spec = jsonl(tmp_path / "r.jsonl", both, {"prompt": "How far?"})
    assert read(spec).bad_rows == (
        BadRow(
            "r.jsonl, line 1",
            "the columns chosen, rejected hold answers; name the one to judge:"
            " --column response=NAME",
        ),
    )
    named = read(spec, columns=ColumnNames(response="chosen"))
    assert conversations(named) == [ANSWERED, ASKED]
    assert named.not_judged() == {"rejected": 1}
    same = jsonl(tmp_path / "s.jsonl", both | {"rejected": "Two miles."})
    assert conversations(read(same)) == [ANSWERED]


def test_an_answer_beside_a_text_is_not_passed_over(tmp_path):
    spec = jsonl(tmp_path / "r.jsonl", {"text": "How far?", "reply": "Two miles."})
    with pytest.raises(DataError, match="a text in 'text' and an answer in 'reply'"):
        read(spec)
    assert conversations(read(spec, columns=ColumnNames(prompt="text"))) == [ANSWERED]
    alone = read(spec, columns=ColumnNames(text="reply"))
    assert conversations(alone) == [(Message("user", "Two miles."),)]
    assert alone.not_judged() == {"text": 1}


def test_an_answer_that_is_no_text_is_a_bad_row(tmp_path):
    turns = [{"role": "assistant", "content": CANARY}]
    spec = jsonl(tmp_path / "r.jsonl", {"prompt": "a", "completion": turns}, {"prompt": "a"})
    assert read(spec).bad_rows == (
        BadRow("r.jsonl, line 1", "completion is not text but list"),
    )  # fmt: skip


def test_labels_categories_and_choices_are_no_answers(tmp_path):
    raw = {"prompt": "How far?", "output": "unsafe", "answer": "maps", "reply": "en"}
    spec = jsonl(tmp_path / "r.jsonl", raw)
    rows = read(spec, columns=ColumnNames(category="answer"), labels=Labels(("output",)),
                where={"reply": "EN"})  # fmt: skip
    assert (conversations(rows), rows.not_judged()) == ([ASKED], {})
    assert (rows.rows[0].unsafe, rows.rows[0].category) == (True, "maps")
    long = jsonl(tmp_path / "l.jsonl", {"prompt": "How far?", "category": "so " * 60})
    assert read(long).not_judged() == {"category": 1}


def test_text_that_is_not_judged_is_told_without_quoting_it(tmp_path):
    turns = [{"role": m.role, "content": m.content} for m in ANSWERED]
    raw = {"messages": turns, "prompt": "How far?", "response": "Six.", CANARY: [{"x": "y"}],
           "n": 7, "date": "2026-01-02", "blank": " "}  # fmt: skip
    rows = read(jsonl(tmp_path / "r.jsonl", raw, raw, {"text": "x"}))
    assert conversations(rows)[:2] == [ANSWERED] * 2
    assert rows.not_judged() == {"response": 2, "column 4": 2}


NAMES = st.sampled_from([
    "prompt", "response", "text", "messages", "completion", "output", "Answer", "chosen",
    "rejected", "reply", "generated_text", "target", "instruction", "notes", "category", "label",
    "x y", "é",
])  # fmt: skip
CELLS = st.sampled_from(["text", "blank", "none", "number", "list", "turns", "asked", "parts"])


def cell(kind: str, mark: str) -> object:
    ask, tell = {"role": "user", "content": f"{mark}u"}, {"role": "assistant", "content": mark}
    parts = [{"type": "text", "text": mark}]
    kinds = {"text": mark, "blank": " ", "none": None, "number": 7, "list": [mark],
             "turns": [ask, tell], "asked": [ask], "parts": parts}  # fmt: skip
    return kinds[kind]


@given(
    st.lists(st.dictionaries(NAMES, CELLS, min_size=1, max_size=6), min_size=1, max_size=4),
    st.sampled_from([{}, {"response": "output"}, {"text": "notes"}, {"prompt": "instruction"}]),
    st.sampled_from(["scan", "eval"]),
)
def test_every_text_is_judged_or_named(tmp_path_factory, kinds, renamed, command):
    """Whatever columns a file has: each text that could be an answer, or its column, is told of."""
    raws = [{n: cell(k, f"mark{i}{chr(97 + j)}z") for j, (n, k) in enumerate(row.items())}
            for i, row in enumerate(kinds)]  # fmt: skip
    spec = jsonl(tmp_path_factory.mktemp("any") / "r.jsonl", *raws, {"text": "x", "label": 1},
                 {"text": "y", "label": 0})  # fmt: skip
    assume(all(any(name in raw for raw in raws) for name in renamed.values()))
    rows = read(spec, columns=ColumnNames(**renamed))
    seen: list[str] = []

    def script(talk: Conversation) -> float:
        seen.extend(message.content for message in talk)
        return 0.0

    guard = ScriptedGuard(script)
    if command == "scan":
        scan(rows.rows, guard, threshold=0.5)
    else:
        every = tuple(replace(row, unsafe=bool(i % 2)) for i, row in enumerate(rows.rows))
        evaluate(Rows(every), guard, part="pair", threshold=0.5, cache=None)
    bad = {row.origin for row in rows.bad_rows}
    named = rows.not_judged()
    for number, raw in enumerate(raws, 1):
        for place, (name, value) in enumerate(raw.items(), 1):
            mark = f"mark{number - 1}{chr(96 + place)}z"
            unread = f"r.jsonl, line {number}" in bad or {name, f"column {place}"} & named.keys()
            short = name == "category" and value in (mark, [mark])  # a category, and no answer
            told = unread or short
            assert told or mark not in json.dumps(value) or any(mark in text for text in seen)


@given(st.lists(st.dictionaries(NAMES, CELLS, max_size=6), min_size=1, max_size=4))
def test_the_filter_judges_every_answer_that_is_trained_on(tmp_path_factory, kinds):
    raws = [{n: cell(k, f"mark{i}{chr(97 + j)}z") for j, (n, k) in enumerate(row.items())}
            for i, row in enumerate(kinds)]  # fmt: skip
    spec = jsonl(tmp_path_factory.mktemp("any") / "r.jsonl", *raws,
                 {"prompt": "a", "response": "b"})  # fmt: skip
    examples = data.load(spec, bad_rows="skip").examples
    seen: list[str] = []

    def script(talk: Conversation) -> float:
        seen.append(talk[-1].content)
        return 0.0

    safety_filter = SafetyFilter(ScriptedGuard(script), Policy(0.5), salt=b"s" * 16)
    kept = safety_filter.screen(examples, 0).kept
    trained = [m.content for example in kept for m in example.messages if m.role == "assistant"]
    assert set(trained) <= set(seen)
    assert len(kept) == len(examples)


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "unsafe"), [
    (True, True), (False, False), (1, True), (0, False), (0.5, True), (0.49, False), ("1", True),
    ("0", False), ("0.7", True), ("unsafe", True), ("Safe", False), (" HARMFUL ", True),
    ("benign", False), ("True", True), ("false", False), ("no", False), (None, None), ("", None),
    (math.nan, None), ("null", None),
])  # fmt: skip
def test_what_a_label_says(tmp_path, value, unsafe):
    assert truths(tmp_path, {"label": value}, columns=("label",)) == [unsafe]


@pytest.mark.parametrize("value", [2, -1, CANARY, [1], {"a": 1}, "inf", 10**400])
def test_a_label_that_is_none(tmp_path, value):
    spec = jsonl(tmp_path / "r.jsonl", {"text": "x", "label": 1}, {"text": "x", "label": value})
    rows = read(spec, labels=Labels(("label",)))
    assert rows.bad_rows == (
        BadRow(
            "r.jsonl, line 2",
            "label is neither a known label nor a score from 0 to 1; name the unsafe value:"
            " --unsafe-when label=VALUE",
        ),
    )


def test_labels_in_other_words_get_a_hint(tmp_path):
    rows = [{"text": "x", "label": word} for word in ("ja", "nein")]
    spec = jsonl(tmp_path / "r.jsonl", *rows)
    with pytest.raises(DataError, match=r"line 1: label is .*--unsafe-when label=VALUE") as caught:
        read(spec, labels=Labels(("label",)))
    assert "use --unsafe-when instead of --label" in caught.value.hint
    named = read(spec, labels=Labels(unsafe_when=(("label", "ja"),)))
    assert [row.unsafe for row in named.rows] == [True, False]


@pytest.mark.parametrize(("name", "content", "advice"), [
    ("r.jsonl", b"prompt;response\na;b\n", "rename it to .csv"),
    ("r.jsonl", b"some words\nand more\n", "one JSON object per line"),
    ("r.jsonl", b'"a"\n"b"\n', "one JSON object per line"),
    ("r.json", b"some words\n", "one list of objects"),
    ("r.jsonl", b"\xff\xfa\xfe\n", "--encoding"),
    ("r.jsonl", b'{"prompt": "' + b"x" * 2000 + b'"}\n', "--max-row-mb"),
    ("r.jsonl", b'{"question": "a"}\n', "--column"),
])  # fmt: skip
def test_a_file_without_a_readable_row_gets_the_hint_that_helps(tmp_path, name, content, advice):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_all([LabelledSource(str(tmp_path / name))], options=data.ReadOptions(max_row_mb=0.001))
    assert advice in caught.value.hint
    assert (advice == "--column") == ("--column" in caught.value.hint)


def test_a_score_has_its_cut(tmp_path):
    rows = [{"score": s} for s in (0.2, 0.3, 0.31)]
    assert truths(tmp_path, *rows, columns=("score",), cut=0.3) == [False, True, True]


def test_several_labels_any_of(tmp_path):
    rows = [{"S": 0, "H": 1}, {"S": 0}, {"H": 0, "V": None}, {"V": None}, {"V": 1}, {}]
    said = truths(tmp_path, *rows, columns=("S", "H", "V"))
    assert said == [True, False, False, None, True, None]


def test_unsafe_when_a_column_has_a_value(tmp_path):
    rows = [
        {"is_safe": False}, {"is_safe": True}, {"is_safe": "FALSE"}, {"kind": "Bad"}, {"kind": ""},
        {"is_safe": True, "kind": "bad"}, {"is_safe": 0}, {},
    ]  # fmt: skip
    when = (("is_safe", "false"), ("kind", "bad"))
    assert truths(tmp_path, *rows, unsafe_when=when) == [
        True, False, True, True, None, True, True, None,
    ]  # fmt: skip
    numbers = [{"n": 1}, {"n": "1.0"}, {"n": True}, {"n": 3}]
    assert truths(tmp_path, *numbers, unsafe_when=(("n", "1"),)) == [True, True, True, False]


@pytest.mark.parametrize("name", ["is_safe", "isSafe", "acceptable?", "SAFE", "harmless"])
def test_a_label_that_would_be_read_upside_down_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="seems to say which rows are safe") as caught:
        truths(tmp_path, {name: True}, columns=(name,))
    assert caught.value.hint.endswith(f"{name}=false")


def test_the_truth_of_a_whole_source(tmp_path):
    assert truths(tmp_path, {}, {"label": 0}, whole=True) == [True, True]
