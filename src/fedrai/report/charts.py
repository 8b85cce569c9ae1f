"""Small drawings in SVG: curves by round with intervals, and bars. No style of their own.

Colours come from the page's classes `c0` to `c7`, which stand for runs and nothing else, as markers
and dashes do, so that a drawing can be read without colours. What training starts from has `cs`.
Parts of a run, such as phases, are shades of its colour (`s0` to `s5`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedrai.report.markup import Child, Markup, shorten, tag

COLOURS = 8
START = -1  # the style of what training starts from
SHADES = 6
WIDTH, HEIGHT = 400.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 12.0, 38.0
DASHES = (None, "6 3", "2 3", "8 3 2 3")
CAP = 3.0  # half the width of an interval's ends


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a place, with the ends of its interval, and of that of its place."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    left: float | None = None
    right: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Values that belong together.

    Attributes:
        label: for the legend.
        style: number of its colour, marker and dash.
        points: from left to right.
        arm: place of the run it belongs to; None: it always shows.
        joined: whether a line joins the points.
        shade: of its colour, for several curves of one run.
        dash: of its line; None: as its style has it.
    """

    label: str
    style: int
    points: tuple[Point, ...]
    arm: int | None = None
    joined: bool = True
    shade: int = 0
    dash: int | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of parts, one after the other.

    Attributes:
        label: what it stands for.
        style: number of its colour, of which parts are shades.
        parts: lengths by part, in the order of the legend.
        shown: the sum in words.
        arm: place of the run it belongs to.
    """

    label: str
    style: int
    parts: tuple[float, ...]
    shown: str
    arm: int | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values and where to mark it.

    Attributes:
        low: its beginning.
        high: its end.
        ticks: marked values.
        percent: whether values are shares, shown in per cent.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    percent: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def word(self, value: float) -> str:
        """A tick's label."""
        return f"{100 * value:.0f} %" if self.percent else f"{value:.6g}"


SHARES = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), percent=True)


def axis(values: Sequence[float]) -> Axis:
    """An axis with at most eight round ticks that all values fit on; it need not begin at 0."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - _margin(low), high + _margin(high)
    step = _round_step((high - low) / 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple(float(f"{n * step:.12g}") for n in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _margin(value: float) -> float:
    """Half of a value, or of 1 where half of it would be no number any more."""
    return 0.5 * (abs(value) if abs(value) > 1e-300 else 1.0)


def whole(values: Sequence[float]) -> Axis:
    """An axis of whole numbers such as rounds, marked at most eight times."""
    low, high = math.floor(min(values)), math.ceil(max(values))
    step = max(1, math.ceil((high - low) / 7))
    ticks = tuple(float(n) for n in range(low, high + 1, step))
    return Axis(low - 0.3 * step, max(high, low + 1) + 0.3 * step, ticks)


def _round_step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= rough * (1 - 1e-9))


def chart(
    name: str,
    title: str,
    about: str,
    curves: Sequence[Curve],
    *,
    shares: bool,
    below: str,
    across: Axis | None = None,
) -> Markup:
    """Curves over one pair of axes; a sentence where there is no point.

    Args:
        name: unique on the page; ids are made of it.
        title: of the drawing.
        about: what a reader who cannot see it should know.
        curves: what to draw.
        shares: whether values are shares, from 0 to 1.
        below: what the horizontal axis shows.
        across: the horizontal axis; None: whole numbers such as rounds, at which curves stand a
            little aside of each other.
    """
    if not any(curve.points for curve in curves):
        return tag("p", f"{title}: not recorded.", class_="none")
    return _drawing(name, title, about, plot(curves, shares, below, across), HEIGHT)


def plot(curves: Sequence[Curve], shares: bool, below: str, across: Axis | None) -> list[Markup]:
    """Axes and curves, of which one has a point or more; see `chart`."""
    points = [point for curve in curves for point in curve.points]
    ends = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    along, up = across or whole([p.x for p in points]), SHARES if shares else axis(ends)
    room = 0.0 if across else min(5.0, 24.0 / len(curves))
    aside = [(place - (len(curves) - 1) / 2) * room for place in range(len(curves))]
    drawn = [_curve(curve, by, along, up) for curve, by in zip(curves, aside, strict=True)]
    return [*_grid(along, up, below), *drawn]


def _drawing(name: str, title: str, about: str, body: Child, height: float) -> Markup:
    svg = tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", about, id=f"{name}-desc"),
        body,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-desc",
    )
    return tag("figure", tag("figcaption", title), svg)


def _x(across: Axis, value: float) -> float:
    return LEFT + across.share(value) * (WIDTH - LEFT - RIGHT)


def _y(up: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - up.share(value) * (HEIGHT - TOP - BOTTOM)


def _grid(across: Axis, up: Axis, below: str) -> list[Markup]:
    bottom = HEIGHT - BOTTOM
    parts = []
    for tick in up.ticks:
        y = _y(up, tick)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(_word(up.word(tick), LEFT - 6, y + 4, "end"))
    parts.append(_line(LEFT, bottom, WIDTH - RIGHT, bottom, "axis"))
    for tick in across.ticks:
        parts.append(_word(across.word(tick), _x(across, tick), bottom + 16, "middle"))
    parts.append(_word(below, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, "middle"))
    return parts


def _curve(curve: Curve, aside: float, across: Axis, up: Axis) -> Markup:
    """A curve, moved aside so that intervals at one round do not hide each other."""
    spots = [(_x(across, p.x) + aside, _y(up, p.y)) for p in curve.points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    return tag(
        "g",
        tag("polyline", points=line, class_="line", stroke_dasharray=_dash(curve))
        if curve.joined and len(spots) > 1
        else None,
        [_interval(p, x, up, curve) for p, (x, _) in zip(curve.points, spots, strict=True)],
        [_reach(p, y, across) for p, (_, y) in zip(curve.points, spots, strict=True)],
        [marker(curve.style, x, y) for x, y in spots],
        class_=css(curve.style, curve.shade),
        data_arm=curve.arm,
    )


def _dash(curve: Curve) -> str | None:
    return DASHES[(curve.style // COLOURS if curve.dash is None else curve.dash) % len(DASHES)]


def css(style: int, shade: int = 0) -> str:
    """The classes of a style's colour and of a shade of it."""
    colour = "cs" if style == START else f"c{style % COLOURS}"
    return f"{colour} s{shade % SHADES}" if shade else colour


