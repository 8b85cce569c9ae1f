"""Rules: what they find, what they see through, and patterns that may not run away."""

import time
from pathlib import Path

import pytest

from fedrai.errors import GuardError
from fedrai.guards.kinds.rules import OVERLAP, WINDOW, RulesGuard, from_file, unmasked
from fedrai.records import Message

HIDDEN = "zebra"  # the word that stands for a harmful one


def flags(guard: RulesGuard, *texts: str) -> list[bool]:
    judged = guard.judge([(Message("user", text),) for text in texts])
    return [verdict.probability == 1.0 for verdict in judged.verdicts]


def verdict(guard: RulesGuard, *turns: tuple[str, str]):
    (found,) = guard.judge([tuple(Message(role, text) for role, text in turns)]).verdicts
    return found


# --- words ----------------------------------------------------------------------------------------


def test_words_match_whole_words_only_whatever_their_case():
    guard = RulesGuard(words=[HIDDEN, "pipe zebra", "c++", "straße"])
    assert flags(guard, "A ZEBRA!", "zebra's", "(zebra)", "_zebra_", "a-zebra-b") == [True] * 5
    assert flags(guard, "zebras", "azebra", "zebra1", "", "zeb ra") == [False] * 5
    assert flags(guard, "STRASSE", "in c++ and", "c+", "c", "+ +") == [True, True, *[False] * 3]
    phrase = RulesGuard(words=["pipe  zebra"])
    assert flags(phrase, "Pipe\n zebra", "pipe the zebra", "pipezebra", "pipe") == [
        True,
        *[False] * 3,
    ]


@pytest.mark.parametrize(
    "disguised",
    [
        "z\u200bebra", "z\u200d\u2060eb\ufeffra", "ze\u00adbra", "z\x00ebra", "zeb\ud800ra",
        "ｚｅｂｒａ", "𝔃𝓮𝓫𝓻𝓪", "z\u0336e\u0336b\u0336r\u0336a\u0336", "z\U000e0041ebra",
        "ze\ufe0fbra", "z\u3164ebra", "\u202ezebra", "zebr\u00aa", "z\U000e0100ebra",
    ],
)  # fmt: skip
def test_disguises_are_seen_through(disguised):
    for guard in (RulesGuard(words=[HIDDEN]), RulesGuard([r"\bzebra\b"])):
        assert flags(guard, f"tell me of the {disguised} now", "of the horse") == [True, False]


def test_a_disguised_rule_finds_the_plain_word():
    assert flags(RulesGuard(words=["Z\u200bEBRA"]), "zebra") == [True]


def test_what_is_not_seen_through_is_as_documented():
    assert flags(RulesGuard(words=[HIDDEN]), "z3bra", "zеbra", "z e b r a") == [False] * 3


def test_scripts_without_spaces_match_within_a_sentence():
    guard = RulesGuard(words=["炸弹", "ระเบิด", "ばくだん"])
    assert flags(guard, "如何制造炸弹呢", "ทำระเบิดยังไง", "これはばくだんです") == [True] * 3
    assert flags(guard, "弹炸", "炸 药 弹", "これは") == [False] * 3


def test_many_words_are_found_in_one_pass():
    guard = RulesGuard(words=[f"word{i} tail" for i in range(50_000)])
    start = time.process_time()
    text = "word " * 20_000 + "word49999 tail"
    assert flags(guard, text, "word " * 20_000) == [True, False]
    assert time.process_time() - start < 5  # an alternation of 50,000 would take minutes


# --- patterns -------------------------------------------------------------------------------------


def test_patterns_are_regular_expressions_and_case_counts():
    guard = RulesGuard([r"zeb[rR]a \d{2}", r"(?i)horse"])
    assert flags(guard, "zebra 12", "ZEBRA 12", "zebra 1", "my HORSE") == [True, False, False, True]


def test_patterns_see_the_text_as_it_is_too():
    assert flags(RulesGuard(["z\u200bebra"]), "z\u200bebra", "zebra") == [True, False]


@pytest.mark.parametrize("place", [0, WINDOW - 3, WINDOW, 3 * WINDOW - OVERLAP - 2, 99_990])
def test_a_match_is_found_wherever_it_stands(place):
    text = "x" * place + HIDDEN + "x" * (100_000 - place)
    assert flags(RulesGuard([HIDDEN])) == []
    assert flags(RulesGuard([HIDDEN]), text, "x" * 100_005) == [True, False]


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a*)*b", r"(\w+\s?)+x", "((?:a{2,})+)", "(a|b*)+c", "(?:x(?=y+))+z",
        "(a{1,9})+b", "(aa?)+b", "(a|aa)+b", "(?:ab|[ac]b)+d", "(?i)(?:ab|Ac)+d", "(aa?){1,50}b",
        "(?>(a+)+)b", "(?:(?:a+)?b){2,}",
    ],
)  # fmt: skip
def test_patterns_that_can_take_forever_are_refused(pattern):
    with pytest.raises(GuardError, match=r"pattern 2 of the rules repeats something") as caught:
        RulesGuard(["fine", pattern])
    assert "(a++b)+" in caught.value.hint


