"""One model is measured, as `fedrai eval` does: a run's, an adapter, or a base model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrai import captured_log, recipe, runs
from fedrai.errors import EvaluationError
from fedrai.evaluation import storing
from fedrai.evaluation.records import EvaluationResult
from fedrai.federation.run import preparation
from fedrai.federation.run.observer import SILENT, Observer
from fedrai.federation.run.rows import questions_for
from fedrai.federation.run.stopping import stoppable
from fedrai.federation.run.targets import Target
from fedrai.recipe.sections import Recipe
from fedrai.records import BadRow
from fedrai.runs import RunFolder


def check_endpoint(settings: Recipe, changes: Mapping[str, Any]) -> None:
    """Check that there is an LLM for the judge `rubric`.

    Raises:
        EvaluationError: neither the options nor the recipe name one.
    """
    endpoint = changes.get("endpoint", {})
    if "rubric" in changes.get("judges", ()) and settings.evaluation.endpoint is None:
        missing = [f"--judge-{key}" for key in ("url", "model") if key not in endpoint]
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


def note_bad_rows(observer: Observer) -> Callable[[Sequence[BadRow]], None]:
    """Notes how many held-out rows cannot be used, if there are any."""

    def note(rows: Sequence[BadRow]) -> None:
        if rows:
            observer.note(f"held-out loss without {len(rows):,} rows, which cannot be used")

    return note


def evaluate(
    chosen: Target, changes: Mapping[str, Any], out: Path | None, observer: Observer = SILENT
) -> EvaluationResult:
    """Measure a model.

    Args:
        chosen: what to measure.
        changes: fields of `[evaluation]` to set in place of the recipe's.
        out: where to write answers and figures as a run folder would; `None`: nowhere.
        observer: is told of the progress.

    Raises:
        FedRAIError: the folder already exists, or a suite or judge cannot be used.
        KeyboardInterrupt: stopped by the user; nothing is written.
    """
    if out is not None:
        runs.check_free(out)
    check_endpoint(chosen.recipe, changes)
    settings = settings_with(chosen.recipe, changes)
    questions = questions_for(settings, chosen.model, observer.downloads, note_bad_rows(observer))
    with stoppable() as stop:
        answers = stop.after(observer.answers)
        measured = preparation.measure_adapters(chosen.model, questions, [chosen.adapter], answers)
    if out is not None:
        storing.write_evaluation(RunFolder(out.parent), out, measured)
        with captured_log.into(out):
            pass  # the lines so far
    return measured