def _interval(point: Point, x: float, up: Axis, curve: Curve) -> list[Markup]:
    if point.low is None or point.high is None:
        return []
    low, high = _y(up, point.low), _y(up, point.high)
    ends = [_line(x - CAP, y, x + CAP, y, "interval") for y in (low, high)]
    dash = None if curve.dash is None else _dash(curve)  # a single point has no line that shows it
    return [_line(x, low, x, high, "interval", dash), *ends]


def _reach(point: Point, y: float, across: Axis) -> list[Markup]:
    """The interval of a point's place, drawn from side to side."""
    if point.left is None or point.right is None:
        return []
    left, right = _x(across, point.left), _x(across, point.right)
    ends = [_line(x, y - CAP, x, y + CAP, "interval") for x in (left, right)]
    return [_line(left, y, right, y, "interval"), *ends]


def marker(style: int, x: float, y: float, size: float = 4.0) -> Markup:
    """A circle, square, triangle or diamond; a star for what training starts from."""
    star = [(0, -1.7), (0.45, -0.45), (1.7, 0), (0.45, 0.45)]
    shapes: dict[int, list[tuple[float, float]]] = {
        START: [*star, *((-x, -y) for x, y in star)],
        1: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        2: [(0, -1.2), (1.2, 1), (-1.2, 1)],
        3: [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
    }
    corners = shapes.get(style if style == START else style % 4)
    if corners is None:
        return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{size:g}", class_="mark")
    spots = " ".join(f"{x + size * a:.1f},{y + size * b:.1f}" for a, b in corners)
    return tag("polygon", points=spots, class_="mark")


def swatch(style: int) -> Markup:
    """A run's marker for a legend."""
    return _key(marker(style, 7, 7, 4.5), css(style))


def legend(entries: Sequence[tuple[str, int, int | None]]) -> Markup:
    """What markers stand for.

    Args:
        entries: (label, style, arm or None).
    """
    return _entries([(swatch(style), label, arm) for label, style, arm in entries])


def legend_of_lines(curves: Sequence[Curve]) -> Markup:
    """What lines of one run stand for, which have its colour and marker all."""
    keys = [
        _key(
            [
                tag("line", x1=1, y1=7, x2=33, y2=7, class_="line", stroke_dasharray=_dash(curve)),
                marker(curve.style, 17, 7, 4.5),
            ],
            css(curve.style, curve.shade),
            wide=34,
        )
        for curve in curves
    ]
    return _entries([(key, curve.label, None) for key, curve in zip(keys, curves, strict=True)])


def legend_of_parts(names: Sequence[str]) -> Markup:
    """What shades of bars stand for, whatever the colour of the run."""
    square = tag("rect", x=2, y=2, width=10, height=10, class_="part")
    keys = [_key(square, f"neutral s{shade % SHADES}") for shade, _ in enumerate(names)]
    return _entries([(key, name, None) for key, name in zip(keys, names, strict=True)])


def _key(body: Child, classes: str, wide: int = 14) -> Markup:
    return tag(
        "svg", body, viewBox=f"0 0 {wide} 14", aria_hidden="true",
        class_=f"swatch {'wide ' if wide > 14 else ''}{classes}",
    )  # fmt: skip


def _entries(entries: Sequence[tuple[Markup, str, int | None]]) -> Markup:
    items = [tag("li", key, label, data_arm=arm) for key, label, arm in entries]
    return tag("ul", items, class_="legend")


def bars(name: str, title: str, about: str, rows: Sequence[Bar]) -> Markup:
    """Bars one below the other, over one scale that begins at 0; the label stands above each."""
    longest = max((sum(row.parts) for row in rows), default=0.0)
    if not longest:
        return tag("p", f"{title}: not recorded.", class_="none")
    body = [_bar(row, place, (WIDTH - 2) / longest) for place, row in enumerate(rows)]
    return _drawing(name, title, about, body, 44.0 * len(rows) + 4)


def _bar(row: Bar, place: int, scale: float) -> Markup:
    top, x = 44.0 * place, 1.0
    parts: list[Markup] = []
    for shade, length in enumerate(row.parts):
        wide = length * scale
        parts.append(
            tag("rect", x=f"{x:.1f}", y=f"{top + 19:g}", width=f"{wide:.1f}", height=16,
                class_=f"part s{shade % SHADES}")
        )  # fmt: skip
        x += wide
    label = _word(shorten(row.label, 34), 1, top + 14, "start")
    shown = _word(row.shown, WIDTH - 1, top + 14, "end")
    return tag("g", label, shown, parts, class_=css(row.style), data_arm=row.arm)


def _line(
    x1: float, y1: float, x2: float, y2: float, classes: str, dash: str | None = None
) -> Markup:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    places = {name: f"{value:.1f}" for name, value in ends.items()}
    return tag("line", class_=classes, stroke_dasharray=dash, **places)


def _word(text: str, x: float, y: float, anchor: str) -> Markup:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)
