"""CSV: what pandas reads is read the same, or refused; rows are never swallowed by a quote."""

import json

import pandas
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedrai import data
from fedrai.data.tables import rows_of_csv
from fedrai.errors import DataError

CANARY = "canary-51c2"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(path, **reading):
    return list(data.read_file(path, data.ReadOptions(**reading)))


def refused(path, **reading):
    with pytest.raises(DataError) as caught:
        rows(path, **reading)
    assert CANARY not in caught.value.message + caught.value.hint
    return caught.value


# --- quotes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad_rows", ["stop", "skip"])
def test_a_quote_that_is_never_closed_names_its_line_and_swallows_no_row(tmp_path, bad_rows):
    path = write(
        tmp_path / "r.csv",
        f'prompt,response\na,b\nc,"{CANARY}\nd,e\nf,g\nh,i\n',
    )
    with pytest.raises(DataError, match=r"^r\.csv, line 3: a quote is opened") as caught:
        data.load(str(path), bad_rows=bad_rows)
    assert CANARY not in caught.value.message + caught.value.hint


def test_a_quote_that_is_closed_in_a_later_row_names_the_lines(tmp_path):
    path = write(tmp_path / "r.csv", f'prompt,response\na,"{CANARY}\nb,"c"\nd,e\n')
    assert refused(path).message.startswith("r.csv, lines 2 to 3: a quoted field runs over")


def test_quotes_within_a_field_stand_as_they_are_and_text_after_a_quoted_one_is_a_bad_row(tmp_path):
    path = write(tmp_path / "r.csv", 'a,b\nsay "x" now,5" long\n"x"y,z\n"x ""y""",z\n')
    assert rows(path) == [
        ("r.csv, line 2", {"a": 'say "x" now', "b": '5" long'}),
        ("r.csv, line 3", "not CSV (text after a closing quote)"),
        ("r.csv, line 4", {"a": 'x "y"', "b": "z"}),
    ]


# --- names and fields -----------------------------------------------------------------------------


def test_two_columns_of_one_name_are_refused(tmp_path):
    known = refused(write(tmp_path / "r.csv", "prompt,response,prompt\na,b,c\n"))
    assert known.message == "r.csv: columns 1 and 3 have the same name 'prompt'"
    unknown = refused(write(tmp_path / "r.csv", f"prompt,{CANARY},{CANARY}\na,b,c\n"))
    assert unknown.message == "r.csv: columns 2 and 3 have the same name"


def test_columns_without_a_name_are_called_as_pandas_calls_them(tmp_path):
    path = write(tmp_path / "r.csv", ",prompt,response,\n0,a,b,\n")
    assert rows(path)[0][1] == {"Unnamed: 0": "0", "prompt": "a", "response": "b", "Unnamed: 3": ""}
    assert list(pandas.read_csv(path)) == list(rows(path)[0][1])


def test_fields_that_are_missing_or_too_many(tmp_path):
    path = write(tmp_path / "r.csv", "a,b,c\n1\n1,2,3,4\n\n1,2,3\n")
    assert rows(path) == [
        ("r.csv, line 2", {"a": "1", "b": None, "c": None}),
        ("r.csv, line 3", "more fields than the header has"),
        ("r.csv, line 5", {"a": "1", "b": "2", "c": "3"}),
    ]


def test_nul_bytes_are_refused_and_name_the_encoding(tmp_path):
    error = refused(write(tmp_path / "r.csv", f"prompt,response\na,{CANARY}\0x\n"))
    assert error.message == "r.csv, line 2 holds a NUL byte, which is not text"
    assert "--encoding utf-16-le" in error.hint


# --- separators -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.csv", "prompt;response\nHow, far;a;\n"),
        ("r.csv", "prompt\tresponse\nHow, far\ta\n"),
        ("r.tsv", "prompt\tresponse\nHow, far\ta\n"),
        ("r.csv", "prompt|response\nHow, far|a\n"),
        ("r.csv", "frage;prompt;notes, if any\nx;How, far;z\n"),
    ],
)
def test_the_header_tells_the_separator(tmp_path, name, content):
    path = write(tmp_path / name, content.replace("a;\n", "a\n"))
    assert rows(path)[0][1]["prompt"] == "How, far"


def test_a_header_that_tells_two_separators_asks_for_one(tmp_path):
    path = write(tmp_path / "r.csv", f"prompt;response\tanswer\na;{CANARY}\tb\n")
    error = refused(path)
    assert error.message == "r.csv may be separated by ';' or a tab"
    assert "--separator" in error.hint
    assert rows(path, separator=";")[0][1] == {
        "prompt": "a", "response\tanswer": f"{CANARY}\tb"
    }  # fmt: skip


def test_a_comma_stays_the_separator_where_names_tell_nothing(tmp_path):
    path = write(tmp_path / "r.csv", "frage,antwort; kurz\na,b\n")
    assert rows(path)[0][1] == {"frage": "a", "antwort; kurz": "b"}


# --- against pandas -------------------------------------------------------------------------------


def by_pandas(path, separator=","):
    table = pandas.read_csv(
        path, sep=separator, dtype=str, keep_default_na=False, na_values=[], index_col=False,
        encoding="utf-8",
    )  # fmt: skip
    return [
        {name: "" if pandas.isna(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def ours(path, separator=","):
    """The rows, or None where any is refused."""
    try:
        read = [row for _, row in rows_of_csv(path, data.ReadOptions(separator=separator))]
    except DataError:
        return None
    if any(isinstance(row, str) for row in read):
        return None
    return [{name: value or "" for name, value in row.items()} for row in read]


CELLS = st.text(alphabet='ab",;|\t \n\u00e9\u2028\x85#', max_size=6)


@given(
    text=st.text(alphabet='ab,"\n\r ;\t\u00e9', max_size=40), header=st.sampled_from(["x,y", "x"])
)
@example(text='a,"b\nc,d\ne,f', header="x,y")
@example(text='"a"b,c', header="x,y")
@example(text="\r,;", header="x,y")
@example(text="a,b\r\r\r,c", header="x,y")
@example(text="  \na,b", header="x,y")
def test_whatever_a_csv_holds_it_is_read_as_pandas_reads_it_or_refused(
    tmp_path_factory, text, header
):
    path = write(tmp_path_factory.mktemp("csv") / "r.csv", f"{header}\n{text}")
    read = ours(path)
    if read is None:
        return
    blanks = [row for row in read if any(value.strip(" \t") for value in row.values())]
    expected = [row for row in by_pandas(path) if any(v.strip(" \t") for v in row.values())]
    assert blanks == expected  # a line of blanks is no row to pandas, and no usable one to us


@given(
    cells=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_pandas_writes_is_read_back_without_naming_its_separator(
    tmp_path_factory, cells, separator, end
):
    path = tmp_path_factory.mktemp("csv") / "r.csv"
    table = pandas.DataFrame(cells, columns=["prompt", "response"])
    table.to_csv(path, index=False, sep=separator, lineterminator=end)
    read = [row for _, row in data.read_file(path)]
    assert read == [{"prompt": a, "response": b} for a, b in cells]


def test_turns_as_json_in_a_field_survive(tmp_path):
    turns = [{"role": "user", "content": 'say "hi", now\n'}, {"role": "assistant", "content": "hi"}]
    path = tmp_path / "r.csv"
    pandas.DataFrame({"messages": [json.dumps(turns)]}).to_csv(path, index=False)
    (loaded,) = data.load(str(path)).examples
    assert [m.content for m in loaded.messages] == ['say "hi", now\n', "hi"]
