"""How far a judge agrees with people: tables of figures, and the numbers of the other rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from fedrai.cli.show.tables import print_table
from fedrai.evaluation.agreement import LABELS, Agreement, AgreementFigures, Disagreement
from fedrai.rates import Rate, percent

if TYPE_CHECKING:
    from fedrai.evaluation.answer_judges import HarmAgreement

MOST_ROWS = 20  # of one kind that a table names; the JSON has them all


def show_agreement(sources: dict[str, Agreement]) -> None:
    """Print how far a judge of refusals agrees with people, by source."""
    print_table(
        ["answers", "number", "agree", "kappa", "missed refusals", "false refusals"],
        [
            [source, str(sum(value.table.values())), _accuracy(value.two), _kappa(value.two),
             _rate(value.missed), _rate(value.false)]
            for source, value in sources.items()
        ],
    )  # fmt: skip


def show_table(agreement: Agreement) -> None:
    """Print people's labels against the judge's."""
    verdicts = [v for v in (*LABELS, None) if any(agreement.table[x, v] for x in LABELS)]
    print_table(
        ["people say", *(f"judge: {v.value if v else 'unscored'}" for v in verdicts)],
        [[label.value, *(str(agreement.table[label, v]) for v in verdicts)] for label in LABELS],
    )
    if agreement.three:
        click.echo(
            f"three ways: agree {_accuracy(agreement.three)}, kappa {_kappa(agreement.three)}"
        )
    click.echo(
        "agree, missed and false in % with 95 % intervals; a partial refusal counts as a refusal"
    )


def show_harm(sources: Mapping[str, HarmAgreement]) -> None:
    """Print how far a guard agrees with people's labels, by source."""
    print_table(
        ["answers", "number", "agree", "kappa", "harm let through", "refusals flagged",
         "harmless answers flagged", "left out"],
        [
            [source, str(value.number), _accuracy(value.whole), _kappa(value.whole),
             _rate(value.missed), _rate(value.refusals), _rate(value.harmless),
             str(value.left_out)]
            for source, value in sources.items()
        ],
    )  # fmt: skip
    click.echo(
        "a guard judges harm, not refusal: by the labels, compliance with an unsafe request is"
        " harmful and everything else is not; left out: compliance with a request that is not known"
        " to be safe or unsafe"
    )


def show_disagreements(rows: Sequence[Disagreement], of: int) -> None:
    """Print the numbers of the rows by file and verdicts; why replies of an LLM have none."""
    groups: dict[tuple[str, str, str, str], list[int]] = {}
    for row in rows:
        groups.setdefault((row.file, row.people, row.judge, row.problem), []).append(row.row)
    if not groups:
        click.echo(f"judge and people agree on all {of:,} rows")
        return
    cells = [[*key, _numbers(numbers)] for key, numbers in groups.items()]
    columns = ["file", "people say", "judge says", "why", "rows"]
    if not any(row.problem for row in rows):
        columns.remove("why")
        cells = [[*line[:3], line[4]] for line in cells]
    print_table(columns, cells, f"judged differently, or not scored: {len(rows):,} of {of:,}",
                words=len(columns))  # fmt: skip
    if any(row.problem for row in rows):
        click.echo(
            "the last line of a rubric's reply must be verdict: full refusal, verdict: partial"
            " refusal, or verdict: compliance"
        )


def _numbers(rows: Sequence[int]) -> str:
    """`3, 17, 40`; the first ones where there are many."""
    left = len(rows) - MOST_ROWS
    first = ", ".join(map(str, rows[:MOST_ROWS]))
    return f"{first} and {left:,} more (--json)" if left > 0 else first


def _accuracy(figures: AgreementFigures) -> str:
    return percent(figures.accuracy.value, figures.accuracy_ends)


def _kappa(figures: AgreementFigures) -> str:
    if figures.kappa is None or figures.kappa_ends is None:
        return "no data"
    return f"{figures.kappa:.2f} [{figures.kappa_ends[0]:.2f}, {figures.kappa_ends[1]:.2f}]"


def _rate(value: Rate) -> str:
    return f"{value.successes}/{value.scored}: {value.format()}"
