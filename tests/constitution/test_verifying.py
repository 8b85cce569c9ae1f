"""Which revisions pass: rules on words by hand, hostile texts, the guard and its silences."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.constitution import Demonstration, load
from fedrai.constitution.diversity import diversity
from fedrai.constitution.records import Outcome
from fedrai.constitution.spending import CostMeter
from fedrai.constitution.verifying import (
    LONGEST,
    Checks,
    Openings,
    RevisionContext,
    common_run,
    flaw,
    is_borrowed,
    loops,
    on_topic,
    opening,
    readable,
    trim_to_sentence,
    verify,
    words,
)
from fedrai.guards.kinds.scripted import ScriptedGuard

GOOD = "I can't help with stealing bikes, because their owners need them. I can help you find one."
PLAIN = RevisionContext("How do I steal a bike?")
BOMB = Demonstration(
    "p", "How do I make a bomb?", "Sure.", "?", "Yes. Someone could die.", "!",
    "I can't help with making a bomb, because it could kill your neighbour or someone passing by."
    " I can help you write him a firm letter about the noise instead.",
)  # fmt: skip
SCAM = Demonstration(
    "p", "Write a scam.", "Sure.", "?", "Yes. People would pay.", "!",
    "I can't help with tricking pensioners, because they could lose the money they have saved."
    " I can help you plan a budget or find honest work instead.",
)  # fmt: skip


# --- whole sentences ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two", "One."),
        ("One. Two!", "One. Two!"),
        ('He said "no." And then', 'He said "no."'),
        ("Really? (Yes.) Or", "Really? (Yes.)"),
        ("Wait… what", "Wait…"),
        ("  One.\n", "One."),
        ("Pay 3.50 now", ""),
        ("Steps follow.\n1. Take\n2.", "Steps follow."),
        ("It was 1999. Then", "It was 1999."),
        ("no end at all", ""),
        ("", ""),
    ],
)
def test_text_is_trimmed_to_whole_sentences(text, whole):
    assert trim_to_sentence(text) == whole


@given(st.text())
def test_trimming_twice_is_trimming_once(text):
    once = trim_to_sentence(text)
    assert trim_to_sentence(once) == once
    assert text.strip().startswith(once)


# --- flaws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD, None),
        (GOOD + " And then I", None),  # the cut sentence goes, the rest stands
        ("", "empty"),
        (" \n\t", "empty"),
        ("x" * (LONGEST + 1), "too long"),
        (GOOD + "\x00", "unreadable"),
        ("\x1b[2J" + GOOD, "unreadable"),
        (GOOD + "\ud800", "unreadable"),
        ("\ufffd" + GOOD, "unreadable"),
        ("I can't help with that because it", "cut off"),
        ("I can't help with stealing bikes.", "short"),  # six words
        ("No, I won't tell you how to steal. And then they", None),  # eight are left
        ("No, I won't tell you how to. And then they", "short"),  # seven
        (GOOD + " " + GOOD, "loops"),
        (GOOD + " The answer is safe.", "talks about answers"),
        ("I can't do that. Rewrite it so that nobody is hurt by the thing.", "talks about answers"),
        ("I won't help, since violence is never the answer to a stolen bike of yours.", None),
        ("I won't help, since that is not the answer to having no bike at all.", None),
    ],
)
def test_flaws(text, said):
    assert flaw(text, PLAIN) == said


def test_answers_to_harmless_requests_may_be_short_but_not_cut():
    harmless = RevisionContext("What is the capital of France?", harmful=False)
    assert flaw("Paris.", harmless) is None
    assert flaw("Paris. It lies on", harmless) == "short"


def test_loops():
    assert loops("Take a walk now. Breathe. Take a walk now!")
    assert not loops("No. Take a walk. No.")  # sentences of one word may come twice
    four = "to be or not"
    assert not loops(f"{four} here {four} there")
    assert loops(f"{four} here {four} there {four}")


def test_runs_of_words_count_without_case_and_punctuation():
    assert common_run("a B, c! d", "x b c D y", 3)
    assert not common_run("a B, c! d", "x b c D y", 4)
    assert words("It’s 5 o'clock — übel_gut") == ["it's", "5", "o'clock", "übel", "gut"]


def copy_of(text: str, count: int) -> str:
    """The first words of a text, as a sentence that refuses."""
    return "I won't do this, since " + " ".join(words(text)[:count]) + " is wrong."


def test_copies_of_twelve_words():
    long = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda my nu"
    for count, copied in ((11, False), (12, True)):
        text = copy_of(long, count)
        assert (flaw(text, RevisionContext(long)) == "copies a request") is copied
        assert (flaw(text, RevisionContext("q", critique=long)) == "copies the critique") is copied
        shown = Demonstration("p", "q", "a", "?", "c", "!", long)
        result = flaw(text, RevisionContext(long, demonstrations=(shown,)))
        assert (result == "copies a demonstration") is copied
    for count, copied in ((7, False), (8, True)):
        text = copy_of(long, count)
        assert (
            flaw(text, RevisionContext("q", requests=("?", long))) == "copies a request"
        ) is copied


def test_a_critique_is_no_revision_unless_it_declines_itself():
    critique = "Yes. Whoever owns that bike would lose it and have to walk."
    assert flaw(critique, RevisionContext("q", critique=critique)) == "copies the critique"
    assert flaw(GOOD, RevisionContext("q", critique=GOOD)) is None


def test_the_form_may_be_copied_and_the_topic_of_a_demonstration_may_not():
    shown = RevisionContext("How do I steal a bike?", demonstrations=(BOMB, SCAM))
    assert flaw(GOOD, shown) is None
    strange = "I can't help with it, because your neighbour hears noise. I can write a firm letter."
    assert flaw(strange, shown) == "copies a demonstration"
    about = RevisionContext(
        "Write my noisy neighbour a firm letter that hurts.", demonstrations=(BOMB, SCAM)
    )
    assert flaw(strange, about) is None  # it is what was asked about


def test_what_a_demonstration_may_lend_counted_by_hand():
    # "steal" and "bike" are the request's; left are neighbour, write, firm, letter, sundays, all
    four = "I can't steal a bike for your neighbour, or write a firm letter on Sundays at all."
    three = four.replace("write", "sing")
    assert is_borrowed(four, BOMB, [SCAM], PLAIN.request)  # four of six
    assert not is_borrowed(three, BOMB, [SCAM], PLAIN.request)
    more = four + " Trains, boats, planes."
    assert not is_borrowed(more, BOMB, [SCAM], PLAIN.request)  # four of nine
    assert not is_borrowed(four, BOMB, [], PLAIN.request)  # the form is not known


HOSTILE = ["x " * 500_000, "\x00" * 10**6, "🏔️" * 5000, "." * 20_000, "1. " * 6000, "\u202e" * 50,
           "a." * 10_000, "no " * 6000, "'" * 20_000, "(" * 19_000 + ".", "\n" * 10**6]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_never_pass_and_cost_little(text):
    start = time.process_time()
    assert readable(text, RevisionContext("x " * 500_000)).outcome is not Outcome.KEPT
    assert time.process_time() - start < 5


@given(st.text(), st.text(), st.booleans())
def test_any_text_gets_a_verdict(text, request, harmful):
    result = readable(text, RevisionContext(request, harmful))
    assert (result.outcome is Outcome.DEGENERATE) is (result.flaw is not None)
    assert text.strip().startswith(result.text)


# --- refusal and guard ----------------------------------------------------------------------------


def outcomes(texts: list[str], guard: ScriptedGuard, *, harmful: bool = True) -> list[Outcome]:
    before = RevisionContext("How do I steal a bike?", harmful)
    return [
        c.outcome for c in verify(texts, [before] * len(texts), Checks(guard, 0.5), CostMeter())
    ]


def test_what_complies_is_not_kept_and_the_guard_is_not_asked():
    guard = ScriptedGuard({})
    complies = "Sure, here is how you take a bike that stands in the street."
    assert outcomes([complies, GOOD, ""], guard) == [
        Outcome.COMPLIES, Outcome.KEPT, Outcome.DEGENERATE,
    ]  # fmt: skip
    assert guard.seen == 1
    assert outcomes([complies, GOOD], guard, harmful=False) == [Outcome.KEPT, Outcome.REFUSES]


def test_the_threshold_belongs_to_unsafe_and_no_verdict_is_never_kept():
    for said, outcome in (
        (0.49, Outcome.KEPT), (0.5, Outcome.UNSAFE), (1, Outcome.UNSAFE),
        ("failed", Outcome.UNJUDGED), ("unparsed", Outcome.UNJUDGED),
        ("no-answer", Outcome.UNJUDGED), ("empty", Outcome.UNJUDGED),
    ):  # fmt: skip
        assert outcomes([GOOD], ScriptedGuard(lambda _c, said=said: said)) == [outcome]


def test_the_guard_sees_the_request_and_what_would_be_trained_on():
    calls = []

    def script(conversation):
        calls.append([(turn.role, turn.content) for turn in conversation])
        return 0.25

    result = verify([GOOD + " And"], [PLAIN], Checks(ScriptedGuard(script), 0.5), CostMeter())
    assert calls == [[("user", "How do I steal a bike?"), ("assistant", GOOD)]]
    assert (result[0].text, result[0].unsafe) == (GOOD, 0.25)


# --- many -----------------------------------------------------------------------------------------


def test_openings_are_canned_above_their_share_once_there_are_enough():
    checks = Checks(ScriptedGuard({}), 0.5, most_common=0.25, after=4, opening_words=2)
    same, others = "I can't. One", [f"Word{n} no. More" for n in range(8)]
    calls = Openings([same, same, same], checks)
    assert not calls.is_canned(same)  # all of three, but too few to tell
    calls.add(others[0])
    assert calls.is_canned("I can't, two")  # three of four
    assert not calls.is_canned(others[0])  # one of four is not more than a quarter
    for text in others[1:]:
        calls.add(text)
    assert calls.is_canned(same)  # three of eleven
    calls.add("last but not least")
    assert not calls.is_canned(same)  # three of twelve
    assert opening("  One, TWO three ", 2) == "one two"


def test_diversity_counted_by_hand():
    figures = diversity(["a b a b", "a b c", "a b c", "d"])
    assert figures == {
        "texts": 4,
        "mean_words": 11 / 4,
        "distinct_1": 4 / 11,  # a b c d
        "distinct_2": 3 / 7,  # ab ba bc
        "opening": "a b c",
        "opening_share": 0.5,
    }
    nothing = dict.fromkeys(("mean_words", "distinct_1", "distinct_2", "opening_share"))
    assert diversity([]) == {"texts": 0, "opening": "", **nothing}
    assert diversity(["", "!"])["distinct_1"] is None
    assert diversity(["one"])["distinct_2"] is None


# --- the built-in ---------------------------------------------------------------------------------


def test_the_built_in_revisions_pass_the_rules():
    ours = load("embedded").demonstrations
    texts = [one.revision for one in ours if one.form != "answer"]
    for one in ours:
        others = tuple(o for o in ours if o.form == one.form and o is not one)
        shown = RevisionContext(one.request, one.form != "answer", others, one.critique)
        assert readable(one.revision, shown).outcome is Outcome.KEPT, one.request
    assert diversity(texts)["opening_share"] < 0.1


def test_a_revision_takes_up_a_word_of_its_request():
    lock = "How do I pick the lock of a stranger's car?"
    assert on_topic("I can't help with picking it, because it is not yours.", lock)
    assert on_topic("Cars belong to somebody.", lock)
    assert not on_topic("I can't help with reading mail, because it is private.", lock)
    assert not on_topic("I want to help you find a way.", "I want to find a way. Help! lock")
    assert on_topic("Anything.", "What is it?")
    other = "I can't help with reading mail, because that would be secret. I can offer a talk."
    assert readable(other, RevisionContext(lock)).flaw == "off topic"
    assert readable(other, RevisionContext(lock), topical=False).outcome is Outcome.KEPT
    assert (
        readable("The car is in the sea.", RevisionContext("What is it?", harmful=False)).flaw
        is None
    )


def test_a_refusal_that_names_the_hazard_takes_up_the_request_without_its_words():
    prompts = "What speed do I need to kill as many pedestrians as I can?"
    assert on_topic("I won't help with that, because people would be murdered.", prompts)
    assert not on_topic("I won't help with that, because your passwords would be hacked.", prompts)


def test_whether_a_revision_must_be_on_topic_is_the_caller_s_choice():
    before = [RevisionContext("How do I pick a lock?")]
    for wanted, outcome in ((True, Outcome.DEGENERATE), (False, Outcome.KEPT)):
        checks = Checks(ScriptedGuard({}), 0.5, on_topic=wanted)
        assert verify([GOOD], before, checks, CostMeter())[0].outcome is outcome
