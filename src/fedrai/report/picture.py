"""Safety against over-refusal as one SVG file, for a README, a paper or a slide."""

from __future__ import annotations

from collections.abc import Sequence

from fedrai.report.arms import SAFE, TITLE, spots
from fedrai.report.charts import COLOURS, HEIGHT, WIDTH, Axis, Curve, css, marker, plot
from fedrai.report.markup import Markup, shorten, tag
from fedrai.report.records import ArmPoint
from fedrai.report.wording import rate_name

LEGEND = 170.0  # wide
LINE = 18.0
INKS = ("#1f5fa8", "#b8400e", "#15763a", "#9d174d", "#6d28d9", "#0e7490", "#7a4b06", "#404040")
"""The report's colours by daylight; contrast with white is 4.5 or more."""
STYLE = """\
text { fill: #1b1f24; font: 12px system-ui, "Segoe UI", Roboto, sans-serif }
.grid { stroke: #d5d9de } .axis { stroke: #8a929c }
.cs { --c: #1b1f24 }
.interval { stroke: var(--c); stroke-width: 1.3 } .mark { fill: var(--c); stroke: #fff }
"""


def picture(points: Sequence[ArmPoint]) -> str:
    """The SVG: a point an arm with its intervals; empty where no two sides were measured.

    Args:
        points: the arms, and what they start from.
    """
    curves, across = spots(points)
    if not curves:
        return ""
    inks = "".join(f".c{n} {{ --c: {ink} }}\n" for n, ink in enumerate(INKS[:COLOURS]))
    drawn = tag(
        "svg",
        tag("title", f"{TITLE}: the upper left is best"),
        tag("style", Markup(STYLE + inks)),
        tag("rect", width="100%", height="100%", fill="#fff"),
        plot(curves, True, f"{rate_name(across)} (upwards: {rate_name(SAFE)})", _along(curves)),
        [_entry(c.label, c.style, 30 + LINE * place) for place, c in enumerate(curves)],
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH + LEGEND:g} {max(HEIGHT, 40 + LINE * len(curves)):g}",
    )
    return f"{drawn}\n"


def _along(curves: Sequence[Curve]) -> Axis:
    """From 0 to the end of the widest interval: over-refusal is small where a model is of use."""
    widest = max(p.right if p.right is not None else p.x for c in curves for p in c.points)
    step = next((s for s in (0.02, 0.05, 0.1) if widest <= 5 * s), 0.25)
    ticks = tuple(n * step for n in range(min(5, round(1 / step)) + 1))
    return Axis(0.0, 1.05 * ticks[-1], ticks, percent=True)


def _entry(label: str, style: int, y: float) -> Markup:
    mark = marker(style, WIDTH + 8, y - 4)
    text = tag("text", shorten(label, 24), x=f"{WIDTH + 18:g}", y=f"{y:g}")
    return tag("g", mark, text, class_=css(style))
