"""A heat map as SVG: rows by columns, each cell shaded, some marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedrai.report.svg import shorten, tag

WIDTH = 400.0
LABELS, TOP, HIGH, RIGHT = 96.0, 6.0, 20.0, 6.0
WIDEST = 40.0
LEVELS = 5
LABEL_LIMIT = 15
MOST_TICKS = 12


@dataclass(frozen=True, slots=True)
class HeatCell:
    """A cell.

    Attributes:
        level: shade, 0 (none) to 4 (darkest).
        is_marked: whether a cross is drawn on it.
    """

    level: int
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Rows of cells below each other.

    Attributes:
        name: unique on the page; ids are built from it.
        title: title of the drawing.
        description: text for a reader who cannot see it.
        rows: label and cells of each row; None: an empty place.
        columns: number of each column, such as rounds.
        x_label: what the columns are.
    """

    name: str
    title: str
    description: str
    rows: Sequence[tuple[str, Sequence[HeatCell | None]]]
    columns: Sequence[int]
    x_label: str = "round"

    @property
    def svg(self) -> Markup | None:
        """The drawing; None where there is no cell."""
        if not any(cell for _, cells in self.rows for cell in cells):
            return None
        bottom = TOP + HIGH * len(self.rows)
        return tag(
            "svg",
            tag("title", self.title, id=f"{self.name}-title"),
            tag("desc", self.description, id=f"{self.name}-desc"),
            [self._row(number) for number in range(len(self.rows))],
            self._ticks(bottom),
            viewBox=f"0 0 {WIDTH:g} {bottom + 36:g}",
            role="img",
            aria_labelledby=f"{self.name}-title",
            aria_describedby=f"{self.name}-desc",
        )

    @property
    def _wide(self) -> float:
        return min(WIDEST, (WIDTH - LABELS - RIGHT) / len(self.columns))

    def _row(self, number: int) -> list[Markup]:
        label, cells = self.rows[number]
        top = TOP + HIGH * number
        text = shorten(label, LABEL_LIMIT)
        drawn = [_cell(cell, LABELS + self._wide * place, top, self._wide)
                 for place, cell in enumerate(cells) if cell]  # fmt: skip
        return [tag("text", text, x=f"{LABELS - 6:g}", y=f"{top + 14:g}", text_anchor="end"),
                *drawn]  # fmt: skip

    def _ticks(self, bottom: float) -> list[Markup]:
        """Numbers of the columns, not more than fit, and what they are."""
        step = -(-len(self.columns) // MOST_TICKS)
        middle = LABELS + self._wide * len(self.columns) / 2
        places = [(column, LABELS + self._wide * (number + 0.5))
                  for number, column in enumerate(self.columns) if number % step == 0]  # fmt: skip
        texts = [*((str(column), x, bottom + 15) for column, x in places),
                 (self.x_label, middle, bottom + 31)]  # fmt: skip
        return [tag("text", text, x=f"{x:.1f}", y=f"{y:g}", text_anchor="middle")
                for text, x, y in texts]  # fmt: skip


def _cell(cell: HeatCell, left: float, top: float, wide: float) -> Markup:
    x, y, width, height = left + 1, top + 1, max(0.5, wide - 2), HIGH - 2
    shade = tag("rect", x=f"{x:.1f}", y=f"{y:g}", width=f"{width:.1f}", height=f"{height:g}",
                class_=f"cell cell{min(cell.level, LEVELS - 1)}")  # fmt: skip
    if not cell.is_marked:
        return shade
    a, b = x + width / 2, y + height / 2
    size = min(width, height) / 3
    lines = [
        tag("line", class_="cross", x1=f"{a - size:.1f}", y1=f"{b - s * size:.1f}",
            x2=f"{a + size:.1f}", y2=f"{b + s * size:.1f}")
        for s in (1, -1)
    ]  # fmt: skip
    return tag("g", shade, lines)
