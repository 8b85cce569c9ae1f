"""What `fedrai eval` does behind `cli/eval.py`: settings and the evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrai import assets, recipe, runs
from fedrai.cli import captured_log
from fedrai.cli.show.display import Display
from fedrai.cli.stopping import stoppable
from fedrai.errors import EvaluationError
from fedrai.evaluation import storing
from fedrai.evaluation.measure import EvaluationResult
from fedrai.federation.run import preparation
from fedrai.federation.run.rows import questions_for
from fedrai.federation.run.targets import Target
from fedrai.recipe.sections import Recipe
from fedrai.runs import RunFolder

ALONE = {"advbench": 0, "ordinary": 0}  # what is asked beside named suites, unless asked for

ALWAYS = ("rule", "legacy")  # judge beside the others, unless one of them is named


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


def needs_endpoint(settings: Recipe, changes: Mapping[str, Any]) -> None:
    """See that there is an LLM for the judge `rubric`.

    Raises:
        EvaluationError: neither the options nor the recipe name one.
    """
    given = changes.get("endpoint", {})
    if "rubric" in changes.get("judges", ()) and settings.evaluation.endpoint is None:
        missing = [f"--judge-{key}" for key in ("url", "model") if key not in given]
        if missing:
            raise EvaluationError(
                "the judge rubric needs an LLM that rates",
                hint=f"name it with {' and '.join(missing)}",
            )


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


def evaluate(chosen: Target, changes: Mapping[str, Any], out: Path | None) -> EvaluationResult:
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
    needs_endpoint(chosen.recipe, changes)
    settings = settings_with(chosen.recipe, changes)
    questions = questions_for(settings, chosen.model, assets.RichProgress())
    adapter = chosen.adapter or chosen.model.fresh_adapter(0)  # a fresh one changes nothing
    with Display(0) as display, stoppable() as stop:
        told = stop.after(display.answers)
        measured = preparation.evaluate(chosen.model, questions, [adapter], told)
    if out is not None:
        storing.write_evaluation(RunFolder(out.parent), out, measured)
        with captured_log.into(out):
            pass  # what was said until now
    return measured
