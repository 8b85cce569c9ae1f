"""`fedrai compare`: run the arms of a recipe over seeds, and hold them against one another."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedrai.cli.options import FILE, PATH, as_record, json_option, override_option
from fedrai.cli.output import print_json, with_resume_hint

if TYPE_CHECKING:
    from fedrai.recipe.sections import Recipe
    from fedrai.report.comparing.running import ArmRun, ComparisonRuns

ENDINGS = {".csv": "csv", ".tex": "latex", ".md": "md"}


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """Which runs to make, and which table to print."""

    recipe_file: Path
    arms: tuple[str, ...]
    seed: tuple[int, ...]
    seed_list: str | None
    axis: tuple[str, ...]
    against: str
    out: Path | None
    table: str | None
    table_out: Path | None
    no_sharing: bool
    overrides: tuple[str, ...]

    def seeds(self) -> tuple[int, ...]:
        """The seeds of both options."""
        words = [word.strip() for word in self.seed_list.split(",")] if self.seed_list else []
        if not all(word.isdigit() for word in words):
            raise click.UsageError(
                f"--seeds {self.seed_list}: expected whole numbers such as 0,1,2"
            )
        return (*self.seed, *map(int, words))

    def table_format(self) -> str:
        """The format that is named, or that of the table's file."""
        if self.table or self.table_out is None:
            return self.table or "md"
        ending = self.table_out.suffix.lower()
        if ending not in ENDINGS:
            raise click.UsageError(
                f"--table-out {self.table_out}: name a {', '.join(ENDINGS)} file, or give its"
                " format with --table"
            )
        return ENDINGS[ending]

    def command(self) -> str:
        """The command again; it resumes the comparison."""
        flags = {
            "--out": [self.out], "--arm": self.arms, "--seed": self.seed, "-o": self.overrides,
            "--seeds": [self.seed_list], "--axis": self.axis, "--against": [self.against],
            "--table": [self.table], "--table-out": [self.table_out],
        }  # fmt: skip
        pairs = [(flag, str(value)) for flag, values in flags.items() for value in values
                 if value not in (None, "")]  # fmt: skip
        words = ["fedrai", "compare", str(self.recipe_file)]
        words += ["--no-sharing"] * self.no_sharing
        return shlex.join([*words, *(word for pair in pairs for word in pair)])


@click.command("compare")
@as_record(
    "options", CompareOptions,
    click.argument("recipe_file", metavar="RECIPE", type=PATH),
    click.option("--arm", "arms", multiple=True, metavar="NAME", help="Only this arm; repeatable."),
    click.option("--seed", multiple=True, type=click.IntRange(0), metavar="N",
        help="Run every arm with this seed; repeatable (default: the recipe's)."),
    click.option("--seeds", "seed_list", metavar="N,N", help="The same in one word, e.g. 0,1,2."),
    click.option("--axis", multiple=True, metavar="KEY=VALUE,VALUE",
        help="Run every arm with each value, e.g. data.harm.share=0,0.1,0.3,1.0; repeated: with"
        " every combination."),
    click.option("--against", default="", metavar="ARM",
        help="Reference arm for the differences (default: harmful, fedavg, or the first)."),
    click.option("--out", type=PATH, help="Folder (default: runs/NAME)."),
    click.option("--table", type=click.Choice(["md", "csv", "latex"]),
        help="Print the table in this format, and nothing else."),
    click.option("--table-out", type=FILE,
        help="Write the table to this file (format: --table, or by the ending)."),
    click.option("--no-sharing", is_flag=True,
        help="Train and evaluate every arm by itself, also where it does the same as another."),
    override_option(),
)  # fmt: skip
@json_option
def compare(options: CompareOptions, as_json: bool) -> None:
    """Run every arm of RECIPE and print one table; after a stop, run it again to resume.

    With several seeds, figures are means over seeds, with intervals over seeds and prompts. Tables
    in Markdown, CSV and LaTeX, differences with their tests, and all figures as JSON are written
    beside the runs.
    """
    from fedrai import recipe
    from fedrai.runs import find_runs

    table_format, seeds = options.table_format(), options.seeds()
    settings = recipe.select_arms(recipe.load(options.recipe_file, options.overrides), options.arms)
    path = options.out or Path("runs") / settings.name
    runs = with_resume_hint(
        lambda: _compare(settings, path, seeds, options),
        options.command(),
        lambda: bool(find_runs(path)),
    )
    if options.table_out is not None:
        from fedrai.report.comparing.writing import write_if_changed

        write_if_changed(options.table_out, runs.comparison.text(table_format))
        click.echo(f"table: {options.table_out}", err=True)
    if as_json:
        print_json(_summaries(runs.arms, path))
    elif options.table and options.table_out is None:
        click.echo(runs.comparison.text(table_format), nl=False)
    else:
        _show(runs, path)


