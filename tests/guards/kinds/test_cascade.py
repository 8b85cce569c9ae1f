"""Guards put together: numbers worked out by hand, and decisions that stay the guards' own."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.errors import GuardError
from fedrai.guards.base import Conversation, VerdictBatch
from fedrai.guards.kinds.cascade import LOOSE, STRICT, AnyOf, Cascade
from fedrai.guards.kinds.rules import RulesGuard
from fedrai.guards.kinds.scripted import ScriptedGuard
from fedrai.records import Message, Verdict

PROBABILITY = st.floats(0, 1)


def talk(*texts: str) -> list[Conversation]:
    return [(Message("user", text),) for text in texts]


class Fixed:
    """Gives each conversation the verdict that stands under its text; keeps what it was shown."""

    def __init__(
        self, name: str, verdicts: dict[str, Verdict | float], **thresholds: float
    ) -> None:
        self.name, self.revision = name, name * 4
        self.thresholds = {"strict": 0.5, "loose": 0.5} | thresholds
        self.verdicts, self.shown = verdicts, []

    def judge(
        self,
        conversations: list[Conversation],
        on_progress: Callable[[int, int], None] = lambda _d, _o: None,
    ) -> VerdictBatch:
        texts = [conversation[-1].content for conversation in conversations]
        self.shown += texts
        for done in range(1, len(texts) + 1):
            on_progress(done, len(texts))
        said = [self.verdicts[text] for text in texts]
        found = (v if isinstance(v, Verdict) else Verdict(v, "fixed") for v in said)
        return VerdictBatch(tuple(found), tokens=10 * len(texts), operations=1000.0 * len(texts))


def missing(problem: str = "failed") -> Verdict:
    return Verdict(None, "fixed", problem=problem)


def values(judged: VerdictBatch) -> list[float | str | None]:
    return [
        v.problem if v.probability is None else round(v.probability, 9) for v in judged.verdicts
    ]


# --- cascades -------------------------------------------------------------------------------------


def test_a_cascade_by_hand():
    first = Fixed("a", {"1": 0.05, "2": 0.2, "3": 0.5, "4": 0.8, "5": 0.95, "6": missing()})
    second = Fixed("b", {"2": 0.0, "3": 0.5, "4": 1.0, "6": 0.25}, strict=0.3, loose=0.7)
    cascade = Cascade(first, second, 0.2, 0.8)
    judged = cascade.judge(talk("1", "2", "3", "4", "5", "6"))
    assert values(judged) == [0.05, 0.2, 0.5, 0.8, 0.95, 0.35]  # 0.2 + 0.6 * 0.25
    assert second.shown == ["2", "3", "4", "6"]
    assert (cascade.judged, cascade.passed_on) == (6, 4)
    assert {k: round(t, 9) for k, t in cascade.thresholds.items()} == {
        "strict": 0.38, "loose": 0.62,
    }  # fmt: skip
    assert (judged.tokens, judged.operations) == (100, 10_000.0)
    assert {v.guard for v in judged.verdicts} == {f"a+b@{cascade.revision[:12]}"}


def test_counts_go_on_and_a_sure_first_guard_leaves_the_second_alone():
    first, second = Fixed("a", {"x": 0.0, "y": 0.5}), Fixed("b", {"y": 0.9})
    cascade = Cascade(first, second, 0.1, 0.9)
    assert values(cascade.judge(talk("x", "x"))) == [0.0, 0.0]
    assert second.shown == []
    assert values(cascade.judge(talk("y"))) == [0.82]
    assert (cascade.judged, cascade.passed_on) == (3, 1)
    assert cascade.judge([]) == VerdictBatch(())


def test_what_the_second_cannot_score_stays_unscored():
    first = Fixed("a", {"x": 0.5, "y": missing("empty")})
    second = Fixed("b", {"x": missing("no-answer"), "y": missing("unparsed")})
    assert values(Cascade(first, second, 0.4, 0.6).judge(talk("x", "y"))) == [
        "no-answer",
        "unparsed",
    ]


def test_categories_are_the_deciding_guards():
    first = Fixed(
        "a", {t: Verdict(p, "f", ("first",)) for t, p in {"x": 0.9, "y": 0.5, "z": 0.5}.items()}
    )
    second = Fixed("b", {"y": Verdict(0.9, "f", ("second",)), "z": 0.9})
    verdicts = Cascade(first, second, 0.4, 0.6).judge(talk("x", "y", "z")).verdicts
    assert [v.categories for v in verdicts] == [("first",), ("second",), ("first",)]


@given(p=PROBABILITY, q=PROBABILITY, t=PROBABILITY, band=st.tuples(PROBABILITY, PROBABILITY))
def test_the_deciding_guard_decides(p, q, t, band):
    low, high = sorted(band)
    if high - low < 1e-3:
        return
    first, second = Fixed("a", {"x": p}), Fixed("b", {"x": q}, strict=t, loose=t)
    cascade = Cascade(first, second, low, high)
    found = cascade.judge(talk("x")).verdicts[0].probability
    unsafe = found >= cascade.thresholds["loose"]
    if p > high:
        assert unsafe
    elif p < low:
        assert not unsafe
    elif abs(q - t) > 1e-9 or q == t:  # nearer ones may round to the same number
        assert unsafe == (q >= t)
        assert low <= found <= high


def test_cascades_of_cascades():
    cheap = Fixed("a", {"x": 0.5, "y": 0.5, "z": 0.01})
    middle = Fixed("b", {"x": 0.5, "y": 0.99})
    dear = Fixed("c", {"x": 0.75})
    inner = Cascade(middle, dear, 0.2, 0.8)
    outer = Cascade(cheap, inner, 0.1, 0.9)
    assert values(outer.judge(talk("x", "y", "z"))) == [
        0.62,  # 0.1 + 0.8 * (0.2 + 0.6 * 0.75)
        0.892,  # 0.1 + 0.8 * 0.99
        0.01,
    ]
    assert (inner.judged, inner.passed_on, outer.passed_on) == (2, 1, 2)
    assert dear.shown == ["x"]
    assert outer.thresholds == pytest.approx({"strict": 0.5, "loose": 0.5})


def test_progress_of_a_cascade_counts_decided_rows():
    told: list[tuple[int, int]] = []
    first, second = Fixed("a", {"x": 0.5, "y": 0.0}), Fixed("b", {"x": 0.5})
    Cascade(first, second, 0.1, 0.9).judge(talk("x", "y", "x"), lambda *s: told.append(s))
    assert told == [(0, 3), (0, 3), (0, 3), (1, 3), (2, 3), (3, 3)]


def test_progress_may_stop_a_cascade():
    def stop(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cascade(Fixed("a", {"x": 0.5}), Fixed("b", {"x": 0.5}), 0.1, 0.9).judge(talk("x"), stop)


@pytest.mark.parametrize(
    "band", [(0.5, 0.5), (0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1)]
)
def test_bands_that_cannot_be(band):
    with pytest.raises(GuardError, match="0 <= low < high <= 1"):
        Cascade(ScriptedGuard({}), ScriptedGuard({}), *band)


def test_revisions_of_cascades():
    a, b, c = Fixed("a", {}), Fixed("b", {}), Fixed("c", {})
    made = [Cascade(a, b, 0.1, 0.9), Cascade(b, a, 0.1, 0.9), Cascade(a, c, 0.1, 0.9),
            Cascade(a, b, 0.2, 0.9), Cascade(a, b, 0.1, 0.8), AnyOf([a, b]), AnyOf([b, a]),
            AnyOf([a]), AnyOf([a, Fixed("b", {}, strict=0.1)])]  # fmt: skip
    assert len({guard.revision for guard in made}) == len(made)
    assert Cascade(a, b, 0.1, 0.9, name="n").revision == made[0].revision


@pytest.mark.parametrize(("low", "high", "asked"), [
    (0.05, 0.95, []), (0.0, 0.95, ["fine"]), (0.05, 1.0, ["zog"]), (0.0, 1.0, ["zog", "fine"]),
])  # fmt: skip
def test_a_cascade_that_begins_with_rules_says_whether_its_second_guard_is_asked(low, high, asked):
    rules = RulesGuard(words=["zog"], name="house")
    second = Fixed("dear", {"zog": 0.5, "fine": 0.5})
    for first in (rules, AnyOf([rules, RulesGuard(words=["zig"])])):
        second.shown.clear()
        cascade = Cascade(first, second, low, high, name="two")
        cascade.judge(talk("zog", "fine"))
        assert second.shown == asked
        assert ("dear, is never asked" in cascade.caution) is (not asked)
        assert AnyOf([second, cascade]).caution == cascade.caution
    assert Cascade(second, rules, low, high).caution == ""
    assert Cascade(AnyOf([rules, second]), second, low, high).caution == ""


# --- any of ---------------------------------------------------------------------------------------


def test_any_of_by_hand():
    guard = Fixed(
        "g", {"1": 0.1, "2": 0.2, "3": 0.5, "4": 0.6, "5": 0.8, "6": 1.0}, strict=0.2, loose=0.6
    )
    verdicts = AnyOf([guard]).judge(talk(*"123456"))
    assert values(verdicts) == [
        0.2,  # 0.4 * 0.1 / 0.2
        0.4,
        0.55,  # 0.4 + 0.2 * 0.3 / 0.4
        0.6,
        0.8,  # 0.6 + 0.4 * 0.2 / 0.4
        1.0,
    ]


@given(
    p=PROBABILITY,
    q=PROBABILITY,
    one=st.tuples(PROBABILITY, PROBABILITY),
    two=st.tuples(PROBABILITY, PROBABILITY),
)
def test_unsafe_exactly_if_one_guard_says_so(p, q, one, two):
    (s1, l1), (s2, l2) = sorted(one), sorted(two)
    both = [Fixed("a", {"x": p}, strict=s1, loose=l1), Fixed("b", {"x": q}, strict=s2, loose=l2)]
    together = AnyOf(both)
    found = together.judge(talk("x")).verdicts[0].probability
    assert together.thresholds == {"strict": STRICT, "loose": LOOSE}
    assert (found >= STRICT) == (p >= s1 or q >= s2)
    assert (found >= LOOSE) == (p >= l1 or q >= l2)


@given(st.lists(PROBABILITY, min_size=2, max_size=20), st.tuples(PROBABILITY, PROBABILITY))
def test_the_order_of_a_guards_rows_is_kept(chances, thresholds):
    strict, loose = sorted(thresholds)
    texts = {str(i): p for i, p in enumerate(sorted(chances))}
    found = values(AnyOf([Fixed("a", texts, strict=strict, loose=loose)]).judge(talk(*texts)))
    assert found == sorted(found)


def test_rules_beside_a_guard_spare_it_what_they_find():
    rules = RulesGuard(word_categories={"weapons": ["zebra"]})
    guard = Fixed("g", {"horse": 0.3, "cow": 0.9}, strict=0.2, loose=0.6)
    together = AnyOf([rules, guard])
    judged = together.judge(talk("a zebra", "horse", "cow"))
    assert values(judged) == [1.0, 0.45, 0.9]
    assert guard.shown == ["horse", "cow"]
    assert judged.verdicts[0].categories == ("weapons",)
    assert judged.tokens == 20
    assert together.name == "rules|g"


def test_missing_verdicts_fail_closed():
    a = Fixed("a", {"1": missing(), "2": missing("empty"), "3": 0.3, "4": missing()})
    b = Fixed("b", {"1": 0.1, "2": missing(), "3": missing("no-answer"), "4": 0.9})
    assert values(AnyOf([a, b]).judge(talk(*"1234"))) == ["failed", "empty", "no-answer", 0.92]
    b.thresholds = {"strict": 0.05, "loose": 0.95}
    assert values(AnyOf([a, b]).judge(talk("1", "4"))) == ["failed", "failed"]  # strict alone: no


def test_categories_of_all_the_likeliest_guard_first():
    a = Fixed("a", {"x": Verdict(0.6, "f", ("one", "both"))})
    b = Fixed("b", {"x": Verdict(0.9, "f", ("two", "both"))})
    assert AnyOf([a, b]).judge(talk("x")).verdicts[0].categories == ("two", "both", "one")


def test_progress_of_any_of_rises_to_the_end():
    told: list[tuple[int, int]] = []
    a, b = Fixed("a", {"x": 1.0, "y": 0.0}), Fixed("b", {"y": 0.0})
    AnyOf([a, b]).judge(talk("x", "y", "y", "y"), lambda *seen: told.append(seen))
    assert told == [(0, 4), (1, 4), (1, 4), (2, 4), (3, 4), (3, 4), (4, 4), (4, 4)]
    assert AnyOf([a, b]).judge([]) == VerdictBatch(())


@pytest.mark.parametrize("thresholds", [{"strict": 0.6}, {"strict": -0.1}, {"loose": float("nan")}])
def test_guards_that_cannot_be_joined(thresholds):
    with pytest.raises(GuardError, match="0 <= strict <= loose"):
        AnyOf([Fixed("a", {}, **thresholds)])
    with pytest.raises(GuardError, match="any of no guards"):
        AnyOf([])
