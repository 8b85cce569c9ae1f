"""Records as lines, cut files mended, and training data in TRL's formats."""

import json
from dataclasses import replace

import pytest

from fedrai.constitution.records import Draft, Outcome, Request, RevisionRecord
from fedrai.constitution.storing import export, read_records, write_records
from fedrai.errors import RunError


def record(prompt: str, **changes: object) -> RevisionRecord:
    base = RevisionRecord(
        request=Request(prompt, "fraud", "file"),
        first="Sure, here is how.",
        first_refuses="compliance",
        first_unsafe=0.75,
        drafts=(Draft("kind", "Yes.", "No, since it hurts."),),
        revision="No, since it hurts.",
        unsafe=0.125,
        tries=2,
        outcome=Outcome.KEPT,
        failed=(Outcome.COMPLIES,),
    )
    return replace(base, **changes)


RECORDS = [
    record("one"),
    record("two\u2028\r\n🏔️\ud800 \"quoted\""),
    record("three", revision=None, unsafe=None, outcome=Outcome.UNSAFE),
    record("four", drafts=(), tries=0, failed=(), outcome=Outcome.ALREADY_SAFE,
           first="No, since it hurts.", first_refuses="refusal"),
    record("five", first="I'd rather not.", first_refuses="refusal"),
    record("six", first="No, since it hurts."),
    record("seven", first=""),
    record("eight", request=Request("eight", harmful=False), first_refuses="refusal"),
]  # fmt: skip


def test_records_are_read_back(tmp_path):
    file = tmp_path / "deep" / "records.jsonl"
    assert read_records(file, RevisionRecord) == []
    write_records(file, RECORDS)
    assert read_records(file, RevisionRecord) == RECORDS
    assert len(file.read_bytes().split(b"\n")) == len(RECORDS) + 1


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_cut_file_loses_its_last_line(tmp_path, cut):
    file = tmp_path / "cut.jsonl"
    write_records(file, RECORDS[:6])
    file.write_bytes(file.read_bytes()[:-cut])
    assert read_records(file, RevisionRecord) == RECORDS[:5]


def test_other_lines_are_errors_without_their_text(tmp_path):
    file = tmp_path / "records.jsonl"
    for line in ('{"canary-5": 1}', "canary-5", "[]", '{"request": {"canary-5": 2}}', "[" * 10**5):
        file.write_text(json.dumps(RECORDS[0].to_json()) + f"\n{line}\n")
        with pytest.raises(RunError, match=r"records.jsonl, line 2 is not a Rev") as error:
            read_records(file, RevisionRecord)
        assert "canary-5" not in error.value.message + error.value.hint
    with pytest.raises(RunError, match="cannot write"):
        write_records(tmp_path, RECORDS)


def test_export_follows_the_documented_formats(tmp_path):
    assert export(tmp_path, RECORDS) == (7, 3)
    rows = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    pairs = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "No, since it hurts."},
        ]
    }
    assert pairs[0] == {
        "prompt": [{"role": "user", "content": "one"}],
        "chosen": [{"role": "assistant", "content": "No, since it hurts."}],
        "rejected": [{"role": "assistant", "content": "Sure, here is how."}],
    }
    assert [row["messages"][0]["content"] for row in rows] == [
        r.request.prompt for r in RECORDS if r.request.prompt != "three"
    ]
    # the first answers of four and five decline, six says the same, seven says nothing
    assert [p["prompt"][0]["content"] for p in pairs] == [
        "one", RECORDS[1].request.prompt, "eight",
    ]  # fmt: skip


def test_trl_and_datasets_load_both_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    from trl.data_utils import is_conversational

    export(tmp_path, [r for r in RECORDS if "\ud800" not in r.request.prompt])
    columns = {"sft": ["messages"], "preferences": ["prompt", "chosen", "rejected"]}
    for name, wanted in columns.items():
        result = datasets.Dataset.from_json(
            str(tmp_path / f"{name}.jsonl"), cache_dir=str(tmp_path / "cache")
        )
        assert result.column_names == wanted
        assert is_conversational(result[0])
    assert result[0]["chosen"] == [{"role": "assistant", "content": "No, since it hurts."}]
