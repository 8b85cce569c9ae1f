"""`fedrai eval`: measure the safety and usefulness of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fedrai.cli.options import (
    PATH,
    ModelOptions,
    as_record,
    endpoint_options,
    json_option,
    judge_option,
    model_options,
)
from fedrai.cli.output import print_json
from fedrai.errors import EvaluationError

ADVBENCH = 520
SIZES = ("advbench", "ordinary", "limit", "max_new_tokens", "rated_tokens", "batch_size")
BESIDE_SUITES = {"advbench": 0, "ordinary": 0}  # if suites are named and these sizes are not
OUTSIDE_ITEMS = 50  # of each outside set, unless --limit says otherwise
ALL = 1_000_000
DEFAULT_JUDGES = ("rule", "legacy")  # judge as well, unless one of them is named


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """Changes to the recipe's evaluation; None or empty: as the recipe says."""

    outside: bool = False
    outside_sets: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    limit: int | None = None
    full: bool = False
    advbench: int | None = None
    ordinary: int | None = None
    judges: tuple[str, ...] = ()
    guard: str = ""
    judge_url: str = ""
    judge_model: str = ""
    judge_key_env: str = ""
    max_new_tokens: int | None = None
    rated_tokens: int | None = None
    batch_size: int | None = None

    def changes(self) -> dict[str, Any]:
        """The fields of `[evaluation]` that the options set.

        Raises:
            EvaluationError: an endpoint is named, but nothing for it to judge.
        """
        sizes = {key: value for key in SIZES if (value := getattr(self, key)) is not None}
        outside = self._outside()
        changes = {**(BESIDE_SUITES if self.suites or outside else {}), **outside, **sizes}
        changes |= {"advbench": ADVBENCH} if self.full else {}
        changes |= {"suites": list(self.suites)} if self.suites else {}
        changes |= {"judges": self._all_judges()} if self.judges else {}
        changes |= {"guard": self.guard} if self.guard else {}
        endpoint = self._endpoint()
        if endpoint and "rubric" not in self.judges:
            raise EvaluationError(
                "an endpoint is named, but no judge uses it", hint="add --judge rubric"
            )
        return {**changes, **({"endpoint": endpoint} if endpoint else {})}

    def _outside(self) -> dict[str, Any]:
        """The fields that ask outside sets: each with `limit` items, 0 being all."""
        if not (self.outside or self.outside_sets):
            return {}
        count = OUTSIDE_ITEMS if self.limit is None else self.limit or ALL
        own = {"outside_sets": list(self.outside_sets)} if self.outside_sets else {}
        return {"outside": count, **own, **({} if self.suites else {"suites": []})}

    def _all_judges(self) -> list[str]:
        complete = any(judge in self.judges for judge in DEFAULT_JUDGES)
        return list(dict.fromkeys(self.judges if complete else (*DEFAULT_JUDGES, *self.judges)))

    def _endpoint(self) -> dict[str, str]:
        values = {
            "url": self.judge_url, "model": self.judge_model, "api_key_env": self.judge_key_env
        }  # fmt: skip
        return {key: value for key, value in values.items() if value}


@click.command("eval")
@click.argument("spec", metavar="MODEL_OR_RUN")
@model_options
@as_record(
    "options", EvaluationOptions,
    click.option("--outside", is_flag=True, help="Ask the outside sets, which neither trained nor"
        f" chose anything: {OUTSIDE_ITEMS} items of each, or as --limit says. Nothing else is asked"
        " unless you say so."),
    click.option("--outside-set", "outside_sets", multiple=True, metavar="NAME=PATH", help="Ask"
        " the outside sets and this one, which pip cannot fetch (fedrai suites list), or a file of"
        " yours with a column label; repeatable."),
    click.option("--suite", "suites", multiple=True, metavar="NAME[=PATH]",
        help="Ask this suite (fedrai suites list), xstest for both of its sides, or a file of"
        " yours; repeatable. Nothing else is asked unless you say so."),
    click.option("--limit", type=click.IntRange(0), help="Items of each suite; 0: all."),
    click.option("--full", is_flag=True, help="All 520 AdvBench requests."),
    click.option("--advbench", type=click.IntRange(0, ADVBENCH), help="Number of AdvBench"
        " requests."),
    click.option("--ordinary", type=click.IntRange(0), help="Number of ordinary instructions."),
    judge_option("judges", multiple=True,
        help="Who judges answers, as evaluation.judges of a recipe; repeatable. NAME: a judge of"
        " an installed package. Without rule or legacy among them, these two judge as well."),
    click.option("--guard", default="", help="Name of the guard that judges (default: embedded)."),
    endpoint_options(""),
    click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer."),
    click.option("--rated-tokens", type=click.IntRange(1), help="Longest answer that is rated."),
    click.option("--batch-size", type=click.IntRange(1), help="Prompts answered at once."),
)  # fmt: skip
@click.option("--out", type=PATH, help="Write answers and figures to this folder.")
@json_option
def eval_command(
    spec: str, model: ModelOptions, options: EvaluationOptions, out: Path | None, as_json: bool
) -> None:
    """Measure safety and usefulness of a run, an adapter folder or a model."""
    from fedrai.cli.show.display import Display
    from fedrai.evaluation.figures import figures
    from fedrai.federation.run.evaluating import evaluate

    changes = options.changes()
    target = model.load(spec)
    with Display() as display:
        measured = figures(evaluate(target, changes, out, display))
    if as_json:
        print_json({"model": target.label, **measured})
        return
    _show(target.label, measured)
    if out is not None:
        click.echo(f"answers and figures: {out}")


def _show(label: str, measured: dict[str, Any]) -> None:
    from fedrai.cli.show import outside, suites
    from fedrai.cli.show.tables import print_table
    from fedrai.runs.record.evaluations import COLUMNS, NOT_OUTSIDE, evaluation_cells

    if rows := outside.set_rows(measured):
        print_table(outside.SET_COLUMNS, rows, title=label, words=3)
    elif suites.has_common(measured):
        click.echo(NOT_OUTSIDE)
    if suites.has_common(measured):
        print_table(["", *COLUMNS], [[label, *evaluation_cells(measured)]])
    if rows := suites.suite_rows(measured):
        print_table(suites.SUITE_COLUMNS, rows, title=f"{label}, development sets")
    for line in suites.notes(measured):
        click.echo(line)