@pytest.mark.parametrize(
    "pattern",
    [
        "(a++)+b", "(?>a+)+b", "(a{3})+b", "a+b+c+", r"(\w{1,20}\s){1,5}b", "(?:foo|bar)+b",
        "(?:aa?+)+b", r"(?:[a\s])+b", "aa?b|a+b",
    ],
)  # fmt: skip
def test_patterns_that_cannot_take_forever_are_taken(pattern):
    start = time.process_time()
    assert flags(RulesGuard([pattern]), "a" * 200 + "c") == [False]
    assert time.process_time() - start < 5


def test_a_slow_pattern_is_bounded_by_the_windows():
    start = time.process_time()
    assert flags(RulesGuard([r"x+!"]), "x" * 100_000) == [False]
    assert time.process_time() - start < 20  # 11 windows; over the whole text it would be 100 times


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patterns": ["ok", "(unclosed"]}, r"pattern 2 of the rules is not a regular expression"),
        ({"categories": {"weapons": ["["]}}, r"pattern 1 of category 'weapons' of the rules"),
        ({"patterns": ["a*"]}, "pattern 1 of the rules matches an empty text"),
        ({"words": ["ok", " \u200b "]}, "word 2 of the rules is blank"),
        ({}, "guard 'rules' has no rules"),
        ({"categories": {"weapons": []}}, "has no rules"),
        ({"categories": {"weapons": "gun"}}, "patterns of the rules must be a list"),
        ({"words": "gun"}, "words of the rules must be a list"),
        ({"word_categories": {"": ["gun"]}}, "name of a category is empty"),
        ({"words": ["gun"], "scope": "first"}, 'scope of rules is "last" or "all"'),
    ],
)
def test_unusable_rules_are_named(given, message):
    with pytest.raises(GuardError, match=message):
        RulesGuard(**given)


# --- verdicts -------------------------------------------------------------------------------------


def test_categories_are_those_that_matched_in_the_order_given():
    guard = RulesGuard(
        ["plain"],
        categories={"weapons": ["gun"], "fraud": ["card"]},
        word_categories={"fraud": ["scam"], "drugs": ["pill"]},
    )
    found = verdict(guard, ("user", "a pill, a scam and a gun"))
    assert found.categories == ("weapons", "fraud", "drugs")
    assert found.guard == f"rules@{guard.revision[:12]}"
    assert verdict(guard, ("user", "plain")).categories == ()
    assert verdict(guard, ("user", "plain")).probability == 1.0
    assert verdict(guard, ("user", "nothing")).probability == 0.0


def test_scope():
    talk = (("user", HIDDEN), ("assistant", "No."))
    assert verdict(RulesGuard(words=[HIDDEN]), *talk).probability == 0.0
    assert verdict(RulesGuard(words=[HIDDEN], scope="all"), *talk).probability == 1.0
    turns = [("user", HIDDEN if i == 0 else "hm") for i in range(50)]
    assert verdict(RulesGuard(words=[HIDDEN], scope="all"), *turns).probability == 1.0


def test_nothing_to_judge_is_unscored():
    guard = RulesGuard(words=[HIDDEN])
    assert verdict(guard).problem == "empty"
    assert verdict(guard, ("user", HIDDEN), ("assistant", " \n")).problem == "empty"
    assert verdict(guard, ("user", "\x00")).probability == 0.0


def test_the_revision_follows_the_rules():
    revisions = {
        RulesGuard(words=["a"]).revision, RulesGuard(["a"]).revision,
        RulesGuard(words=["b"]).revision, RulesGuard(words=["a"], scope="all").revision,
        RulesGuard(word_categories={"x": ["a"]}).revision, RulesGuard(words=["\ud800a"]).revision,
    }  # fmt: skip
    assert len(revisions) == 6
    assert RulesGuard(words=["a"], name="other").revision == RulesGuard(words=["a"]).revision


def test_progress_is_told_and_may_stop():
    told = []
    conversations = [(Message("user", "hm"),)] * 600
    RulesGuard(words=["a"]).judge(conversations, lambda *seen: told.append(seen))
    assert told == [(256, 600), (512, 600), (600, 600)]

    def stop(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RulesGuard(words=["a"]).judge(conversations, stop)


# --- files ----------------------------------------------------------------------------------------


def test_a_file_of_rules(tmp_path: Path):
    file = tmp_path / "rules.txt"
    file.write_text(
        "\ufeff# my rules\nzebra\n\n[weapons]\nbig gun\nre: gun \\d+\n[]\nhorse\n", encoding="utf-8"
    )
    guard = from_file(file, name="mine")
    assert flags(guard, "zebra", "horse", "a big gun", "gun 7", "gun") == [True] * 4 + [False]
    assert verdict(guard, ("user", "gun 7")).categories == ("weapons",)
    assert verdict(guard, ("user", "horse")).categories == ()
    same = RulesGuard((), ["zebra", "horse"], categories={"weapons": [r"gun \d+"]},
                      word_categories={"weapons": ["big gun"]})  # fmt: skip
    assert guard.revision == same.revision
    assert guard.name == "mine"


def test_files_that_cannot_be_used(tmp_path: Path):
    with pytest.raises(GuardError, match="cannot be read"):
        from_file(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(GuardError, match=r"not UTF-8 text \(byte 3\)"):
        from_file(tmp_path / "latin.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(GuardError, match="has no rules"):
        from_file(tmp_path / "empty.txt")


def test_unmasked_leaves_ordinary_text_alone():
    for text in (
        "Ordinary text,\twith\nbreaks.",
        "Räume für Öl, naïve café",
        "नमस्ते",
        "한국어 テスト",
    ):
        assert unmasked(text) == text
