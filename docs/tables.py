"""Write the tables of figures in README.md and the docs from `docs/figures/*.json`: `make docs`.

    python docs/tables.py                      fill the pages; a test checks for drift
    python docs/tables.py NAME RUNS [SOURCE]   write docs/figures/NAME.json from the output folder
                                               of `fedrai compare`, then fill the pages

A page marks the place of a table, and may select and order its columns and rows by name:

    <!-- figures: NAME | columns: arm; AdvBench safe % | rows: FedAvg; + filter -->
    <!-- /figures -->

`text` instead of a selection draws the table as the terminal does. Cells are copied as text.
"""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
BLOCK = re.compile(
    r"^(?P<indent> *)<!-- figures: (?P<name>[a-z-]+)(?P<options>.*?) -->\n"
    r".*?^ *<!-- /figures -->$",
    re.M | re.S,
)


@dataclass(frozen=True, slots=True)
class Figures:
    """One table: the source of its figures, its headings, its rows of text."""

    source: str
    columns: list[str]
    rows: list[list[str]]

    @classmethod
    def read(cls, name: str) -> Figures:
        """The table of `docs/figures/NAME.json`."""
        file = FIGURES / f"{name}.json"
        table = cls(**json.loads(file.read_text(encoding="utf-8")))
        for row in table.rows:
            if len(row) != len(table.columns):
                sys.exit(f"{file}: expected {len(table.columns)} cells, got {len(row)} in {row}")
        return table

    def select(self, columns: list[str], rows: list[str]) -> Figures:
        """These columns and rows in this order; all if none is given."""
        by_name = {row[0]: row for row in self.rows}
        unknown = [*(set(columns) - set(self.columns)), *(set(rows) - set(by_name))]
        if unknown:
            sys.exit(f"no such column or row: {', '.join(unknown)}; columns: {self.columns}")
        places = [self.columns.index(name) for name in columns or self.columns]
        selected = [by_name[name] for name in rows] or self.rows
        cells = [[row[place] for place in places] for row in selected]
        return Figures(self.source, [self.columns[place] for place in places], cells)

    def markdown(self) -> list[str]:
        """The lines of a Markdown table."""
        rule = "|---" * len(self.columns) + "|"
        return ["", _line(self.columns), rule, *map(_line, self.rows), ""]

    def text(self) -> list[str]:
        """The lines of a table in a terminal."""
        table = Table(box=HEAVY_HEAD)
        for number, name in enumerate(self.columns):
            table.add_column(name, justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        drawn = io.StringIO()
        Console(file=drawn, width=200, color_system=None).print(table)
        return ["", "```text", *drawn.getvalue().splitlines(), "```", ""]


def _line(cells: list[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def filled(page: str) -> str:
    """A page with every marked table filled in."""
    return BLOCK.sub(_block, page)


def _block(match: re.Match[str]) -> str:
    indent, opening = match["indent"], match[0].splitlines()[0]
    options = [part.strip() for part in match["options"].split("|") if part.strip()]
    lists = dict(option.split(": ", 1) for option in options if ": " in option)
    columns, rows = (lists[key].split("; ") if key in lists else [] for key in ("columns", "rows"))
    table = Figures.read(match["name"]).select(columns, rows)
    lines = table.text() if "text" in options else table.markdown()
    body = [f"{indent}{line}" if line else "" for line in lines]
    return "\n".join([opening, *body, f"{indent}<!-- /figures -->"])


def pages() -> list[Path]:
    """README.md and the pages of the docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def from_runs(name: str, folder: Path, source: str = "") -> None:
    """Write `docs/figures/NAME.json` from the table in a comparison's `comparison.json`."""
    file = folder / "comparison.json"
    if not file.is_file():
        sys.exit(f"{file} is missing; `fedrai compare RECIPE --out {folder}` writes it")
    table = json.loads(file.read_text(encoding="utf-8"))["table"]
    source = source or f"fedrai compare, folder {folder.name}"
    write(name, Figures(source, table["columns"], table["rows"]))


def write(name: str, table: Figures) -> None:
    """Write a table with one row per line, so that diffs show changes of figures."""
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in table.rows)
    source, columns = (json.dumps(v, ensure_ascii=False) for v in (table.source, table.columns))
    body = f'{{\n "source": {source},\n "columns": {columns},\n "rows": [\n{rows}\n ]\n}}\n'
    (FIGURES / f"{name}.json").write_text(body, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:]:
        from_runs(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:4])
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
