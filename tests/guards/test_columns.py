"""Names of columns: which could be an answer's, and which may be printed."""

import pytest

from fedrai.guards.columns import answers_of, describe_columns, holds_text, is_answer, printable


@pytest.mark.parametrize("name", [
    "response", "Response", "RESPONSE", "responses", "response_1", "response2", "response_b",
    "responseB", "model_output", "model output", "generatedText", "Generated-Text", "assistant",
    "chosen", "rejected", "completions", " answer ",
])  # fmt: skip
def test_names_of_answers(name):
    assert is_answer(name)


@pytest.mark.parametrize("name", [
    "", "prompt", "question", "input", "label", "chosen_score", "response_length", "answered",
    "target", "prediction", "no_answer", "b", "1", "Répon", "the answer is no",
])  # fmt: skip
def test_other_names(name):
    assert not is_answer(name)


@pytest.mark.parametrize(("value", "text"), [
    ("a", True), (" é", True), ("日", True), ("7", False), ("2026-01-02", False), (" ", False),
    (None, False), (7, False), (True, False), ([], False), ([["x"]], True), ({"a": 1}, False),
    ({"a": [{"b": "x"}]}, True),
])  # fmt: skip
def test_what_holds_text(value, text):
    assert holds_text(value) is text


def test_only_known_names_are_printed():
    raw = {"prompt": "a", "canary says": "b", "Output": "c", "answer\n": "d", "id": 7}
    assert answers_of(raw) == ["Output", "answer\n"]
    assert answers_of(raw, {"Output"}) == ["answer\n"]
    assert printable(list(raw), raw) == ["prompt", "column 2", "Output", "column 4", "id"]
    assert describe_columns(raw) == "5 columns, among them prompt, id, Output"
    assert describe_columns(["x"]) == "1 column"
