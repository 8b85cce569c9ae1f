"""The command line of `fedrai align`. No logic, no heavy import."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fedrai.recipe.sections import AlignRecipe

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("align")
@click.argument("what", metavar="[MODEL]", default="")
@click.option("--constitution", metavar="FILE", help="TOML or JSON (default: the recipe's, or "
    "the one that comes along).")  # fmt: skip
@click.option("--out", type=FOLDER, help="Folder to write (default: aligned/NAME).")
@click.option("--recipe", "recipe_file", metavar="FILE",
    type=click.Path(path_type=Path),
    help="Recipe with [model], [adapter], [constitution]; [evaluation] to measure.")  # fmt: skip
@click.option("--resume", type=FOLDER, metavar="FOLDER", help="Go on with an alignment.")
@click.option("--moved", multiple=True, metavar="OLD=NEW",
    help="With --resume: a file or folder of the recipe lies, unchanged, at NEW now;"
    " repeatable.")  # fmt: skip
@click.option("--base", "adapter_base", default="", metavar="MODEL",
    help="Base model of the run or adapter, if it lies elsewhere now.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps.")
@click.option("--epoch", is_flag=True, help="As many steps as go through all revisions once.")
@click.option("-o", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Set a key, e.g. constitution.request_count=200.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def align(
    what: str,
    out: Path | None,
    resume: Path | None,
    moved: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Align MODEL with a constitution, without a federation.

    MODEL: a folder, hub id or asset; an adapter folder; or a run. It answers red-team requests,
    revises its answers, and learns from the revisions that pass all checks. Give the same command
    again to go on after a stop.
    """
    if resume is not None:
        if what or out or any(given.values()):
            raise click.UsageError("--resume takes all settings from the folder")
        from fedrai.federation.run.standalone import settings_of

        settings = settings_of(resume)
    else:
        settings = settings_for(what, **given)
    if moved and resume is None:
        raise click.UsageError("--moved goes with --resume; a new alignment takes -o KEY=VALUE")
    path = resume or out or Path("aligned") / settings.name
    if dry_run:
        from fedrai.federation.run.previewing import preview

        _show_preview(preview(settings.as_run()), as_json)
        return
    _run(settings, path, moved)
    _show(path, as_json)


def settings_for(
    what: str,
    *,
    recipe_file: Path | None = None,
    overrides: tuple[str, ...] = (),
    constitution: str | None = None,
    steps: int | None = None,
    epoch: bool = False,
    adapter_base: str = "",
) -> AlignRecipe:
    """The recipe that the options name; they win over its file."""
    from fedrai import recipe

    if not what and recipe_file is None:
        raise click.UsageError("give a MODEL, a --recipe that names one, or --resume FOLDER")
    if steps is not None and epoch:
        raise click.UsageError("give --steps or --epoch, not both")
    named = {
        "model.base": what,
        "adapter_base": adapter_base,
        "constitution.file": constitution,
        "constitution.steps": steps,
        "constitution.schedule": "full" if epoch else "budget" if steps is not None else "",
    }
    changes = [(key, value) for key, value in named.items() if value]
    return recipe.load_alignment(recipe_file, overrides, changes)


def _run(settings: AlignRecipe, path: Path, moved: tuple[str, ...]) -> None:
    from fedrai.cli.interruption import with_resume_hint
    from fedrai.cli.show.display import Display
    from fedrai.federation.run import standalone
    from fedrai.federation.run.moved_files import parse

    words = ["fedrai", "align", "--resume", str(path)]
    words += [word for pair in moved for word in ("--moved", pair)]
    again, places = shlex.join(words), parse(moved)
    with Display() as display:
        with_resume_hint(
            lambda: standalone.align(settings, path, places, display),
            again,
            (path / "align.json").is_file,
        )


# --- readable output ------------------------------------------------------------------------------


def _show(path: Path, as_json: bool) -> None:
    report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    from fedrai.cli.show.display import print_table
    from fedrai.cli.show.summary import alignment_line
    from fedrai.constitution.outcome import brief
    from fedrai.runs.record.evaluations import COLUMNS, evaluation_cells

    click.echo(alignment_line(brief(report["alignment"])))
    rows = [[when, *evaluation_cells(found)] for when, found in report["evaluation"].items()]
    if rows:
        print_table(["", *COLUMNS], rows)
    adapter = shlex.quote(str(path / "adapter"))
    click.echo(f"aligned: {path}\n  talk to it:  fedrai chat {adapter}")
    click.echo(f"  measure it:  fedrai eval {adapter}")


def _show_preview(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    from fedrai.cli.show.display import print_table

    kinds = (("red-team", "requests"), ("harmless", "harmless"))
    rows = [
        [kind, source, str(sum(counts.values())), _counts(counts)]
        for kind, key in kinds
        for source, counts in found[key].items()
    ]
    print_table(["kind", "source", "requests", "categories"], rows, words=2)
    removed, tokens = found["overlap_removed"], found["tokens"]
    rules = found["constitution"]
    click.echo(f"model: {found['model']}; constitution: {rules['name']} {rules['version']}")
    click.echo(f"left out, since an evaluation asks nearly the same: {_counts(removed)}")
    click.echo(f"left out as repetitions: {found['duplicates']}; examples: {found['examples']}")
    harmful, harmless = found["held_out"]
    click.echo(f"held out for the probe: {harmful} harmful, {harmless} harmless")
    click.echo(
        f"tokens, roughly: {tokens['generation']:,} to {tokens['generation_most']:,} of answers,"
        f" critiques and revisions; {tokens['training']:,} in {found['steps']} steps"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
