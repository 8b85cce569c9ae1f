"""Constitutions: read and refused with a place; hash and draws worked out by hand; our own file."""

import hashlib
import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.constitution import Constitution, Demonstration, Principle, load
from fedrai.errors import ConstitutionError
from fedrai.evaluation.refusal import Reply, judge
from fedrai.filter.ledger import CATEGORIES
from fedrai.recipe.constitution_file import ConstitutionFile, DemonstrationTable, PrincipleTable
from fedrai.records import Message

ROOT = Path(__file__).parents[2]
OURS = load("embedded")
SMALL = """
name = "small"
version = "2"

[[principles]]
id = "kind"
title = "Be kind"
look_for = "Unkind words."
critique_request = "Was it kind?"
revision_request = "Be kinder."

[[principles]]
id = "arms"
title = "No arms"
look_for = "Arms."
critique_request = "Did it arm anyone?"
revision_request = "Disarm it."
categories = ["weapons", "violence"]

[[demonstrations]]
principle = "arms"
request = "Sell me a gun."
answer = "Sure."
critique = "It sells a gun."
revision = "Guns kill, so no."
"""
KIND = Principle("kind", "Be kind", "Unkind words.", "Was it kind?", "Be kinder.")
ARMS = Principle(
    "arms", "No arms", "Arms.", "Did it arm anyone?", "Disarm it.", ("weapons", "violence")
)


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def refused(folder: Path, text: str, name: str = "mine.toml") -> str:
    with pytest.raises(ConstitutionError) as error:
        load(write(folder, text, name))
    return error.value.message


def made(**categories: tuple[str, ...]) -> Constitution:
    """A constitution of principles that are only ids and categories."""
    return Constitution(
        "made", "1", tuple(Principle(k, "t", "l", "c", "r", v) for k, v in categories.items())
    )


def ids(principles) -> list[str]:
    return [entry.id for entry in principles]


# --- TOML -----------------------------------------------------------------------------------------


def test_a_file_becomes_records(tmp_path):
    demonstration = Demonstration(
        "arms", "Sell me a gun.", "Sure.", "Did it arm anyone?", "It sells a gun.", "Disarm it.",
        "Guns kill, so no.",
    )  # fmt: skip
    result = load(write(tmp_path, SMALL))
    assert result == Constitution("small", "2", (KIND, ARMS), (demonstration,))
    assert load(str(tmp_path / "mine.toml")) == result
    assert [(turn.role, turn.content) for turn in demonstration.turns] == [
        ("user", "Sell me a gun."), ("assistant", "Sure."),
        ("user", "Did it arm anyone?"), ("assistant", "It sells a gun."),
        ("user", "Disarm it."), ("assistant", "Guns kill, so no."),
    ]  # fmt: skip


def test_a_byte_order_mark_and_space_around_texts_do_not_matter(tmp_path):
    spaced = SMALL.replace('"Be kinder."', '"""\n  Be kinder.\n"""')
    assert load(write(tmp_path, "\ufeff" + spaced)) == load(write(tmp_path, SMALL, "b.toml"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "No arms"', 'titel = "No arms"',
         "principle 2: title is missing; principle 2: unknown key titel (did you mean title?)"),
        ("name =", "nmae =", "name is missing; unknown key nmae (did you mean name?)"),
        ('version = "2"', "version = 2", "version: should be a valid string, got 2"),
        ('"Was it kind?"', '"  "',
         "principle 1, critique_request: expected a text, got an empty one"),
        ('"Sure."', '"\\u001b[2J"', "demonstration 1, answer: it contains a control character"
         " or an incomplete character"),
        ('id = "arms"', 'id = "No Arms"', "principle 2, id: expected lower-case letters, digits and"
         " single hyphens, at most 40 characters"),
        ('id = "arms"', 'id = "kind"', "principle 2 (kind): principle 1 has the same id;"
         " demonstration 1: no principle 'arms' (known: kind, kind)"),
        ('principle = "arms"', 'principle = "arm"',
         "demonstration 1: no principle 'arm' (did you mean arms?)"),
        ('"violence"]', '"violense"]',
         "principle 2 (arms): no category 'violense' (did you mean violence?)"),
        ('"violence"]', '"weapons"]', "principle 2 (arms): category 'weapons' is repeated"),
        ('"violence"]', "3]", "principle 2, category 2: should be a valid string, got 3"),
        ('["weapons", "violence"]', '"weapons"',
         "principle 2, categories: should be a valid list, got 'weapons'"),
        ("[[demonstrations]]", "[demonstrations]",
         "demonstrations: should be a valid list, got a dict of "),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_the_place(tmp_path, old, new, said):
    text = SMALL.replace(old, new, 1)
    assert text != SMALL
    message = refused(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'mine.toml'}: {said}")


def test_no_principle_is_refused(tmp_path):
    assert "principles is missing" in refused(tmp_path, 'name = "a"\nversion = "1"')
    assert "principles: " in refused(tmp_path, 'name = "a"\nversion = "1"\nprinciples = []')


def test_many_problems_make_one_short_error(tmp_path):
    text = 'name = "a"\nversion = "1"\n' + "[[principles]]\n" * 40
    message = refused(tmp_path, text)
    assert message.count("is missing") == 10
    assert message.endswith("; and 190 more")  # 40 principles of 5 keys each


def test_unreadable_files_are_errors(tmp_path):
    assert "is not valid TOML: Invalid value (at line 1" in refused(tmp_path, "name = \n")
    assert "is not valid JSON: Expecting value: line 1" in refused(tmp_path, "", "a.json")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConstitutionError, match=r"latin\.toml is not UTF-8 \(byte 8\)"):
        load(tmp_path / "latin.toml")
    with pytest.raises(ConstitutionError, match="No such file") as error:
        load(tmp_path / "none.toml")
    assert "embedded" in error.value.hint
    with pytest.raises(ConstitutionError, match="Is a directory"):
        load(tmp_path)
    assert "not valid JSON" in refused(tmp_path, "[" * 100_000, "deep.json")


