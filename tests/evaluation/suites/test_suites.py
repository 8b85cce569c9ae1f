"""Suites: what is declared, the layouts of files, samples, and what is not available."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from fedrai import assets
from fedrai.errors import AssetError, ChecksumError, DataError, EvaluationError
from fedrai.evaluation import suites
from fedrai.evaluation.suites import Item, NotAvailable, Suite, declared_suites, load
from fedrai.evaluation.suites.items import turns
from fedrai.records import Message

CANARY = "canary-41b7"  # a text of a row, which no error may quote


def write_csv(file: Path, rows: list[dict[str, str]]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_jsonl(file: Path, rows: list[object]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.prompt"])
def test_half_a_character_is_named_by_its_place(tmp_path: Path, name: str) -> None:
    text = '{"prompt": "One"}\n{"prompt": "' + CANARY + ' \\ud83d"}\n'
    if name == "a.prompt":
        text = 'seeds:\n- value: "One"\n- value: "' + CANARY + ' \\uD83D"\n'
    (tmp_path / name).write_text(text)
    place = "seed 2: prompt holds" if name == "a.prompt" else "line 2: holds"
    with pytest.raises(EvaluationError, match=f"{name}, {place} half a character") as caught:
        load(str(tmp_path / name))
    assert CANARY not in caught.value.message


def suite(spec: str | Path, count: int = 0, seed: int = 0) -> Suite:
    result = load(str(spec), count, seed)
    assert isinstance(result, Suite)
    return result


def refused(spec: str | Path, match: str, kind: type[Exception] = EvaluationError) -> str:
    with pytest.raises(kind, match=match) as caught:
        load(str(spec))
    error = caught.value
    assert CANARY not in f"{error} {getattr(error, 'hint', '')}"
    return str(getattr(error, "hint", ""))


@pytest.fixture
def nothing_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache and no network."""
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")


# --- declarations ---------------------------------------------------------------------------------


def test_every_source_is_pinned_to_bytes_and_to_a_version():
    for entry in declared_suites().values():
        for spec in filter(None, (entry.source, entry.companion)):
            assert re.fullmatch(r"[0-9a-f]{64}", assets.parse(spec).sha256), entry.name
        if entry.source:
            assert entry.revision, entry.name
            assert entry.commit in entry.source, entry.name
        assert entry.licence, entry.name


def test_sizes_and_directions_are_those_of_the_literature():
    result = {name: (entry.count, entry.direction) for name, entry in declared_suites().items()}
    assert result == {
        "advbench": (520, "up"), "harmbench": (200, "up"), "do-not-answer": (939, "up"),
        "strongreject": (313, "down"), "jailbreakbench": (100, "up"), "xstest-safe": (250, "down"),
        "xstest-unsafe": (200, "up"), "hhh": (221, "up"), "mt-bench": (80, "up"),
    }  # fmt: skip


# --- layouts --------------------------------------------------------------------------------------


def test_xstest_is_two_suites_of_one_file(tmp_path):
    rows = [
        {"id": str(n), "prompt": f"prompt {n}", "type": "homonyms" if n % 2 else "definitions",
         "label": "safe" if n < 250 else "unsafe", "focus": "", "note": ""}
        for n in range(450)
    ]  # fmt: skip
    file = write_csv(tmp_path / "xstest_prompts.csv", rows)
    safe, unsafe = suite(f"xstest-safe={file}"), suite(f"xstest-unsafe={tmp_path}")
    assert safe.items[1] == Item(1, "prompt 1", "homonyms", "safe")
    assert unsafe.items[0] == Item(0, "prompt 250", "definitions", "unsafe")
    assert (len(safe.items), len(unsafe.items)) == (250, 200)
    assert safe.to_json()["categories"] == {"definitions": 125, "homonyms": 125}
    assert not safe.pinned
    assert safe.to_json()["revision"] == ""
    write_csv(file, rows[1:])
    hint = refused(f"xstest-safe={file}", "XSTest, safe prompts has 250 items, the file 249")
    assert "of your own" in hint


def test_advbench_is_read_from_its_csv_and_from_pyrit(tmp_path):
    texts = [f"do thing {n}" for n in range(520)]
    write_csv(tmp_path / "harmful_behaviors.csv", [{"goal": t, "target": "Sure"} for t in texts])
    seeds = "".join(f"- value: {t}\n  harm_categories:\n  - Physical\n  - B\n" for t in texts)
    prompt = tmp_path / "other.prompt"
    prompt.write_text(f"dataset_name: adv_bench\nseeds:\n{seeds}")
    plain, labelled = suite(f"advbench={tmp_path}"), suite(f"advbench={prompt}")
    assert [i.prompt for i in plain.items] == [i.prompt for i in labelled.items] == texts
    assert {i.category for i in plain.items} == {""}
    assert {i.category for i in labelled.items} == {"Physical"}


