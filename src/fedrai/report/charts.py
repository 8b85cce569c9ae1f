"""Drawings as SVG inside the page: colours by class, a title and a description in words.

A run has one colour, one marker and one dash throughout; parts of a bar are shades of its colour,
and several curves of one run are told apart by dash and shade.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedrai.report.scales import SHARES, Scale, scale_for, whole_number_scale
from fedrai.report.svg import Child, shorten, tag

COLOURS = 8
START = -1  # the style of what training starts from
SHADES = 6
WIDTH, HEIGHT = 400.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 12.0, 38.0
DASHES = (None, "6 3", "2 3", "8 3 2 3")
CAP = 3.0  # half the width of an interval's ends


@dataclass(frozen=True, slots=True)
class Point:
    """A point (x, y) with the ends of its y interval (low, high) and x interval (left, right)."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    left: float | None = None
    right: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one series.

    Attributes:
        label: its text in the legend.
        style: number of its colour, marker and dash.
        points: its points from left to right.
        arm: position of the run it belongs to; None: always visible.
        joined: whether a line joins the points.
        shade: shade of its colour, for several curves of one run.
        dash: dash of its line; None: that of its style.
    """

    label: str
    style: int
    points: tuple[Point, ...]
    arm: int | None = None
    joined: bool = True
    shade: int = 0
    dash: int | None = None

    @property
    def stroke_dash(self) -> str | None:
        """The dashes of its line."""
        dash = self.style // COLOURS if self.dash is None else self.dash
        return DASHES[dash % len(DASHES)]


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over one pair of axes.

    Attributes:
        name: unique on the page; ids are built from it.
        title: title of the drawing.
        description: text for a reader who cannot see it.
        curves: curves to draw.
        x_label: what the horizontal axis shows.
        shares: whether values are shares, from 0 to 1.
        x_scale: scale of the horizontal axis; None: whole numbers such as rounds, at which
            curves are drawn slightly apart.
    """

    name: str
    title: str
    description: str
    curves: Sequence[Curve]
    x_label: str = "round"
    shares: bool = True
    x_scale: Scale | None = None

    @property
    def svg(self) -> Markup | None:
        """The drawing; None where no curve has a point."""
        if not any(curve.points for curve in self.curves):
            return None
        return _svg(self, plot(self.curves, self.x_label, self.shares, self.x_scale), HEIGHT)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of parts, one after the other.

    Attributes:
        label: what it stands for.
        style: number of its colour; its parts are shades of it.
        parts: their lengths, in the order of the legend.
        total: the sum in words.
        arm: position of the run it belongs to.
    """

    label: str
    style: int
    parts: tuple[float, ...]
    total: str
    arm: int | None = None


@dataclass(frozen=True, slots=True)
class BarChart:
    """Bars one below the other over one scale that starts at 0; see `Chart`."""

    name: str
    title: str
    description: str
    bars: Sequence[Bar]

    @property
    def svg(self) -> Markup | None:
        """The drawing; None where no bar has a length."""
        longest = max((sum(bar.parts) for bar in self.bars), default=0.0)
        if not longest:
            return None
        scale = (WIDTH - 2) / longest
        body = [_bar(bar, number, scale) for number, bar in enumerate(self.bars)]
        return _svg(self, body, 44.0 * len(self.bars) + 4)


def _svg(chart: Chart | BarChart, body: Child, height: float) -> Markup:
    return tag(
        "svg",
        tag("title", chart.title, id=f"{chart.name}-title"),
        tag("desc", chart.description, id=f"{chart.name}-desc"),
        body,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_labelledby=f"{chart.name}-title",
        aria_describedby=f"{chart.name}-desc",
    )


# --- axes and curves ------------------------------------------------------------------------------


def plot(
    curves: Sequence[Curve], x_label: str, shares: bool = True, x_scale: Scale | None = None
) -> list[Markup]:
    """Axes and curves, at least one with a point; see `Chart`."""
    points = [point for curve in curves for point in curve.points]
    ends = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    xs = x_scale or whole_number_scale([p.x for p in points])
    ys = SHARES if shares else scale_for(ends)
    gap = 0.0 if x_scale else min(5.0, 24.0 / len(curves))
    offsets = [(number - (len(curves) - 1) / 2) * gap for number in range(len(curves))]
    drawn = [_curve(c, offset, xs, ys) for c, offset in zip(curves, offsets, strict=True)]
    return [*_grid(xs, ys, x_label), *drawn]


def _x(scale: Scale, value: float) -> float:
    return LEFT + scale.position(value) * (WIDTH - LEFT - RIGHT)


def _y(scale: Scale, value: float) -> float:
    return HEIGHT - BOTTOM - scale.position(value) * (HEIGHT - TOP - BOTTOM)


def _grid(xs: Scale, ys: Scale, x_label: str) -> list[Markup]:
    bottom = HEIGHT - BOTTOM
    parts = []
    for tick in ys.ticks:
        y = _y(ys, tick)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(_text(ys.label(tick), LEFT - 6, y + 4, "end"))
    parts.append(_line(LEFT, bottom, WIDTH - RIGHT, bottom, "axis"))
    for tick in xs.ticks:
        parts.append(_text(xs.label(tick), _x(xs, tick), bottom + 16, "middle"))
    parts.append(_text(x_label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, "middle"))
    return parts


def _curve(curve: Curve, offset: float, xs: Scale, ys: Scale) -> Markup:
    """A curve, moved sideways so that intervals at one round do not hide each other."""
    spots = [(_x(xs, p.x) + offset, _y(ys, p.y)) for p in curve.points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    return tag(
        "g",
        tag("polyline", points=line, class_="line", stroke_dasharray=curve.stroke_dash)
        if curve.joined and len(spots) > 1
        else None,
        [_interval(p, x, ys, curve) for p, (x, _) in zip(curve.points, spots, strict=True)],
        [_x_interval(p, y, xs) for p, (_, y) in zip(curve.points, spots, strict=True)],
        [marker(curve.style, x, y) for x, y in spots],
        class_=css(curve.style, curve.shade),
        data_arm=curve.arm,
    )


def css(style: int, shade: int = 0) -> str:
    """The classes of a style's colour and of a shade of it."""
    colour = "cs" if style == START else f"c{style % COLOURS}"
    return f"{colour} s{shade % SHADES}" if shade else colour


