"""JSON and JSON Lines: whatever the file is called, and texts that no tokenizer takes."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai import data
from fedrai.errors import DataError

CANARY = "canary-77b0"
ROWS = [{"prompt": f"p{n}", "response": f"r{n}"} for n in range(3)]
HALF = '{"prompt": "half \\ud83d here?", "response": "yes"}'
HALVES = "holds half a character, such as \\ud83d without its other half"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(path, **reading):
    return [row for _, row in data.read_file(path, data.ReadOptions(**reading))]


def lines(*objects):
    return "".join(json.dumps(row) + "\n" for row in objects)


@pytest.mark.parametrize("count", [1, 3])
def test_what_datasets_writes_as_json_is_read(tmp_path, count):
    path = tmp_path / "rows.json"
    datasets.Dataset.from_list(ROWS[:count]).to_json(path)
    assert rows(path) == ROWS[:count]
    assert data.load(str(path)).examples[0].origin == "rows.json, line 1"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.ndjson"])
def test_one_list_is_read_whatever_the_file_is_called(tmp_path, name, indent):
    path = write(tmp_path / name, json.dumps(ROWS, indent=indent))
    assert rows(path) == ROWS
    assert next(data.read_file(path))[0] == f"{name}, row 1"


def test_a_first_line_that_is_too_long_for_a_row(tmp_path):
    path = write(tmp_path / "r.json", lines({"prompt": "x" * 3000}, ROWS[0]))
    assert rows(path, max_row_mb=0.002) == [
        "longer than 0.002 MB (data.sources.max_row_mb)",
        ROWS[0],
    ]
    assert rows(write(path, json.dumps(ROWS * 100)), max_row_mb=0.002) == ROWS * 100


def test_a_bad_line_of_json_lines_called_json_is_a_bad_row(tmp_path):
    path = write(tmp_path / "r.json", lines(ROWS[0]) + f'{{"prompt": "{CANARY}\n' + lines(ROWS[1]))
    loaded = data.load(str(path), bad_rows="skip")
    assert [e.messages[0].content for e in loaded.examples] == ["p0", "p1"]
    (bad,) = loaded.bad_rows
    assert bad.origin == "r.json, line 2"
    assert "not JSON (column" in bad.problem


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "list.json"])
def test_encodings_that_the_first_bytes_tell(tmp_path, encoding, name):
    expected = [*ROWS, {"prompt": "größer \u2028 🏔️", "response": "ja"}]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in expected)
    text = json.dumps(expected, ensure_ascii=False) if name == "list.json" else text
    assert rows(write(tmp_path / name, text.encode(encoding))) == expected


def test_a_name_that_stands_twice_hides_no_answer(tmp_path):
    twice = f'{{"prompt": "a", "response": "{CANARY}", "response": "b"}}'
    path = write(tmp_path / "r.jsonl", lines(ROWS[0]) + twice + "\n")
    assert rows(path) == [ROWS[0], "a key occurs twice in an object"]
    with pytest.raises(DataError, match=r"^l\.json: a key occurs twice in an object"):
        rows(write(tmp_path / "l.json", f"[{twice}]"))
    table = pa.table([["a"], ["b"], ["c"]], names=["prompt", "response", "response"])
    pq.write_table(table, tmp_path / "r.parquet")
    with pytest.raises(DataError, match="columns 2 and 3 have the same name 'response'"):
        rows(tmp_path / "r.parquet")


# --- halves of characters -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "list.json"])
def test_half_a_character_is_a_bad_row_that_may_be_skipped(tmp_path, name):
    text = lines(ROWS[0]) + HALF + "\n" + lines(ROWS[1])
    if name == "list.json":
        text = f"[{json.dumps(ROWS[0])}, {HALF}, {json.dumps(ROWS[1])}]"
    path = write(tmp_path / name, text)
    at = "row" if name == "list.json" else "line"
    with pytest.raises(DataError, match=f"{name}, {at} 2: holds half a character"):
        data.load(str(path))
    loaded = data.load(str(path), bad_rows="skip")
    assert len(loaded.examples) == 2
    assert [b.problem for b in loaded.bad_rows] == [HALVES]


def test_half_a_character_within_json_in_a_csv_is_a_bad_row(tmp_path):
    turns = '[{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "b"}]'
    path = write(tmp_path / "r.csv", 'messages\n"' + turns.replace('"', '""') + '"\n')
    with pytest.raises(DataError, match=r"r\.csv, line 2: content of turn 1 holds half a"):
        data.load(str(path))


def test_a_whole_pair_of_escapes_is_no_half(tmp_path):
    path = write(tmp_path / "r.jsonl", '{"prompt": "\\ud83d\\ude00", "response": "b"}\n')
    assert data.load(str(path)).examples[0].messages[0].content == "😀"


TEXTS = st.text(st.characters(codec=None, categories=["Cs", "Lu", "Zs"]), max_size=4)
VALUES = st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(VALUES)
def test_a_row_is_bad_exactly_if_some_text_in_it_cannot_be_encoded(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "r.jsonl"
    write(path, json.dumps({"x": value}) + "\n")
    (row,) = rows(path)
    try:
        json.dumps(row if isinstance(row, dict) else value, ensure_ascii=False).encode()
        encodable = True
    except UnicodeEncodeError:
        encodable = False
    assert isinstance(row, dict) is encodable
