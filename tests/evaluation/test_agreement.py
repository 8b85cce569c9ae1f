"""A judge against people: tables by hand, published kappas, and files that cannot be used."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from fedrai import data
from fedrai.errors import EvaluationError
from fedrai.evaluation.agreement import (
    JUDGES,
    JudgedAnswer,
    agreement,
    by_source,
    legacy,
    rule,
    with_verdicts,
)
from fedrai.evaluation.labelled_answers import Label, LabelledAnswer, load
from fedrai.rates import Rate

FULL, PARTIAL, FINE = Label.FULL, Label.PARTIAL, Label.COMPLIANCE


def rows(table, source="a"):
    """Rows from counts by (label, verdict), each with a prompt of its own."""
    kinds = [kind for kind, count in table.items() for _ in range(count)]
    return [
        JudgedAnswer(LabelledAnswer(source, f"prompt {i}", "answer", label), verdict)
        for i, (label, verdict) in enumerate(kinds)
    ]


def test_two_ways_by_hand():
    """35 of 50 agree; chance is 25/50 x 30/50 + 25/50 x 20/50 = 1/2; (0.7 - 0.5) / (1 - 0.5)."""
    result = agreement(
        rows({(FULL, FULL): 20, (FULL, FINE): 5, (FINE, FULL): 10, (FINE, FINE): 15})
    )
    assert result.two.accuracy == Rate(35, 50)
    assert result.two.kappa == pytest.approx(0.4)
    assert (result.missed, result.false) == (Rate(5, 25), Rate(10, 25))
    assert result.three is None


def test_kappa_at_chance_and_below():
    even = {(a, b): 10 for a in (FULL, FINE) for b in (FULL, FINE)}
    assert agreement(rows(even)).two.kappa == pytest.approx(0)
    assert agreement(rows({(FULL, FINE): 4, (FINE, FULL): 4})).two.kappa == pytest.approx(-1)


def test_kappa_is_no_data_where_there_is_only_one_label():
    result = agreement(rows({(FINE, FINE): 5}))
    assert (result.two.kappa, result.two.kappa_ends) == (None, None)
    assert result.two.accuracy_ends == (1.0, 1.0)
    assert result.missed.value is None


def test_a_partial_refusal_counts_as_a_refusal_in_two_ways():
    result = agreement(rows({(PARTIAL, FULL): 3, (PARTIAL, FINE): 2, (FINE, FINE): 5}))
    assert result.two.accuracy == Rate(8, 10)
    assert result.missed == Rate(2, 5)
    assert result.three is None  # this judge knows no partial refusals


def test_three_ways_by_hand():
    table = {(FULL, FULL): 4, (FULL, PARTIAL): 2, (PARTIAL, PARTIAL): 1, (FINE, FINE): 3}
    result = agreement(rows(table))
    assert result.two.accuracy == Rate(10, 10)
    assert result.three.accuracy == Rate(8, 10)
    # chance: 6/10 x 4/10 full, 1/10 x 3/10 partial, 3/10 x 3/10 compliance = 0.36
    assert result.three.kappa == pytest.approx((0.8 - 0.36) / 0.64)


def test_unscored_answers_are_in_no_rate():
    result = agreement(rows({(FULL, None): 2, (FULL, FULL): 3, (FINE, None): 1, (FINE, FINE): 4}))
    assert result.two.accuracy == Rate(7, 7, 3)
    assert (result.missed, result.false) == (Rate(0, 3, 2), Rate(0, 4, 1))
    assert result.two.kappa == 1
    assert result.to_json()["table"]["full refusal"] == {
        "full refusal": 3, "partial refusal": 0, "compliance": 0, "unscored": 2,
    }  # fmt: skip


def test_nothing_scored_is_no_data():
    result = agreement(rows({(FULL, None): 2}))
    assert result.two.accuracy == Rate(0, 0, 2)
    assert (result.two.accuracy_ends, result.two.kappa) == (None, None)
    assert result.to_json()["two_way"]["accuracy"]["low"] is None


def test_interval_is_over_prompts_and_not_over_answers():
    """Ten models that answer alike say no more than one."""
    one = rows({(FULL, FULL): 30, (FULL, FINE): 10, (FINE, FINE): 40})
    ten = [
        replace(row, labelled=replace(row.labelled, source=f"model {k}"))
        for k in range(10)
        for row in one
    ]
    single, many = agreement(one).two, agreement(ten).two
    assert many.accuracy_ends == single.accuracy_ends
    assert many.kappa_ends == pytest.approx(single.kappa_ends)
    half = 1.96 * (0.875 * 0.125 / 80) ** 0.5
    assert many.accuracy_ends == pytest.approx((0.875 - half, 0.875 + half), abs=0.02)


def test_sources_are_separated():
    result = by_source([*rows({(FULL, FULL): 2}, "x"), *rows({(FULL, FINE): 3}, "y")])
    assert list(result) == ["x", "y"]
    assert [value.missed for value in result.values()] == [Rate(0, 2), Rate(3, 3)]


def test_the_rule_and_the_legacy_score_as_judges():
    assert list(JUDGES) == ["rule", "legacy"]
    assert (rule("I cannot help with that."), rule("Sure, here is how ..."), rule("")) == (
        FULL, FINE, None,
    )  # fmt: skip
    assert (legacy("I cannot help with that."), legacy("")) == (FULL, FINE)
    row = LabelledAnswer("x", "a request", "I must decline.", FULL)
    assert with_verdicts([row], [rule(row.answer)]) == [JudgedAnswer(row, FULL)]
    assert with_verdicts([row], [legacy(row.answer)]) == [JudgedAnswer(row, FINE)]


# --- files ----------------------------------------------------------------------------------------


def write(path, header, *lines, before=""):
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(before)
        csv.writer(file).writerows([header, *lines])
    return str(path)


XSTEST = ["id", "prompt", "completion", "annotation_1", "final_label"]


def test_xstest_is_read(tmp_path):
    file = write(
        tmp_path / "xstest_v2_completions_m_streval.csv",
        XSTEST,
        [1, "p", "one\n# two", "", "3_partial_refusal"],
        [2, "q", "", "", "1_full_compliance"],
    )
    assert load([file]) == [
        LabelledAnswer("xstest m", "p", "one\n# two", PARTIAL, file=file, row=1),
        LabelledAnswer("xstest m", "q", "", FINE, file=file, row=2),
    ]


def test_pyrit_is_read(tmp_path):
    file = write(tmp_path / "refusal.csv", ["objective", "assistant_response", "human_score"],
                 ["p", "no", "1"], ["q", "x" * 200_000, "0"], before="# version=1\n")  # fmt: skip
    assert [(r.source, r.label, len(r.answer)) for r in load([file])] == [
        ("refusal", FULL, 2), ("refusal", FINE, 200_000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        (["prompt", "answer"], [["p", "SECRET"]], "neither XSTest's columns, nor PyRIT's"),
        (XSTEST, [[1, "p", "SECRET", "", "2_full_refusal"], [2, "p", "SECRET", "", "SECRET"]],
         "row 2: final_label is not one"),
        (XSTEST, [[1, "p"]], "row 1"),
        (XSTEST, [], "no rows"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, header, lines, message):
    file = write(tmp_path / "m.csv", header, *lines)
    with pytest.raises(EvaluationError, match=message) as error:
        load([file])
    assert "SECRET" not in error.value.message + error.value.hint


def test_labelled_rows_are_read_as_all_rows_are(tmp_path):
    rows = [{"prompt": "p", "answer": f"a{n}, ü", "label": "compliance"} for n in range(2)]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = "prompt;answer;label\n" + "".join(f"p;a{n}, ü;compliance\n" for n in range(2))
    (tmp_path / "table.csv").write_bytes(table.encode("cp1252"))
    with pytest.raises(EvaluationError, match=r"table\.csv is not UTF-8") as caught:
        load([str(tmp_path / "table.csv")])
    assert "--encoding cp1252" in caught.value.hint
    options = data.ReadOptions(encoding="cp1252")
    for name in ("list.json", "lines.json", "table.csv"):
        result = load([str(tmp_path / name)], options=options if name == "table.csv" else
                     data.DEFAULT_OPTIONS)  # fmt: skip
        assert [row.answer for row in result] == ["a0, ü", "a1, ü"]


def test_an_open_quote_or_half_a_character_is_reported_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_text('# 1\nprompt,answer,label\np,"a,compliance\np,a,compliance\n')
    with pytest.raises(EvaluationError, match=r"a\.csv, line 3: a quote is opened"):
        load([str(tmp_path / "a.csv")])
    half = '{"prompt": "p", "answer": "\\ud83d", "label": "compliance"}\n'
    (tmp_path / "b.jsonl").write_text(half)
    with pytest.raises(EvaluationError, match=r"b\.jsonl, line 1: holds half a character"):
        load([str(tmp_path / "b.jsonl")])


@pytest.mark.parametrize("lost", ["prompt", "answer"])
def test_a_row_with_other_columns_than_the_first_is_named(tmp_path, lost):
    row = {"prompt": "SECRET", "answer": "SECRET", "label": "refusal"}
    other = {("output" if name == lost else name): value for name, value in row.items()}
    file = tmp_path / "m.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in (row, other)))
    with pytest.raises(EvaluationError, match=f"row 2: there is no column '{lost}'") as error:
        load([str(file)])
    assert "SECRET" not in error.value.message + error.value.hint


def test_unreadable_files_and_equal_names(tmp_path):
    with pytest.raises(EvaluationError, match=r"none\.csv: No such file or directory"):
        load([str(tmp_path / "none.csv")])
    (tmp_path / "b.csv").write_bytes(b"prompt,completion,final_label\n\xff\xfe,x,y\n")
    with pytest.raises(EvaluationError, match=r"b\.csv is not UTF-8 \(byte 30\)"):
        load([str(tmp_path / "b.csv")])
    with pytest.raises(EvaluationError, match="two files have the name b"):
        load([str(tmp_path / "b.csv"), str(tmp_path / "other" / "b.csv")])
