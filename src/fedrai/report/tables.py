"""Tables of a report: cells of rates and numbers, "not recorded" for what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedrai.rates import Rate
from fedrai.runs.record import MacroRate

MISSING = "not recorded"
Content = Mapping[str, object]
"""Values that a template shows, by name."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it shows.
        value: the number behind it, to sort by.
        css: class.
        detail: a smaller line below the text.
        code: whether the text is shown as code.
    """

    text: str
    value: float | None = None
    css: str = ""
    detail: str = ""
    code: bool = False

    @property
    def classes(self) -> str:
        """Its classes; cells of numbers are aligned at their end."""
        return " ".join(filter(None, ["number" if self.value is not None else "", self.css]))


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table, named by its first cell.

    Attributes:
        cells: its cells from left to right.
        arm: position of the run it belongs to; None: always visible.
    """

    cells: Sequence[Cell]
    arm: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table that scrolls within its own frame.

    Attributes:
        caption: what it shows; also names the frame.
        columns: headings.
        rows: rows with a cell for each column.
        sortable: whether headings are buttons that sort by their column.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[TableRow]
    sortable: bool = False

    def is_numeric(self, column: int) -> bool:
        """Whether a column other than the first holds numbers, which are aligned at its end."""
        return column > 0 and any(row.cells[column].value is not None for row in self.rows)


def row(*cells: Cell | str, arm: int | None = None) -> TableRow:
    """A row of cells; texts become cells."""
    return TableRow([cell if isinstance(cell, Cell) else Cell(cell) for cell in cells], arm)


def count_cell(value: int) -> Cell:
    """A whole number that counts or orders, such as a round."""
    return Cell(str(value), value)


def number_cell(value: float | None, spec: str = ",") -> Cell:
    """A number, by a format specification."""
    return Cell(MISSING) if value is None else Cell(format(value, spec), value)


def percent_cell(value: float | None) -> Cell:
    """A relative change in per cent."""
    return Cell(MISSING) if value is None else Cell(f"{100 * value:+.1f} %", value)


def rate_cell(rate: Rate | None) -> Cell:
    """A rate with its counts on a line of their own."""
    if rate is None:
        return Cell("not measured")
    return Cell(rate.format(), rate.value, detail=rate.counts())


def macro_cell(mean: MacroRate | None) -> Cell:
    """A mean over outside sets, with its counts on a line of their own."""
    if mean is None:
        return Cell("not measured")
    unscored = f", {mean.unscored} unscored" if mean.unscored else ""
    counts = f"{mean.sets} sets, {mean.items} answers{unscored}"
    return Cell(mean.format(), mean.value, detail=counts)


def time_text(seconds: float) -> str:
    """Seconds in a suitable unit."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
