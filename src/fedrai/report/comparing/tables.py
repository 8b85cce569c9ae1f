r"""Figures and differences as rows of text: for the terminal, Markdown, CSV and LaTeX (booktabs).

A measure that no run has is left out. Safety never stands without over-refusal: their columns are
side by side.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedrai.report.comparing.differences import Difference
from fedrai.report.comparing.figures import ArmFigures, Figure
from fedrai.report.measures import (
    BOTH_SIDES,
    LOSS,
    format_value,
    heading,
    in_order,
    unit,
    value_kind,
)

NOISE = "~"
SPACE = "\N{NO-BREAK SPACE}"
SHORT = ("safe", "xstest-safe-refused", "refused", BOTH_SIDES, LOSS)
"""Measures whose differences the terminal shows; the files have all."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text.

    Attributes:
        columns: headings.
        rows: rows with a cell for each column.
        words: how many columns at the left hold words, not numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def arms_table(arms: Sequence[ArmFigures], axis: str = "") -> TextTable:
    """One row per arm.

    Args:
        arms: what runs start from, and the arms.
        axis: its key; empty: none.
    """
    measures = in_order(name for arm in arms for name in arm.figures)
    several = any(len(arm.seeds) > 1 for arm in arms)
    leading = [*_if(axis, axis), "arm", *_if(several, "seeds")]
    rows = [
        (
            *_if(axis, arm.value), arm.label, *_if(several, ", ".join(map(str, arm.seeds))),
            *(figure_text(m, arm.figures.get(m)) for m in measures),
        )
        for arm in arms
    ]  # fmt: skip
    headings = [heading(m) + unit(m) for m in measures]
    return TextTable((*leading, *headings), tuple(rows), len(leading))


def _if(condition: object, cell: str) -> list[str]:
    """A cell of a column that not all tables have."""
    return [cell] if condition else []


def figure_text(measure: str, figure: Figure | None) -> str:
    """A figure with its interval in brackets, or the range of its seeds in parentheses."""
    if figure is None:
        return "not measured"
    if figure.value is None:
        text = "not a number" if measure == LOSS else "no data"
    else:
        text = format_value(measure, figure.value)
    if figure.low is not None and figure.high is not None:
        text += _ends(figure, text, [format_value(measure, v) for v in (figure.low, figure.high)])
    return text + (f", {figure.unscored}{SPACE}unscored" if figure.unscored else "")


def _ends(figure: Figure, value: str, ends: Sequence[str]) -> str:
    """An interval in brackets; a range in parentheses, unless all seeds are alike."""
    if figure.kind != "range":
        return f" [{ends[0]},{SPACE}{ends[1]}]"
    return "" if set(ends) == {value} else f" ({ends[0]}{SPACE}to{SPACE}{ends[1]})"


def differences_table(differences: Sequence[Difference], axis: str = "") -> TextTable:
    """One row per arm and measure: the difference, the p of each seed, the verdict.

    Args:
        differences: differences from the reference arm.
        axis: its key; empty: none.
    """
    columns = [*_if(axis, axis), "arm", "against", "measure", "seeds", "difference", "p by seed",
               "verdict", "unscored"]  # fmt: skip
    rows = [
        (
            *_if(axis, one.value), one.arm, one.against, heading(one.measure),
            ", ".join(map(str, one.seeds)), difference_text(one), p_text(one), one.verdict,
            str(one.figure.unscored),
        )
        for one in _sort(differences)
    ]  # fmt: skip
    return TextTable(tuple(columns), tuple(rows), 4 if axis else 3)


def short_differences(differences: Sequence[Difference], axis: str = "") -> TextTable:
    """One row per arm, for the terminal: the main measures; `NOISE` marks what is within noise."""
    measures = [m for m in in_order(one.measure for one in differences) if m in SHORT]
    groups: dict[tuple[str, str, str], dict[str, Difference]] = {}
    for one in differences:
        groups.setdefault((one.value, one.arm, one.against), {})[one.measure] = one
    rows = [
        (*_if(axis, value), f"{arm} minus {against}", *(_short(group.get(m)) for m in measures))
        for (value, arm, against), group in groups.items()
    ]
    leading = [*_if(axis, axis), "arm"]
    return TextTable((*leading, *map(heading, measures)), tuple(rows), len(leading))


def unsettled(differences: Sequence[Difference]) -> list[str]:
    """A line for each main difference of one seed that its prompts do not settle."""
    return [
        f"not settled: {one.arm} minus {one.against} in {heading(one.measure)};"
        f" a difference of this size takes about {needed:,} prompts, not {one.figure.count:,}"
        for one in _sort(differences)
        if one.measure in SHORT and (needed := one.prompts_to_settle) is not None
    ]


