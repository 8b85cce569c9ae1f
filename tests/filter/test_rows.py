"""The filter: what is kept, dropped or replaced, and that its ledger says so without any text."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.data.embedded.refusals import embedded_refusals, load_refusals
from fedrai.errors import GuardError
from fedrai.evaluation.refusal import Reply
from fedrai.evaluation.refusal import judge as refusal
from fedrai.filter import FilterResult, Policy, SafetyFilter, answers
from fedrai.filter.ledger import PROBLEMS, ROW_CHANGES, DeclaredHarm, FilterLedger
from fedrai.guards.base import VerdictBatch
from fedrai.guards.cache import VerdictCache, conversation_key
from fedrai.records import Example, Message, Verdict

SALT = bytes(range(32))
CANARY = "canary-7431"


class Reading:
    """Reads the verdict from the last turn: "p=0.9 fraud", or a problem's name."""

    name, revision = "reading", "abcdef0123456789"

    def __init__(self):
        self.thresholds, self.asked = {"strict": 0.5, "loose": 0.7}, []

    def judge(self, conversations, on_progress=lambda _done, _of: None):
        self.asked += conversations
        on_progress(len(conversations), len(conversations))
        return VerdictBatch(tuple(map(self.say, conversations)), tokens=3 * len(conversations))

    def say(self, talk):
        text = talk[-1].content
        found = re.search(r"p=([\d.]+) ?([A-Za-z0-9-]*)", text)
        if not found:
            problem = next((p for p in PROBLEMS if p in text), "unparsed")
            return Verdict(None, "reading", problem=problem)
        return Verdict(float(found[1]), "reading", (found[2],) if found[2] else ())


def row(*turns: str, harmful: bool = False, number: int = 0) -> Example:
    roles = ("user", "assistant") * len(turns)
    messages = tuple(Message(r, t) for r, t in zip(roles, turns, strict=False))
    return Example(messages, f"rows.jsonl, line {number}", "label", harmful)


ROWS = [
    row("safe one", "p=0.1", number=1),
    row("unsafe one", "p=0.9 fraud", harmful=True, number=2),
    row("on the line", "p=0.5 S1", number=3),
    row("missed", "p=0.49 fraud", harmful=True, number=4),
    row("not scored", "failed", harmful=True, number=5),
    row("not scored either", "empty", number=6),
    row("no category", "p=1.0", harmful=True, number=7),
]


def run(rows=ROWS, mode="drop", **options) -> FilterResult:
    rest = {name: options.pop(name) for name in ("salt", "cache") if name in options}
    seed, progress = options.pop("seed", 3), options.pop("on_progress", lambda _done, _of: None)
    policy = Policy(0.5, mode, **{"experiment": True} | options)
    return SafetyFilter(Reading(), policy, **{"salt": SALT} | rest).screen(rows, seed, progress)


# --- what goes on to training ---------------------------------------------------------------------


def test_drop_keeps_the_safe_rows_in_order():
    assert run().kept == (ROWS[0], ROWS[3])
    assert run(unscored="keep").kept == (ROWS[0], ROWS[3], ROWS[4], ROWS[5])


def test_audit_changes_nothing():
    assert run(mode="audit").kept == tuple(ROWS)


def test_replace_puts_a_refusal_that_fits_in_the_place_of_the_answer():
    kept = run(mode="replace").kept
    assert [e.origin[-1] for e in kept] == ["1", "2", "3", "4", "7"]
    assert (kept[0], kept[3]) == (ROWS[0], ROWS[3])
    topics = embedded_refusals().topics
    for example, before, topic in [
        (kept[1], ROWS[1], "fraud"), (kept[2], ROWS[2], "violence"), (kept[4], ROWS[6], "other"),
    ]:  # fmt: skip
        assert example.messages[-1].content in topics[topic].replies
        assert example.messages[:-1] == before.messages[:-1]
        assert replace(example, messages=before.messages) == before
    assert [e.origin[-1] for e in run(mode="replace", unscored="keep").kept] == list("1234567")


def test_replaced_rows_say_unlike_things_and_the_same_again():
    rows = [row(f"request {i}", "p=0.9 cyber") for i in range(60)]
    kept = run(rows, "replace").kept
    said = {e.messages[-1].content for e in kept}
    assert len(said) == 9
    assert all(refusal(text) is Reply.REFUSAL for text in said)
    assert run(rows[::-1], "replace").kept == kept[::-1]
    assert run(rows, "replace", seed=4).kept != kept


