"""The one place where text becomes HTML, and drawings."""

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedrai.report.charts import SHARES, Bar, Curve, Point, axis, bars, chart, whole
from fedrai.report.markup import Cell, Markup, Row, escape, join, shorten, table, tag
from reading_html import parse

ANY = st.text(st.characters(exclude_categories=()))  # halves of surrogate pairs too


@given(ANY)
def test_escaped_text_reads_back_as_itself_or_as_replacement_characters(text):
    escaped = escape(text)
    assert not re.search("[<>\"'\x00]", escaped)
    escaped.encode()
    for read, given_ in zip(html.unescape(escaped), text, strict=True):
        assert read in (given_, "\ufffd")


@given(ANY, ANY)
def test_an_element_holds_text_and_attributes_whatever_they_are(text, value):
    tree = parse(f"<main>{tag('p', text, title=value, class_='x')}</main>")
    node = tree.one("main").one("p", **{"class": "x"})
    assert node.text == html.unescape(escape(text))
    assert node.attributes["title"] == html.unescape(escape(value))
    assert [n.name for n in tree.all()] == ["main", "p"]


@pytest.mark.parametrize("unfit", ["\x00", "\x1b", "\ud800", "\u202e", "\u2066", "\uffff"])
def test_what_no_document_may_hold_is_replaced(unfit):
    assert escape(f"a{unfit}b") == "a\ufffdb"


def test_markup_is_kept_and_other_text_is_not():
    assert join(["<b>", Markup("<b>"), None, ["&", [tag("i", "'")]]]) == (
        "&lt;b&gt;<b>&amp;<i>&#x27;</i>"
    )
    assert tag("input", checked=True, hidden=False, data_arm=0, id=None) == (
        '<input checked data-arm="0">'
    )


@given(st.text(max_size=30), st.integers(1, 20))
def test_shortened_text_has_the_limit_and_says_so(text, limit):
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_a_table_names_rows_and_columns_and_keeps_whole_numbers():
    made = parse(table("What", ["run", "rate"], [Row(["<a>", Cell("10 %", 1 / 10)], 3)]))
    assert [n.attributes.get("scope") for n in made.all("th")] == ["col", "col", "row"]
    assert made.one("td").attributes["data-value"] == "0.1"
    assert made.one("tr", **{"data-arm": "3"}).one("th").text == "<a>"


# --- drawings -------------------------------------------------------------------------------------


def test_axes_have_round_ticks_that_hold_all_values():
    assert axis([2.56, 3.02]).ticks == (2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1)
    assert axis([0.0, 10.0]).ticks == (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
    assert whole([0, 5]).ticks == (0, 1, 2, 3, 4, 5)
    assert whole([1, 100]).ticks == (1, 16, 31, 46, 61, 76, 91)


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20))
@example([5e-324])
def test_every_value_lies_on_its_axis(values):
    made = axis(values)
    assert 2 <= len(made.ticks) <= 8
    assert list(made.ticks) == sorted(set(made.ticks))
    assert all(-1e-6 <= made.share(value) <= 1 + 1e-6 for value in values)


def test_a_curve_is_drawn_where_its_numbers_are():
    curve = Curve("a", 0, (Point(0, 0.0, 0.0, 0.5), Point(1, 1.0)), 2)
    drawn = parse(chart("x", "Title", "About", [curve], shares=True, below="round"))
    ticks = {n.text: float(n.attributes["y"]) - 4 for n in drawn.all("text") if "%" in n.text}
    assert list(ticks) == [f"{100 * t:.0f} %" for t in SHARES.ticks]
    group = drawn.one("g", **{"data-arm": "2"})
    circles = [float(n.attributes["cy"]) for n in group.all("circle")]
    assert circles == pytest.approx([ticks["0 %"], ticks["100 %"]], abs=0.06)
    bar = [float(v) for n in group.all("line") for k, v in n.attributes.items() if k[0] == "y"]
    assert {min(bar), max(bar)} == {ticks["50 %"], ticks["0 %"]}


def test_a_drawing_is_named_for_those_who_cannot_see_it():
    curve = Curve("a", 0, (Point(1, 2.0),))
    drawn = parse(chart("x", "Title", "About", [curve], shares=False, below="round")).one("svg")
    assert drawn.attributes["role"] == "img"
    assert drawn.one("title", id=drawn.attributes["aria-labelledby"]).text == "Title"
    assert drawn.one("desc", id=drawn.attributes["aria-describedby"]).text == "About"


def test_without_a_point_there_is_a_sentence():
    assert "Title: not recorded." in chart("x", "Title", "", [], shares=True, below="round")
    assert "not recorded" in bars("x", "Title", "", [Bar("a", 0, (0.0, 0.0), "0 s")])


def test_bars_share_one_scale():
    rows = [Bar("a", 0, (1.0, 3.0), "4 s"), Bar("b", 1, (2.0, 0.0), "2 s")]
    widths = [float(n.attributes["width"]) for n in parse(bars("x", "T", "", rows)).all("rect")]
    assert widths == pytest.approx([99.5, 298.5, 199.0, 0.0])
