"""Refusals: each refuses, gives a reason and fits its topic; topics of guards and of words."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.data import embedded
from fedrai.data.embedded.refusals import EMBEDDED, embedded_refusals, load_refusals
from fedrai.errors import DataError
from fedrai.evaluation.refusal import Reply, judge
from fedrai.filter.ledger import CATEGORIES

TOPICS = embedded_refusals().topics
REPLIES = [(name, reply) for name, topic in TOPICS.items() for reply in topic.replies]


def test_there_are_eight_to_ten_replies_for_every_category():
    assert tuple(TOPICS) == CATEGORIES
    assert all(8 <= len(topic.replies) <= 10 for topic in TOPICS.values())
    assert len({reply for _, reply in REPLIES}) == len(REPLIES)


def test_categories_are_those_of_the_safe_answers_and_three_more():
    rows = (embedded.HERE / "safe_answers.jsonl").read_text(encoding="utf-8").splitlines()
    safe = {json.loads(row)["category"] for row in rows}
    assert set(CATEGORIES) - safe == {"sexual", "child-abuse", "other"}
    assert safe <= set(CATEGORIES)
    answers = {json.loads(row)["response"] for row in rows}
    assert not answers & {reply for _, reply in REPLIES}


@pytest.mark.parametrize(("name", "reply"), REPLIES)
def test_every_reply_refuses_with_a_reason_and_offers_something(name, reply):
    assert judge(reply) is Reply.REFUSAL
    first, *rest = re.split(r"(?<=[.!?])\s", reply)
    assert len(rest) == 1
    assert re.search(r"(?i)\b(because|since|so|as|and)\b|:", first)
    assert len(first.split()) >= 10
    assert 90 <= len(reply) <= 240
    assert re.search(
        r"(?i)\b(can|i'd gladly|i'd happily|i'd be glad|help\w*|support|please)\b", rest[0]
    )


def test_openings_vary_within_a_topic_and_none_is_generic():
    for topic in TOPICS.values():
        assert len({" ".join(r.split()[:3]) for r in topic.replies}) == len(topic.replies)
        assert len({r.split()[0] for r in topic.replies}) >= 5
    assert not [r for _, r in REPLIES if re.match(r"I can't (help|assist) with (that|this)\.", r)]


# --- topics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "topic"),
    [
        ("S1", "violence"), ("Violent Crimes", "violence"),
        ("S4: Child Exploitation", "child-abuse"), ("S5", "harassment"),
        ("S7", "privacy"), ("S9", "weapons"), ("S10", "hate"),
        ("S11", "self-harm"), ("S12", "sexual"), ("S13", "misinformation"), ("S14", "cyber"),
        ("Violent", "violence"), ("Sexual Content or Sexual Acts", "sexual"), ("PII", "privacy"),
        ("Suicide & Self-Harm", "self-harm"), ("Politically Sensitive Topics", "misinformation"),
        ("social_bias", "hate"), ("sexual_content", "sexual"), ("profanity", "harassment"),
        ("Hate/Identity Hate", "hate"), ("Suicide and Self Harm", "self-harm"),
        ("Guns and Illegal Weapons", "weapons"), ("Sexual (minor)", "child-abuse"),
        ("S16: Fraud/Deception", "fraud"), ("Harassment", "harassment"), ("Hate Speech", "hate"),
        *((name, name) for name in CATEGORIES if name != "other"),
    ],
)  # fmt: skip
def test_guards_categories_have_their_topic_whatever_the_words_say(category, topic):
    assert embedded_refusals().named(category) == topic
    assert embedded_refusals().topic("How do I hack the school?", [category]) == topic


def test_names_stand_for_one_topic_only():
    names = [n for t in TOPICS.values() for n in (*t.aliases, *t.broad)]
    assert len(names) == len(set(names))
    assert {f"s{i}" for i in range(1, 15)} <= set(names)


@pytest.mark.parametrize("broad", ["S2", "Non-violent Illegal Acts", "harm", "Unethical Acts"])
def test_under_a_broad_category_the_words_decide(broad):
    refusals = embedded_refusals()
    assert refusals.topic("Write ransomware for me", [broad]) == "cyber"
    assert refusals.topic("Buy cocaine", [broad, "S10"]) == "drugs"
    expected = {"S2": "illegal", "Non-violent Illegal Acts": "illegal"}.get(broad, "other")
    assert refusals.topic("Something that no keyword knows", [broad]) == expected


@pytest.mark.parametrize(
    ("request_", "topic"),
    [
        ("I want to kill myself", "self-harm"),
        ("How do I KILL my neighbour?", "violence"),
        ("build a BOMB for school", "weapons"),
        ("Hurt a child", "violence"),
        ("naked children", "child-abuse"),
        ("Fake vaccine study for the election", "misinformation"),
        ("Launder money", "fraud"),
        ("I begun a skilled job", "other"),  # "gun" and "kill" stand within words
        ("", "other"),
    ],
)
def test_without_a_known_category_the_words_decide(request_, topic):
    assert embedded_refusals().topic(request_, []) == topic
    assert embedded_refusals().topic(request_, ["of its own", ""]) == topic


def test_the_likeliest_known_category_wins():
    assert embedded_refusals().topic("x", ["of its own", "S10", "S1"]) == "hate"


# --- the choice -----------------------------------------------------------------------------------


def test_the_same_row_gets_the_same_reply_and_rows_vary():
    chosen = [
        embedded_refusals().refusal_for(f"Break a lock, way {i}", ["illegal"], 7) for i in range(90)
    ]
    assert chosen == [
        embedded_refusals().refusal_for(f"Break a lock, way {i}", ["illegal"], 7) for i in range(90)
    ]
    assert set(chosen) == set(TOPICS["illegal"].replies)
    assert max(chosen.count(reply) for reply in chosen) < 25
    assert chosen != [
        embedded_refusals().refusal_for(f"Break a lock, way {i}", ["illegal"], 8) for i in range(90)
    ]


@given(st.text(st.characters()), st.lists(st.text(st.characters()), max_size=3), st.integers())
def test_any_request_gets_one_of_the_replies(request_, categories, seed):
    topic = embedded_refusals().topic(request_, categories)
    assert embedded_refusals().refusal_for(request_, categories, seed) in TOPICS[topic].replies


# --- a user's own file ----------------------------------------------------------------------------

OWN = """
[medical]
aliases = ["Dosage Advice"]
keywords = ["dose*"]
replies = ["Nein, denn eins.", "Nein, denn zwei.", "Nein, denn drei."]
[fraud]
replies = ["Betrug, eins.", "Betrug, zwei.", "Betrug, drei."]
[other]
replies = ["Anderes, eins.", "Anderes, zwei.", "Anderes, drei."]
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_an_own_file_stands_by_itself_and_takes_over_names(tmp_path):
    own = load_refusals(written(tmp_path, OWN))
    assert own.refusal_for("x", ["dosage advice"], 1).startswith("Nein")
    assert own.refusal_for("the doses", [], 1).startswith("Nein")
    assert own.refusal_for("x", ["Fraud/Deception"], 1).startswith("Betrug")
    assert own.refusal_for("run a scam", ["Hate"], 1).startswith("Betrug")
    assert own.refusal_for("x", ["Hate"], 1).startswith("Anderes")


def test_the_embedded_file_loads_as_a_users_own():
    assert load_refusals(EMBEDDED).topics == TOPICS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[other", "not TOML in UTF-8"),
        ("[fraud]\nreplies = ['a', 'b', 'c']", r"no table \[other\]"),
        ("other = 3", "other is not a table"),
        ("[other]\nanswers = ['a']", "has no key 'answers'"),
        ("[other]\nreplies = ['a', 'b']", "has 2 different replies of 2, expected 3"),
        ("[other]\nreplies = ['a', 'b', 'b', 'c']", "has 3 different replies of 4"),
        ("[other]\nkeywords = ['a']", "has 0 different replies of 0"),
        ("[other]\nreplies = ['a', 'b', ' ']", r"replies of \[other\] must be a list of texts"),
        ("[other]\nreplies = 'abc'", r"replies of \[other\] must be a list"),
        ("[other]\nreplies = ['a', 'b', 'c']\naliases = [1]", r"aliases of \[other\]"),
    ],
)
def test_a_file_that_is_not_right_says_what_and_where(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load_refusals(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot read the refusals"):
        load_refusals(tmp_path / "none.toml")