def test_a_part_of_the_unsafe_rows_gets_refusals_and_the_others_are_dropped():
    """Which ones goes by the seed and the row alone; a larger part holds the smaller one."""
    rows = [row(f"request {i}", "p=0.9 cyber", number=i) for i in range(400)]
    kept = {part: run(rows, "replace", replaced=part) for part in (0.0, 0.25, 0.5, 1.0)}
    origins = {part: {e.origin for e in done.kept} for part, done in kept.items()}
    assert (len(origins[0.0]), len(origins[1.0])) == (0, 400)
    assert 70 < len(origins[0.25]) < 130
    assert origins[0.25] < origins[0.5]
    ledger = kept[0.25].ledger
    assert (ledger.replaced, ledger.dropped) == (len(origins[0.25]), 400 - len(origins[0.25]))
    assert (ledger.kept, len(ledger.removed)) == (ledger.replaced, 400)
    assert {e.origin for e in run(rows[::-1], "replace", replaced=0.25).kept} == origins[0.25]
    other = run(rows, "replace", replaced=0.25, seed=4)
    assert {e.origin for e in other.kept} != origins[0.25]
    assert run(rows, replaced=1.0).kept == ()  # to drop is to drop


def test_a_users_own_refusals_are_used(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[other]\nreplies = ['Nein, eins.', 'Nein, zwei.', 'Nein, drei.']")
    kept = run(ROWS[1:2], "replace", refusals=load_refusals(file)).kept
    assert kept[0].messages[-1].content.startswith("Nein, ")


def test_all_dropped_is_no_error():
    done = run([ROWS[1], ROWS[4]])
    assert done.kept == ()
    assert (done.ledger.rows, done.ledger.kept, done.ledger.dropped) == (2, 0, 2)
    assert run([]).ledger.rows == 0


# --- several turns --------------------------------------------------------------------------------

HIDDEN = row("first", "p=0.8 hate", "second", "p=0.1", "third", "p=0.2")


def test_every_answer_is_judged_in_the_light_of_what_stands_before_it():
    guard = Reading()
    SafetyFilter(guard, Policy(0.5), salt=SALT).screen([HIDDEN], 0)
    assert guard.asked == [HIDDEN.messages[:2], HIDDEN.messages[:4], HIDDEN.messages]


@pytest.mark.parametrize(
    ("part", "lengths"), [("pair", (2, 4, 6)), ("prompt", (1, 3, 5)), ("response", (1, 1, 1))]
)
def test_parts_of_each_turn(part, lengths):
    views = answers(HIDDEN.messages, part)
    assert [turn for turn, _ in views] == [1, 3, 5]
    assert tuple(len(talk) for _, talk in views) == lengths
    assert {talk[-1].role for _, talk in views} == {"assistant" if part == "pair" else "user"}


def test_a_last_request_is_judged_too_unless_only_answers_are_asked_for():
    open_end = (*HIDDEN.messages[:2], Message("user", "and then?"))
    assert [turn for turn, _ in answers(open_end, "pair")] == [1, 2]
    assert [turn for turn, _ in answers(open_end, "response")] == [1]
    assert answers((Message("system", "be kind"),), "pair") == ()
    assert answers((), "pair") == ()


def test_an_unsafe_answer_before_the_last_is_found():
    assert run([HIDDEN]).kept == ()
    (example,) = run([HIDDEN], "replace").kept
    before, after = HIDDEN.messages, example.messages
    assert after[1].content in embedded_refusals().topics["hate"].replies
    assert [a for i, a in enumerate(after) if i != 1] == [b for i, b in enumerate(before) if i != 1]


def test_unsafe_and_unscored_in_one_row_counts_as_unsafe_and_leaves():
    mixed = row("a", "failed", "b", "p=0.9 drugs")
    done = run([mixed], "replace")
    assert done.kept == ()
    assert (done.ledger.unsafe, done.ledger.unscored["failed"], done.ledger.dropped) == (1, 0, 1)
    (example,) = run([mixed], "replace", unscored="keep").kept
    assert example.messages[1].content == "failed"
    assert example.messages[3].content in embedded_refusals().topics["drugs"].replies


def test_rows_that_break_the_rules_for_examples_fail_closed():
    no_answer = row("p=0.9 fraud")
    nothing = Example((Message("system", "p=0.0"),), "x")
    assert run([no_answer, nothing], "replace").kept == ()
    assert run([no_answer], "replace", part="response").kept == ()


# --- the ledger -----------------------------------------------------------------------------------


def test_the_ledger_of_seven_rows():
    ledger = run().ledger
    assert (ledger.rows, ledger.kept, ledger.dropped, ledger.replaced) == (7, 2, 5, 0)
    assert ledger.unsafe == 3
    assert {k: n for k, n in ledger.unscored.items() if n} == {"failed": 1, "empty": 1}
    assert {k: n for k, n in ledger.categories.items() if n} == {
        "fraud": 1, "violence": 1, "other": 1,
    }  # fmt: skip
    assert ledger.histogram == (0, 1, 0, 0, 1, 1, 0, 0, 0, 2)
    assert (ledger.guard, ledger.threshold) == ("reading@abcdef012345", 0.5)
    assert (ledger.mode, ledger.part) == ("drop", "pair")
    assert ledger.confusion == DeclaredHarm(4, 1, 3, 2)
    assert ledger.residual_harm().value == 1 / 2
    assert ledger.benign_loss().value == 2 / 3


def test_the_ledgers_of_the_other_modes():
    replaced, audit = run(mode="replace").ledger, run(mode="audit").ledger
    assert (replaced.kept, replaced.dropped, replaced.replaced) == (5, 2, 3)
    assert replaced.confusion == DeclaredHarm(4, 1, 3, 2)
    assert replaced.residual_harm().value == 1 / 5
    assert (audit.kept, audit.dropped, audit.replaced, audit.unsafe) == (7, 0, 0, 3)
    assert audit.confusion == DeclaredHarm(4, 4, 3, 0)
    assert audit.removed == ()


def test_outside_experiments_the_ledger_knows_of_no_harm():
    ledger = run(experiment=False).ledger
    assert ledger.confusion is None
    assert replace(run().ledger, confusion=None) == ledger


def test_affected_rows_are_named_by_salted_hashes():
    expected = sorted(
        conversation_key(SALT, ROWS[i].messages)[:16] for i in (1, 2, 4, 5, 6)
    )  # fmt: skip
    assert run().ledger.removed == tuple(expected)
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in expected)
    other = run(salt=bytes(32)).ledger
    assert not set(other.removed) & set(expected)
    with pytest.raises(GuardError, match="needs 16 bytes or more, got 3"):
        run(salt=b"abc")


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_would_switch_the_filter_off_is_refused(threshold):
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        Policy(threshold)


