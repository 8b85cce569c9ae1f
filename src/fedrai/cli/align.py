"""`fedrai align`: align one model with a constitution, without a federation."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedrai.cli.options import (
    FOLDER,
    PATH,
    as_record,
    json_option,
    override_option,
    resume_options,
)
from fedrai.cli.output import print_json, with_resume_hint

if TYPE_CHECKING:
    from fedrai.recipe.sections import AlignRecipe


@dataclass(frozen=True, slots=True)
class AlignOptions:
    """What to align, and how; the options win over the recipe's file."""

    base: str = ""
    constitution: str | None = None
    recipe_file: Path | None = None
    adapter_base: str = ""
    steps: int | None = None
    epoch: bool = False
    overrides: tuple[str, ...] = ()

    def settings(self) -> AlignRecipe:
        """The recipe of a new alignment."""
        from fedrai import recipe

        if not self.base and self.recipe_file is None:
            raise click.UsageError("give a MODEL, a --recipe that names one, or --resume FOLDER")
        if self.steps is not None and self.epoch:
            raise click.UsageError("give --steps or --epoch, not both")
        values = {
            "model.base": self.base,
            "adapter_base": self.adapter_base,
            "constitution.file": self.constitution,
            "constitution.steps": self.steps,
            "constitution.schedule": "full" if self.epoch else "budget" if self.steps else "",
        }
        changes = [(key, value) for key, value in values.items() if value]
        return recipe.load_alignment(self.recipe_file, self.overrides, changes)


@click.command("align")
@as_record(
    "options", AlignOptions,
    click.argument("base", metavar="[MODEL]", default=""),
    click.option("--constitution", metavar="FILE",
        help="TOML or JSON (default: the recipe's, or the embedded one)."),
    click.option("--recipe", "recipe_file", metavar="FILE", type=PATH,
        help="Recipe with [model], [adapter], [constitution]; [evaluation] to measure."),
    click.option("--base", "adapter_base", default="", metavar="MODEL",
        help="Base model of the run or adapter, if it is somewhere else now."),
    click.option("--steps", type=click.IntRange(1), help="Optimiser steps."),
    click.option("--epoch", is_flag=True, help="As many steps as one pass over all revisions."),
    override_option("constitution.request_count=200"),
)  # fmt: skip
@click.option("--out", type=FOLDER, help="Folder to write (default: aligned/NAME).")
@resume_options("an alignment")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def align(
    options: AlignOptions,
    out: Path | None,
    resume: Path | None,
    moved: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Align MODEL with a constitution, without a federation.

    MODEL: a folder, hub id or asset; an adapter folder; or a run. It answers red-team requests,
    revises its answers, and learns from the revisions that pass all checks. After a stop, give the
    same command again to resume.
    """
    if moved and resume is None:
        raise click.UsageError("--moved goes with --resume; a new alignment takes -o KEY=VALUE")
    if resume is None:
        settings = options.settings()
    elif out or options != AlignOptions():
        raise click.UsageError("--resume takes all settings from the folder")
    else:
        from fedrai.federation.run.standalone import settings_of

        settings = settings_of(resume)
    path = resume or out or Path("aligned") / settings.name
    if dry_run:
        from fedrai.federation.run.previewing import preview

        _show_preview(preview(settings.as_run()), as_json)
        return
    _run(settings, path, moved)
    _show(path, as_json)


def _run(settings: AlignRecipe, path: Path, moved: tuple[str, ...]) -> None:
    from fedrai.cli.show.display import Display
    from fedrai.federation.run import standalone
    from fedrai.federation.run.moved_files import parse

    words = ["fedrai", "align", "--resume", str(path)]
    words += [word for pair in moved for word in ("--moved", pair)]
    places = parse(moved)

    def work() -> None:
        with Display() as display:
            standalone.align(settings, path, places, display)

    with_resume_hint(work, shlex.join(words), (path / "align.json").is_file)


# --- readable output ------------------------------------------------------------------------------


def _show(path: Path, as_json: bool) -> None:
    report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    if as_json:
        print_json(report)
        return
    from fedrai.cli.show.summary import alignment_line
    from fedrai.cli.show.tables import print_table
    from fedrai.constitution.outcome import brief
    from fedrai.runs.record.evaluations import COLUMNS, evaluation_cells

    alignment = report["alignment"]
    click.echo(alignment_line(brief(alignment)))
    if "overlap_removed" in alignment:
        click.echo(_left_out(alignment["overlap_removed"]))
    rows = [[when, *evaluation_cells(figures)] for when, figures in report["evaluation"].items()]
    if rows:
        print_table(["", *COLUMNS], rows)
    adapter = shlex.quote(str(path / "adapter"))
    click.echo(f"aligned: {path}\n  talk to it:  fedrai chat {adapter}")
    click.echo(f"  measure it:  fedrai eval {adapter}")


def _show_preview(preview: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(preview)
        return
    from fedrai.cli.show.tables import print_table

    kinds = (("red-team", "requests"), ("harmless", "harmless"))
    rows = [
        [kind, source, str(sum(counts.values())), _counts(counts)]
        for kind, key in kinds
        for source, counts in preview[key].items()
    ]
    print_table(["kind", "source", "requests", "categories"], rows, words=2)
    tokens, rules = preview["tokens"], preview["constitution"]
    click.echo(f"model: {preview['model']}; constitution: {rules['name']} {rules['version']}")
    click.echo(_left_out(preview["overlap_removed"]))
    click.echo(f"left out as repetitions: {preview['duplicates']}; examples: {preview['examples']}")
    harmful, harmless = preview["held_out"]
    click.echo(f"held out for the probe: {harmful} harmful, {harmless} harmless")
    if any(preview["mined_from"]):
        harmful, harmless = preview["mined_from"]
        click.echo(
            f"mining: {harmful} harmful and {harmless} harmless requests are asked first, and those"
            f" that the model fails are preferred; roughly {tokens['mining']:,} tokens"
        )
    click.echo(
        f"tokens, roughly: {tokens['generation']:,} to {tokens['generation_most']:,} of answers,"
        f" critiques and revisions; {tokens['training']:,} in {preview['steps']} steps"
    )


def _left_out(removed: dict[str, int]) -> str:
    return f"requests left out because an evaluation asks nearly the same: {_counts(removed)}"


def _counts(counts: dict[str, int]) -> str:
    """Counts above 0 by name."""
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
