"""One round's alignment of a tiny random model: what runs, what it costs, and how it goes on."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrai.constitution.material import HARMLESS, PROBE, RECORDS, last_before, read
from fedrai.constitution.outcome import Aligned
from fedrai.constitution.records import Request
from fedrai.constitution.spending import SPENT
from fedrai.constitution.tools import round_requests
from fedrai.constitution.training import STATE, check_state
from fedrai.errors import ChecksumError, RunError
from fedrai.runs.files import digest_of, load_tensors
from staging import (
    NEVER,
    check_same,
    moved,
    recipe,
    same,
)

# --- one alignment --------------------------------------------------------------------------------


def test_an_alignment_trains_on_revisions_and_reports(stage, start):
    before = {name: part.clone() for name, part in start.items()}
    result = stage()
    report = result.report
    assert json.loads(json.dumps(report)) == report
    assert (report["ran"], report["why"], report["steps"]) == (True, "every round", 4)
    assert (report["adapter_step"], report["stopped"], report["trace"]) == (4, "4 steps", [])
    assert (report["requests"], report["kept"], report["yield"]) == (6, 6, 1.0)
    assert report["outcomes"]["kept"] == 6
    assert report["tries"] == {"1": 5, "2": 1}
    assert report["failed_tries"]["complies"] == 1
    assert report["harmless"]["answered"] == 6
    assert (report["rows"], report["pairs"]) == (16, 12)  # six harmful pairs are half of twelve
    assert report["kinds"]["revisions"] == {"items": 6, "used": 8}
    assert (report["pairs_left_out"], report["overlap_removed"]) == ([], {"advbench": 3})
    assert report["loss_last"] < report["loss_first"]
    assert moved(result, start)
    assert same(start, before)
    kinds = [kind for kind, _ in stage.heard if kind != "constitution-progress"]
    assert kinds == ["constitution-started"]
    texts = json.dumps(report | {"diversity": None})
    assert not any(text in texts for text in ("trick", "bread", "loaf"))


def test_costs_add_up(stage):
    result = stage(schedule="adaptive")
    parts = result.report["spent"]
    assert sorted(parts) == ["harmless", "probe", "revisions", "training"]
    assert sum(part["tokens"] for part in parts.values()) == result.cost.tokens
    total = sum(part["operations"] for part in parts.values())
    assert result.cost.operations == pytest.approx(total, rel=1e-6)
    assert result.cost.peak_bytes > 1e6
    assert result.cost.seconds > 0
    probes = result.report["probe_before"], result.report["probe_after"]
    assert parts["probe"]["tokens"] > sum(p["tokens"] for p in probes)  # the looks, the first one
    assert "seconds" not in json.dumps(result.report)


def test_progress_of_the_probe_has_figures(stage):
    stage(steps=1)
    events = [fields for _, fields in stage.heard if fields.get("phase") == "probe"]
    assert all(event["of"] > 1 and 0 <= event["done"] <= event["of"] for event in events)
    assert events[-1]["done"] == events[-1]["of"]


def test_a_full_alignment_costs_what_it_is_estimated_to(stage):
    """One epoch: 6 revisions are half of 12 rows, four of them a step."""
    result = stage(schedule="full", pairs=0)
    assert (result.report["steps"], result.report["rows"]) == (3, 12)
    parts = result.report["spent"]
    spent = sum(parts[name]["operations"] for name in ("revisions", "harmless", "training"))
    assert result.report["full_operations"] == pytest.approx(spent, rel=1e-6)


def test_a_full_alignment_of_pairs_alone_goes_through_them_once(stage):
    """Six harmful pairs are a third of 18, of which a step takes four."""
    result = stage(schedule="full", rows=0, pairs=4, harmless_pairs=2 / 3)
    assert (result.report["pairs"], result.report["steps"]) == (18, 5)
    parts = result.report["spent"]
    spent = sum(parts[name]["operations"] for name in ("revisions", "harmless", "training"))
    assert result.report["full_operations"] == pytest.approx(spent, rel=1e-6)


def test_a_cheaper_alignment_is_estimated_from_its_own_costs(stage):
    """One step: 2 revisions and 2 harmless answers of 6 and 6; an epoch has 3 steps."""
    result = stage(steps=1, pairs=0)
    parts = {name: part["operations"] for name, part in result.report["spent"].items()}
    assert (result.report["requests"], result.report["harmless"]["requests"]) == (2, 2)
    expected = 3 * (parts["revisions"] + parts["harmless"] + parts["training"])
    assert result.report["full_operations"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "harmful", "harmless"),
    [
        # steps x (share of rows + share of pairs): 4 x (4 x 0.5 + 2 x 0.5)
        ({}, 12, 12),
        ({"harmless_pairs": 0.25}, 14, 10),
        ({"pairs": 0}, 8, 8),
        ({"pairs": 0, "refusals": 1.0, "look_alikes": 0.0}, 16, 0),
        ({"rows": 0, "harmless_pairs": 1.0}, 0, 8),
        ({"schedule": "full", "pairs": 0}, 40, 40),
    ],
)
def test_a_round_takes_as_many_requests_as_its_steps_draw(changes, harmful, harmless):
    pool = [Request(f"trick {n}") for n in range(40)]
    others = [Request(f"bread {n}", harmful=False) for n in range(40)]
    drawn = round_requests(recipe(**changes), 1, pool, others)
    assert tuple(map(len, drawn)) == (harmful, harmless)


# --- resuming -------------------------------------------------------------------------------------

STOPS = [
    ("revisions", 2, 1),  # after chunk 1 of 3
    ("revisions", 2, 2),  # within chunk 2
    ("harmless", 4, 1),
    ("training", 2, 1),
    ("training", 3, 1),  # between two states
    ("probe", 0, 2),  # between training and the last probe
]


@pytest.fixture(scope="module")
def wholes() -> dict[str, Aligned]:
    """Alignments that were never interrupted, by name."""
    return {}


@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_an_interrupted_alignment_resumes_to_the_same_bits(stage, stop, wholes, monkeypatch):
    monkeypatch.setattr("fedrai.constitution.training.SAVE_EVERY", 2)
    if "budget" not in wholes:
        wholes["budget"] = stage(work="whole")
        (stage.folder / "kept" / "0001").rename(stage.folder / "away")
    stage.stop = stop
    with pytest.raises(KeyboardInterrupt):
        stage()
    assert stage.stop is None
    assert not (stage.folder / "kept").exists() or not [*(stage.folder / "kept").iterdir()]
    made = read(stage.folder / "work-1")
    check_same(stage(), wholes["budget"])
    assert read(stage.folder / "kept" / "0001").records[: len(made.records)] == made.records


@pytest.fixture
def left(stage, monkeypatch):
    """The work folder of an alignment that stopped while it trained."""
    monkeypatch.setattr("fedrai.constitution.training.SAVE_EVERY", 2)
    stage.stop = ("training", 3, 1)
    with pytest.raises(KeyboardInterrupt):
        stage()
    return stage.folder / "work-1"


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
def test_damaged_work_files_are_detected(left, data):
    """A flipped bit, or a cut, is an error before anything is done, or changes nothing."""
    file = data.draw(st.sampled_from(sorted(left.iterdir())))
    body = file.read_bytes()
    place = data.draw(st.integers(0, 8 * len(body) - 1))
    hurt = bytearray(body)
    hurt[place // 8] ^= 1 << place % 8
    whole = all_that_is_read(left)
    try:
        file.write_bytes(bytes(hurt) if data.draw(st.booleans()) else body[: place // 8])
        result = all_that_is_read(left)
        assert result == whole or str(left) in result
    finally:
        file.write_bytes(body)


def all_that_is_read(folder):
    """What it goes on from; a text that says why it cannot."""
    try:
        check_state(folder)
        tensors, note = load_tensors(folder / STATE)
        return read(folder), digest_of(tensors), note
    except (RunError, ChecksumError) as error:
        return error.message


@pytest.mark.parametrize("name", [RECORDS, HARMLESS, SPENT, PROBE])
def test_damaged_material_of_rounds_is_detected(stage, name):
    stage()
    file = stage.folder / "kept" / "0001" / name
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(bytes(body))
    with pytest.raises(ChecksumError, match=f"{name} is damaged"):
        last_before(stage.folder / "kept", 2)


@pytest.mark.parametrize(
    "stop", [("probe", "end", 2), ("harmless", 2, 1), ("probe", 0, 2), ("probe", "end", 3),
             ("training", 3, 1), ("training", 4, 1), ("probe", "end", 4)], ids=str,
)  # fmt: skip
def test_an_interrupted_alignment_with_early_stop_resumes_to_the_same_bits(stage, stop, wholes):
    """The best look is not the last: its adapter is that of a file."""
    if "adaptive" not in wholes:
        wholes["adaptive"] = stage(work="whole", schedule="adaptive", probe=NEVER)
        assert wholes["adaptive"].report["adapter_step"] == 2
        (stage.folder / "kept" / "0001").rename(stage.folder / "away")
    stage.stop = stop
    with pytest.raises(KeyboardInterrupt):
        stage(schedule="adaptive", probe=NEVER)
    check_same(stage(schedule="adaptive", probe=NEVER), wholes["adaptive"])


def test_repeated_interrupts_do_not_change_the_costs(stage, wholes):
    whole = stage(work="whole")
    (stage.folder / "kept" / "0001").rename(stage.folder / "away")
    for stop in (("revisions", 2, 3), ("revisions", 4, 2), ("probe", "end", 2), ("training", 4, 1)):
        stage.stop = stop
        with pytest.raises(KeyboardInterrupt):
            stage()
    check_same(stage(), whole)


def test_a_finished_alignment_is_repeated_without_its_own_material(stage):
    """A process may be killed after the material is kept and before the round is."""
    first = stage()
    calls = stage.critic.calls
    check_same(stage(), first)
    assert stage.critic.calls == calls  # from the work folder
    again = stage(work="anew")
    assert stage.critic.calls == 2 * calls  # not from what the same round had kept
    assert again.report["reused"] is False
    check_same(again, first)
