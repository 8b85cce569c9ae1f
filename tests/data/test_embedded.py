"""The datasets that come with FedRAI; PyRIT's only through a folder made here."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from fedrai import data
from fedrai.data import embedded
from fedrai.errors import DataError
from fedrai.evaluation.refusal import Reply, judge
from fedrai.recipe.sections import Source

ORIGINAL = ("ordinary", "ordinary-held-out", "safe-answers", "look-alike-answers")


def prompts(name: str) -> list[str]:
    return [e.messages[0].content for e in data.load(f"fedrai:{name}").examples]


def responses(name: str) -> list[str]:
    return [e.messages[-1].content for e in data.load(f"fedrai:{name}").examples]


def normal(text: str) -> str:
    return " ".join(text.lower().split())


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_row_is_well_formed(name):
    loaded = data.load(f"fedrai:{name}")
    assert loaded.bad_rows == ()
    for example in loaded.examples:
        assert [m.role for m in example.messages] == ["user", "assistant"]
        assert example.label
        assert example.origin.startswith("fedrai:")
        for message in example.messages:
            assert message.content == message.content.strip()
            assert "\ufffd" not in message.content


@pytest.mark.parametrize(
    ("name", "rows", "categories"),
    [("ordinary", 360, 12), ("ordinary-held-out", 84, 12), ("safe-answers", 220, 11)],
)
def test_sizes_and_even_categories(name, rows, categories):
    labels = Counter(e.label for e in data.load(f"fedrai:{name}").examples)
    assert labels.total() == rows
    assert len(labels) == categories
    assert len(set(labels.values())) == 1


def test_held_out_rows_stand_in_no_training_set():
    train = {normal(p) for p in prompts("ordinary") + prompts("safe-answers")}
    held_out = {normal(p) for p in prompts("ordinary-held-out")}
    assert not train & held_out
    assert len(held_out) == 84
    assert len(train) == 580
    answers = [normal(r) for name in ORIGINAL for r in responses(name)]
    assert len(set(answers)) == len(answers)


def test_safe_answers_refuse():
    judged = [judge(r) for r in responses("safe-answers")]
    assert judged.count(Reply.REFUSAL) / len(judged) >= 0.9
    assert Reply.UNSCORED not in judged


def test_answered_look_alikes_are_look_alikes_that_clients_answer():
    """So a near request of an outside set is found where look-alikes are checked."""
    asked = prompts("look-alike-answers")
    assert len(set(asked)) == len(asked) == 127
    assert set(asked) <= {row["prompt"] for _, row in embedded.rows("look-alikes")}
    assert len({e.label for e in data.load("fedrai:look-alike-answers").examples}) == 13
    assert {judge(r) for r in responses("look-alike-answers")} == {Reply.COMPLIANCE}


def test_ordinary_answers_do_not():
    judged = [judge(r) for r in responses("ordinary") + responses("ordinary-held-out")]
    assert judged.count(Reply.REFUSAL) / len(judged) <= 0.01
    assert Reply.UNSCORED not in judged


def test_unknown_names_list_the_known_ones():
    with pytest.raises(DataError, match="no dataset fedrai:ordinal") as caught:
        data.load("fedrai:ordinal")
    assert "fedrai:ordinary, fedrai:ordinary-held-out, fedrai:safe-answers" in caught.value.hint


# --- PyRIT's human-labelled answers ---------------------------------------------------------------

COLUMNS = ["harm_category", "objective", "assistant_response", "human_score_1", "data_type"]


def write_scores(file: Path, rows: list[list[str]], scores: int = 1) -> None:
    """A CSV in the form of PyRIT's: a comment, then a header."""
    names = [f"human_score_{i + 1}" for i in range(scores)]
    with file.open("w", newline="", encoding="utf-8-sig") as opened:
        opened.write("# dataset_version=1.0\n")
        writer = csv.writer(opened)
        writer.writerow([*COLUMNS[:3], *names, COLUMNS[4]])
        writer.writerows(rows)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of empty affirmations in the place of PyRIT's."""
    many = [
        ["Fraud ", f" request {i} ", f"Sure, here is part {i}.\n", "0.75", "text"]
        for i in range(300)
    ]
    edge = [
        ["Fraud", "at the threshold", "Sure, here.", "0.5", "text"],
        ["Fraud", "below it", "Sure, here.", "0.49", "text"],
        ["Fraud", "harmless", "No.", "0", "text"],
        ["Fraud", "unscored", "Sure, here.", "", "text"],
        ["Fraud", "request 0", "Sure, here is part 0.", "1.0", "text"],  # twice
        ["Fraud", "request 0", "Sure, another answer.", "1.0", "text"],
        ["Fraud", "REQUEST  0", "Sure, a third answer.", "1.0", "text"],
    ]
    write_scores(tmp_path / "fraud.csv", many + edge)
    several = [
        ["VIOLENCE", "mean of a half", 'Sure, "here",\nit is.', "0", "0.5", "1.0", "text"],
        ["VIOLENCE", "mean below", "Sure, here.", "0", "0.25", "1.0", "text"],
        ["VIOLENCE", "two scores", "Sure, here.", "1.0", "", "0.0", "text"],
    ]
    write_scores(tmp_path / "violence.csv", several, scores=3)
    (tmp_path / "notes.txt").write_text("not read")
    specs: list[str] = []

    def fetch(spec: str) -> Path:
        specs.append(spec)
        return tmp_path

    monkeypatch.setattr("fedrai.assets.fetch", fetch)
    return tmp_path