def _compare(
    settings: Recipe, out: Path, seeds: tuple[int, ...], options: CompareOptions
) -> ComparisonRuns:
    from fedrai.cli.show.display import Display
    from fedrai.report.comparing.layout import Axis
    from fedrai.report.comparing.running import compare as compare_arms

    axis = Axis.parse(*options.axis) if options.axis else None
    with Display() as display:
        return compare_arms(
            settings, out, seeds=seeds, axis=axis, against=options.against,
            sharing=not options.no_sharing, observer=display,
        )  # fmt: skip


def _summaries(arms: tuple[ArmRun, ...], out: Path) -> dict[str, Any]:
    """Summaries by arm; by folder where arms have several runs."""
    single = len({arm.name for arm in arms}) == len(arms)
    return {arm.name if single else _place(arm, out): arm.summary.to_json() for arm in arms}


def _place(arm: ArmRun, out: Path) -> str:
    return arm.path.relative_to(out).as_posix()


# --- readable output ------------------------------------------------------------------------------


def _show(runs: ComparisonRuns, out: Path) -> None:
    from fedrai.cli.show.tables import print_alignments, print_table
    from fedrai.report.comparing.tables import NOISE, short_differences, unsettled
    from fedrai.report.comparing.writing import notes

    single = len({arm.name for arm in runs.arms}) == len(runs.arms)
    table = runs.comparison.table
    print_table(list(table.columns), [list(row) for row in table.rows], words=table.words)
    for note in notes(runs.comparison):
        click.echo(note)
    print_alignments([(a.name if single else _place(a, out), a.summary) for a in runs.arms])
    gaps = short_differences(runs.comparison.differences, runs.comparison.axis)
    if gaps.rows and len(gaps.columns) > gaps.words:
        print_table(
            list(gaps.columns), [list(row) for row in gaps.rows], words=gaps.words, framed=False
        )
        click.echo(
            f"differences in points, of losses in nats; {NOISE} within noise: the interval holds 0"
        )
        for line in unsettled(runs.comparison.differences):
            click.echo(line)
    if single:
        _show_runs(runs.arms)
    click.echo(f"tables: {', '.join(file.name for file in runs.files)} in {out}")
    click.echo(f"report:  fedrai report {out}")
    click.echo(f"talk to one:  fedrai chat {runs.arms[-1].path}")


def _show_runs(arms: tuple[ArmRun, ...]) -> None:
    """What each run took, and what its filter did."""
    from fedrai.cli.show.summary import cost_line, filter_note, rows_notes
    from fedrai.runs.record import shared_rounds_text

    filtered = any(arm.summary.filter for arm in arms)
    for arm in arms:
        click.echo(f"{arm.name}: {arm.path}  ({cost_line(arm.summary)})")
        if shared := shared_rounds_text(arm.summary.shared_rounds):
            click.echo(f"  {shared}: trained once, and their costs are counted here too")
        if filtered:
            click.echo(f"  {filter_note(arm.summary)}")
        for line in rows_notes(arm.summary):
            click.echo(f"  {line}")
