"""Legends of drawings: small drawn keys, with what each stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedrai.report.charts import SHADES, Curve, css, marker
from fedrai.report.svg import Child, tag


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a legend.

    Attributes:
        key: the drawn key.
        label: what it stands for.
        arm: position of the run it belongs to; None: always visible.
    """

    key: Markup
    label: str
    arm: int | None = None


def legend(curves: Sequence[Curve]) -> list[Entry]:
    """Markers of curves."""
    return [Entry(_key(marker(c.style, 7, 7, 4.5), css(c.style)), c.label, c.arm) for c in curves]


def legend_of_lines(curves: Sequence[Curve]) -> list[Entry]:
    """Lines of one run's curves, which share their colour and marker."""
    return [Entry(_line_key(curve), curve.label) for curve in curves]


def _line_key(curve: Curve) -> Markup:
    dash = curve.stroke_dash
    line = tag("line", x1=1, y1=7, x2=33, y2=7, class_="line", stroke_dasharray=dash)
    body = [line, marker(curve.style, 17, 7, 4.5)]
    return _key(body, css(curve.style, curve.shade), width=34)


def legend_of_parts(names: Sequence[str]) -> list[Entry]:
    """Shades of bars' parts, whatever the colour of the run."""
    square = tag("rect", x=2, y=2, width=10, height=10, class_="part")
    return [
        Entry(_key(square, f"neutral s{shade % SHADES}"), name) for shade, name in enumerate(names)
    ]


def _key(body: Child, classes: str, width: int = 14) -> Markup:
    return tag(
        "svg", body, viewBox=f"0 0 {width} 14", aria_hidden="true",
        class_=f"swatch {'wide ' if width > 14 else ''}{classes}",
    )  # fmt: skip
