"""Requests: read from every form, put into categories, drawn evenly; errors without text."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from fedrai import assets
from fedrai.constitution import gathering, load
from fedrai.constitution.fingerprint import fingerprint
from fedrai.constitution.records import Request
from fedrai.constitution.requests import load_requests, sample
from fedrai.data import embedded
from fedrai.errors import AssetError, DataError
from fedrai.filter.ledger import CATEGORIES

SECRET = "CANARY-7Q"


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def read(path: str, harmful: bool = True) -> list[Request]:
    return load_requests([path], harmful=harmful)


# --- forms ----------------------------------------------------------------------------------------


def test_rows_with_all_columns(tmp_path):
    file = write(
        tmp_path / "a.jsonl",
        {"prompt": " Steal a car ", "category": "fraud", "response": "No.", "kind": "harmful"},
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hm"},
                      {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "b"}]},
        {"messages": [{"role": "user", "content": "Make a bomb"}]},
    )  # fmt: skip
    assert read(file) == [
        Request("Steal a car", "fraud", "a.jsonl", answer="No."),
        Request("Hm", "other", "a.jsonl", answer="Yes?"),
        Request("Make a bomb", "weapons", "a.jsonl"),
    ]


@pytest.mark.parametrize(
    "column", ["goal", "Goal", "question", "instruction", "forbidden_prompt", "Behavior"]
)
def test_the_request_column_has_many_names(tmp_path, column):
    file = tmp_path / "rows.csv"
    file.write_text(f'id,{column},answer\n1,"Tell me, please",\n2,Again,So\n', encoding="utf-8")
    first, second = read(str(file), harmful=False)
    assert (first.prompt, first.answer, first.harmful) == ("Tell me, please", "", False)
    assert (second.prompt, second.answer) == ("Again", "So")


def test_prompt_wins_over_the_other_columns(tmp_path):
    file = write(tmp_path / "a.jsonl", {"question": "b", "goal": "c", "prompt": "a"})
    assert read(file)[0].prompt == "a"


def test_lines(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_bytes(b"\xef\xbb\xbfOne\r\n\r\n  Two \r\n")
    assert [r.prompt for r in read(str(file))] == ["One", "Two"]


def test_questions_sorted_by_category(tmp_path):
    """The layout of CatQA and HarmfulQA."""
    sorted_ = {
        "Illegal Activity": {
            "Drug:": ["q1"],
            "Theft and Robbery:": ["q2"],
            "New": ["a bomb", "q3"],
        },
        "Economic Harm": {"Market manipulation": ["q4"]},
        "Hate/Harass/Violence": {"Racial or ethnic hate": ["q5"], "Cyberbullying": ["q6"]},
        "Physics": ["How do I hack it?", {"prompt": "q7", "category": "Hate Speech"}],
    }
    result = read(write(tmp_path / "tree.json", sorted_))
    assert [(r.prompt, r.category) for r in result] == [
        ("q1", "drugs"), ("q2", "illegal"), ("a bomb", "weapons"), ("q3", "illegal"),
        ("q4", "fraud"), ("q5", "hate"), ("q6", "harassment"), ("How do I hack it?", "cyber"),
        ("q7", "hate"),
    ]  # fmt: skip


def test_a_pipe_as_requests_is_refused_before_it_is_hashed(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="not a regular file but a pipe"):
        fingerprint(load("embedded"), [str(tmp_path / "rows.jsonl")])


def test_json_lines_called_json_are_read(tmp_path):
    (tmp_path / "rows.json").write_text('{"prompt": "One"}\n{"prompt": "Two"}\n')
    assert [r.prompt for r in read(str(tmp_path / "rows.json"))] == ["One", "Two"]


def test_json_lists_hold_rows_or_texts(tmp_path):
    result = read(write(tmp_path / "list.json", ["One", {"goal": "Two", "category": "S10"}]))
    assert [(r.prompt, r.category) for r in result] == [("One", "other"), ("Two", "hate")]


def test_a_folder_is_all_its_files(tmp_path):
    write(tmp_path / "b.jsonl", {"prompt": "Two"})
    (tmp_path / "a.txt").write_text("One\n")
    (tmp_path / ".hidden").write_text("no")
    assert [(r.prompt, r.source) for r in read(str(tmp_path))] == [
        ("One", "a.txt"), ("Two", "b.jsonl"),
    ]  # fmt: skip


def test_intent_codes_of_do_not_answer(tmp_path, monkeypatch):
    rows = [("q1", ["S009private", "C006"]), ("q2", ["S006sh", "S002med"]), ("q3", ["S005bully"]),
            ("q4", ["S005hate"]), ("Rob a bank", ["S003instructions"]), ("q5", ["S003goods"]),
            ("a homemade bomb", ["S006items"]), ("q6", ["C006"])]  # fmt: skip
    write(tmp_path / "risk.jsonl", *({"prompt": p, "intents": i} for p, i in rows))
    monkeypatch.setattr(assets, "fetch", lambda *_, **__: tmp_path)
    result = read("do-not-answer")
    assert {r.source for r in result} == {"do-not-answer"}
    assert [r.category for r in result] == ["privacy", "self-harm", "harassment", "hate", "illegal",
                                           "illegal", "weapons", "other"]  # fmt: skip


def test_embedded_sets():
    red, look = load_requests(["fedrai:red-team"], harmful=True), read("fedrai:look-alikes", False)
    assert (len(red), len(look)) == (400, 500)
    assert all(r.harmful and not r.kind and r.category != "other" for r in red)
    assert all(r.kind and not r.harmful and r.source == "look-alikes" for r in look)
    ordinary = read("fedrai:ordinary", False)
    assert all(r.answer for r in ordinary)
    assert Counter(r.kind for r in ordinary) == {"": 330, "look-alike": 30}
    assert {r.category for r in red + look + ordinary} <= set(CATEGORIES)
    assert not {row["prompt"] for _, row in embedded.rows("red-team")} & {r.prompt for r in look}


# --- repetitions ----------------------------------------------------------------------------------


def test_of_equal_texts_the_first_is_used(tmp_path):
    one = write(tmp_path / "1.jsonl", {"prompt": "What  now?", "answer": "a"}, {"prompt": "C#"})
    two = write(tmp_path / "2.jsonl", {"prompt": "WHAT NOW"}, {"prompt": "C++"}, {"prompt": "?"})
    result = load_requests([one, two, two], harmful=False)
    assert [(r.prompt, r.source) for r in result] == [
        ("What  now?", "1.jsonl"), ("C#", "1.jsonl"), ("C++", "2.jsonl"), ("?", "2.jsonl"),
    ]  # fmt: skip


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", f'{{"prompt": "x"}}\n{{"{SECRET}": "x"}}', "a.jsonl, line 2: no request"),
        ("a.jsonl", '{"prompt": "  "}', "a.jsonl, line 1: prompt is empty"),
        ("a.jsonl", '{"Goal": 5}', "a.jsonl, line 1: goal is not text but int"),
        ("a.jsonl", f'{{"prompt": "{SECRET}', "a.jsonl, line 1: not JSON"),
        ("a.jsonl", f'{{"messages": "{SECRET}"}}', "a.jsonl, line 1: messages is text"),
        ("a.jsonl", f'{{"messages": ["{SECRET}"]}}', "line 1: turn 1 is not an object"),
        ("a.jsonl", '{"messages": [{"role": "assistant", "content": "x"}]}', "user's turn"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": null}]}', "turn is empty"),
        ("a.csv", f"{SECRET}\n{SECRET}\n", "a.csv, line 2: no request"),
        ("a.csv", "prompt\nx\n \n", "a.csv, line 3: prompt is empty"),
        ("a.json", f'{{"{SECRET}": "{SECRET}"}}', "a.json, row 1: not a list of requests"),
        ("a.json", f'["x", ["{SECRET}"]]', "a.json, row 2: neither text nor"),
        ("a.json", f'["{SECRET}"', "a.json is not valid JSON"),
        ("a.json", '{"a":' * 9 + "[]" + "}" * 9, "a.json, row 1: not a list"),
        ("a.json", "[]", "holds no request"),
        ("a.txt", "\n \n", "holds no request"),
        ("a.docx", SECRET, "format .docx is not supported"),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_never_the_text(tmp_path, name, content, said):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(str(tmp_path / name))
    assert said in caught.value.message
    assert SECRET not in caught.value.message + caught.value.hint


def test_invalid_utf8_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"One\n\xff")
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8 \(byte 4\)"):
        read(str(tmp_path / "a.txt"))


def test_a_file_or_set_that_is_not_there(tmp_path):
    with pytest.raises(AssetError):
        read(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="no dataset fedrai:red"):
        read("fedrai:red")


# --- samples --------------------------------------------------------------------------------------

SIZES = {"fraud": 60, "hate": 30, "drugs": 10}
MANY = [Request(f"{name} {n}", name) for name, size in SIZES.items() for n in range(size)]
HARMLESS = [Request(f"like {n}", "violence", kind="homonym", harmful=False) for n in range(20)] + [
    Request(f"plain {n}", "other", harmful=False) for n in range(80)
]


@pytest.mark.parametrize("count", [10, 20, 50])
def test_categories_keep_their_shares(count):
    shares = Counter(r.category for r in sample(MANY, count, 3))
    assert shares == {"fraud": count * 0.6, "hate": count * 0.3, "drugs": count * 0.1}


def test_input_order_does_not_matter_and_the_seed_does():
    drawn = sample(MANY, 20, 1)
    assert sample(MANY[::-1], 20, 1) == drawn
    assert set(sample(MANY, 20, 2)) != set(drawn)
    assert len(set(drawn)) == 20


def test_a_smaller_sample_is_part_of_a_larger_one():
    assert sample(MANY, 50, 1)[:20] == sample(MANY, 20, 1)
    assert set(sample(HARMLESS, 10, 1)) < set(sample(HARMLESS, 60, 1))


@pytest.mark.parametrize("count", [0, 100, 1000])
def test_all_of_them(count):
    assert sorted(r.prompt for r in sample(MANY, count, 1)) == sorted(r.prompt for r in MANY)
    assert set(sample(HARMLESS, count, 1)) == set(HARMLESS)


@pytest.mark.parametrize(
    ("count", "like"), [(1, 1), (10, 5), (11, 6), (40, 20), (60, 20), (100, 20)]
)
def test_half_are_look_alikes_as_long_as_they_last(count, like):
    drawn = sample(HARMLESS, count, 1)
    assert len(set(drawn)) == count
    assert sum(bool(r.kind) for r in drawn) == like


def test_look_alikes_fill_up_when_the_others_run_out():
    few = [*HARMLESS[:20], HARMLESS[-1]]
    assert Counter(bool(r.kind) for r in sample(few, 10, 1)) == {True: 9, False: 1}


def test_look_alikes_stand_evenly_among_the_others():
    drawn = sample(HARMLESS, 40, 1)
    assert all(sum(bool(r.kind) for r in drawn[:n]) in (n // 2, n // 2 + 1) for n in range(41))


def test_a_sample_of_nothing_is_empty():
    assert sample([], 0, 1) == sample([], 5, 1) == []


# --- held back for the probe ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "held", "count", "back", "left"),
    [(30, 4, 0, 4, 26), (30, 4, 10, 4, 10), (9, 4, 0, 3, 6), (2, 4, 0, 0, 2), (0, 4, 0, 0, 0)],
)
def test_at_most_a_third_is_held_out(there, held, count, back, left):
    requests = [Request(f"Make {n}") for n in range(there)]
    stored, rest = gathering._split(requests, held, count, seed=1)
    assert (len(stored), len(rest)) == (back, left)
    assert not set(stored) & set(rest)
    assert gathering._split(requests, held, count, seed=1) == (stored, rest)
