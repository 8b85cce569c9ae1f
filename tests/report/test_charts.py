"""Drawings: elements in which text stays text, scales, and marks where their numbers are."""

import html

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup

from fedrai.report.charts import Bar, BarChart, Chart, Curve, Point
from fedrai.report.scales import SHARES, scale_for, whole_number_scale
from fedrai.report.svg import join, printable, shorten, tag
from reading_html import parse

ANY = st.text(st.characters(exclude_categories=()))  # halves of surrogate pairs too


@given(ANY, ANY)
def test_an_element_holds_any_text_and_attribute(text, value):
    document = printable(f"<main>{tag('p', text, title=value, class_='x')}</main>")
    document.encode()
    tree = parse(document)
    node = tree.one("main").one("p", **{"class": "x"})
    assert node.text == printable(text)
    assert node.attributes["title"] == printable(value)
    assert [n.name for n in tree.all()] == ["main", "p"]


@given(ANY)
def test_a_document_keeps_each_character_or_replaces_it(text):
    for after, before in zip(printable(text), text, strict=True):
        assert after in (before, "\ufffd")


@pytest.mark.parametrize("unsafe", ["\x00", "\x1b", "\ud800", "\u202e", "\u2066", "\uffff"])
def test_characters_that_are_not_allowed_are_replaced(unsafe):
    assert printable(f"a{unsafe}b") == "a\ufffdb"


def test_only_markup_is_left_unescaped():
    assert html.unescape(join(["<b>", None, ["&"]])) == "<b>&"
    assert join(["<b>", Markup("<b>"), None, ["&", [tag("i", "'")]]]) == (
        "&lt;b&gt;<b>&amp;<i>&#39;</i>"
    )
    assert tag("g", data_arm=0, id=None) == '<g data-arm="0"></g>'


@given(st.text(max_size=30), st.integers(1, 20))
def test_shortened_text_has_the_limit_and_says_so(text, limit):
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


# --- drawings -------------------------------------------------------------------------------------


def test_scales_have_round_ticks_and_cover_all_values():
    assert scale_for([2.56, 3.02]).ticks == (2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1)
    assert scale_for([0.0, 10.0]).ticks == (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
    assert whole_number_scale([0, 5]).ticks == (0, 1, 2, 3, 4, 5)
    assert whole_number_scale([1, 100]).ticks == (1, 16, 31, 46, 61, 76, 91)


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20))
@example([5e-324])
def test_every_value_lies_on_its_scale(values):
    scale = scale_for(values)
    assert 2 <= len(scale.ticks) <= 8
    assert list(scale.ticks) == sorted(set(scale.ticks))
    assert all(-1e-6 <= scale.position(value) <= 1 + 1e-6 for value in values)


def test_a_curve_is_drawn_where_its_numbers_are():
    curve = Curve("a", 0, (Point(0, 0.0, 0.0, 0.5), Point(1, 1.0)), 2)
    drawn = parse(Chart("x", "Title", "About", [curve]).svg)
    ticks = {n.text: float(n.attributes["y"]) - 4 for n in drawn.all("text") if "%" in n.text}
    assert list(ticks) == [f"{100 * t:.0f} %" for t in SHARES.ticks]
    group = drawn.one("g", **{"data-arm": "2"})
    circles = [float(n.attributes["cy"]) for n in group.all("circle")]
    assert circles == pytest.approx([ticks["0 %"], ticks["100 %"]], abs=0.06)
    bar = [float(v) for n in group.all("line") for k, v in n.attributes.items() if k[0] == "y"]
    assert {min(bar), max(bar)} == {ticks["50 %"], ticks["0 %"]}


def test_a_drawing_is_named_for_those_who_cannot_see_it():
    curve = Curve("a", 0, (Point(1, 2.0),))
    drawn = parse(Chart("x", "Title", "About", [curve], shares=False).svg).one("svg")
    assert drawn.attributes["role"] == "img"
    assert drawn.one("title", id=drawn.attributes["aria-labelledby"]).text == "Title"
    assert drawn.one("desc", id=drawn.attributes["aria-describedby"]).text == "About"


def test_without_a_point_or_length_there_is_no_drawing():
    assert Chart("x", "Title", "", [Curve("a", 0, ())]).svg is None
    assert BarChart("x", "Title", "", [Bar("a", 0, (0.0, 0.0), "0 s")]).svg is None


def test_bars_share_one_scale():
    rows = [Bar("a", 0, (1.0, 3.0), "4 s"), Bar("b", 1, (2.0, 0.0), "2 s")]
    widths = [
        float(n.attributes["width"]) for n in parse(BarChart("x", "T", "", rows).svg).all("rect")
    ]
    assert widths == pytest.approx([99.5, 298.5, 199.0, 0.0])
