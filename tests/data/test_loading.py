"""Reading rows: every format, and every kind of bad row named without a word of its text."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrai import data
from fedrai.errors import AssetError, DataError, DependencyError
from fedrai.recipe.sections import Columns, Source
from fedrai.records import BadRow, Example, Message

CANARY = "canary-7f3a"
PAIR = {"prompt": "How far?", "response": "Two miles."}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How far?"},
    {"role": "assistant", "content": "Two miles."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "One more."},
]
MESSAGES = tuple(Message(t["role"], t["content"]) for t in TURNS)
PAIR_MESSAGES = (Message("user", "How far?"), Message("assistant", "Two miles."))


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(path: Path, bad_rows: str = "stop", **settings: object) -> data.Dataset:
    return data.load(Source(path=str(path), **settings), bad_rows)


def texts(loaded: data.Dataset) -> list[tuple[str, ...]]:
    return [tuple(m.content for m in e.messages) for e in loaded.examples]


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "ROWS.JSONL"])
def test_jsonl_with_pairs_and_turns(tmp_path, name):
    loaded = load(jsonl(tmp_path / name, PAIR, {"messages": TURNS, "category": "maps"}))
    assert loaded == data.Dataset(
        (
            Example(PAIR_MESSAGES, f"{name}, line 1", source=name),
            Example(MESSAGES, f"{name}, line 2", label="maps", source=name),
        ),
        (),
    )


def test_json_holds_a_list_of_rows(tmp_path):
    path = write(tmp_path / "r.json", "\ufeff" + json.dumps([PAIR, {"messages": TURNS}, CANARY]))
    loaded = load(path, bad_rows="skip")
    assert loaded.examples == (
        Example(PAIR_MESSAGES, "r.json, row 1", source="r.json"),
        Example(MESSAGES, "r.json, row 2", source="r.json"),
    )
    assert loaded.bad_rows == (BadRow("r.json, row 3", "not a JSON object"),)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (json.dumps({CANARY: [PAIR]}), "r.json is not a list of rows"),
        (f'[{{"prompt": "{CANARY}"', "r.json is not valid JSON (line 1)"),
        (CANARY.encode() + b"\xff", "r.json is not UTF-8 (byte 11)"),
        ("[" * 100_000, "r.json is not valid JSON"),
    ],
)
def test_json_of_another_form(tmp_path, content, problem):
    with pytest.raises(DataError) as caught:
        load(write(tmp_path / "r.json", content))
    assert caught.value.message == problem
    assert CANARY not in caught.value.hint


def test_csv_with_pairs_and_turns(tmp_path):
    quoted = json.dumps(TURNS).replace('"', '""')
    path = write(
        tmp_path / "rows.csv",
        f'prompt,response,messages,category\nHow far?,Two miles.,,7\n,,"{quoted}",maps\n',
    )
    with pytest.raises(DataError, match=r"rows\.csv, line 2: messages is text, but not a JSON"):
        load(path)  # an empty cell is text; a file has one form or the other
    pairs = write(tmp_path / "pairs.csv", "prompt,response,category\nHow far?,Two miles.,7\n")
    assert load(pairs).examples == (
        Example(PAIR_MESSAGES, "pairs.csv, line 2", label="7", source="pairs.csv"),
    )
    turns = write(tmp_path / "turns.csv", f'messages\n"{quoted}"\n')
    assert load(turns).examples == (Example(MESSAGES, "turns.csv, line 2", source="turns.csv"),)


def test_parquet_with_pairs_and_turns(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(
        pa.Table.from_pylist(
            [{"messages": TURNS, **dict.fromkeys(PAIR)}, {"messages": None} | PAIR]
        ),
        path,
    )
    assert load(path).examples == (
        Example(MESSAGES, "rows.parquet, row 1", source="rows.parquet"),
        Example(PAIR_MESSAGES, "rows.parquet, row 2", source="rows.parquet"),
    )


def test_many_rows_of_parquet_keep_their_numbers(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [{"prompt": f"p{i}", "response": "r"} for i in range(1, 2501)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    examples = load(path).examples
    assert len(examples) == 2500
    for i in (1, 1024, 1025, 2500):
        assert examples[i - 1].origin == f"rows.parquet, row {i}"
        assert examples[i - 1].messages[0].content == f"p{i}"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_columns_by_other_names(tmp_path, suffix):
    row = {"frage": "How far?", "antwort": "Two miles.", "art": "maps", "prompt": "not this"}
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        jsonl(path, row)
    elif suffix == "csv":
        write(path, ",".join(row) + "\n" + ",".join(row.values()) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    columns = Columns(prompt="frage", response="antwort", label="art")
    (example,) = load(path, columns=columns).examples
    assert (example.messages, example.label) == (PAIR_MESSAGES, "maps")


def test_the_column_of_turns_may_have_another_name(tmp_path):
    path = jsonl(tmp_path / "r.jsonl", {"talk": TURNS})
    assert load(path, columns=Columns(messages="talk")).examples[0].messages == MESSAGES


def test_a_source_is_declared_harmful_as_a_whole(tmp_path):
    path = jsonl(tmp_path / "r.jsonl", PAIR)
    assert [load(path, harmful=h).examples[0].harmful for h in (True, False)] == [True, False]


def test_labels_become_text(tmp_path):
    path = jsonl(tmp_path / "r.jsonl", PAIR | {"category": 3}, PAIR | {"category": None}, PAIR)
    assert [e.label for e in load(path).examples] == ["3", "", ""]


# --- bytes ----------------------------------------------------------------------------------------


def test_byte_order_marks_and_line_ends_of_windows(tmp_path):
    line = json.dumps(PAIR).encode()
    lines = write(tmp_path / "r.jsonl", b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line + b"\r\n")
    assert [e.origin for e in load(lines).examples] == ["r.jsonl, line 1", "r.jsonl, line 3"]
    table = write(
        tmp_path / "r.csv", b"\xef\xbb\xbfprompt,response\r\nHow far?,Two miles.\r\na,b\r\n"
    )
    assert texts(load(table)) == [("How far?", "Two miles."), ("a", "b")]


def test_only_a_line_feed_ends_a_line_of_jsonl(tmp_path):
    path = jsonl(tmp_path / "r.jsonl", {"prompt": "a\u2028b\x85c", "response": "d\re"}, PAIR)
    assert texts(load(path))[0] == ("a\u2028b\x85c", "d\re")
    assert load(path).examples[1].origin == "r.jsonl, line 2"


def test_text_is_kept_as_it_is(tmp_path):
    row = {"prompt": "  räume 🏔️\n", "response": "\tzwei "}
    assert texts(load(jsonl(tmp_path / "r.jsonl", row))) == [("  räume 🏔️\n", "\tzwei ")]


def test_quoted_line_breaks_in_csv_and_right_line_numbers(tmp_path):
    path = write(
        tmp_path / "r.csv",
        'prompt,response\n"one\ntwo\nthree",yes\n\n\nplain,\n"a ""quoted"" word, and a comma",ok\n',
    )
    loaded = load(path, bad_rows="skip")
    assert texts(loaded) == [
        ("one\ntwo\nthree", "yes"),
        ('a "quoted" word, and a comma', "ok"),
    ]
    assert [e.origin for e in loaded.examples] == ["r.csv, line 2", "r.csv, line 8"]
    assert loaded.bad_rows == (BadRow("r.csv, line 7", "response is empty"),)


def test_line_breaks_in_the_header_count(tmp_path):
    path = write(tmp_path / "r.csv", '"a\nb",prompt,response\nx,y,z\n')
    assert load(path).examples[0].origin == "r.csv, line 3"


# --- bad rows -------------------------------------------------------------------------------------

USER, ASSISTANT = {"role": "user", "content": CANARY}, {"role": "assistant", "content": CANARY}
BAD = {
    "not an object": (f'["{CANARY}"]', "not a JSON object"),
    "not JSON": (f'{{"prompt": "{CANARY}", }}', "not JSON (column"),
    "cut off": (f'{{"prompt": "{CANARY}', "not JSON (column"),
    "huge number": ('{"prompt": ' + "9" * 5000 + "}", "not JSON that can be read"),
    "deep": ("[" * 100_000, "not JSON that can be read"),
    "no columns": ({CANARY: "x"}, "no column 'messages', and no 'prompt' and 'response' (it has 1"),
    "others' names": ({"instruction": CANARY, CANARY: 1}, "2 columns, among them instruction)"),
    "no response": ({"prompt": CANARY}, "response is empty"),
    "no prompt": ({"response": CANARY}, "prompt is empty"),
    "blank": ({"prompt": " \n\t", "response": CANARY}, "prompt is empty"),
    "null": ({"prompt": CANARY, "response": None}, "response is empty"),
    "number": ({"prompt": CANARY, "response": 7}, "response is not text but int"),
    "list": ({"prompt": [CANARY], "response": CANARY}, "prompt is not text but list"),
    "turns text": ({"messages": CANARY}, "messages is text, but not a JSON list"),
    "turns object": ({"messages": {"role": CANARY}}, "messages is not a list of turns"),
    "no turns": ({"messages": []}, "messages is not a list of turns"),
    "turn text": ({"messages": [USER, CANARY]}, "turn 2 is not an object with role and content"),
    "role": ({"messages": [{"role": CANARY, "content": "x"}]}, "turn 1 has a role that is not one"),
    "no role": ({"messages": [{"content": CANARY}]}, "turn 1 has a role that is not one"),
    "list as role": ({"messages": [{"role": [CANARY], "content": "x"}]}, "turn 1 has a role"),
    "no content": ({"messages": [USER, {"role": "assistant"}]}, "content of turn 2 is empty"),
    "parts": (
        {"messages": [USER, ASSISTANT | {"content": [{"text": CANARY}]}]},
        "content of turn 2 is not text but list",
    ),
    "ends with user": ({"messages": [USER, ASSISTANT, USER]}, "turns must be user, assistant"),
    "starts with assistant": ({"messages": [ASSISTANT, USER, ASSISTANT]}, "turns must be user"),
    "two users": ({"messages": [USER, USER, ASSISTANT]}, "turns must be user"),
    "system only": ({"messages": [{"role": "system", "content": CANARY}]}, "turns must be user"),
    "late system": (
        {"messages": [USER, {"role": "system", "content": CANARY}, USER, ASSISTANT]},
        "turns must be user",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_named_by_file_and_line_without_their_text(tmp_path, kind):
    row, problem = BAD[kind]
    line = row if isinstance(row, str) else json.dumps(row)
    path = write(tmp_path / "r.jsonl", f"{json.dumps(PAIR)}\n\n{line}\n{json.dumps(PAIR)}\n")
    with pytest.raises(DataError) as caught:
        load(path)
    message = caught.value.message
    assert message.startswith("r.jsonl, line 3: ")
    assert problem in message
    assert CANARY not in message + caught.value.hint
    assert 'data.on_bad_rows = "skip"' in caught.value.hint
    skipped = load(path, bad_rows="skip")
    assert [e.origin for e in skipped.examples] == ["r.jsonl, line 1", "r.jsonl, line 4"]
    (bad,) = skipped.bad_rows
    assert bad.origin == "r.jsonl, line 3"
    assert problem in bad.problem
    assert CANARY not in bad.problem


def test_bytes_that_are_not_utf8(tmp_path):
    good = json.dumps(PAIR).encode()
    path = write(tmp_path / "r.jsonl", good + b"\n" + CANARY.encode() + b"\xff\xfe\n")
    assert load(path, bad_rows="skip").bad_rows == (BadRow("r.jsonl, line 2", "not UTF-8"),)
    table = write(tmp_path / "r.csv", b"prompt,response\n" + CANARY.encode() + b"\xff,b\n")
    with pytest.raises(DataError, match=r"r\.csv is not UTF-8 \(byte 27\)") as caught:
        load(table)
    assert CANARY not in str(caught.value)


def test_bad_rows_of_csv(tmp_path):
    path = write(
        tmp_path / "r.csv",
        f'prompt,response\n{CANARY},b,{CANARY}\n{CANARY}\n{CANARY},ok\n"{CANARY}"x,b\n',
    )
    with pytest.raises(DataError) as caught:
        load(path)
    assert caught.value.message == (
        "r.csv, line 2: more fields than the header has; r.csv, line 3: response is empty;"
        " r.csv, line 5: not CSV (text after a closing quote)"
    )
    assert texts(load(path, bad_rows="skip")) == [(CANARY, "ok")]


def test_a_csv_without_a_header_does_not_show_its_first_row(tmp_path):
    path = write(tmp_path / "r.csv", f"{CANARY},{CANARY} too\na,b\n")
    with pytest.raises(DataError, match="it has 2 columns") as caught:
        load(path)
    assert CANARY not in str(caught.value) + caught.value.hint


def test_only_the_first_bad_rows_are_spelled_out(tmp_path):
    path = jsonl(tmp_path / "r.jsonl", *[{"prompt": CANARY}] * 7)
    with pytest.raises(DataError) as caught:
        load(path)
    assert caught.value.message.count("response is empty") == 3
    assert caught.value.message.endswith("; and 4 more bad rows")
    with pytest.raises(DataError, match=r"holds no usable row; r\.jsonl, line 1: response is"):
        load(path, bad_rows="skip")


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [("r.jsonl", ""), ("r.jsonl", "\n \n"), ("r.csv", ""), ("r.csv", "prompt,response\n")],
)
def test_an_empty_file(tmp_path, name, content):
    with pytest.raises(DataError, match="holds no usable row"):
        load(write(tmp_path / name, content))


def test_an_empty_parquet_file(tmp_path):
    pq.write_table(pa.table({"prompt": [], "response": []}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match="holds no usable row"):
        load(tmp_path / "r.parquet")


@pytest.mark.parametrize("name", ["rows.txt", "rows.jsonl.gz", "rows"])
def test_an_unknown_format_is_named_with_the_known_ones(tmp_path, name):
    path = write(tmp_path / name, json.dumps(PAIR))
    with pytest.raises(DataError, match=r"format \.?\(?\w.* is not supported") as caught:
        load(path)
    assert ".jsonl" in caught.value.hint
    assert ".parquet" in caught.value.hint


def test_a_folder_a_missing_file_and_a_broken_one(tmp_path):
    with pytest.raises(DataError, match="is a folder; expected a file"):
        load(tmp_path)
    with pytest.raises(AssetError, match=r"nowhere\.jsonl"):
        load(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match=r"r\.parquet is not a Parquet file"):
        load(write(tmp_path / "r.parquet", CANARY * 9))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "r.parquet", "x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(DependencyError, match="pyarrow") as caught:
        load(path)
    assert caught.value.hint == "pip install 'fedrai[data]'"


# --- the hub --------------------------------------------------------------------------------------


class Hub:
    """Stands in for `datasets.load_dataset` and remembers how it was called."""

    def __init__(self, rows: list[dict] | Exception) -> None:
        self.rows = rows
        self.requests: list[tuple[str, str | None, str]] = []

    def load_dataset(self, name: str, *, revision: str | None, split: str) -> list[dict]:
        self.requests.append((name, revision, split))
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub([PAIR, {"messages": TURNS}])
    monkeypatch.setattr("datasets.load_dataset", fake.load_dataset)
    return fake


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("org/rows", ("org/rows", None, "test")),
        ("org/rows@v2", ("org/rows", "v2", "test")),
        ("hf:datasets/org/rows@abc", ("org/rows", "abc", "test")),
    ],
)
def test_a_hub_dataset(hub, spec, arguments):
    loaded = data.load(Source(path=spec, split="test"))
    assert hub.requests == [arguments]
    assert [e.messages for e in loaded.examples] == [PAIR_MESSAGES, MESSAGES]
    assert [e.origin for e in loaded.examples] == ["org/rows, row 1", "org/rows, row 2"]


def test_a_bad_row_of_a_hub_dataset(hub):
    hub.rows = [PAIR, {"prompt": CANARY}]
    with pytest.raises(DataError, match="org/rows, row 2: response is empty") as caught:
        data.load("org/rows")
    assert CANARY not in str(caught.value)


def test_a_hub_dataset_that_cannot_be_had(hub):
    hub.rows = ConnectionError(f"no route, {CANARY}")
    with pytest.raises(DataError, match=r"org/rows \(ConnectionError\)") as caught:
        data.load(Source(path="org/rows", split="dev"))
    assert CANARY not in str(caught.value)
    assert "split 'dev'" in caught.value.hint


def test_without_the_datasets_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DependencyError, match="org/rows needs the package datasets") as caught:
        data.load("org/rows")
    assert caught.value.hint == "pip install 'fedrai[data]'"


def test_a_file_in_a_folder_is_no_hub_dataset(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("org").mkdir()
    jsonl(Path("org/rows.jsonl"), PAIR)
    write(Path("org/rows"), "x")
    assert texts(data.load("org/rows.jsonl")) == [("How far?", "Two miles.")]
    with pytest.raises(DataError, match="is not supported"):
        data.load("org/rows")
    with pytest.raises(AssetError):
        data.load("org/other.jsonl")
    with pytest.raises(AssetError):
        data.load("./other")
    assert hub.requests == []