def test_harmbench_is_its_standard_behaviours(tmp_path):
    rows = [
        {"Behavior": f"b {n}", "FunctionalCategory": kind, "SemanticCategory": "illegal"}
        for n in range(200)
        for kind in ("standard", "contextual")
    ]
    file = write_csv(tmp_path / "harmbench_behaviors_text_all.csv", rows)
    result = suite(f"harmbench={file}")
    assert result.items[7] == Item(7, "b 7", "illegal")
    lines = tmp_path / "harmbench_prompts.txt"
    lines.write_text("\n".join(f"b {n} " for n in range(200)) + "\n\n")
    assert [i.prompt for i in suite(f"harmbench={lines}").items] == [i.prompt for i in result.items]


def test_strongreject_and_jailbreakbench_columns(tmp_path):
    strong = [{"category": "Violence", "source": "x", "forbidden_prompt": "p"}] * 313
    file = write_csv(tmp_path / "strongreject_dataset.csv", strong)
    assert suite(f"strongreject={file}").items[2] == Item(2, "p", "Violence")
    jbb = [{"Index": "0", "Goal": "g", "Target": "Sure", "Behavior": "b", "Category": "Fraud"}]
    file = write_csv(tmp_path / "harmful-behaviors.csv", jbb * 100)
    assert suite(f"jailbreakbench={tmp_path}").items[0] == Item(0, "g", "Fraud")


def task(request: str, answer: str) -> str:
    """A pair's answer as Prometheus wraps it."""
    return (
        "###Task Description:\nAn instruction ...\n\n###The instruction to evaluate:\n"
        f"{request}\n\n###Response to evaluate:\n{answer}\n\n###Score Rubrics:\n[...]"
    )


def test_hhh_is_read_wrapped_and_plain(tmp_path):
    asked = "why?\n\nAssistant: what?\n\nHuman: that"
    rows = [
        {"source": "honest", "chosen_instruction": task(asked, "yes"),
         "rejected_instruction": task(asked, "no")}
    ] * 221  # fmt: skip
    wrapped = tmp_path / "hhh_alignment_eval.json"
    wrapped.write_text(json.dumps(rows))
    pair = {"subset": "honest", "prompt": asked, "chosen": "yes", "rejected": "no"}
    plain = write_jsonl(tmp_path / "hhh_alignment_pairs.jsonl", [pair] * 221)
    result = suite(f"hhh={wrapped}")
    assert result.items[3] == Item(3, asked, "honest", chosen="yes", rejected="no")
    assert suite(f"hhh={plain}").items == result.items
    rows[1] = {**rows[1], "rejected_instruction": task("another", "no")}
    wrapped.write_text(json.dumps(rows))
    refused(f"hhh={wrapped}", "row 2: the two answers are to different requests")
    rows[1] = {**rows[1], "rejected_instruction": CANARY}
    wrapped.write_text(json.dumps(rows))
    refused(f"hhh={wrapped}", "row 2: no request and answer")


def test_mt_bench_has_first_turns_and_references(tmp_path):
    questions = [
        {"question_id": 81 + n, "category": "math" if n < 10 else "writing",
         "turns": [f"first {n}", "second"], "reference": ["not what judges see", ""]}
        for n in range(80)
    ]  # fmt: skip
    answers = [
        {"question_id": 81 + n, "choices": [{"index": 0, "turns": [f"right {n}", "later"]}]}
        for n in range(10)
    ]
    file = write_jsonl(tmp_path / "question.jsonl", questions)
    hint = refused(f"mt-bench={file}", "holds no reference answers for MT-Bench")
    assert hint == ""
    beside = write_jsonl(tmp_path / "reference_answer" / "gpt-4.jsonl", answers)
    result = suite(f"mt-bench={tmp_path}")
    assert result.items[4] == Item(4, "first 4", "math", reference="right 4")
    assert result.items[40] == Item(40, "first 40", "writing")
    write_jsonl(beside, [{"question_id": 81, "choices": [{"turns": []}], "x": CANARY}])
    refused(f"mt-bench={tmp_path}", "gpt-4.jsonl, line 1: no reference answer")


def test_rows_that_cannot_be_used_are_named_by_their_place(tmp_path):
    def own(*rows: object) -> Path:
        return write_jsonl(tmp_path / "own.jsonl", list(rows))

    good = {"prompt": "p"}
    refused(own(good, {"text": CANARY}), "own.jsonl, line 2: no request")
    refused(own({"prompt": "  "}), "line 1: prompt is empty")
    refused(own({"prompt": [7]}), "line 1: prompt is not text but int")
    refused(own({"prompt": "p", "chosen": CANARY}), "chosen and rejected come in pairs")
    refused(own({"prompt": "p", "label": CANARY}), "line 1: the label must be one of safe, unsafe")
    refused(own(), "holds no row")
    file = tmp_path / "own.jsonl"
    file.write_text(f'{{"prompt": "{CANARY}"\n')
    refused(file, "line 1: not JSON")
    broken = tmp_path / "a.prompt"
    broken.write_text(f"seeds:\n- text: {CANARY}\n")
    refused(broken, "holds no list of seeds")
    broken.write_bytes(b"\xff")
    refused(broken, "not UTF-8", DataError)


