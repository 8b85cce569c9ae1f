"""The command line of `fedrai compare`. No logic, no heavy import."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fedrai.report.comparing.running import ArmRun, ComparisonRuns


@click.command("compare")
@click.argument("recipe_file", metavar="RECIPE", type=click.Path(path_type=Path))
@click.option("--arm", "names", multiple=True, metavar="NAME", help="Only this arm; repeatable.")
@click.option("--seed", "each", multiple=True, type=click.IntRange(0), metavar="N",
    help="Run every arm with this seed; repeatable (default: the recipe's).")  # fmt: skip
@click.option("--seeds", "listed", metavar="N,N", help="The same in one word, e.g. 0,1,2.")
@click.option("--axis", metavar="KEY=VALUE,VALUE",
    help="Run every arm with each value, e.g. data.harm.share=0,0.1,0.3,1.0.")  # fmt: skip
@click.option("--against", default="", metavar="ARM",
    help="Arm to hold the others against (default: harmful, fedavg, or the first).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Folder (default: runs/NAME).")
@click.option("--table", "form", type=click.Choice(["md", "csv", "latex"]),
    help="Print the table in this format, and nothing else.")  # fmt: skip
@click.option("--table-out", type=click.Path(path_type=Path, dir_okay=False),
    help="Write the table here (format: --table, else by the ending).")  # fmt: skip
@click.option("-o", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Set a key, e.g. federation.rounds=3.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def compare(recipe_file: Path, out: Path | None, as_json: bool, **chosen: Any) -> None:
    """Run every arm of RECIPE and print one table; run it again to go on after a stop.

    With several seeds, figures are means over seeds, with intervals over seeds and prompts. Tables
    in Markdown, CSV and LaTeX, differences with their tests, and all figures as JSON are written
    beside the runs.
    """
    from fedrai import recipe
    from fedrai.cli.interruption import with_resume_hint
    from fedrai.runs import find_runs

    form = _form(chosen["form"], chosen["table_out"])
    settings = recipe.select_arms(recipe.load(recipe_file, chosen["overrides"]), chosen["names"])
    path = out or Path("runs") / settings.name
    seeds = _seeds(chosen["each"], chosen["listed"])
    found = with_resume_hint(
        lambda: _call(settings, path, seeds, chosen["axis"], chosen["against"]),
        _again(recipe_file, out, chosen),
        lambda: bool(find_runs(path)),
    )
    if chosen["table_out"] is not None:
        from fedrai.report.comparing.writing import write_if_changed

        write_if_changed(chosen["table_out"], found.comparison.text(form))
        click.echo(f"table: {chosen['table_out']}", err=True)
    if as_json:
        click.echo(json.dumps(_summaries(found.arms, path), indent=2))
    elif chosen["form"] and chosen["table_out"] is None:
        click.echo(found.comparison.text(form), nl=False)
    else:
        _show(found, path)


def _seeds(each: tuple[int, ...], listed: str | None) -> tuple[int, ...]:
    words = [word.strip() for word in listed.split(",")] if listed else []
    if not all(word.isdigit() for word in words):
        raise click.UsageError(f"--seeds {listed}: expected whole numbers such as 0,1,2")
    return (*each, *map(int, words))


def _form(form: str | None, file: Path | None) -> str:
    endings = {".csv": "csv", ".tex": "latex", ".md": "md"}
    if form or file is None:
        return form or "md"
    if file.suffix.lower() not in endings:
        raise click.UsageError(
            f"--table-out {file}: name a {', '.join(endings)} file, or give its format with --table"
        )
    return endings[file.suffix.lower()]


def _again(recipe_file: Path, out: Path | None, chosen: dict[str, Any]) -> str:
    """The command that goes on with a comparison."""
    words = ["fedrai", "compare", str(recipe_file), *(["--out", str(out)] if out else [])]
    flags = {"--arm": chosen["names"], "--seed": chosen["each"], "-o": chosen["overrides"]}
    pairs = [(flag, str(value)) for flag, values in flags.items() for value in values]
    single = {"--seeds": "listed", "--axis": "axis", "--against": "against", "--table": "form",
              "--table-out": "table_out"}  # fmt: skip
    pairs += [(flag, str(chosen[key])) for flag, key in single.items() if chosen[key]]
    return shlex.join([*words, *(word for pair in pairs for word in pair)])


def _call(settings: Any, out: Path, seeds: tuple[int, ...], axis: str | None, against: str) -> Any:
    from fedrai.cli.show.display import Display
    from fedrai.report.comparing import running
    from fedrai.report.comparing.layout import Axis

    with Display() as display:
        return running.compare(
            settings,
            out,
            seeds=seeds,
            axis=Axis.parse(axis) if axis else None,
            against=against,
            observer=display,
        )


def _summaries(arms: tuple[ArmRun, ...], out: Path) -> dict[str, Any]:
    """Summaries by arm; by folder where arms have several runs."""
    single = len({arm.name for arm in arms}) == len(arms)
    return {arm.name if single else _place(arm, out): arm.summary.to_json() for arm in arms}


def _place(arm: ArmRun, out: Path) -> str:
    return arm.path.relative_to(out).as_posix()


# --- readable output ------------------------------------------------------------------------------


def _show(found: ComparisonRuns, out: Path) -> None:
    from fedrai.cli.show.display import print_alignments, print_table
    from fedrai.report.comparing.tables import NOISE, short_differences
    from fedrai.report.comparing.writing import notes

    single = len({arm.name for arm in found.arms}) == len(found.arms)
    table = found.comparison.table
    print_table(list(table.columns), [list(row) for row in table.rows], words=table.words)
    for note in notes(found.comparison):
        click.echo(note)
    print_alignments([(a.name if single else _place(a, out), a.summary) for a in found.arms])
    gaps = short_differences(found.comparison.differences, found.comparison.axis)
    if gaps.rows and len(gaps.columns) > gaps.words:
        print_table(
            list(gaps.columns), [list(row) for row in gaps.rows], words=gaps.words, framed=False
        )
        click.echo(
            f"differences in points, of losses in nats; {NOISE} within noise: the interval holds 0"
        )
    if single:
        _show_runs(found.arms)
    click.echo(f"tables: {', '.join(file.name for file in found.files)} in {out}")
    click.echo(f"report:  fedrai report {out}")
    click.echo(f"talk to one:  fedrai chat {found.arms[-1].path}")


def _show_runs(arms: tuple[ArmRun, ...]) -> None:
    """What each run took, and what its filter did."""
    from fedrai.cli.show.summary import cost_line, filter_note, rows_notes

    filtered = any(arm.summary.filter for arm in arms)
    for arm in arms:
        click.echo(f"{arm.name}: {arm.path}  ({cost_line(arm.summary)})")
        if filtered:
            click.echo(f"  {filter_note(arm.summary)}")
        for line in rows_notes(arm.summary):
            click.echo(f"  {line}")