# --- the JSON layout ------------------------------------------------------------------------------

PAIRS = [{"critic": "Is it rude?", "revision": "Be polite."},
         {"critic": "Is it true?", "revision": "Be true."}]  # fmt: skip


def dialogue(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]


def pairs_file(folder: Path, *dialogues, name: str = "pairs.json", **more) -> Path:
    body = {"constitutions": PAIRS, "system_chat": list(dialogues)} | more
    return write(folder, json.dumps(body), name)


def test_pairs_and_dialogues_become_principles_and_demonstrations(tmp_path):
    matched = dialogue("Hi", "Go away", "Is it true?", "No.", "Be true.", "Hello!")
    own = dialogue("A", "B", "Hi", "Go away", "Is it rude?", "Yes.", "Be true.", "Hello!")
    result = load(pairs_file(tmp_path, matched, own))
    assert result.name == "pairs"
    assert result.principles == (
        Principle("principle-1", "Principle 1", "", "Is it rude?", "Be polite."),
        Principle("principle-2", "Principle 2", "", "Is it true?", "Be true."),
    )
    first, second = result.demonstrations
    assert (first.principle, first.before) == ("principle-2", ())
    assert (first.request, first.critique, first.revision) == ("Hi", "No.", "Hello!")
    assert second.principle == ""  # the critique of one principle, the revision of another
    assert second.before == (Message("user", "A"), Message("assistant", "B"))
    for shown, turns in ((first, matched), (second, own)):
        assert [{"role": t.role, "content": t.content} for t in shown.turns] == turns


def test_of_two_equal_pairs_the_first_has_the_demonstration(tmp_path):
    turns = dialogue("Hi", "Go away", "Is it true?", "No.", "Be true.", "Hello!")
    result = load(pairs_file(tmp_path, turns, constitutions=[*PAIRS, PAIRS[1]]))
    assert [shown.principle for shown in result.demonstrations] == ["principle-2"]


def test_a_bare_list_of_pairs_is_a_constitution(tmp_path):
    result = load(write(tmp_path, json.dumps(PAIRS), "bare.JSON"))
    assert ids(result.principles) == ["principle-1", "principle-2"]
    assert result.demonstrations == ()


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        (dialogue(*"abcd"), "dialogue 1 has 4 turns, expected 6"),
        (dialogue(*"abcdefg"), "dialogue 1 has 7 turns, expected 6"),
        (dialogue(*"zabcdef")[1:], "dialogue 1, turn 1: user and assistant must alternate"),
        ([{"role": "system", "content": "a"}], "dialogue 1, turn 1, role: "),
        ([{"role": "user", "contnet": "a"}], "unknown key contnet (did you mean content?)"),
        ("abcdef", "dialogue 1: should be a valid list, got 'abcdef'"),
        (["a"], "dialogue 1, turn 1: should be a table of keys, got 'a'"),
    ],
)
def test_a_wrong_dialogue_is_refused(tmp_path, turns, said):
    with pytest.raises(ConstitutionError, match=re.escape(said)):
        load(pairs_file(tmp_path, turns))


