"""What is kept of an alignment: its costs over interruptions, and its material for later rounds."""

import json
from dataclasses import dataclass

import pytest

from fedrai.constitution import material
from fedrai.constitution.harmless import HarmlessAnswer
from fedrai.constitution.material import Material, last_before, read
from fedrai.constitution.records import Outcome, Request, RevisionRecord
from fedrai.constitution.spending import SPENT, CostMeter, Spending
from fedrai.constitution.storing import read_records, write_records
from fedrai.errors import RunError
from fedrai.runs.costs import Cost

ASKED = Request("a secret question", "other", harmful=False)
ANSWERS = (
    HarmlessAnswer(ASKED, "Blue.", None, "model"),
    HarmlessAnswer(ASKED, None, "No.", None, ("refuses",)),
)
RECORD = RevisionRecord(
    Request("trick"), "Sure.", "compliance", 0.9, (), "No, I won't.", 0.0, 1, Outcome.KEPT
)


def found(spent: dict[str, Cost] | None = None) -> Material:
    return Material((RECORD,), ANSWERS, spent or {"revisions": Cost(1.0, 2, 3.0)})


# --- costs ----------------------------------------------------------------------------------------


def figures(spending: Spending) -> dict[str, tuple[int, float]]:
    return {name: (cost.tokens, cost.operations) for name, cost in spending.parts.items()}


@dataclass
class Use:
    tokens: int
    operations: float


def spend(meter: CostMeter, tokens: int, operations: float) -> None:
    meter.add(Use(tokens, operations))
    meter.save()


def test_a_part_adds_to_its_cost_so_far(tmp_path):
    meter = Spending(tmp_path).meter("revisions")
    spend(meter, 10, 100.0)
    spend(meter, 20, 200.0)
    again = Spending(tmp_path)
    assert figures(again) == {"revisions": (30, 300.0)}
    spend(again.meter("revisions"), 5, 50.0)
    assert figures(again) == figures(Spending(tmp_path)) == {"revisions": (35, 350.0)}
    assert again.parts["revisions"].seconds > 0


def test_a_step_that_is_done_again_counts_once(tmp_path):
    first = Spending(tmp_path)
    spend(first.meter("probe", "first"), 10, 100.0)
    spend(first.meter("probe", "step 5"), 20, 200.0)
    again = Spending(tmp_path)
    spend(again.meter("probe", "first"), 10, 100.0)
    spend(again.meter("probe", "step 5"), 20, 200.0)
    spend(again.meter("probe", "after"), 1, 1.0)
    spend(again.meter("harmless"), 7, 7.0)
    assert figures(again) == {"harmless": (7, 7.0), "probe": (31, 301.0)}


def test_a_meter_without_a_file_only_counts():
    meter = CostMeter()
    spend(meter, 3, 4.0)
    spend(meter, 5, 6.0)
    assert (meter.tokens, meter.operations) == (8, 10.0)


def test_a_cost_replaces_the_earlier_one(tmp_path):
    for cost in (Cost(1.0, 2, 3.0), Cost(4.0, 5, 6.0)):
        Spending(tmp_path).put("training", cost)
    assert Spending(tmp_path).parts == {"training": Cost(4.0, 5, 6.0)}


def test_a_file_without_costs_is_an_error(tmp_path):
    (tmp_path / SPENT).write_text("{")
    with pytest.raises(RunError, match="is not JSON"):
        Spending(tmp_path)


# --- answers --------------------------------------------------------------------------------------


def test_answers_are_read_back_without_a_cut_line(tmp_path):
    file = tmp_path / "harmless.jsonl"
    assert read_records(file, HarmlessAnswer) == []
    write_records(file, ANSWERS)
    assert read_records(file, HarmlessAnswer) == list(ANSWERS)
    file.write_bytes(file.read_bytes()[:-3])
    assert read_records(file, HarmlessAnswer) == [ANSWERS[0]]


@pytest.mark.parametrize("line", ["{", "[]", '{"answer": "a secret"}', "3"])
def test_an_invalid_line_is_an_error_without_its_text(tmp_path, line):
    file = tmp_path / "harmless.jsonl"
    file.write_text(f"{json.dumps(ANSWERS[0].to_json())}\n{line}\n")
    with pytest.raises(RunError, match="line 2 is not a HarmlessAnswer") as caught:
        read_records(file, HarmlessAnswer)
    assert "secret" not in str(caught.value)


def test_a_write_error_names_the_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_records(tmp_path / "file" / "harmless.jsonl", ANSWERS)


# --- rounds ---------------------------------------------------------------------------------------


def test_material_is_found_by_later_rounds_only(tmp_path):
    stored = tmp_path / "kept"
    assert last_before(stored, 1) is None
    for number in (2, 10):
        probe = {"safe": number / 10, "useful": 1.0}
        material.store(stored, number, found(), probe)
    assert last_before(stored, 1) is last_before(stored, 2) is None
    assert last_before(stored, 3) == Material(
        (RECORD,), ANSWERS, {"revisions": Cost(1.0, 2, 3.0)}, {"safe": 0.2, "useful": 1.0}
    )
    later = last_before(stored, 11)  # by number, not by name
    assert later is not None
    assert later.probe["safe"] == 1.0
    assert last_before(stored, 10) == last_before(stored, 3)


def test_stored_material_replaces_earlier_material(tmp_path):
    stored = tmp_path / "kept"
    material.store(stored, 1, found({"revisions": Cost(tokens=1)}), {"safe": 0.1})
    (stored / ".new-0001").mkdir()  # of a process that was killed here
    (stored / ".new-0001" / "rest").write_text("")
    material.store(stored, 1, found({"revisions": Cost(tokens=9)}), {"safe": 0.9})
    assert read(stored / "0001").spent == {"revisions": Cost(tokens=9)}
    assert sorted(f.name for f in stored.iterdir()) == ["0001"]
    assert not (stored / "0001" / "rest").exists()


def test_an_incomplete_folder_is_ignored(tmp_path):
    material.store(tmp_path, 1, found(), {"safe": 0.5})
    (tmp_path / "0002").mkdir()
    later = last_before(tmp_path, 3)
    assert later is not None
    assert later.probe == {"safe": 0.5}