def _interval(point: Point, x: float, ys: Scale, curve: Curve) -> list[Markup]:
    if point.low is None or point.high is None:
        return []
    low, high = _y(ys, point.low), _y(ys, point.high)
    ends = [_line(x - CAP, y, x + CAP, y, "interval") for y in (low, high)]
    dash = None if curve.dash is None else curve.stroke_dash  # a point has no line
    return [_line(x, low, x, high, "interval", dash), *ends]


def _x_interval(point: Point, y: float, xs: Scale) -> list[Markup]:
    """The interval of a point's place, drawn from side to side."""
    if point.left is None or point.right is None:
        return []
    left, right = _x(xs, point.left), _x(xs, point.right)
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


def _bar(bar: Bar, number: int, scale: float) -> Markup:
    """A bar with its label and total above it."""
    top, x = 44.0 * number, 1.0
    parts: list[Markup] = []
    for shade, length in enumerate(bar.parts):
        width = length * scale
        parts.append(
            tag("rect", x=f"{x:.1f}", y=f"{top + 19:g}", width=f"{width:.1f}", height=16,
                class_=f"part s{shade % SHADES}")
        )  # fmt: skip
        x += width
    label = _text(shorten(bar.label, 34), 1, top + 14, "start")
    total = _text(bar.total, WIDTH - 1, top + 14, "end")
    return tag("g", label, total, parts, class_=css(bar.style), data_arm=bar.arm)


def _line(
    x1: float, y1: float, x2: float, y2: float, classes: str, dash: str | None = None
) -> Markup:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    places = {name: f"{value:.1f}" for name, value in ends.items()}
    return tag("line", class_=classes, stroke_dasharray=dash, **places)


def _text(text: str, x: float, y: float, anchor: str) -> Markup:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)