def both() -> list[tuple[str, data.Dataset]]:
    return [
        (n, data.load(Source(path=f"fedrai:{n}", harmful=True)))
        for n in ("harmful", "harmful-held-out")
    ]


def test_harmful_rows_are_those_that_people_scored_at_least_a_half(wheel):
    requests = {e.messages[0].content for _, part in both() for e in part.examples}
    assert {"at the threshold", "mean of a half", "two scores", "request 7"} <= requests
    assert not {"below it", "harmless", "unscored", "mean below"} & requests
    assert len(requests) == 300 + 1 + 2 + 1  # one request also stands there in capitals


def test_rows_are_trimmed_labelled_and_declared_harmful(wheel):
    examples = {e.messages[0].content: e for _, part in both() for e in part.examples}
    assert examples["request 7"].messages[1].content == "Sure, here is part 7."
    assert examples["request 7"].label == "fraud"
    assert examples["request 7"].origin == "pyrit fraud.csv, row 8"
    assert examples["mean of a half"].messages[1].content == 'Sure, "here",\nit is.'
    assert examples["two scores"].label == "violence"
    assert examples["two scores"].origin == "pyrit violence.csv, row 3"
    assert all(e.harmful for e in examples.values())


def test_a_request_is_in_one_part_only_and_a_row_in_it_once(wheel):
    parts = dict(both())
    requests = {n: {normal(e.messages[0].content) for e in p.examples} for n, p in parts.items()}
    assert not requests["harmful"] & requests["harmful-held-out"]
    held_out = len(requests["harmful-held-out"]) / sum(map(len, requests.values()))
    assert 0.27 < held_out < 0.43
    rows = [e.messages for p in parts.values() for e in p.examples]
    assert len(set(rows)) == len(rows)
    zero = [r for r in rows if normal(r[0].content) == "request 0"]
    assert len(zero) == 3


def test_the_part_of_a_request_depends_on_nothing_else(wheel):
    before = set(prompts("harmful-held-out"))
    (wheel / "violence.csv").unlink()
    write_scores(wheel / "a.csv", [["x", "new", "Sure.", "1", "text"]])
    assert before - set(prompts("harmful-held-out")) <= {"mean of a half", "two scores"}
    assert embedded._is_held_out("Request 7") == embedded._is_held_out("request   7")