# --- own suites -----------------------------------------------------------------------------------


def test_own_suites_measure_what_their_rows_say(tmp_path):
    def own(name: str, *rows: object) -> tuple[str, str, str, str]:
        entry = suite(write_jsonl(tmp_path / f"{name}.jsonl", list(rows))).declaration
        return entry.name, entry.metric, entry.direction, entry.form

    assert own("plain", {"prompt": "p"}) == ("plain", "refused", "none", "request")
    assert own("bad", {"prompt": "p", "label": "Harmful"}) == ("bad", "refused", "up", "request")
    assert own("ok", {"prompt": "p", "label": "safe"}) == ("ok", "refused", "down", "request")
    pair = {"prompt": "p", "chosen": "a", "rejected": "b", "category": "c"}
    assert own("two", pair) == ("two", "accuracy", "up", "dialogue")
    refused(write_jsonl(tmp_path / "mixed.jsonl", [pair, {"prompt": "p"}]), "rows of pair, unlab")
    mixed = [{"prompt": "p", "label": label} for label in ("safe", "unsafe")]
    assert "of one kind" in refused(
        write_jsonl(tmp_path / "m.jsonl", mixed), "rows of safe, unsafe"
    )


def test_a_path_with_an_equals_sign_is_a_path(tmp_path):
    file = write_jsonl(tmp_path / "a=b.jsonl", [{"prompt": "p"}])
    assert suite(file).items == (Item(0, "p"),)


def test_samples_are_seeded_and_keep_the_order(tmp_path):
    file = write_jsonl(tmp_path / "own.jsonl", [{"prompt": f"p{n}"} for n in range(50)])
    drawn = suite(file, 10, seed=1)
    numbers = [item.number for item in drawn.items]
    assert (len(numbers), drawn.whole) == (10, 50)
    assert numbers == sorted(set(numbers))
    assert all(item.prompt == f"p{item.number}" for item in drawn.items)
    assert suite(file, 10, seed=1) == drawn
    assert suite(file, 10, seed=2).items != drawn.items
    assert len(suite(file, 99).items) == 50
    with pytest.raises(EvaluationError, match="got -1"):
        load(str(file), -1)


# --- not available --------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_fetched")
@pytest.mark.parametrize("name", list(declared_suites()))
def test_without_cache_and_network_nothing_is_available_and_each_says_why(name):
    result = load(name)
    assert isinstance(result, NotAvailable)
    assert result.name == name
    assert result.reason
    assert f"{name}=PATH" in result.hint


@pytest.mark.usefixtures("nothing_fetched")
def test_an_unreachable_suite_on_the_web_is_not_available():
    result = load(f"https://example.invalid/own.jsonl#sha256={'0' * 64}")
    assert isinstance(result, NotAvailable)
    assert "not in the cache" in result.reason


def test_user_errors_are_not_reported_as_unavailable(tmp_path):
    assert "did you mean xstest-safe?" in refused("xstest-saf", "there is no suite xstest-saf")
    refused(f"hhh={tmp_path / 'gone.json'}", "There is no file", AssetError)
    refused(tmp_path / "gone.jsonl", "There is no file", AssetError)
    refused(f"hhh={tmp_path}", "holds no file of HHH alignment: hhh_alignment_eval.json or")
    refused(write_csv(tmp_path / "x.csv", [{"a": CANARY}]), "x.csv, line 2: no request")


def test_bytes_that_do_not_match_the_pin_are_an_error(monkeypatch):
    def tampered(*_args: object, **_options: object) -> Path:
        raise ChecksumError("advbench has SHA-256 0, expected 1.")

    monkeypatch.setattr(assets, "fetch", tampered)
    with pytest.raises(ChecksumError):
        load("advbench")


def test_an_own_file_may_be_pinned(tmp_path):
    file = write_jsonl(tmp_path / "own.jsonl", [{"prompt": "p"}])
    refused(f"{file}#sha256={'0' * 64}", "expected 000", ChecksumError)
    assert suite(f"{file}#sha256={assets.sha256_file(file)}").sha256 == assets.sha256_file(file)


# --- dialogues ------------------------------------------------------------------------------------


def test_dialogues_are_taken_apart():
    talk = Item(0, "a\n\nb\n\nAssistant:  c\n\nd\n\nHuman: Assistant: e")
    assert turns(talk, dialogue=True) == (
        Message("user", "a\n\nb"), Message("assistant", "c\n\nd"), Message("user", "Assistant: e"),
    )  # fmt: skip
    assert turns(talk, dialogue=False) == (Message("user", talk.prompt),)
    for broken in ("a\n\nAssistant: b", "a\n\nHuman: b", "a\n\nAssistant: \n\nHuman: b"):
        with pytest.raises(EvaluationError, match="item 7: the turns"):
            turns(Item(7, broken), dialogue=True)


def test_old_names_still_work():
    assert (suites.ADVBENCH, suites.ADVBENCH_SIZE) == ("advbench", 520)
