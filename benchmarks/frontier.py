"""Safe rate against over-refusal of many tries, as an SVG. Pure: no model, no plotting package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from evidence import markdown
from fedrai.errors import EvaluationError
from fedrai.rates import Rate

WIDTH, HEIGHT = 760, 520
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 44, 56
ORDINARY = ((0.02, "#1b6ca8"), (0.10, "#d08a00"), (1.0, "#b3261e"))  # refused at most, colour
INK, PALE = "#333333", "#d9d9d9"


@dataclass(frozen=True, slots=True)
class Try:
    """One setting and what came of it.

    Attributes:
        label: what was tried.
        share: of refusals in a batch.
        steps: optimiser steps.
        learning_rate: its peak.
        safe: AdvBench requests refused.
        xstest: XSTest's safe prompts refused.
        ordinary: ordinary instructions refused.
    """

    label: str
    share: float
    steps: int
    learning_rate: float
    safe: Rate
    xstest: Rate
    ordinary: Rate

    def about(self) -> str:
        """The setting in a line."""
        lr = f"{self.learning_rate:g}"
        return f"{self.label}: share {self.share:g}, {self.steps} steps, learning rate {lr}"


def load_tries(files: Sequence[Path]) -> list[Try]:
    """Tries of JSON lines; keys that are not listed here are left alone.

    A line has `label`, `share`, `steps`, `learning_rate`, and as "373/520" how many were counted of
    how many: `safe`, `xstest_refused`, `ordinary_refused`.

    Raises:
        EvaluationError: names the file and line that cannot be read.
    """
    found = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                try:
                    found.append(_try(json.loads(line)))
                except (ValueError, KeyError, TypeError, AttributeError, EvaluationError) as error:
                    raise EvaluationError(f"{file}, line {number}: no try ({error})") from error
    if not found:
        raise EvaluationError("there are no tries")
    return found


def _try(row: dict[str, str]) -> Try:
    rates = []
    for key in ("safe", "xstest_refused", "ordinary_refused"):
        k, n = row[key].split("/")
        rates.append(Rate(int(k), int(n)))
        if not rates[-1].scored:
            raise EvaluationError(f"{key} is of nothing")
    return Try(
        row["label"], float(row["share"]), int(row["steps"]), float(row["learning_rate"]), *rates
    )


def value(found: Rate) -> float:
    """A rate that is known to have been scored, 0 to 1."""
    return found.successes / found.scored


def frontier(tries: Sequence[Try]) -> list[Try]:
    """The tries that no other beats: none is as safe or safer with less over-refusal."""
    best = []
    for one in sorted(tries, key=lambda t: (value(t.xstest), -value(t.safe))):
        if not best or value(one.safe) > value(best[-1].safe):
            best.append(one)
    return best


def tries_table(tries: Sequence[Try]) -> str:
    """All tries with their settings, in Markdown; those of the frontier carry a star."""
    best = frontier(tries)
    rows = [
        [f"{number}{'*' if one in best else ''}", one.label, f"{one.share:g}", str(one.steps),
         f"{one.learning_rate:g}", *(r.format() for r in (one.safe, one.xstest, one.ordinary))]
        for number, one in enumerate(tries, 1)
    ]  # fmt: skip
    headings = ["#", "try", "share", "steps", "learning rate", "AdvBench safe",
                "XSTest safe refused", "ordinary refused"]  # fmt: skip
    return markdown(headings, rows)


# --- the picture ----------------------------------------------------------------------------------


def draw(tries: Sequence[Try]) -> str:
    """The SVG: a numbered point for each try with its 95 % intervals, and the frontier."""
    widest = max(value(one.xstest) for one in tries)
    lowest = min((one.safe.interval() or (0, 1))[0] for one in tries)
    axes = Axes(min(100, 10 * (int(widest * 10) + 1)), 20 * int(lowest * 5))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *_axes(axes),
        _line(frontier(tries), axes),
        *(_point(number, one, axes) for number, one in enumerate(tries, 1)),
        *_legend(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


@dataclass(frozen=True, slots=True)
class Axes:
    """Where the axes end, in per cent.

    Attributes:
        top: the end of over-refusal, which begins at 0.
        low: the beginning of safety, which ends at 100.
    """

    top: int
    low: int

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where per cents of over-refusal and of safety lie in the picture."""
        across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        part = (100 - y) / (100 - self.low)
        return round(LEFT + across * x / self.top, 1), round(TOP + down * part, 1)


def _axes(axes: Axes) -> list[str]:
    parts, place, top = [], axes.place, axes.top
    for step in range(axes.low, 101, 10 if axes.low else 20):
        (x, y), (end, _) = place(0, step), place(top, step)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{end}" y2="{y}" stroke="{PALE}"/>')
        parts.append(f'<text x="{x - 8}" y="{y + 4}" text-anchor="end">{step}</text>')
    for number in range(6):
        (x, y), (_, end) = place(top * number / 5, axes.low), place(0, 100)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x}" y2="{end}" stroke="{PALE}"/>')
        shown = f"{top * number / 5:g}"
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{shown}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">'
        "XSTest safe prompts refused, %</text>"
    )
    parts.append(
        f'<text x="18" y="{HEIGHT / 2}" text-anchor="middle"'
        f' transform="rotate(-90 18 {HEIGHT / 2})">AdvBench safe, %</text>'
    )
    return parts


def _line(best: Sequence[Try], axes: Axes) -> str:
    """The frontier as steps: as safe as the last point until the next one."""
    points: list[tuple[float, float]] = []
    for one in best:
        x, y = axes.place(100 * value(one.xstest), 100 * value(one.safe))
        points += [(x, points[-1][1]), (x, y)] if points else [(x, y)]
    body = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{body}" fill="none" stroke="{INK}" stroke-width="1.5"/>'


def _point(number: int, one: Try, axes: Axes) -> str:
    at = 100 * value(one.xstest), 100 * value(one.safe)
    x, y = axes.place(*at)
    low, high = one.safe.interval() or (0, 1)
    left, right = one.xstest.interval() or (0, 1)
    (_, bottom), (_, upper) = (axes.place(at[0], 100 * end) for end in (low, high))
    ends = (left, min(right, axes.top / 100))
    (west, _), (east, _) = (axes.place(100 * end, at[1]) for end in ends)
    colour = next(c for most, c in ORDINARY if value(one.ordinary) <= most)
    bars = f'stroke="{colour}" stroke-opacity="0.35"'
    rates = f"safe {one.safe}, XSTest {one.xstest}, ordinary {one.ordinary}"
    return (
        f"<g><title>{escape(f'{number}. {one.about()}; {rates}')}</title>"
        f'<line x1="{x}" y1="{bottom}" x2="{x}" y2="{upper}" {bars}/>'
        f'<line x1="{west}" y1="{y}" x2="{east}" y2="{y}" {bars}/>'
        f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>'
        f'<text x="{x + 7}" y="{y - 6}" fill="{INK}">{number}</text></g>'
    )


def _legend() -> list[str]:
    parts, before = [], ""
    for column, (most, colour) in enumerate(ORDINARY):
        x = LEFT + 230 * column
        words = f"ordinary refused up to {100 * most:g} %" if most < 1 else f"more than {before} %"
        before = f"{100 * most:g}"
        parts.append(f'<circle cx="{x + 6}" cy="22" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="26">{words}</text>')
    return parts
