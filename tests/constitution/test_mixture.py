"""What a mixture is made of, by counts worked out by hand."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.constitution.harmless import HarmlessAnswer
from fedrai.constitution.mixture import (
    KindCount,
    Mixer,
    MixtureSizes,
    epoch_steps,
    revision_pairs,
)
from fedrai.constitution.records import Outcome, Request, RevisionRecord
from fedrai.errors import DataError
from fedrai.model.chat import ChatFormat
from fedrai.recipe.alignment import Mix
from fedrai.records import Message
from fedrai.testing import tiny_tokenizer
from fedrai.training.prefer import check

CHAT = ChatFormat(tiny_tokenizer())
SHARES = {"refusals": 0.4, "look_alikes": 0.2, "harmless_pairs": 0.5}


def record(number, category="theft", says="compliance", outcome=Outcome.KEPT, harmful=True):
    made = outcome in (Outcome.KEPT, Outcome.ALREADY_SAFE)
    return RevisionRecord(
        Request(f"bad {number}", category, harmful=harmful), f"Sure {number}.", says, 0.9, (),
        f"No {category} {number}." if made else None, 0.1, 1, outcome,
    )  # fmt: skip


def harmless(number, kind="", category="", refused=None, answer="Gladly"):
    text = answer and f"{answer} {number}."
    return HarmlessAnswer(
        Request(f"good {number}{kind}", category, "a file", kind, harmful=False), text, refused,
        "model" if text else None,
    )  # fmt: skip


def mixed(records, good, rows=1, pairs=0, max_length=200, seed=0, examples=(), **shares):
    settings = SHARES | shares
    sizes = MixtureSizes(rows, pairs, settings.pop("harmless_pairs"))
    mix = Mix.model_construct(**settings)  # not validated: shares may be impossible
    return Mixer(CHAT, records, good, mix, max_length, seed, examples).compose(sizes)


def said(tokens):
    """Prompt and answer of a tokenized row."""
    text = CHAT.tokenizer.decode(tokens.ids)
    _, user, assistant = text.split("<|im_start|>")
    return user.removeprefix("user\n").split("<|im_end|>")[0], assistant.removeprefix(
        "assistant\n"
    ).split("<|im_end|>")[0]


RECORDS = [record(n) for n in range(10)]
LOOK = [harmless(n, "homonym") for n in range(3)]
PLAIN = [harmless(n) for n in range(30)]


# --- rows -----------------------------------------------------------------------------------------


def test_shares_of_rows_by_hand():
    """10 revisions at 40 % make 25 rows: 10, 5 of 3 look-alikes (2, 2, 1), 10 of 30 ordinary."""
    result = mixed(RECORDS, LOOK + PLAIN)
    counts = Counter(map(said, result.rows))
    kinds = {"bad": [], "homonym": [], "good": []}
    for (prompt, answer), count in counts.items():
        kind = "bad" if "bad" in prompt else "homonym" if "homonym" in prompt else "good"
        kinds[kind].append(count)
        assert answer.split()[-1].rstrip(".") == prompt.removesuffix("homonym").split()[-1]
    assert kinds["bad"] == [1] * 10
    assert sorted(kinds["homonym"]) == [1, 2, 2]
    assert kinds["good"] == [1] * 10
    assert result.parts == {
        "revisions": KindCount(10, 10),
        "look-alikes": KindCount(3, 5),
        "ordinary": KindCount(30, 10),
    }
    assert (result.pairs, result.left_out) == ((), {})


def test_more_rows_repeat_items_evenly():
    """100 rows: every revision 4 times, look-alikes 6 or 7 times, ordinary once or twice."""
    result = mixed(RECORDS, LOOK + PLAIN, rows=100)
    counts = Counter(map(said, result.rows))
    assert Counter(counts[said(row)] for row in result.rows if "bad" in said(row)[0]) == {4: 40}
    assert Counter(n for (p, _), n in counts.items() if "homonym" in p) == {7: 2, 6: 1}
    assert Counter(n for (p, _), n in counts.items() if p[-1].isdigit() and "good" in p) == {
        1: 20, 2: 10,
    }  # fmt: skip


@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 99),
    st.sampled_from([(0.4, 0.2), (0.5, 0.5), (1.0, 0.0), (0.1, 0.7), (0.33, 0.33)]),
)  # fmt: skip
def test_every_revision_is_there_and_counts_differ_by_one_at_most(bad, look, plain, rows, shares):
    refusals, look_alikes = shares
    result = mixed(
        [record(n) for n in range(bad)],
        [*(harmless(n, "homonym") for n in range(look)), *map(harmless, range(plain))],
        rows=rows, refusals=refusals, look_alikes=look_alikes,
    )  # fmt: skip
    total = len(result.rows)
    assert total >= rows
    assert sum(part.used for part in result.parts.values()) == total
    for part, share in zip(
        result.parts.values(), (refusals, look_alikes, 1 - refusals - look_alikes), strict=True
    ):
        assert abs(part.used - share * total) < 1.000001
    counts = Counter(map(said, result.rows))
    for mark, size in (("bad", bad), ("homonym", look)):
        own = [n for (prompt, _), n in counts.items() if mark in prompt]
        if own:
            assert max(own) - (min(own) if len(own) == size else 0) <= 1
    assert sum("bad" in prompt for prompt, _ in counts) == bad


EXAMPLES = [record(n, outcome=Outcome.ALREADY_SAFE) for n in range(100, 400)]


def test_examples_without_a_share_drown_a_few_revisions():
    """300 examples and 10 revisions are one kind of 310: all of them are 40 % of 775 rows."""
    result = mixed(RECORDS, LOOK + PLAIN, rows=100, examples=EXAMPLES)
    assert result.parts["revisions"] == KindCount(310, 310)
    assert len(result.rows) == 775
    assert result == mixed([*EXAMPLES, *RECORDS], LOOK + PLAIN, rows=100)


def test_examples_with_a_share_leave_the_revisions_theirs():
    """Of 100 rows 40 are revisions: 30 of this alignment, each three times, and 10 examples."""
    sizes = MixtureSizes(100, 20, 0.0)
    mix = Mix(refusals=0.4, look_alikes=0.2, examples=0.25)
    result = Mixer(CHAT, RECORDS, LOOK + PLAIN, mix, 200, 0, EXAMPLES).compose(sizes)
    assert result.parts == {
        "revisions": KindCount(10, 30),
        "examples": KindCount(300, 10),
        "look-alikes": KindCount(3, 20),
        "ordinary": KindCount(30, 40),
        "harmful-pairs": KindCount(10, 20),
        "harmless-pairs": KindCount(33, 0),
    }
    counts = Counter(said(row)[0] for row in result.rows if "bad" in said(row)[0])
    assert sorted(counts.values()) == [1] * 10 + [3] * 10


@pytest.mark.parametrize(
    ("records", "examples", "used"),
    [(RECORDS, [], {"revisions": 40, "examples": 0}), ([], EXAMPLES, {"revisions": 0})],
)
def test_where_there_are_only_examples_or_only_revisions_they_have_all_rows(
    records, examples, used
):
    mix = Mix(refusals=0.4, look_alikes=0.2, examples=0.25)
    result = Mixer(CHAT, records, LOOK + PLAIN, mix, 200, 0, examples).compose(
        MixtureSizes(100, 0, 0.0)
    )
    assert {name: result.parts[name].used for name in used} == used
    total = result.parts["revisions"].used + result.parts["examples"].used
    assert total == 0.4 * len(result.rows)


@pytest.mark.parametrize(
    ("share", "revisions", "examples", "steps"),
    [
        # 6.4 rows of a step are revisions: 310 / 6.4; 10 / 4.8; 300 / 6.4; 300 / 6.4; 10 / 6.4
        (None, 10, 300, 49), (0.25, 10, 300, 3), (1.0, 10, 300, 47), (0.25, 0, 300, 47),
        (0.25, 10, 0, 2),
    ],
)  # fmt: skip
def test_steps_of_an_epoch(share, revisions, examples, steps):
    assert epoch_steps(Mix(examples=share), revisions, examples) == steps


def test_which_records_make_rows():
    others = [o for o in Outcome if o not in (Outcome.KEPT, Outcome.ALREADY_SAFE)]
    records = [
        record(0), record(1, outcome=Outcome.ALREADY_SAFE),
        *(record(n + 2, outcome=o) for n, o in enumerate(others)),
    ]  # fmt: skip
    result = mixed(records, [harmless(0, answer=None)], refusals=1.0, look_alikes=0.0)
    assert sorted(said(row)[0] for row in result.rows) == ["bad 0", "bad 1"]


def test_the_seed_decides_the_order_and_the_input_is_left_alone():
    one, same = mixed(RECORDS, LOOK + PLAIN), mixed(RECORDS, LOOK + PLAIN)
    other = mixed(RECORDS, LOOK + PLAIN, seed=1)
    assert one == same
    assert one.rows != other.rows
    assert {said(row) for row in one.rows if "bad" in said(row)[0]} == {
        said(row) for row in other.rows if "bad" in said(row)[0]
    }


@pytest.mark.parametrize(
    ("records", "good", "kind"),
    [([], LOOK + PLAIN, "revisions"), (RECORDS, PLAIN, "look-alikes"),
     (RECORDS, LOOK, "ordinary")],
)  # fmt: skip
def test_a_share_without_items_is_an_error(records, good, kind):
    with pytest.raises(DataError, match=kind) as caught:
        mixed(records, good)
    assert caught.value.hint
    assert "bad" not in str(caught.value)


def test_kinds_without_a_share_may_be_missing():
    assert len(mixed(RECORDS, [], refusals=1.0, look_alikes=0.0).rows) == 10
    assert len(mixed([], PLAIN, refusals=0.0, look_alikes=0.0).rows) == 30
    assert mixed([], [], rows=0, pairs=0).rows == ()


def test_a_single_item_makes_a_list():
    """One revision at 40 % of 3 rows: 1.2, 0.6 and 1.2, so 1, 1 and 1."""
    result = mixed(RECORDS[:1], LOOK[:1] + PLAIN[:1])
    assert [part.used for part in result.parts.values()] == [1, 1, 1]


@pytest.mark.parametrize("shares", [(0.8, 0.4), (-0.1, 0.2), (1.1, 0.0)])
def test_impossible_shares_are_errors(shares):
    with pytest.raises(ValueError, match="share"):
        mixed(RECORDS, LOOK + PLAIN, refusals=shares[0], look_alikes=shares[1])


def test_rows_cut_by_max_length_are_left_out_and_counted():
    long = RevisionRecord(
        Request("x" * 300, "theft"), "Sure.", "compliance", 0.9, (), "No.", 0.1, 1, Outcome.KEPT
    )
    result = mixed([*RECORDS, long], LOOK + PLAIN, pairs=1, max_length=120)
    assert result.parts["revisions"].items == 10
    assert result.left_out == {"pair-cut": 1, "row-cut": 1}
    check(result.rows, result.pairs)


# --- pairs ----------------------------------------------------------------------------------------


def test_harmful_pairs_prefer_the_revision_to_the_first_answer():
    records = [
        record(0), record(1, says="refusal"), record(2, says="unscored"),
        record(3, outcome=Outcome.ALREADY_SAFE), record(4, outcome=Outcome.UNSAFE),
    ]  # fmt: skip
    pairs = revision_pairs(CHAT, records, 200)
    assert [(said(pair.chosen), said(pair.rejected)) for pair in pairs] == [
        (("bad 0", "No theft 0."), ("bad 0", "Sure 0.")),
        (("bad 2", "No theft 2."), ("bad 2", "Sure 2.")),
    ]
    check([], pairs)
    assert pairs[0].rejected == CHAT.train_tokens(
        [Message("user", "bad 0"), Message("assistant", "Sure 0.")], 200
    )


def test_shares_of_pairs_by_hand():
    """10 harmful pairs at 75 % make 14 (13.33 up): 11 and 3, rounded from 10.5 and 3.5."""
    result = mixed(RECORDS, LOOK + PLAIN, rows=0, pairs=1, harmless_pairs=0.25)
    assert result.parts == {"harmful-pairs": KindCount(10, 11), "harmless-pairs": KindCount(33, 3)}
    assert len(result.pairs) == 14
    assert result.rows == ()
    check([], result.pairs)


def test_harmless_pairs_reject_a_needless_refusal_of_their_own_or_of_their_topic():
    records = [record(0, "theft"), record(1, "hate"), record(2, "hate"), record(3, "fraud")]
    good = [
        harmless(0, "homonym", "hate", refused="I can't."), harmless(1, "homonym", "hate"),
        harmless(2, "homonym", "drugs"), harmless(3), harmless(4, answer=None, refused="I can't."),
    ]  # fmt: skip
    result = mixed(records, good, rows=0, pairs=1, harmless_pairs=1.0)
    pairs = {said(p.chosen)[0]: (said(p.chosen)[1], said(p.rejected)[1]) for p in result.pairs}
    assert pairs["good 0homonym"] == ("Gladly 0.", "I can't.")
    assert pairs["good 1homonym"][1] in ("No hate 1.", "No hate 2.")
    assert pairs["good 2homonym"][1].startswith("No ")  # no refusal of its topic: any
    assert pairs["good 3"][1].startswith("No ")
    assert len(result.pairs) == 4
    draws = {
        said(pair.rejected)[1]
        for seed in range(20)
        for pair in mixed(records, good, 0, 1, seed=seed, harmless_pairs=1.0).pairs
        if "good 1" in said(pair.chosen)[0]
    }
    assert draws == {"No hate 1.", "No hate 2."}


def test_useless_pairs_are_left_out_and_counted():
    same = RevisionRecord(
        Request("bad", "theft"), "No theft.", "compliance", 0.9, (), "No theft. ", 0.1, 1,
        Outcome.KEPT,
    )  # fmt: skip
    empty = RevisionRecord(
        Request("worse", "theft"), " ", "unscored", None, (), "No.", 0.1, 1, Outcome.KEPT
    )
    result = mixed([record(0), same, empty], PLAIN[:2], rows=0, pairs=1)
    assert result.left_out == {"pair-alike": 1, "pair-empty": 1}
    assert result.parts["harmful-pairs"].items == 1


def test_missing_pairs_are_an_error():
    refusing = [record(n, says="refusal") for n in range(4)]
    with pytest.raises(DataError, match="harmful-pairs"):
        mixed(refusing, PLAIN, rows=0, pairs=1)
    with pytest.raises(DataError, match="harmless-pairs"):
        mixed(RECORDS, [], rows=0, pairs=1)
    assert len(mixed(refusing, PLAIN, 0, 1, harmless_pairs=1.0).pairs) == 30


def test_the_benign_control_needs_nothing_of_its_own():
    """Revisions of harmless requests are rows and chosen answers, and no refusals to borrow."""
    benign = [record(n, "", harmful=False) for n in range(4)]
    benign.append(record(4, "", says="refusal", harmful=False))
    result = mixed(benign, LOOK + PLAIN, pairs=1, harmless_pairs=0.0)
    assert result.parts["revisions"] == KindCount(5, 5)
    assert result.parts["harmful-pairs"] == KindCount(5, 5)
    assert result.left_out == {"no-refusal": 33}
    with pytest.raises(DataError, match="harmless-pairs"):
        mixed(benign, LOOK + PLAIN, pairs=1)


def test_the_report_has_no_text():
    shown = json.dumps(mixed(RECORDS, LOOK + PLAIN, pairs=5).to_json())
    assert json.loads(shown)["parts"]["ordinary"] == {"items": 30, "used": 10}
    assert not any(word in shown for word in ("bad", "good", "Sure", "Gladly"))
