"""Safety against over-refusal as one SVG file, for a README, a paper or a slide."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fedrai.report.arms import TITLE, frontier, safety_beside
from fedrai.report.charts import COLOURS, HEIGHT, WIDTH, Curve, css, marker, plot
from fedrai.report.measures import heading
from fedrai.report.saved_comparison import ArmPoint
from fedrai.report.scales import Scale
from fedrai.report.svg import printable, shorten, tag

LEGEND_WIDTH = 170.0
LINE_HEIGHT = 18.0
COLOUR_CODES = (
    "#1f5fa8", "#b8400e", "#15763a", "#9d174d", "#6d28d9", "#0e7490", "#7a4b06", "#404040",
)  # fmt: skip
"""The report's colours on white; their contrast is 4.5 or more."""
STYLE = """\
text { fill: #1b1f24; font: 12px system-ui, "Segoe UI", Roboto, sans-serif }
.grid { stroke: #d5d9de } .axis { stroke: #8a929c }
.cs { --c: #1b1f24 }
.interval { stroke: var(--c); stroke-width: 1.3 } .mark { fill: var(--c); stroke: #fff }
"""


def picture(points: Sequence[ArmPoint]) -> str:
    """The SVG, with one point per arm and its intervals; empty unless both sides were measured.

    Args:
        points: the arms, and what they start from.
    """
    curves, over_refusal = frontier(points)
    if not curves:
        return ""
    colours = "".join(f".c{n} {{ --c: {ink} }}\n" for n, ink in enumerate(COLOUR_CODES[:COLOURS]))
    x_label = f"{heading(over_refusal)} (upwards: {heading(safety_beside(over_refusal))})"
    svg = tag(
        "svg",
        tag("title", f"{TITLE}: the upper left is best"),
        tag("style", Markup(STYLE + colours)),
        tag("rect", width="100%", height="100%", fill="#fff"),
        plot(curves, x_label, x_scale=_over_refusal_scale(curves)),
        [_entry(c, 30 + LINE_HEIGHT * number) for number, c in enumerate(curves)],
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH + LEGEND_WIDTH:g} {max(HEIGHT, 40 + LINE_HEIGHT * len(curves)):g}",
    )
    return printable(f"{svg}\n")


def _over_refusal_scale(curves: Sequence[Curve]) -> Scale:
    """From 0 to the end of the widest interval, since a useful model's over-refusal is small."""
    widest = max(p.right if p.right is not None else p.x for c in curves for p in c.points)
    step = next((s for s in (0.02, 0.05, 0.1) if widest <= 5 * s), 0.25)
    ticks = tuple(n * step for n in range(min(5, round(1 / step)) + 1))
    return Scale(0.0, 1.05 * ticks[-1], ticks, percent=True)


def _entry(curve: Curve, y: float) -> Markup:
    """An entry of the legend."""
    mark = marker(curve.style, WIDTH + 8, y - 4)
    text = tag("text", shorten(curve.label, 24), x=f"{WIDTH + 18:g}", y=f"{y:g}")
    return tag("g", mark, text, class_=css(curve.style))
