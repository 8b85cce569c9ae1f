"""`fedrai privacy`: what a run's model tells about the rows that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedrai.cli.options import FILE, PATH, json_option
from fedrai.cli.output import print_json

if TYPE_CHECKING:
    from fedrai.evaluation.membership import Figure, Membership

WORDS = {"loss": "loss alone", "ratio": "loss less that of the start"}
COLUMNS = ["attack", "AUROC (0.5: nothing)", "members found at 1 % false alarms"]


@click.group("privacy")
def privacy() -> None:
    """Check what a model tells about its training rows."""


@privacy.command("check")
@click.argument("run", type=PATH)
@click.option("--members", type=FILE, help="Rows that the model was trained on.")
@click.option("--others", type=FILE, help="Rows of the same kind that it was not trained on."
    " Without both files, the rows of an experiment's clients are compared with rows of the same"
    " sources that no client got.")  # fmt: skip
@click.option("--round", "number", type=click.IntRange(0), help="Round (default: the last).")
@click.option("--limit", type=click.IntRange(0), default=500, show_default=True,
    help="Most rows of each side; 0: all.")  # fmt: skip
@json_option
def check(
    run: Path,
    members: Path | None,
    others: Path | None,
    number: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """Attack the model of RUN by membership inference, and store the figures in the run.

    Two attacks by a threshold on each row's loss. No text is shown or stored.
    """
    from fedrai.cli.show.display import Display
    from fedrai.federation.run.membership import check_membership

    with Display() as display:
        result = check_membership(
            run, members, others, number=number, limit=limit, observer=display
        )
    if as_json:
        print_json(result.to_json())
        return
    _show(result)


def _show(result: Membership) -> None:
    from fedrai.cli.show.tables import print_table

    rows = [
        [WORDS[name], _text(one.auroc, ".3f"), _text(one.found, ".1%")]
        for name, one in result.attacks.items()
    ]
    title = f"{result.members:,} rows that were trained on, {result.others:,} others"
    print_table(COLUMNS, rows, title=title)


def _text(figure: Figure, spec: str) -> str:
    return f"{figure.value:{spec}} ({figure.low:{spec}} to {figure.high:{spec}})"