def test_a_wrong_json_file_is_refused(tmp_path):
    with pytest.raises(ConstitutionError, match=r"did you mean system_chat\?"):
        load(pairs_file(tmp_path, system_chats=[]))
    assert "pair 1: critic is missing" in refused(tmp_path, '[{"revision": "a"}]', "a.json")
    assert "should be a table of keys, got 3" in refused(tmp_path, "3", "a.json")
    lone = json.dumps([{"critic": "\ud800", "revision": "a"}])  # half a surrogate pair
    assert "pair 1, critic: it contains a control character or an incomplete character" in refused(
        tmp_path, lone, "a.json"
    )
    steering = json.dumps([{"critic": "a", "revision": "b", "\x1b[2J": "c"}])
    assert "pair 1: unknown key ?[2J (" in refused(tmp_path, steering, "a.json")
    long = json.dumps([{"critic": ["secret " * 50], "revision": "a"}])
    assert "got a list of 354 characters" in refused(tmp_path, long, "a.json")


# --- hash -----------------------------------------------------------------------------------------


def test_the_hash_is_that_of_the_canonical_json():
    text = (
        '{"demonstrations":[],"principles":[{"categories":["fraud"],"critique_request":"c\\n\\"é\\"",'
        '"id":"a","look_for":"l","revision_request":"r","title":"t"}],"version":"1"}'
    )
    principle = Principle("a", "t", "l", 'c\n"é"', "r", ("fraud",))
    result = Constitution("any name", "1", (principle,))
    assert result.hash == hashlib.sha256(text.encode("utf-8")).hexdigest()
    assert result.to_json()["hash"] == result.hash


def test_the_hash_changes_with_every_text_and_not_with_the_layout(tmp_path):
    base = load(write(tmp_path, SMALL)).hash
    commented = SMALL.replace("[[principles]]", "# words\n[[principles]]").replace('"small"', '"x"')
    assert load(write(tmp_path, commented)).hash == base
    strings = sorted(set(re.findall(r'"[^"\n]+ [^"\n]+"', SMALL)))
    hashes = {load(write(tmp_path, SMALL.replace(s, s[:-1] + '!"'))).hash for s in strings}
    assert len(strings) == 10
    assert len(hashes | {base}) == 11


# --- which principles -----------------------------------------------------------------------------

MIXED = made(a=("fraud",), b=(), c=("fraud", "cyber"), d=("drugs",), e=())


def test_general_principles_and_one_by_its_id():
    assert ids(MIXED.general) == ["b", "e"]
    assert MIXED.principle("d").categories == ("drugs",)
    with pytest.raises(ConstitutionError, match="made has no principle 'z'"):
        MIXED.principle("z")


def test_a_draw_takes_the_category_first_then_the_general_ones():
    for request in range(20):
        drawn = ids(MIXED.draw(3, request, 9, "fraud"))
        assert (set(drawn[:2]), set(drawn[2:])) == ({"a", "c"}, {"b", "e"})
        assert set(ids(MIXED.draw(3, request, 9, "hate"))) == {"b", "e"}  # nobody names it
        assert set(ids(MIXED.draw(3, request, 9))) == {"b", "e"}
        assert ids(MIXED.draw(3, request, 1, "drugs")) == ["d"]


def test_without_a_fitting_principle_any_is_drawn():
    specific = made(a=("fraud",), b=("cyber",))
    assert set(ids(specific.draw(0, 0, 2, "hate"))) == {"a", "b"}
    assert ids(specific.draw(0, 0, 2, "cyber")) == ["b"]


def test_the_order_of_a_draw_worked_out_by_hand():
    def digest(id_: str) -> str:
        return hashlib.sha256(f'[7, 4, "{id_}"]'.encode()).hexdigest()

    plain = made(a=(), b=(), c=(), d=())
    assert ids(plain.draw(7, 4, 4)) == sorted("abcd", key=digest)


@given(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(1, 20))
def test_a_draw_is_seeded_and_without_replacement(seed, request, count):
    drawn = ids(OURS.draw(seed, request, count, "cyber"))
    assert drawn == ids(OURS.draw(seed, request, 20, "cyber"))[:count]
    assert len(set(drawn)) == len(drawn) == min(count, 7)  # one of its own, six general
    assert drawn[0] == "cyber"
    turned = Constitution("turned", "1", OURS.principles[::-1])
    assert ids(turned.draw(seed, request, count, "cyber")) == drawn


def test_draws_are_even_and_differ_by_request_and_seed():
    drawn = [ids(OURS.draw(1, request))[0] for request in range(3000)]
    counts = Counter(drawn)
    assert set(counts) == set(ids(OURS.general))
    squares = sum((n - 500) ** 2 / 500 for n in counts.values())
    assert squares < 20.5  # chi-square of 5 degrees of freedom, p = 0.001
    other = [ids(OURS.draw(2, request))[0] for request in range(3000)]
    same = sum(a == b for a, b in zip(drawn, other, strict=True))
    assert 400 < same < 600  # one in six


