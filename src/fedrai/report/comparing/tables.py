r"""Figures and differences as rows of text: for the terminal, Markdown, CSV and LaTeX (booktabs).

A column that no run measured is left out. Safety never stands without over-refusal: where one is
measured its column stands beside the other's.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedrai.report.comparing.differences import Difference
from fedrai.report.comparing.figures import ArmFigures, Figure
from fedrai.report.measures import BOTH_SIDES, form, heading, in_order, unit, written

NOISE = "~"
SPACE = "\N{NO-BREAK SPACE}"
SHORT = ("safe", "xstest-safe-refused", "refused", "both-sides", "held-out-loss")
"""Measures whose differences the terminal shows; the files have all."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Attributes:
        columns: headings.
        rows: as many cells each.
        words: how many columns at the left are words, not numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def arms_table(first: ArmFigures | None, arms: Sequence[ArmFigures], axis: str = "") -> Table:
    """One row an arm, after what all start from.

    Args:
        first: what runs start from.
        arms: with their figures.
        axis: its key; empty: none.
    """
    whole = [*([first] if first else []), *arms]
    measures = in_order(name for arm in whole for name in arm.figures)
    several = any(len(arm.seeds) > 1 for arm in whole)
    leading = [*([axis] if axis else []), "arm", *(["seeds"] if several else [])]
    rows = []
    for arm in whole:
        seeds = [", ".join(map(str, arm.seeds))] if several else []
        names = [*([arm.value] if axis else []), arm.label, *seeds]
        rows.append((*names, *(figure_text(m, arm.figures.get(m)) for m in measures)))
    headings = [heading(m) + unit(m) for m in measures]
    return Table((*leading, *headings), tuple(rows), len(leading))


def figure_text(measure: str, figure: Figure | None) -> str:
    """A figure with its interval in brackets, or the range of its seeds in parentheses."""
    if figure is None:
        return "not measured"
    shown = "no data" if figure.value is None else written(measure, figure.value)
    if figure.low is not None and figure.high is not None:
        ends = [written(measure, end) for end in (figure.low, figure.high)]
        shown += _range(shown, ends) if figure.kind == "range" else _brackets(ends)
    return shown + (f", {figure.unscored}{SPACE}unscored" if figure.unscored else "")


def _range(shown: str, ends: Sequence[str]) -> str:
    """The lowest and the highest seed; nothing where all are alike."""
    same = set(ends) == {shown}
    return "" if same else f" ({SPACE.join([ends[0], 'to', ends[1]])})"


def _brackets(ends: Sequence[str]) -> str:
    return f" [{ends[0]},{SPACE}{ends[1]}]"


def differences_table(found: Sequence[Difference], axis: str = "") -> Table:
    """One row an arm and measure: the difference, the p of each seed, the verdict.

    Args:
        found: the differences.
        axis: its key; empty: none.
    """
    columns = [*([axis] if axis else []), "arm", "against", "measure", "seeds", "difference",
               "p by seed", "verdict", "unscored"]  # fmt: skip
    rows = [
        (
            *([one.value] if axis else []), one.arm, one.against, heading(one.measure),
            ", ".join(map(str, one.seeds)), difference_text(one), p_text(one), one.verdict,
            str(one.figure.unscored),
        )
        for one in _sorted(found)
    ]  # fmt: skip
    return Table(tuple(columns), tuple(rows), 4 if axis else 3)


def short_differences(found: Sequence[Difference], axis: str = "") -> Table:
    """One row an arm, for the terminal: the main measures; `NOISE` marks what is within noise."""
    measures = [m for m in in_order(one.measure for one in found) if m in SHORT]
    groups: dict[tuple[str, str, str], dict[str, Difference]] = {}
    for one in found:
        groups.setdefault((one.value, one.arm, one.against), {})[one.measure] = one
    rows = [
        (*([value] if axis else []), f"{arm} less {against}",
         *(_short(by_measure.get(m)) for m in measures))
        for (value, arm, against), by_measure in groups.items()
    ]  # fmt: skip
    headings = [heading(m) for m in measures]
    leading = [*([axis] if axis else []), "arm"]
    return Table((*leading, *headings), tuple(rows), len(leading))


def _short(one: Difference | None) -> str:
    if one is None:
        return "no pairs"
    return difference_text(one) + (f"{SPACE}{NOISE}" if one.within_noise else "")


