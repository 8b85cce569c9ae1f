"""The command line of `fedrai eval`. No logic, no heavy import."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fedrai.errors import EvaluationError

ADVBENCH = 520
ALONE = {"advbench": 0, "ordinary": 0}  # what is asked beside named suites, unless asked for
ALWAYS = ("rule", "legacy")  # judge beside the others, unless one of them is named


@click.command("eval")
@click.argument("what", metavar="MODEL_OR_RUN")
@click.option("--round", "number", type=int, help="Round of the run (default: the last).")
@click.option("--client", default="", help="Whose adapter, for runs in local mode.")
@click.option("--base", default="", metavar="MODEL",
    help="Base model of the run or adapter, if it lies elsewhere now.")  # fmt: skip
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME[=PATH]",
    help="Ask this suite (fedrai suites list), xstest for both of its sides, or a file of yours;"
    " repeatable. Then nothing else is asked unless you say so.",
)
@click.option("--limit", type=click.IntRange(0), help="Items of each suite; 0: all.")
@click.option("--full", is_flag=True, help="All 520 AdvBench requests.")
@click.option("--advbench", type=click.IntRange(0, ADVBENCH), help="How many AdvBench requests.")
@click.option("--ordinary", type=click.IntRange(0), help="How many ordinary instructions.")
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="rule|legacy|guard|rubric|NAME",
    help="Who judges answers, as evaluation.judges of a recipe; repeatable. NAME: a judge of an"
    " installed package. Without rule or legacy among them, these two judge as well.",
)
@click.option("--guard", default="", help="Name of the guard that judges (default: embedded).")
@click.option("--judge-url", default="", help="Endpoint of the LLM that rates.")
@click.option("--judge-model", default="", help="Its name there.")
@click.option("--judge-key-env", default="", help="Environment variable with its key.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer.")
@click.option("--rated-tokens", type=click.IntRange(1), help="Longest answer that is rated.")
@click.option("--batch-size", type=click.IntRange(1), help="Prompts answered at once.")
@click.option("--out", type=click.Path(path_type=Path), help="Write answers and figures here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def eval_command(
    what: str,
    number: int | None,
    client: str,
    base: str,
    suites: tuple[str, ...],
    full: bool,
    judges: tuple[str, ...],
    guard: str,
    judge_url: str,
    judge_model: str,
    judge_key_env: str,
    out: Path | None,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Measure safety and usefulness of a run, an adapter folder or a model."""
    from fedrai.cli.show.display import Display
    from fedrai.evaluation.figures import figures
    from fedrai.federation.run.evaluating import evaluate
    from fedrai.federation.run.targets import target

    if full:
        sizes["advbench"] = ADVBENCH
    endpoint = {"url": judge_url, "model": judge_model, "api_key_env": judge_key_env}
    changes = changes_for(sizes, suites, judges, endpoint)
    changes |= {"guard": guard} if guard else {}
    chosen = target(what, number, client, base=base)
    with Display() as display:
        found = figures(evaluate(chosen, changes, out, display))
    if as_json:
        click.echo(json.dumps({"model": chosen.label, **found}, indent=2))
        return
    _show(chosen.label, found)
    if out is not None:
        click.echo(f"answers and figures: {out}")


def changes_for(
    sizes: Mapping[str, int | None],
    suites: Sequence[str],
    judges: Sequence[str],
    endpoint: Mapping[str, str],
) -> dict[str, Any]:
    """What the options of the command set in `[evaluation]`.

    Args:
        sizes: numbers by key; None: not given.
        suites: where there are any, only they are asked, and what `sizes` names.
        judges: who judges; without rule or legacy among them, they come beside these two.
        endpoint: keys of `[evaluation.endpoint]`; empty texts: not given.

    Raises:
        EvaluationError: an endpoint is named, but nothing for it to judge.
    """
    given = {key: value for key, value in sizes.items() if value is not None}
    found: dict[str, Any] = {**(ALONE if suites else {}), **given}
    if suites:
        found["suites"] = list(suites)
    if judges:
        alone = any(judge in judges for judge in ALWAYS)
        found["judges"] = list(dict.fromkeys(judges if alone else [*ALWAYS, *judges]))
    named = {key: value for key, value in endpoint.items() if value}
    if named and "rubric" not in judges:
        raise EvaluationError(
            "an endpoint is named, but no judge uses it", hint="add --judge rubric"
        )
    return {**found, **({"endpoint": named} if named else {})}


def _show(label: str, found: dict[str, Any]) -> None:
    from fedrai.cli.show import suites as suite_figures
    from fedrai.cli.show.display import print_table
    from fedrai.runs.record.evaluations import COLUMNS, evaluation_cells

    if suite_figures.has_common(found):
        print_table(["", *COLUMNS], [[label, *evaluation_cells(found)]])
    rows = suite_figures.suite_rows(found)
    if rows:
        print_table(suite_figures.SUITE_COLUMNS, rows, title=label)
    for line in suite_figures.notes(found):
        click.echo(line)
