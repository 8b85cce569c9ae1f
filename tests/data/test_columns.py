"""Whatever columns a row has, every text that could be an answer is read, or named as not read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai import data
from fedrai.data.columns import (
    ANSWERS,
    CONTEXT,
    CONVERSATIONS,
    REQUESTS,
    find_columns,
    printable_names,
)
from fedrai.errors import DataError
from fedrai.guards import rows
from fedrai.recipe.sections import Columns, Source

CANARY = "canary-e5e5"


def load(tmp_path, *rows, **settings):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data.load(Source(path=str(path), **settings))


def texts(loaded):
    return [tuple(m.content for m in e.messages) for e in loaded.examples]


# --- the kind -------------------------------------------------------------------------------------

NAMES = [*ANSWERS, *REQUESTS, CONTEXT, *CONVERSATIONS, "text", "frage", "id"]
ROWS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["text", "blank", "none", "talk"]))


def filled(name, kind):
    talk = [{"from": "human", "value": f"asked in {name}"}, {"from": "gpt", "value": f"in {name}"}]
    return {"text": f"in {name}", "blank": " ", "none": None, "talk": talk}[kind]


@given(ROWS)
def test_every_text_that_could_be_an_answer_is_read_or_named(kinds):
    row = {name: filled(name, kind) for name, kind in kinds.items()}
    try:
        places = find_columns(row, Columns())
    except ValueError:
        return  # the whole row is named by file and line
    read = {places.messages, places.prompt, places.context, places.response} - {None}
    for name in (*ANSWERS, *CONVERSATIONS):
        could_be = kinds.get(name) == "talk" or (kinds.get(name) == "text")
        assert not could_be or name in read or name in places.unread, name
    assert not read & set(places.unread)


@given(ROWS)
def test_no_answer_is_guessed_where_two_may_be_meant(kinds):
    row = {name: filled(name, kind) for name, kind in kinds.items()}
    answers = [name for name in ANSWERS if kinds.get(name) in ("text", "talk")]
    try:
        places = find_columns(row, Columns())
    except ValueError:
        return
    if places.messages is None and places.response != "response":
        assert answers == [places.response]


# --- usual names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["completion", "output", "answer", "chosen", "reply",
                                    "generated_text"])  # fmt: skip
@pytest.mark.parametrize("request_", ["prompt", "instruction", "question", "query", "input"])
def test_one_request_and_one_answer_are_read_whatever_they_are_called(tmp_path, request_, answer):
    loaded = load(tmp_path, {request_: "How far?", answer: "Two miles.", "id": 7})
    assert texts(loaded) == [("How far?", "Two miles.")]
    assert loaded.unread == {}


def test_each_row_is_read_by_its_own_names(tmp_path):
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "c", "completion": "d"}]
    assert texts(load(tmp_path, *rows)) == [("a", "b"), ("c", "d")]


def test_what_an_instruction_is_about_follows_it(tmp_path):
    rows = [
        {"instruction": "Shorten this.", "input": "A long text.", "output": "A text."},
        {"instruction": "Say hello.", "input": "", "output": "Hello."},
    ]
    assert texts(load(tmp_path, *rows)) == [
        ("Shorten this.\n\nA long text.", "A text."), ("Say hello.", "Hello.")
    ]  # fmt: skip


def test_conversations_of_sharegpt_and_of_trl_are_read(tmp_path):
    talk = [{"from": "human", "value": "How far?"}, {"from": "gpt", "value": "Two miles."}]
    trl = {
        "prompt": [{"role": "user", "content": "How far?"}],
        "completion": [{"role": "assistant", "content": "Two miles."}],
    }
    loaded = load(tmp_path, {"conversations": talk}, {"conversations": json.dumps(talk)}, trl)
    assert texts(loaded) == [("How far?", "Two miles.")] * 3


def test_several_answers_are_an_error_with_the_key(tmp_path):
    row = {"prompt": CANARY, "chosen": CANARY, "rejected": CANARY}
    with pytest.raises(DataError) as caught:
        load(tmp_path, row)
    assert caught.value.message == (
        "r.jsonl, line 1: no column 'response', and chosen or rejected may be it:"
        " set data.sources.columns.response"
    )
    loaded = load(tmp_path, row, columns=Columns(response="chosen"))
    assert loaded.unread == {"rejected": 1}


# --- names in errors ------------------------------------------------------------------------------


def test_an_error_names_the_columns_that_there_are(tmp_path):
    rows = [{"frage": CANARY, "antwort": CANARY}] * 2
    with pytest.raises(DataError) as caught:
        load(tmp_path, *rows)
    assert "data.sources.columns; the columns are frage, antwort" in caught.value.hint
    with pytest.raises(DataError) as caught:
        load(tmp_path, *rows, columns=Columns(prompt="frage", response="response_de"))
    assert "the columns are frage, antwort" in caught.value.hint
    assert CANARY not in caught.value.message + caught.value.hint


def test_names_that_may_be_text_are_not_shown():
    assert printable_names({"prompt": 3, "frage": 3}) == "prompt, frage"
    assert printable_names({"prompt": 3, CANARY: 1}) == "prompt"
    assert printable_names({"How far is it?": 3, "yes": 3, "text": 3}) == "text"
    assert printable_names({"x" * 41: 3}) == ""
    assert printable_names({"geändert-am": 3, "a.b": 3}) == "geändert-am, a.b"


@pytest.mark.parametrize("read", [
    lambda path, where: len(data.load(Source(path=path, where=where)).examples),
    lambda path, where: len(rows.read_all([rows.LabelledSource(path)], where=where).rows),
])  # fmt: skip
def test_a_value_is_the_same_however_a_file_writes_it(tmp_path, read):
    """True as pandas writes it, true and 1 are one value, to training and guards."""
    path = tmp_path / "r.csv"
    path.write_text("prompt,response,safe\na,b,True\nc,d,true\ne,f,1\ng,h,False\ni,j,\n")
    assert read(str(path), {"safe": True}) == read(str(path), {"safe": "TRUE"}) == 3
    assert read(str(path), {"safe": False}) == 1


def test_the_worse_answer_of_a_pair_is_not_learnt_unless_it_is_named(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"prompt": "p", "rejected": "r"}) + "\n")
    with pytest.raises(DataError, match="line 1: its only answer is in 'rejected'") as error:
        data.load(str(file))
    assert 'response = "rejected"' in f"{error.value.message} {error.value.hint}"
    named = data.load(Source(path=str(file), columns=Columns(response="rejected")))
    assert named.examples[0].messages[-1].content == "r"
