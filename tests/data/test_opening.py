"""Files that cannot be read to an end, too long rows, and encodings that cannot be told."""

import gzip
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrai import data
from fedrai.errors import DataError
from fedrai.recipe.sections import Source

CANARY = "canary-90ae"
ROW = {"prompt": "a", "response": "b"}
LINE = json.dumps(ROW).encode() + b"\n"


def rows(path, **reading):
    return [row for _, row in data.read_file(path, data.ReadOptions(**reading))]


# --- what is no file ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.csv", "r.parquet", "r.jsonl.gz"])
def test_a_pipe_is_refused_before_it_is_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is not a regular file but a pipe") as caught:
        data.load(str(tmp_path / name))  # opening it would wait for a writer for ever
    assert "cat " in caught.value.hint


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv", "r.json", "r.txt"])
def test_a_link_to_an_endless_device_is_refused(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/zero")
    read = data.lines_of if name == "r.txt" else data.read_file
    with pytest.raises(DataError, match="is not a regular file"):
        list(read(tmp_path / name))


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(LINE)
    (tmp_path / "r.jsonl").symlink_to("x.jsonl")
    assert rows(tmp_path / "r.jsonl") == [ROW]


# --- limits ---------------------------------------------------------------------------------------


def test_a_row_that_is_too_long_is_a_bad_row_that_names_the_key(tmp_path):
    long = json.dumps({"prompt": CANARY * 400, "response": "b"}).encode() + b"\n"
    (tmp_path / "r.jsonl").write_bytes(LINE + long + LINE)
    problem = "longer than 0.001 MB (data.sources.max_row_mb)"
    assert rows(tmp_path / "r.jsonl", max_row_mb=0.001) == [ROW, problem, ROW]
    assert len(rows(tmp_path / "r.jsonl")) == 3
    assert rows(tmp_path / "r.jsonl")[1]["prompt"] == CANARY * 400


def test_the_limit_is_to_the_byte(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(LINE.strip() + b"\r\n" + LINE)
    size = len(LINE) - 1
    assert rows(tmp_path / "r.jsonl", max_row_mb=size / 1e6) == [ROW, ROW]
    assert all(isinstance(r, str) for r in rows(tmp_path / "r.jsonl", max_row_mb=(size - 1) / 1e6))


@pytest.mark.parametrize("name", ["r.json", "r.parquet"])
def test_long_rows_of_other_formats(tmp_path, name):
    expected = [ROW, {"prompt": "x" * 3000, "response": "b"}]
    if name == "r.json":
        (tmp_path / name).write_text(json.dumps(expected))
    else:
        pq.write_table(pa.Table.from_pylist(expected), tmp_path / name)
    short, long = rows(tmp_path / name, max_row_mb=0.002)
    assert (short, long) == (ROW, "longer than 0.002 MB (data.sources.max_row_mb)")


def test_a_long_row_of_a_csv_stops_with_its_line(tmp_path):
    (tmp_path / "r.csv").write_text('prompt,response\na,"' + f"{CANARY}\n" * 400 + '"\n')
    with pytest.raises(DataError, match=r"r\.csv, line \d+: the row is longer than 0\.001 MB"):
        rows(tmp_path / "r.csv", max_row_mb=0.001)
    assert len(rows(tmp_path / "r.csv")) == 1
    assert len(rows(tmp_path / "r.csv")[0]["response"]) > 131_072 / 30


def test_a_field_beyond_the_limit_of_the_csv_module_is_read(tmp_path):
    (tmp_path / "r.csv").write_text(f"prompt,response\na,{'x' * 140_000}\n")
    assert len(rows(tmp_path / "r.csv")[0]["response"]) == 140_000


@pytest.mark.parametrize("kind", ["rows", "one row", "blank lines", "a list", "table"])
def test_what_unpacks_to_too_much_is_refused(tmp_path, kind):
    name = {"a list": "r.json.gz", "table": "r.csv.gz"}.get(kind, "r.jsonl.gz")
    text = {
        "rows": LINE * 9000, "one row": b'{"prompt": "' + b" " * 300_000, "blank lines":
        b"\n" * 300_000, "a list": b"[" + b" " * 300_000, "table": b"prompt\n" + b"a\n" * 150_000,
    }[kind]  # fmt: skip
    (tmp_path / name).write_bytes(gzip.compress(text))
    with pytest.raises(DataError, match=r"gz unpacks to more than 0\.2 MB") as caught:
        rows(tmp_path / name, max_unpacked_mb=0.2)
    assert "data.sources.max_unpacked_mb" in caught.value.hint


def test_a_parquet_file_of_one_repeated_text_is_refused_too(tmp_path):
    table = pa.table({"prompt": ["x" * 1000] * 3000})
    pq.write_table(table, tmp_path / "r.parquet")
    assert (tmp_path / "r.parquet").stat().st_size < 20_000
    with pytest.raises(DataError, match=r"unpacks to more than 1 MB"):
        rows(tmp_path / "r.parquet", max_unpacked_mb=1)
    assert len(rows(tmp_path / "r.parquet")) == 3000


MEASURE = """
import resource, sys
from pathlib import Path
from fedrai import data
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
found = [row for _, row in data.read_file(Path(sys.argv[1]))]
print(len(found), peak() - before)
"""


def test_a_line_of_200_mb_that_unpacks_costs_no_memory(tmp_path):
    with gzip.open(tmp_path / "r.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(20):
            file.write(b"x" * 10_000_000)
        file.write(b"\n" + LINE)
    call = [sys.executable, "-c", MEASURE, str(tmp_path / "r.jsonl.gz")]
    done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=120)
    count, megabytes = done.stdout.split()
    assert count == "2"
    assert float(megabytes) < 100  # 16 for the row that is too long, and its copies


# --- encodings ------------------------------------------------------------------------------------


def test_another_encoding_is_refused_and_the_option_named(tmp_path):
    (tmp_path / "r.csv").write_bytes("prompt;response\ngr\u00f6\u00dfer?;ja\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"r\.csv is not UTF-8 \(byte 18\)") as caught:
        rows(tmp_path / "r.csv")
    assert "--encoding cp1252" in caught.value.hint
    assert "data.sources.encoding" in caught.value.hint
    assert rows(tmp_path / "r.csv", encoding="cp1252") == [{"prompt": "größer?", "response": "ja"}]


def test_rows_of_json_in_another_encoding_get_the_hint_too(tmp_path):
    text = json.dumps({"prompt": "größer", "response": "ja"}, ensure_ascii=False)
    (tmp_path / "r.jsonl").write_bytes(text.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match=r"r\.jsonl, line 1: not UTF-8") as caught:
        data.load(str(tmp_path / "r.jsonl"))
    assert "--encoding cp1252" in caught.value.hint
    source = Source(path=str(tmp_path / "r.jsonl"), encoding="latin-1")
    (example,) = data.load(source).examples
    assert example.messages[0].content == "größer"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_csv_whose_first_bytes_tell_its_encoding(tmp_path, encoding):
    text = "prompt;response\r\ngrößer?;ja\r\n"
    (tmp_path / "r.csv").write_bytes(text.encode(encoding))
    assert rows(tmp_path / "r.csv") == [{"prompt": "größer?", "response": "ja"}]


def test_a_wrong_encoding_is_named(tmp_path):
    (tmp_path / "r.csv").write_bytes(b"prompt,response\na,\x81\n")
    with pytest.raises(DataError, match=r"r\.csv is not cp1252"):
        rows(tmp_path / "r.csv", encoding="cp1252")
