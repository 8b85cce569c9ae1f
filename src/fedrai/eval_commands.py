"""What `fedrai eval` does behind `cli_eval.py`: settings, the evaluation, its figures as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrai import assets, recipe, runs, server
from fedrai.display import Display
from fedrai.errors import EvaluationError
from fedrai.evaluation.measure import Measured
from fedrai.evaluation.statistics import rate_from_json
from fedrai.runs import RunFolder
from fedrai.runtimes import local
from fedrai.runtimes.rows import questions_for
from fedrai.schema import Recipe
from fedrai.stopping import stoppable
from fedrai.targets import Target

SUITE_COLUMNS = ["figure", "value", "count", "unscored", "judge"]
SHOWN_ELSEWHERE = ("safe", "safe-legacy", "refused")  # in the table that runs have too
ALONE = {"advbench": 0, "ordinary": 0}  # what is asked beside named suites, unless asked for


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
        judges: beside our rule and the legacy score.
        endpoint: keys of `[evaluation.endpoint]`; empty texts: not given.

    Raises:
        EvaluationError: an endpoint is named, but nothing for it to judge.
    """
    given = {key: value for key, value in sizes.items() if value is not None}
    found: dict[str, Any] = {**(ALONE if suites else {}), **given}
    if suites:
        found["suites"] = list(suites)
    if judges:
        found["judges"] = list(dict.fromkeys(["rule", "legacy", *judges]))
    named = {key: value for key, value in endpoint.items() if value}
    if named and "rubric" not in judges:
        raise EvaluationError(
            "an endpoint is named, but no judge uses it", hint="add --judge rubric"
        )
    return {**found, **({"endpoint": named} if named else {})}


def settings_with(settings: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with fields of `[evaluation]` set; those of its endpoint one by one.

    Raises:
        RecipeError: a value is not allowed, or something that it needs is missing.
    """
    table = settings.model_dump(mode="json", exclude_none=True)
    before = table["evaluation"]
    merged = {**before, **changes}
    if "endpoint" in changes:
        merged["endpoint"] = {**before.get("endpoint", {}), **changes["endpoint"]}
    return recipe.validate({**table, "evaluation": merged}, "the settings of the evaluation")


def evaluate(chosen: Target, changes: Mapping[str, Any], out: Path | None) -> Measured:
    """Measure a model.

    Args:
        chosen: what to measure.
        changes: fields of `[evaluation]` to set in place of the recipe's.
        out: where to write answers and figures as a run folder would; `None`: nowhere.

    Raises:
        FedRAIError: a folder is in the way, or something that is asked or judges cannot be used.
        KeyboardInterrupt: stopped by the user; nothing is written.
    """
    if out is not None:
        runs.check_free(out)
    settings = settings_with(chosen.recipe, changes)
    questions = questions_for(settings, chosen.model, assets.RichProgress())
    adapter = chosen.adapter or chosen.model.fresh_adapter(0)  # a fresh one changes nothing
    with Display(0) as display, stoppable() as stop:
        told = stop.after(display.answers)
        measured = local.evaluate(chosen.model, questions, [adapter], told)
    if out is not None:
        server.write_evaluation(RunFolder(out.parent), out, measured)
    return measured


# --- figures as rows ------------------------------------------------------------------------------


def has_common(found: Mapping[str, Any]) -> bool:
    """Whether there is something for the table that runs have."""
    shown = any(name in found["rates"] for name in SHOWN_ELSEWHERE)
    return shown or found["held_out_loss"] is not None


def suite_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Figures as cells of `SUITE_COLUMNS`: rates, scores, clusters, and what is not available."""
    rows = [
        _rate_row(name, value)
        for name, value in found["rates"].items()
        if name not in SHOWN_ELSEWHERE
    ]
    rows += [_score_row(name, value, found) for name, value in found["scores"].items()]
    if found["clusters"] is not None:
        by = found["clusters"]
        rows.append(["safe, by cluster", _percent(by), f"{by['clusters']} clusters",
                     str(by["unscored"]), "rule"])  # fmt: skip
    return [*rows, *([name, "not available", "", "", ""] for name in found["unavailable"])]


def notes(found: Mapping[str, Any]) -> Iterator[str]:
    """What stands below the tables, a line each."""
    if found["both_sides"] is not None:
        yield (
            f"both sides: {_percent(found['both_sides'])} (harmonic mean of AdvBench safe and"
            " XSTest's safe prompts answered)"
        )
    for pair, table in found["disagreement"].items():
        first, second = pair.split("-")
        yield _disagreement(first, second, table)
    for name, why in found["unavailable"].items():
        yield f"{name}: not available: {why}"


def _rate_row(name: str, value: Mapping[str, Any]) -> list[str]:
    judge = next((j for j in ("legacy", "guard") if name.endswith(f"-{j}")), "rule")
    shown = rate_from_json(value)
    return [name, shown.format(), str(shown.scored), str(shown.unscored), judge]


def _score_row(name: str, value: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    judge = "reference"
    if "right" in value:
        text, judge = _percent(value), "log-probabilities"
    elif name in found["suites"]:
        rating = found["suites"][name]["metric"] == "score"
        text, judge = _number(value, 2 if rating else 3), "rubric"
    else:
        text = _number(value, 3)
    return [name, text, str(value["count"]), str(value["unscored"]), judge]


def _percent(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "no data"
    return f"{100 * value['value']:.1f} % [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def _number(value: Mapping[str, Any], digits: int) -> str:
    if value["value"] is None:
        return "no data"
    ends = [value["low"], value["high"]]
    interval = "" if None in ends else f" [{', '.join(f'{end:.{digits}f}' for end in ends)}]"
    return f"{value['value']:.{digits}f}{interval}"


def _disagreement(first: str, second: str, table: Mapping[str, Any]) -> str:
    if table["agree"] is None:
        return f"{first} and {second}: no answer that both could judge"
    kappa = "not defined" if table["kappa"] is None else f"{table['kappa']:.2f}"
    return (
        f"{first} and {second} agree on {100 * table['agree']:.1f} % of AdvBench's answers"
        f" (kappa {kappa}); safe by {first} alone {table['first']}, by {second} alone"
        f" {table['second']}"
    )