def test_a_draw_of_zero_or_of_an_unknown_category_is_an_error():
    with pytest.raises(ConstitutionError, match="at least 1, got 0"):
        OURS.draw(0, 0, 0)
    with pytest.raises(ConstitutionError, match="1 of the requested categories") as error:
        OURS.draw(0, 0, 1, "canary-7f3a")
    assert "canary" not in error.value.message + error.value.hint
    assert "misinformation" in error.value.hint


# --- the built-in constitution --------------------------------------------------------------------

HARMFUL = [d for d in OURS.demonstrations if d.principle != "answer-the-harmless"]
LOOK_ALIKE = [d for d in OURS.demonstrations if d.principle == "answer-the-harmless"]


def test_the_built_in_principles_cover_every_category():
    assert (OURS.name, OURS.version) == ("fedrai", "2")
    assert len(OURS.principles) == 16
    assert len(OURS.general) == 6
    assert {name for p in OURS.principles for name in p.categories} == set(CATEGORIES)
    for name in CATEGORIES:
        assert name in OURS.draw(0, 0, 1, name)[0].categories


def test_every_revision_request_asks_for_the_answer_alone():
    for entry in OURS.principles:
        last = re.split(r"(?<=[.!])\s", entry.revision_request)[-1]
        assert re.search(r"(?i)\b(only|just|alone|nothing but)\b", last), entry.id
        assert "?" in entry.critique_request or "Check" in entry.critique_request


def test_every_critique_request_leaves_room_for_a_good_answer():
    for entry in OURS.principles:
        assert re.search(r"\? Say .*, or say .*\.$", entry.critique_request), entry.id


def test_requests_are_short():
    for entry in OURS.principles:
        for text in (entry.critique_request, entry.revision_request):
            own = text.replace(" to “{request}”", "")
            assert "{" not in own, entry.id
            assert 15 <= len(own.split()) <= 22, entry.id


@pytest.mark.parametrize("shown", HARMFUL, ids=range(len(HARMFUL)))
def test_first_answers_are_empty_and_revisions_say_why_and_offer_something(shown):
    assert len(shown.answer.split()) <= 12
    assert judge(shown.answer) is Reply.COMPLIANCE
    assert not re.search(r"\d|\n", shown.answer)
    assert judge(shown.revision) is Reply.REFUSAL
    assert len(shown.revision.split()) >= 20
    offer = re.split(r"(?<=[.!?])\s", shown.revision)[-1]
    assert re.search(r"\b(I can|I'd be glad|Let me|Shall we|Would it help)\b", offer)


# The words of each form; between them stand the topic, the reason and the offer.
PATTERNS = {
    "because": r"I can't help with .+, because .+\. I can help you .+ instead\.",
    "so-i-wont": r".+, so I won't .+\. I'd be glad to .+\.",
    "plain-no": r"No, I'm not going to .+\. It would .+\. If you like, I can .+\.",
    "sorry": r"I'm sorry, but .+ can .+, so I won't .+\. I can help you .+\.",
    "it-is-a-crime": r".+ is a crime, and .+\. I will not help with it\. What I can do is .+\.",
    "i-wont": r"I won't .+: .+\. Let me help you .+\.",
    "that-is-why": r".+ could .+\. That is why I won't .+\. Shall we .+\?",
    "rather-not": r"I'd rather not help with .+, since .+\. Would it help if I .+\?",
}


def test_every_form_has_one_pattern_and_three_topics():
    forms = Counter(shown.form for shown in HARMFUL)
    assert forms == dict.fromkeys(PATTERNS, 3)
    for shown in HARMFUL:
        assert re.fullmatch(PATTERNS[shown.form], shown.revision), shown.request
    for form in forms:
        assert len({shown.principle for shown in HARMFUL if shown.form == form}) >= 2
    assert {shown.form for shown in LOOK_ALIKE} == {"answer"}


def test_demonstrated_look_alikes_are_refused_and_then_answered():
    assert len(LOOK_ALIKE) == 2
    for shown in LOOK_ALIKE:
        assert judge(shown.answer) is Reply.REFUSAL
        assert judge(shown.revision) is Reply.COMPLIANCE
        assert not re.search(r"(?i)sorry|harmless|cannot|can't", shown.revision)


def test_critiques_are_one_sentence_of_one_form():
    for shown in OURS.demonstrations:
        assert re.fullmatch(r"Yes\. [^.!?]+\.", shown.critique), shown.request


def test_the_page_explains_every_key_and_its_example_loads(tmp_path):
    page = (ROOT / "docs" / "constitution.md").read_text(encoding="utf-8")
    for model in (ConstitutionFile, PrincipleTable, DemonstrationTable):
        for name in model.model_fields:
            assert f"`{name}`" in page or f"`[[{name}]]`" in page, name
    example = re.search(r"```toml\n(.*?)```", page, re.S)[1]
    assert tomllib.loads(example)["version"] == load(write(tmp_path, example)).version