def _short(difference: Difference | None) -> str:
    if difference is None:
        return "no pairs"
    return difference_text(difference) + (f"{SPACE}{NOISE}" if difference.within_noise else "")


def difference_text(difference: Difference) -> str:
    """A difference with its sign; of shares in points, with its interval."""
    scale, digits = (100, ".1f") if value_kind(difference.measure) == "share" else (1, ".3f")
    figure = difference.figure
    numbers = [v for v in (figure.value, figure.low, figure.high) if v is not None]
    texts = [format(scale * number + 0.0, f"+{digits}") for number in numbers]
    return texts[0] if len(texts) < 3 else texts[0] + _ends(figure, texts[0], texts[1:])


def p_text(difference: Difference) -> str:
    """McNemar's p of each seed, or why there is none."""
    if difference.p:
        return ", ".join("< 0.001" if p < 0.001 else f"{p:.3f}" for p in difference.p)
    by_prompt = difference.figure.kind == "bootstrap" and difference.measure != BOTH_SIDES
    return "no pairs of answers" if by_prompt else ""


def _sort(differences: Sequence[Difference]) -> list[Difference]:
    """By value and arm in the given order, and by measure in the order of columns."""
    groups = list(dict.fromkeys((one.value, one.arm) for one in differences))
    measures = in_order(one.measure for one in differences)

    def position(one: Difference) -> tuple[int, int]:
        return groups.index((one.value, one.arm)), measures.index(one.measure)

    return sorted(differences, key=position)


# --- text -----------------------------------------------------------------------------------------


def markdown(table: TextTable) -> str:
    """A table in Markdown; numbers are aligned at the right."""
    marks = ["---" if n < table.words else "---:" for n in range(len(table.columns))]
    lines = [table.columns, marks, *table.rows]
    escaped = [[cell.replace("|", "\\|").replace(SPACE, " ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", SPACE: "~",
    "<": "$<$", ">": "$>$",
}  # fmt: skip


def latex(table: TextTable) -> str:
    r"""A table in LaTeX, for a document with `\usepackage{booktabs}`."""
    columns = "".join("l" if n < table.words else "r" for n in range(len(table.columns)))
    body = [_latex_line(row) for row in table.rows]
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_line(table.columns),
             r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex_line(cells: Iterable[str]) -> str:
    escaped = ("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells)
    return f"{' & '.join(escaped)} \\\\"


FORMATS: Mapping[str, Callable[[TextTable], str]] = {"md": markdown, "latex": latex}
"""Writers of a table of text, by format; CSV is written from the numbers."""


# --- numbers --------------------------------------------------------------------------------------


def arms_csv(arms: Sequence[ArmFigures], axis: str = "") -> str:
    """Figures as numbers, one row per arm: value, low, high, kind and unscored of each measure."""
    measures = in_order(name for arm in arms for name in arm.figures)
    parts = ("", "_low", "_high", "_interval", "_prompts", "_unscored")
    columns = [*_if(axis, axis), "arm", "seeds", "clients",
               *(m + part for m in measures for part in parts)]  # fmt: skip
    rows = [
        [*_if(axis, arm.value), arm.arm, " ".join(map(str, arm.seeds)), str(arm.clients),
         *(cell for m in measures for cell in _numbers(arm.figures.get(m)))]
        for arm in arms
    ]  # fmt: skip
    return _csv([columns, *rows])


def _numbers(figure: Figure | None) -> list[str]:
    if figure is None:
        return [""] * 6
    numbers = (figure.value, figure.low, figure.high)
    cells = ["" if number is None else repr(number) for number in numbers]
    return [*cells, figure.kind, str(figure.count), str(figure.unscored)]


def differences_csv(differences: Sequence[Difference], axis: str = "") -> str:
    """Differences as numbers, one row per arm and measure."""
    columns = [*_if(axis, axis), "arm", "against", "measure", "seeds", "difference", "low", "high",
               "interval", "prompts", "unscored", "p_by_seed", "verdict"]  # fmt: skip
    rows = [
        [*_if(axis, one.value), one.arm, one.against, one.measure, " ".join(map(str, one.seeds)),
         *_numbers(one.figure), " ".join(map(repr, one.p)), one.verdict]
        for one in _sort(differences)
    ]  # fmt: skip
    return _csv([columns, *rows])


def _csv(rows: Sequence[Sequence[str]]) -> str:
    """CSV (RFC 4180, lines ended by a line feed)."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