@pytest.mark.parametrize("mode", ["audit", "drop", "replace"])
def test_no_text_and_no_origin_stands_in_ledger_counts_or_cache(tmp_path, mode):
    rows = [
        Example(
            (Message("user", CANARY), Message("assistant", f"{CANARY} {say}")),
            f"{CANARY}.jsonl, line 1",
            CANARY,
        )
        for say in ("p=0.9 fraud", "p=0.1", "failed", f"p=0.9 {CANARY.split('-')[0]}")
    ]
    done = run(rows, mode, cache=VerdictCache(tmp_path))
    assert done.ledger.rows == 4
    assert done.ledger.categories["other"] == 1  # a guard's "category" may be text as well
    seen = json.dumps(done.ledger.to_json()) + json.dumps(done.ledger.counts())
    assert "canary" not in seen
    assert all(CANARY.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_costs_and_progress_with_and_without_known_verdicts(tmp_path):
    steps = []
    first = run(cache=VerdictCache(tmp_path), on_progress=lambda *step: steps.append(step))
    again = run(cache=VerdictCache(tmp_path))
    assert first.tokens == 3 * 7
    assert steps[-1] == (7, 7)
    assert again.tokens == 3  # "failed" may pass next time, "empty" will not
    assert (again.kept, again.ledger) == (first.kept, first.ledger)
    assert first.seconds > 0


# --- properties -----------------------------------------------------------------------------------

says = st.sampled_from(
    ["p=0.0", "p=0.3 fraud", "p=0.5", "p=0.7 S10", "p=1.0 fraud", "failed", "empty", "unparsed"]
)
some_rows = st.lists(
    st.builds(
        lambda asks, harmful: row(*(t for pair in asks for t in pair), harmful=harmful),
        st.lists(st.tuples(st.text(max_size=4), says), min_size=1, max_size=3),
        st.booleans(),
    ),
    max_size=8,
)
modes, kinds = st.sampled_from(["audit", "drop", "replace"]), st.sampled_from(["drop", "keep"])


@given(some_rows, modes, kinds)
def test_the_ledger_balances(rows, mode, unscored):
    done = run(rows, mode, unscored=unscored)
    ledger = done.ledger
    assert len(done.kept) == ledger.kept
    assert ledger.kept + ledger.dropped == ledger.rows == len(rows)
    assert sum(ledger.categories.values()) == ledger.unsafe
    assert sum(ledger.histogram) + sum(ledger.unscored.values()) == ledger.rows
    assert len(ledger.removed) == ledger.dropped + ledger.replaced
    assert sum(a is b for a in done.kept for b in rows) >= ledger.kept - ledger.replaced
    assert FilterLedger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger


@given(some_rows, modes.filter(lambda mode: mode != "audit"))
def test_no_unsafe_and_no_unscored_answer_goes_on_to_training(rows, mode):
    guard = Reading()
    for example in run(rows, mode).kept:
        for turn, talk in answers(example.messages, "pair"):
            said = guard.say(talk)
            replaced = refusal(example.messages[turn].content) is Reply.REFUSAL
            assert replaced or (said.probability is not None and said.probability < 0.5)


@given(some_rows, some_rows.filter(bool), modes, kinds)
def test_one_row_changes_at_most_four_counts_by_one(rows, more, mode, unscored):
    before = run(rows, mode, unscored=unscored).ledger.counts()
    after = run([*rows, more[0]], mode, unscored=unscored).ledger.counts()
    steps = [after[name] - before[name] for name in before]
    assert set(steps) <= {0, 1}
    assert 1 <= sum(steps) <= ROW_CHANGES


def test_four_counts_do_change():
    for mode in ("drop", "replace"):
        assert sum(run([ROWS[1]], mode).ledger.counts().values()) == ROW_CHANGES