def difference_text(one: Difference) -> str:
    """A difference with its sign; of shares in points, with its interval."""
    scale, digits = (100, ".1f") if form(one.measure) == "share" else (1, ".3f")
    values = [v for v in (one.figure.value, one.figure.low, one.figure.high) if v is not None]
    shown = [format(scale * value + 0.0, f"+{digits}") for value in values]
    if len(shown) < 3:
        return shown[0]
    ranged = one.figure.kind == "range"
    return shown[0] + (_range(shown[0], shown[1:]) if ranged else _brackets(shown[1:]))


def p_text(one: Difference) -> str:
    """McNemar's p of each seed, or why there is none."""
    if one.p:
        return ", ".join("< 0.001" if p < 0.001 else f"{p:.3f}" for p in one.p)
    paired = one.figure.kind == "bootstrap" and one.measure != BOTH_SIDES
    return "no pairs of answers" if paired else ""


def _sorted(found: Sequence[Difference]) -> list[Difference]:
    """By value and arm as they come, and by measure as columns stand."""
    groups = list(dict.fromkeys((one.value, one.arm) for one in found))
    order = in_order(one.measure for one in found)
    places = {(one.value, one.arm, one.measure): one for one in found}
    return [
        places[*group, measure] for group in groups for measure in order
        if (*group, measure) in places
    ]  # fmt: skip


# --- text -----------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """A table in Markdown; numbers stand at the right."""
    marks = ["---" if n < table.words else "---:" for n in range(len(table.columns))]
    lines = [table.columns, marks, *table.rows]
    cleaned = [[cell.replace("|", "\\|").replace(SPACE, " ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cleaned)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", SPACE: "~",
    "<": "$<$", ">": "$>$",
}  # fmt: skip


def latex(table: Table) -> str:
    r"""A table in LaTeX, to be put into a document with `\usepackage{booktabs}`."""
    columns = "".join("l" if n < table.words else "r" for n in range(len(table.columns)))
    body = [_latex_line(row) for row in table.rows]
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_line(table.columns),
             r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex_line(cells: Iterable[str]) -> str:
    escaped = ("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells)
    return f"{' & '.join(escaped)} \\\\"


def arms_csv(first: ArmFigures | None, arms: Sequence[ArmFigures], axis: str = "") -> str:
    """Figures as numbers, one row an arm: value, low, high, kind and unscored of each measure."""
    whole = [*([first] if first else []), *arms]
    measures = in_order(name for arm in whole for name in arm.figures)
    parts = ("", "_low", "_high", "_interval", "_prompts", "_unscored")
    head = [*([axis] if axis else []), "arm", "seeds", "clients",
            *(m + part for m in measures for part in parts)]  # fmt: skip
    rows = [
        [*([arm.value] if axis else []), arm.arm, " ".join(map(str, arm.seeds)), str(arm.clients),
         *(cell for m in measures for cell in _numbers(arm.figures.get(m)))]
        for arm in whole
    ]  # fmt: skip
    return _csv([head, *rows])


def _numbers(figure: Figure | None) -> list[str]:
    if figure is None:
        return [""] * 6
    ends = ["" if end is None else repr(end) for end in (figure.low, figure.high)]
    value = "" if figure.value is None else repr(figure.value)
    return [value, *ends, figure.kind, str(figure.count), str(figure.unscored)]


def differences_csv(found: Sequence[Difference], axis: str = "") -> str:
    """Differences as numbers, one row an arm and measure."""
    head = [*([axis] if axis else []), "arm", "against", "measure", "seeds", "difference", "low",
            "high", "interval", "prompts", "unscored", "p_by_seed", "verdict"]  # fmt: skip
    rows = [
        [*([one.value] if axis else []), one.arm, one.against, one.measure,
         " ".join(map(str, one.seeds)), *_numbers(one.figure), " ".join(map(repr, one.p)),
         one.verdict]
        for one in _sorted(found)
    ]  # fmt: skip
    return _csv([head, *rows])


def _csv(rows: Sequence[Sequence[str]]) -> str:
    """CSV (RFC 4180, lines ended by a line feed)."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


FORMATS: Mapping[str, Callable[[Table], str]] = {"md": markdown, "latex": latex}
"""How a table of text is written, by the name of the format; CSV is written of the numbers."""
